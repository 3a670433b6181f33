#include "state/clusters/freshness.hpp"

#include <algorithm>
#include <limits>

namespace mesh::state {

void Freshness::begin(SlotSet wanted) {
    wanted_ = wanted;
    reached_ = {};
    probed_ = 0;
    behind_since_.reset();
}

void Freshness::drop(TimePoint now, Slot slot) {
    wanted_.erase(slot);
    update(now);
}

void Freshness::reached(TimePoint now, Slot slot, std::int64_t revision) {
    if (index(slot) >= kObjectSlots) return;
    auto& mine = reached_[index(slot)];
    mine = std::max(mine, revision);
    update(now);
}

void Freshness::probed(TimePoint now, std::int64_t revision) {
    probed_ = std::max(probed_, revision);
    update(now);
}

std::int64_t Freshness::revision() const {
    constexpr auto kNone = std::numeric_limits<std::int64_t>::max();
    std::int64_t lowest = kNone;
    for (std::size_t i = 0; i < kObjectSlots; ++i) {
        if (wanted_.contains(object_slot(i))) lowest = std::min(lowest, reached_[i]);
    }
    return lowest == kNone ? 0 : lowest;
}

std::int64_t Freshness::lag_revisions() const {
    return std::max<std::int64_t>(probed_ - revision(), 0);
}

void Freshness::update(TimePoint now) {
    if (lag_revisions() == 0)
        behind_since_.reset();
    else if (!behind_since_)
        behind_since_ = now;
}

}  // namespace mesh::state
