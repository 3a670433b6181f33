#include "state/store/watch_hub.hpp"

#include <algorithm>

#include "state/store/key_index.hpp"

namespace mesh::store {
namespace {

constexpr std::uint8_t kNoPut = 1;
constexpr std::uint8_t kNoDelete = 2;

}  // namespace

/// While one exists, cancelled watchers stay in place: loops over them go on undisturbed.
class WatchHub::Dispatch {
  public:
    explicit Dispatch(WatchHub& hub) : hub_(hub) { ++hub_.dispatching_; }
    ~Dispatch() {
        if (--hub_.dispatching_ == 0) hub_.bury();
    }
    Dispatch(const Dispatch&) = delete;
    Dispatch& operator=(const Dispatch&) = delete;

  private:
    WatchHub& hub_;
};

KeyRange WatchHub::Group::range() const noexcept {
    static constexpr std::string_view kOpen("\0", 1);
    return {start, open_end ? kOpen : std::string_view(end)};
}

WatchHub::WatchHub(const HistoryReader& history) : history_(history) {}
WatchHub::~WatchHub() = default;

WatchHub::Group* WatchHub::group_of(const KeyRange& range) {
    auto& place = groups_[{std::string(range.key), std::string(range.range_end)}];
    if (place) return place.get();
    place = std::make_unique<Group>();
    place->start = range.key;
    place->open_end = open_ended(range.range_end);
    if (!place->open_end) place->end = range.range_end;
    if (range.range_end.empty())
        by_key_.emplace(place->start, place.get());
    else
        by_range_.insert(place.get());
    return place.get();
}

Outcome<WatchId> WatchHub::add(const WatchRequest& request, Revision next, WatchSink& sink) {
    static constexpr std::string_view kFirstKey("\0", 1);
    KeyRange range = request.range;
    if (range.key.size() + range.range_end.size() > kMaxWatchRangeBytes)
        return StoreError(Fault::kWatchRangeTooLong);
    if (range.key.empty()) range.key = kFirstKey;
    if (!range.range_end.empty() && !open_ended(range.range_end) && range.range_end <= range.key)
        return StoreError(Fault::kEmptyWatchRange);
    auto watcher = std::make_unique<Watcher>();
    watcher->id = WatchId{++last_id_};
    watcher->sink = &sink;
    watcher->next = next;
    watcher->filter = static_cast<std::uint8_t>((request.no_put ? kNoPut : 0) |
                                                (request.no_delete ? kNoDelete : 0));
    watcher->group = group_of(range);
    watcher->place = watcher->group->watchers.size();
    watcher->group->watchers.push_back(watcher.get());
    if (next <= history_.published_revision()) {
        watcher->state = State::kQueued;
        behind_.insert(watcher->id);
        queue_.push_back(watcher->id);
    }
    const WatchId id = watcher->id;
    watchers_.emplace(id, std::move(watcher));
    return id;
}

void WatchHub::cancel(WatchId id) {
    const auto found = watchers_.find(id);
    if (found == watchers_.end()) return;
    if (dispatching_ == 0) {
        remove(found->second.get());
    } else if (found->second->sink != nullptr) {
        found->second->sink = nullptr;
        graveyard_.push_back(id);
    }
}

void WatchHub::bury() {
    for (const WatchId id : std::exchange(graveyard_, {}))
        if (const auto found = watchers_.find(id); found != watchers_.end())
            remove(found->second.get());
}

void WatchHub::remove(Watcher* watcher) {
    Group* group = watcher->group;
    group->watchers[watcher->place] = group->watchers.back();
    group->watchers[watcher->place]->place = watcher->place;
    group->watchers.pop_back();
    if (group->watchers.empty()) {
        const KeyRange range = group->range();
        if (range.range_end.empty())
            by_key_.erase(group->start);
        else
            by_range_.erase(group);
        pieces_.erase(pieces_.lower_bound({group, 0}), pieces_.upper_bound({group, kNewest}));
        groups_.erase({std::string(range.key), std::string(range.range_end)});
    }
    behind_.erase(watcher->id);
    watchers_.erase(watcher->id);
}

void WatchHub::resume(WatchId id) {
    const auto found = watchers_.find(id);
    if (found == watchers_.end() || found->second->state != State::kBlocked) return;
    found->second->state = State::kQueued;
    queue_.push_back(id);
}

bool WatchHub::is_up_to_date(WatchId id) const {
    const auto found = watchers_.find(id);
    return found != watchers_.end() && found->second->sink != nullptr &&
           found->second->state == State::kSynced;
}

KeyRange WatchHub::range_of(WatchId id) const {
    const auto found = watchers_.find(id);
    return found != watchers_.end() ? found->second->group->range() : KeyRange{};
}

bool WatchHub::request_progress(WatchId id) {
    if (!is_up_to_date(id)) return false;
    const Dispatch guard(*this);
    watchers_.find(id)->second->sink->on_progress(id, history_.published_revision());
    return true;
}

void WatchHub::fall_behind(Watcher& watcher, Revision next) {
    watcher.state = State::kBlocked;
    watcher.next = next;
    behind_.insert(watcher.id);
}

bool WatchHub::select(const EventBatch& batch, const std::vector<std::uint32_t>* hits,
                      std::uint8_t filter, Delivery& delivery, Revision from) {
    const std::size_t candidates = hits != nullptr ? hits->size() : batch.events.size();
    auto chosen = std::make_shared<std::vector<std::uint32_t>>();
    for (std::size_t i = 0; i < candidates; ++i) {
        const auto at = hits != nullptr ? (*hits)[i] : static_cast<std::uint32_t>(i);
        const std::uint8_t kind = batch.events[at].kv.tombstone() ? kNoDelete : kNoPut;
        if ((filter & kind) == 0 && batch.events[at].kv.mod_revision() >= from)
            chosen->push_back(at);
    }
    if (chosen->empty()) return false;
    delivery.selection = chosen->size() == batch.events.size() ? nullptr : std::move(chosen);
    return true;
}

void WatchHub::publish(const std::shared_ptr<const EventBatch>& batch) {
    const Dispatch guard(*this);
    std::vector<Group*> touched;
    const auto hit = [&touched](Group& group, std::size_t event) {
        if (group.hits.empty()) touched.push_back(&group);
        group.hits.push_back(static_cast<std::uint32_t>(event));
    };
    for (std::size_t i = 0; i < batch->events.size(); ++i) {
        const std::string_view key = batch->events[i].kv.key();
        if (const auto single = by_key_.find(key); single != by_key_.end()) hit(*single->second, i);
        by_range_.stab(key, [&](RangeNode& node) { hit(static_cast<Group&>(node), i); });
    }
    for (Group* group : touched) publish_to(*group, batch);
}

void WatchHub::publish_to(Group& group, const std::shared_ptr<const EventBatch>& batch) {
    const std::vector<std::uint32_t> hits = std::exchange(group.hits, {});
    // One selection for each of the four combinations of filters, made when first needed.
    struct Choice {
        bool made = false;
        bool any = false;
        Delivery delivery;
    } choices[4];
    for (std::size_t i = 0; i < group.watchers.size(); ++i) {
        Watcher& watcher = *group.watchers[i];
        if (watcher.sink == nullptr || watcher.state != State::kSynced ||
            watcher.next > batch->revision)
            continue;
        // A list's batch has many revisions; whoever waits for a later one has seen the first ones.
        if (watcher.next > batch->events.front().kv.mod_revision()) {
            Delivery later{.batch = batch, .selection = nullptr};
            if (select(*batch, &hits, watcher.filter, later, watcher.next) &&
                !watcher.sink->on_events(watcher.id, later))
                fall_behind(watcher, watcher.next);
            continue;
        }
        Choice& choice = choices[watcher.filter];
        if (!choice.made) {
            choice.made = true;
            choice.delivery.batch = batch;
            choice.any = select(*batch, &hits, watcher.filter, choice.delivery);
        }
        if (choice.any && !watcher.sink->on_events(watcher.id, choice.delivery))
            fall_behind(watcher, batch->events.front().kv.mod_revision());
    }
}

bool WatchHub::catch_up(std::size_t budget) {
    const Dispatch guard(*this);
    // Each watcher once, so that one with much to read does not starve the others.
    for (std::size_t turn = std::min(budget, queue_.size()); turn > 0; --turn) {
        const WatchId id = queue_.front();
        queue_.pop_front();
        const auto found = watchers_.find(id);
        if (found == watchers_.end() || found->second->sink == nullptr ||
            found->second->state != State::kQueued)
            continue;
        if (catch_up_one(*found->second)) queue_.push_back(id);
    }
    if (queue_.empty()) pieces_.clear();
    return !queue_.empty();
}

std::shared_ptr<const EventBatch> WatchHub::piece_of_history(const Group& group, Revision from) {
    auto& piece = pieces_[{&group, from}];
    // An empty piece says nothing about what was published after it was read.
    const bool stale =
        piece && piece->events.empty() && piece->revision < history_.published_revision();
    if (!piece || stale) piece = history_.read_history(group.range(), from);
    return piece;
}

bool WatchHub::catch_up_one(Watcher& watcher) {
    const auto batch = piece_of_history(*watcher.group, watcher.next);
    Delivery delivery{.batch = batch, .selection = nullptr};
    if (select(*batch, nullptr, watcher.filter, delivery) &&
        !watcher.sink->on_events(watcher.id, delivery)) {
        fall_behind(watcher, watcher.next);
        return false;
    }
    watcher.next = batch->revision + 1;
    if (watcher.next <= history_.published_revision()) return true;
    watcher.state = State::kSynced;
    behind_.erase(watcher.id);
    return false;
}

void WatchHub::cancel_with(Watcher* watcher, CancelReason reason, Revision floor) {
    if (watcher->sink == nullptr) return;
    WatchSink* sink = watcher->sink;
    const WatchId id = watcher->id;
    cancel(id);
    sink->on_cancelled(id, reason, floor);
}

void WatchHub::for_each_range(const std::function<void(const WatchedRange&)>& visit) const {
    for (const auto& [key, group] : groups_) {
        WatchedRange seen{.range = group->range()};
        for (const Watcher* watcher : group->watchers) {
            if (watcher->sink == nullptr) continue;
            ++seen.watchers;
            seen.behind += watcher->state != State::kSynced ? 1 : 0;
            seen.blocked += watcher->state == State::kBlocked ? 1 : 0;
        }
        visit(seen);
    }
}

std::optional<WatchState> WatchHub::state_of(WatchId id) const {
    const auto found = watchers_.find(id);
    if (found == watchers_.end() || found->second->sink == nullptr) return std::nullopt;
    const Watcher& watcher = *found->second;
    return WatchState{.range = watcher.group->range(),
                      .no_put = (watcher.filter & kNoPut) != 0,
                      .no_delete = (watcher.filter & kNoDelete) != 0,
                      .behind = watcher.state != State::kSynced,
                      .blocked = watcher.state == State::kBlocked};
}

std::size_t WatchHub::blocked() const {
    return static_cast<std::size_t>(std::count_if(behind_.begin(), behind_.end(), [&](WatchId id) {
        return watchers_.find(id)->second->state == State::kBlocked;
    }));
}

void WatchHub::history_cut(Revision log_start, Revision floor) {
    const Dispatch guard(*this);
    const std::vector<WatchId> behind(behind_.begin(), behind_.end());
    for (const WatchId id : behind) {
        const auto found = watchers_.find(id);
        if (found != watchers_.end() && found->second->next < log_start)
            cancel_with(found->second.get(), CancelReason::kCompacted, floor);
    }
}

void WatchHub::cancel_all(CancelReason reason, Revision floor) {
    const Dispatch guard(*this);
    std::vector<WatchId> ids;
    for (const auto& [id, watcher] : watchers_) ids.push_back(id);
    std::sort(ids.begin(), ids.end());
    for (const WatchId id : ids) cancel_with(watchers_.find(id)->second.get(), reason, floor);
}

}  // namespace mesh::store
