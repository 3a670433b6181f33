#include "publish/key_ledger.hpp"

#include <functional>

namespace mesh::publish {

namespace {

/// Deletes come after all puts, what was put first is deleted last.
constexpr int kDeleteOrder = 1'000'000;

}  // namespace

void KeyLedger::want(const std::string& key, std::string value) {
    const auto at = entries_.try_emplace(key).first;
    Entry& entry = at->second;
    if (entry.wanted == value) return;
    if (!entry.wanted) ++wanted_;
    entry.wanted = std::move(value);
    entry.released = true;
    if (std::exchange(entry.refused, false)) --refused_;
    review(at);
}

void KeyLedger::unwant(const std::string& key) {
    const auto at = entries_.find(key);
    if (at == entries_.end() || !at->second.wanted) return;
    Entry& entry = at->second;
    --wanted_;
    entry.wanted.reset();
    entry.released = true;
    if (std::exchange(entry.refused, false)) --refused_;
    review(at);
}

void KeyLedger::begin_list() {
    for (auto& [key, entry] : entries_) entry.seen = false;
}

void KeyLedger::listed(std::string_view key, std::string_view value, std::int64_t lease) {
    auto at = entries_.find(key);
    if (at == entries_.end()) at = entries_.try_emplace(std::string(key)).first;
    Entry& entry = at->second;
    entry.seen = true;
    entry.present = true;
    entry.hash = std::hash<std::string_view>{}(value);
    entry.lease = lease;
}

void KeyLedger::end_list() {
    for (auto& [key, entry] : entries_) entry.present = entry.seen;
    review_all();
}

void KeyLedger::set_lease(std::int64_t lease) {
    if (std::exchange(lease_, lease) != lease) review_all();
}

void KeyLedger::hold(bool held) {
    if (std::exchange(held_, held) == held) return;
    if (held) {
        for (auto& [key, entry] : entries_) entry.released = false;
    }
    review_all();
}

std::vector<KeyLedger::Write> KeyLedger::next(std::size_t limit, std::size_t max_bytes) const {
    std::vector<Write> writes;
    std::size_t bytes = 0;
    for (const auto& [order, key] : due_) {
        if (writes.size() >= limit) break;
        const Entry& entry = entries_.find(key)->second;
        bytes += key.size() + (entry.wanted ? entry.wanted->size() : 0);
        if (!writes.empty() && bytes > max_bytes) break;
        writes.push_back({std::string(key), entry.wanted});
    }
    return writes;
}

void KeyLedger::applied(const std::vector<Write>& writes) {
    for (const Write& write : writes) {
        const auto at = entries_.find(write.key);
        if (at == entries_.end()) continue;
        Entry& entry = at->second;
        entry.present = write.value.has_value();
        entry.lease = lease_;
        if (write.value) entry.hash = std::hash<std::string_view>{}(*write.value);
        review(at);
    }
}

void KeyLedger::refused(const std::string& key) {
    const auto at = entries_.find(key);
    if (at == entries_.end() || at->second.refused) return;
    at->second.refused = true;
    ++refused_;
    review(at);
}

bool KeyLedger::differs(const Entry& entry) const {
    if (entry.refused) return false;
    if (held_ && entry.present && entry.lease == lease_ && !entry.released) return false;
    if (held_ && !entry.wanted && !entry.released) return false;
    if (!entry.wanted) return entry.present;
    return !entry.present || entry.lease != lease_ ||
           entry.hash != std::hash<std::string_view>{}(*entry.wanted);
}

void KeyLedger::review(Entries::iterator at) {
    Entry& entry = at->second;
    if (entry.order) due_.erase({*entry.order, at->first});
    entry.order.reset();
    if (differs(entry)) {
        const int rank = rank_(at->first);
        entry.order = entry.wanted ? rank : kDeleteOrder - rank;
        due_.emplace(*entry.order, at->first);
    } else if (!entry.wanted && !entry.present) {
        if (entry.refused) --refused_;
        entries_.erase(at);
    }
}

void KeyLedger::review_all() {
    for (auto at = entries_.begin(); at != entries_.end();) review(at++);
}

}  // namespace mesh::publish
