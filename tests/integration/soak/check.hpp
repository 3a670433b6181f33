// What a watch must have told, held against what it told. A Checker is the model of one watch's
// reader: it sees lists and events as they come and notices what no etcd does (a version that is
// left out, a revision twice, an event behind a promise that nothing more would come). A History is
// what happened, as told by a watch of the etcd itself; at the end every watch is compared with it,
// event by event.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::soak {

/// A change of a key, or a key as a list shows it.
struct Change {
    std::string key;
    std::int64_t revision = 0;
    bool put = true;
    std::int64_t create = 0;
    std::int64_t version = 0;
    std::uint64_t digest = 0;   ///< of all that a reader sees of it
    std::int64_t previous = 0;  ///< mod_revision of prev_kv; 0 = not told
};

/// Fills digest from the other fields, the value and the lease.
void digest(Change& change, std::string_view value, std::int64_t lease);

/// What went wrong and how much happened; printed at the end.
class Report {
  public:
    void fail(std::string what);
    [[nodiscard]] const std::vector<std::string>& failures() const noexcept { return failures_; }
    [[nodiscard]] std::uint64_t failed() const noexcept { return failed_; }
    void count(const std::string& what, std::uint64_t by = 1) { counts_[what] += by; }
    [[nodiscard]] const std::map<std::string, std::uint64_t>& counts() const noexcept {
        return counts_;
    }

  private:
    static constexpr std::size_t kShown = 20;
    std::vector<std::string> failures_;
    std::uint64_t failed_ = 0;
    std::map<std::string, std::uint64_t> counts_;
};

/// What is watched.
struct Range {
    std::string key, end;  ///< as etcd's: "" = the one key, one zero byte = to the end
    [[nodiscard]] bool contains(std::string_view candidate) const;
};
struct Selection {
    Range range;
    bool no_put = false, no_delete = false;
    /// Keys that the server shows at all; empty = all.
    std::vector<std::string> shown;
    [[nodiscard]] bool shows(std::string_view key) const;
    [[nodiscard]] bool takes(const Change& change) const {
        return !(change.put ? no_put : no_delete) && shows(change.key);
    }
};

/// All changes of an etcd, by revision and key.
class History {
  public:
    History(std::string name, Report& report) : name_(std::move(name)), report_(report) {}
    /// A change that was seen; seen again, it must be the same.
    void add(const Change& change);
    void visit(std::int64_t after, std::int64_t until,
               const std::function<void(const Change&)>& visitor) const;
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

  private:
    std::string name_;
    Report& report_;
    std::map<std::int64_t, std::map<std::string, Change>> changes_;
    std::size_t size_ = 0;
};

class Checker {
  public:
    /// @param learns null, or a history that takes what this watch tells (of an etcd that nobody
    ///   else watches)
    Checker(std::string name, Selection selection, Report& report, History* learns = nullptr)
        : name_(std::move(name)),
          selection_(std::move(selection)),
          report_(report),
          learns_(learns) {}

    /// A list of the range: a new beginning.
    void on_list(std::int64_t revision, const std::vector<Change>& keys);
    /// The events of one answer, fragments joined.
    void on_events(const std::vector<Change>& events);
    /// The server said that all up to revision was told.
    void on_progress(std::int64_t revision);
    /// A watch without a list before it, from revision + 1 on.
    void begin_after(std::int64_t revision);

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] const Selection& selection() const noexcept { return selection_; }
    /// All up to here is known.
    [[nodiscard]] std::int64_t position() const noexcept { return position_; }
    [[nodiscard]] std::uint64_t events() const noexcept { return events_; }
    [[nodiscard]] std::size_t epochs() const noexcept { return epochs_.size(); }

    /// Everything that was told against what happened.
    void compare(const History& history) const;
    /// The keys known now against the etcd's.
    void compare(const std::map<std::string, Change>& keys) const;

  private:
    struct Seen {
        std::int64_t revision;
        std::uint64_t digest;
        friend auto operator<=>(const Seen&, const Seen&) = default;
    };
    struct Epoch {
        std::int64_t after = 0, until = 0;
        std::vector<Seen> seen;
    };
    void take(const Change& change);
    void follows(const Change& change, const Change* before);
    void fail(const std::string& what) const { report_.fail(name_ + ": " + what); }

    std::string name_;
    Selection selection_;
    Report& report_;
    History* learns_;
    bool listed_ = false;  // state_ is all there is
    std::map<std::string, Change> state_;
    std::vector<Epoch> epochs_;
    std::int64_t position_ = 0, last_event_ = 0;
    std::uint64_t events_ = 0;
};

}  // namespace mesh::soak
