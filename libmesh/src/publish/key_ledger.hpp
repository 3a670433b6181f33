// What a writer wants in etcd against what is there: gives batches of writes that make them equal,
// and only those. Holds the newest wanted value per key, so that nothing is lost while etcd is
// away. No I/O. EtcdPublisher runs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::publish {

/// Keys are those the writer owns; any key told by listed() is. Present values are known by hash.
/// @thread one thread
class KeyLedger {
  public:
    struct Write {
        std::string key;
        std::optional<std::string> value;  ///< nullopt = delete
    };

    /// @param rank decides the order of writing: puts by ascending rank, then deletes by descending
    explicit KeyLedger(int (*rank)(std::string_view key)) : rank_(rank) {}

    void want(const std::string& key, std::string value);
    void unwant(const std::string& key);

    /// A list of what is there begins; whatever it does not tell until its end is not there.
    void begin_list();
    void listed(std::string_view key, std::string_view value, std::int64_t lease);
    void end_list();

    /// The lease that each key has to hang on; keys with another are put again.
    void set_lease(std::int64_t lease);
    /// While held, a key that is there under the lease is left as it is, unless it was wanted or
    /// unwanted since the hold began: for a writer that does not know yet all that it wants.
    void hold(bool held);

    /// Up to `limit` writes, of at most `max_bytes` together (one at least), in order. They stay
    /// due until applied().
    [[nodiscard]] std::vector<Write> next(std::size_t limit, std::size_t max_bytes) const;
    /// The writes were done, under the lease.
    void applied(const std::vector<Write>& writes);
    /// The server refused this write for good: not due again until the wanted value changes.
    void refused(const std::string& key);

    /// Writes that are due.
    [[nodiscard]] std::size_t due() const noexcept { return due_.size(); }
    [[nodiscard]] std::size_t wanted() const noexcept { return wanted_; }
    [[nodiscard]] std::size_t refused() const noexcept { return refused_; }

  private:
    struct Entry {
        std::optional<std::string> wanted;
        bool present = false;
        bool seen = false;      ///< told by the list that is under way
        bool released = false;  ///< changed since the hold began
        bool refused = false;
        std::size_t hash = 0;
        std::int64_t lease = 0;
        std::optional<int> order;  ///< its place in due_
    };
    using Entries = std::map<std::string, Entry, std::less<>>;
    [[nodiscard]] bool differs(const Entry& entry) const;
    void review(Entries::iterator at);
    void review_all();

    int (*rank_)(std::string_view key);
    Entries entries_;
    std::set<std::pair<int, std::string_view>> due_;  ///< views of keys in entries_
    std::int64_t lease_ = 0;
    bool held_ = false;
    std::size_t wanted_ = 0;
    std::size_t refused_ = 0;
};

}  // namespace mesh::publish
