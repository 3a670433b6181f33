#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "model/keys.hpp"
#include "state/clusters/session_impl.hpp"

namespace mesh::state {

namespace {
/// Small enough for the tables' copies (changes.hpp), large enough to cost nothing per batch.
constexpr std::size_t kBatchChanges = 1000;
// Of what a remote's etcd may make us read and remember, beyond its limits.
constexpr std::uint64_t kSpareKeys = 1'000;
constexpr std::uint64_t kSpareBytes = 64U << 20;
/// Below these, sums do not overflow.
constexpr std::uint64_t kMostKeys = 1ULL << 40;
constexpr std::uint64_t kMostBytes = 1ULL << 50;
/// No ip, prefix or identity is written longer than this behind its prefix.
constexpr std::uint64_t kNumberBytes = 64;
}  // namespace

// --- watches ----------------------------------------------------------------------------------

void Session::Impl::start_watches() {
    watches_started_ = true;
    if (canaries_) watch(Slot::kCanaries);
    open_what_may();
}

void Session::Impl::open_what_may() {
    for (std::size_t i = 0; i < kObjectSlots; ++i) open(object_slot(i));
}

void Session::Impl::open(Slot slot) {
    if (!watches_started_ || !wanted_.contains(slot) || watching_.contains(slot)) return;
    if (canaries_ && !canaries_seen_.contains(slot)) return;
    // Whether an ip is foreign is told by the nodes' CIDRs; and no backend is to be used before the
    // way to its node is known.
    const bool needs_nodes =
        (slot == Slot::kServices && !ever_ready_) || (slot == Slot::kIps && policy().needs_nodes());
    if (needs_nodes && wanted_.contains(Slot::kNodes) && !listed_.contains(Slot::kNodes)) return;
    watch(slot);
}

void Session::Impl::watch(Slot slot) {
    watching_.insert(slot);
    if (index(slot) < kObjectSlots) {
        intake_.begin_list(slot);
        to_sweep_.insert(slot);
        done_.erase(slot);
        rewatch_at_[index(slot)].reset();
    }
    std::string prefix = slot_prefix(slot, options_.cluster, layout_);
    const KeyBounds bounds = key_bounds(slot, prefix.size());
    actions_.emplace_back(Watch{epoch_, slot, std::move(prefix), bounds});
}

KeyBounds Session::Impl::key_bounds(Slot slot, std::size_t prefix_bytes) const {
    if (options_.own) return {};
    const auto& limits = policy().limits;
    const auto count = [&]() -> std::uint64_t {
        switch (slot) {
            case Slot::kNodes:
                return limits.nodes;
            case Slot::kServices:
                return limits.services;
            case Slot::kIps:
                return limits.ips;
            case Slot::kIdentities:
                return limits.identities;
            case Slot::kServiceExports:
                return limits.service_exports;
            case Slot::kLocalServices:
            case Slot::kLocalPolicies:
            case Slot::kLocalIps:
            case Slot::kHeartbeat:
            case Slot::kCanaries:
                break;
        }
        return 0;
    }();
    const bool numbers = slot == Slot::kIps || slot == Slot::kIdentities;
    KeyBounds bounds;
    // Room for entries that are refused one by one, behind which good ones may follow.
    bounds.keys = std::min(count, kMostKeys) + count / 8 + kSpareKeys;
    bounds.key_bytes =
        numbers ? std::min(limits.key_bytes, prefix_bytes + kNumberBytes) : limits.key_bytes;
    // As much again as may be held, since what is refused is read, too.
    bounds.list_bytes = std::min(limits.total_bytes, kMostBytes) * 2 + kSpareBytes;
    return bounds;
}

void Session::Impl::take_canaries(std::span<const Incoming> incoming) {
    for (const Incoming& change : incoming) {
        const auto key = model::parse_key(change.key);
        if (change.deleted || key.kind != model::KeyKind::kSynced) continue;
        if (key.cluster == options_.cluster && key.layout == layout_) {
            canaries_seen_.insert(slot_of(key.resource));
        }
    }
    open_what_may();
    if (canaries_seen_.contains_all(wanted_) && watching_.contains(Slot::kCanaries)) {
        watching_.erase(Slot::kCanaries);
        actions_.emplace_back(Unwatch{epoch_, Slot::kCanaries});
    }
}

void Session::Impl::changes(TimePoint now, Slot slot, bool from_list,
                            std::span<const Incoming> incoming) {
    if (!watching_.contains(slot)) return;
    if (slot == Slot::kCanaries) return take_canaries(incoming);
    if (slot == Slot::kHeartbeat) {
        // What a list finds may be old: only an event proves that the writer lives.
        if (!from_list && std::any_of(incoming.begin(), incoming.end(),
                                      [](const Incoming& c) { return !c.deleted; })) {
            last_heartbeat_ = now;
        }
        return;
    }
    take_objects(now, slot, from_list, incoming);
}

void Session::Impl::take_objects(TimePoint now, Slot slot, bool from_list,
                                 std::span<const Incoming> incoming) {
    Changes out;
    const auto per_second = policy().limits.events_per_second;
    for (const Incoming& change : incoming) {
        if (change.deleted) {
            intake_.erase(slot, change.key, out);
        } else if (from_list || options_.own || rate_.take(now, per_second)) {
            intake_.put(now, slot, change.key, change.value, out);
        } else {
            intake_.refuse_rate(now, slot, change.key);
            rewatch_at_[index(slot)] = now + options_.times.calm;
        }
        if (out.size() >= kBatchChanges) emit(out);
    }
    emit(out);
    plan_lists(now);
}

void Session::Impl::plan_lists(TimePoint now) {
    for (std::size_t i = 0; i < kObjectSlots; ++i) {
        if (intake_.take_worth_a_list(object_slot(i)) && !rewatch_at_[i]) {
            rewatch_at_[i] = now + options_.times.relist;
        }
    }
}

void Session::Impl::list_done(TimePoint now, Slot slot) {
    if (!watching_.contains(slot)) return;
    const bool first = !listed_.contains(slot);
    listed_.insert(slot);
    if (slot == Slot::kHeartbeat && first && !config_ok_) return request_config();
    if (index(slot) >= kObjectSlots) return;
    done_.insert(slot);
    if (slot == Slot::kNodes) open_what_may();
    // The fence: nothing is pruned before every prefix has been listed.
    if (!done_.contains_all(wanted_)) return;
    sweep();
    plan_lists(now);
}

void Session::Impl::sweep() {
    Changes out;
    for (const Slot slot : kDrainOrder) {
        if (!to_sweep_.contains(slot)) continue;
        intake_.sweep(slot, out);
        emit(out);
    }
    to_sweep_.clear();
    holds_old_ = false;
}

void Session::Impl::drain(SlotSet slots) {
    Changes out;
    for (const Slot slot : kDrainOrder) {
        if (!slots.contains(slot)) continue;
        intake_.drain(slot, out);
        emit(out);
    }
}

void Session::Impl::emit(Changes& changes) {
    for (auto begin = changes.begin(); begin != changes.end();) {
        const auto left = static_cast<std::size_t>(changes.end() - begin);
        const auto end = begin + static_cast<std::ptrdiff_t>(std::min(left, kBatchChanges));
        Emit action{{key_, {}}};
        action.batch.changes.assign(std::make_move_iterator(begin), std::make_move_iterator(end));
        actions_.emplace_back(std::move(action));
        begin = end;
    }
    changes.clear();
}

void Session::Impl::watch_refused(TimePoint now, Slot slot, const Error& reason) {
    note_failure(now, fmt::format("watch of {} refused: {}", to_string(slot), reason.detail()));
}

}  // namespace mesh::state
