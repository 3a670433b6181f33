// The store's watchers: grouped by range, found by key, told of new batches, caught up from
// history. Internal to the store.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "state/store/outcome.hpp"
#include "state/store/range_tree.hpp"
#include "state/store/watch.hpp"

namespace mesh::store {

/// What the hub needs of the store's history.
class HistoryReader {
  public:
    virtual ~HistoryReader() = default;
    /// The events of range with mod revision in [from, ...], whole revisions only, within the
    /// store's bounds; EventBatch::revision tells how far it looked.
    [[nodiscard]] virtual std::shared_ptr<const EventBatch> read_history(const KeyRange& range,
                                                                         Revision from) const = 0;
    /// The newest revision that watchers may know of.
    [[nodiscard]] virtual Revision published_revision() const noexcept = 0;
};

/// @thread control thread
class WatchHub {
  public:
    explicit WatchHub(const HistoryReader& history);
    ~WatchHub();
    WatchHub(const WatchHub&) = delete;
    WatchHub& operator=(const WatchHub&) = delete;

    /// @param next first revision to see; if it is published already, the watcher begins behind.
    Outcome<WatchId> add(const WatchRequest& request, Revision next, WatchSink& sink);
    void cancel(WatchId id);
    void resume(WatchId id);
    [[nodiscard]] bool is_up_to_date(WatchId id) const;
    [[nodiscard]] KeyRange range_of(WatchId id) const;
    bool request_progress(WatchId id);
    /// Tells a new batch to all matching watchers that are up to date.
    void publish(const std::shared_ptr<const EventBatch>& batch);
    bool catch_up(std::size_t budget);
    /// History below log_start is gone: watchers that still needed it are cancelled.
    void history_cut(Revision log_start, Revision floor);
    void cancel_all(CancelReason reason, Revision floor);

    void for_each_range(const std::function<void(const WatchedRange&)>& visit) const;
    [[nodiscard]] std::optional<WatchState> state_of(WatchId id) const;
    [[nodiscard]] std::size_t blocked() const;
    [[nodiscard]] bool empty() const noexcept { return watchers_.empty(); }
    [[nodiscard]] bool any_behind() const noexcept { return !behind_.empty(); }
    [[nodiscard]] std::size_t size() const noexcept { return watchers_.size(); }
    [[nodiscard]] std::size_t behind() const noexcept { return behind_.size(); }
    [[nodiscard]] std::size_t ranges() const noexcept { return groups_.size(); }

  private:
    enum class State : std::uint8_t { kSynced, kQueued, kBlocked };
    struct Group;
    struct Watcher {
        WatchId id{};
        WatchSink* sink = nullptr;  // null = cancelled while callbacks run
        Group* group = nullptr;
        std::size_t place = 0;  // in group->watchers
        Revision next = 0;      // of a synced watcher: only meaningful if in the future
        State state = State::kSynced;
        std::uint8_t filter = 0;
    };
    /// All watchers of one range.
    struct Group : RangeNode {
        std::vector<Watcher*> watchers;
        std::vector<std::uint32_t> hits;  // events of the batch being published
        [[nodiscard]] KeyRange range() const noexcept;
    };
    using Selection = std::shared_ptr<const std::vector<std::uint32_t>>;
    class Dispatch;

    Group* group_of(const KeyRange& range);
    void remove(Watcher* watcher);
    void bury();
    void cancel_with(Watcher* watcher, CancelReason reason, Revision floor);
    void fall_behind(Watcher& watcher, Revision next);
    void publish_to(Group& group, const std::shared_ptr<const EventBatch>& batch);
    bool catch_up_one(Watcher& watcher);
    std::shared_ptr<const EventBatch> piece_of_history(const Group& group, Revision from);
    /// Events of batch among hits that filter lets pass, from a revision on. @return false = none
    static bool select(const EventBatch& batch, const std::vector<std::uint32_t>* hits,
                       std::uint8_t filter, Delivery& delivery, Revision from = 0);

    const HistoryReader& history_;
    std::uint64_t last_id_ = 0;
    std::unordered_map<WatchId, std::unique_ptr<Watcher>> watchers_;
    std::map<std::pair<std::string, std::string>, std::unique_ptr<Group>> groups_;
    std::unordered_map<std::string_view, Group*> by_key_;  // single keys; views into the groups
    RangeTree by_range_;
    std::set<WatchId> behind_;
    std::deque<WatchId> queue_;       // of kQueued watchers; may hold ids that are gone
    std::vector<WatchId> graveyard_;  // cancelled while callbacks ran
    // Pieces of history by range and first revision, while anybody catches up: watchers that resume
    // together share them.
    std::map<std::pair<const Group*, Revision>, std::shared_ptr<const EventBatch>> pieces_;
    int dispatching_ = 0;
};

}  // namespace mesh::store
