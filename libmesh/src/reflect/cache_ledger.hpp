// What of one remote stands in the own etcd's cache, against what the remote has: which writes make
// them equal, and only those. Of a key it keeps two hashes; a value waits here only until it is
// written. No I/O. ReflectedCluster runs it.
//
// Two sides tell what there is, each by lists and changes of its own: the remote (what is wanted)
// and the own etcd (what is present). What an earlier run left in the cache is not touched before
// the remote's list has ended: a remote that cannot be reached keeps its cache.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/keys.hpp"

namespace mesh::reflect {

/// @thread one thread
class CacheLedger {
  public:
    struct Write {
        std::string key;
        std::optional<std::string> value;  ///< nullopt = delete
    };
    /// How much is taken of a remote. @source sources/config RemoteLimits
    struct Bounds {
        std::uint64_t value_bytes = 1'572'864;
        std::uint64_t total_bytes = 512U << 20;  ///< keys and values
    };

    /// @param cluster the remote's name
    explicit CacheLedger(std::string cluster);
    CacheLedger(const CacheLedger&) = delete;
    CacheLedger& operator=(const CacheLedger&) = delete;
    void set_bounds(Bounds bounds) { bounds_ = bounds; }

    // --- the remote -----------------------------------------------------------------------------

    /// A list of a resource begins: what it does not tell until its end is not there.
    void begin_list(model::Resource resource);
    /// @param tail the key behind the resource's prefix
    /// @return whether there was room; else the last good value stays
    bool put(model::Resource resource, std::string_view tail, std::string_view value);
    void remove(model::Resource resource, std::string_view tail);
    /// What the list did not tell goes, and the canary follows all that it told.
    /// @param now the canary's text
    void end_list(model::Resource resource, std::string now);
    /// The cluster-config of the remote as it is to stand in the own etcd; before all that waits.
    void put_config(std::string value);

    // --- the own etcd ---------------------------------------------------------------------------

    /// What is present is told from the start: by found() each, until end_present().
    /// @param lease the one that keys are to hang on
    void begin_present(std::int64_t lease);
    /// Keys of the cache, the cluster-config and the canaries; others are ignored. Of a key with
    /// another lease the value is written again.
    void found(std::string_view key, std::string_view value, std::int64_t lease);
    /// @return false: values are wanted that are neither there nor known here; list the remote
    ///         again from the start
    [[nodiscard]] bool end_present();

    /// The next writes in order, at most `limit` and `max_bytes` together (one at least). To be
    /// given to applied(), give_back() or refuse() before the next take().
    [[nodiscard]] std::vector<Write> take(std::size_t limit, std::size_t max_bytes);
    void applied(const std::vector<Write>& writes);
    /// They were not done: they wait again, before all others, unless newer ones have come.
    void give_back(std::vector<Write> writes);
    /// The own etcd refuses this one for good: left out until its value changes.
    void refuse(const Write& write);

    [[nodiscard]] std::size_t pending() const noexcept { return queue_.size(); }
    /// Of the values that wait here.
    [[nodiscard]] std::size_t pending_bytes() const noexcept { return pending_bytes_; }
    /// Keys that the remote has and the cache is to have.
    [[nodiscard]] std::size_t wanted() const noexcept { return wanted_; }
    [[nodiscard]] std::size_t refused() const noexcept { return refused_; }
    /// Whether a list of each resource has been written, with its canary.
    [[nodiscard]] bool synced() const;

  private:
    /// Of texts: 0 is none.
    using Hash = std::uint64_t;
    /// What a write whose outcome is not known left: equal to nothing.
    static constexpr Hash kUnknown = 1;
    struct Entry {
        Hash wanted = 0;
        Hash present = 0;
        Hash flight = 0;          ///< what a write under way makes of it
        std::int64_t order = 0;   ///< its place in the queue; 0 = none
        std::uint32_t bytes = 0;  ///< of key and value, while wanted
        bool seen = false;        ///< told by the list that is under way
        bool in_flight = false;
        bool refused = false;
        /// What stands in the own etcd once the write under way is done.
        [[nodiscard]] Hash eventual() const { return in_flight ? flight : present; }
    };
    using Entries = std::unordered_map<std::string, Entry>;
    using Node = Entries::value_type;
    struct Pending {
        std::size_t kind = 0;
        Node* node = nullptr;
        std::optional<std::string> value;
    };
    static constexpr std::size_t kKinds = model::kResources.size();
    /// The cluster-config and the canaries stand behind the resources.
    static constexpr std::size_t kOther = kKinds;

    static Hash hash_of(std::string_view text);
    [[nodiscard]] static std::size_t index(model::Resource resource) {
        return static_cast<std::size_t>(resource);
    }
    [[nodiscard]] std::string key_of(model::Resource resource, std::string_view tail) const;
    [[nodiscard]] std::optional<std::size_t> kind_of(std::string_view key) const;
    void want(std::size_t kind, Node& node, std::string_view value, bool first = false);
    void unwant(std::size_t kind, Node& node);
    void enqueue(std::size_t kind, Node& node, std::optional<std::string> value, bool first);
    void dequeue(Node& node);
    static std::size_t bytes_of(const Pending& pending) {
        return pending.value ? pending.value->size() : 0;
    }
    void set_refused(Entry& entry, bool refused);
    void drop_if_idle(std::size_t kind, const std::string& key);

    std::string cluster_;
    std::array<std::string, kKinds> prefixes_;  ///< of the cache
    Bounds bounds_;
    std::array<Entries, kKinds + 1> entries_;
    std::map<std::int64_t, Pending> queue_;
    std::int64_t front_ = 0, back_ = 0;  ///< the places taken last at both ends
    std::array<bool, kKinds> listed_{};  ///< by the remote, once to the end
    std::int64_t lease_ = 0;
    std::uint64_t total_bytes_ = 0;
    std::size_t pending_bytes_ = 0;
    std::size_t wanted_ = 0;
    std::size_t refused_ = 0;
};

}  // namespace mesh::reflect
