#include "datapath/pools.hpp"

#include <iterator>

namespace mesh::datapath {

void IdPool::seal() {
    for (const std::uint32_t id : adopted_) {
        for (; next_ < id; ++next_) ready_.push_back(next_);
        next_ = id + 1;
    }
    adopted_.clear();
}

std::optional<std::uint32_t> IdPool::take() {
    if (!ready_.empty()) {
        const std::uint32_t id = ready_.front();
        ready_.pop_front();
        return id;
    }
    if (next_ < limit_) return next_++;
    return std::nullopt;
}

void IdPool::pass_grace() {
    ready_.insert(ready_.end(), waiting_.begin(), waiting_.end());
    waiting_.clear();
}

bool RangePool::adopt(std::uint32_t base, std::uint32_t count) {
    if (count == 0) return true;
    auto at = by_base_.upper_bound(base);
    if (at == by_base_.begin()) return false;
    --at;
    const auto [start, length] = *at;
    if (count > length || base - start > length - count) return false;
    erase(at);
    if (base > start) insert(start, base - start);
    if (base + count < start + length) insert(base + count, start + length - base - count);
    free_entries_ -= count;
    return true;
}

std::optional<std::uint32_t> RangePool::take(std::uint32_t count) {
    const auto fit = by_count_.lower_bound({count, 0});
    if (fit == by_count_.end()) return std::nullopt;
    const std::uint32_t base = fit->second;
    const std::uint32_t length = fit->first;
    erase(by_base_.find(base));
    if (length > count) insert(base + count, length - count);
    free_entries_ -= count;
    return base;
}

void RangePool::untake(std::uint32_t base, std::uint32_t count) {
    free_entries_ += count;
    const auto after = by_base_.lower_bound(base);
    if (after != by_base_.end() && base + count == after->first) {
        count += after->second;
        erase(after);
    }
    const auto next = by_base_.lower_bound(base);
    if (next != by_base_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == base) {
            base = before->first;
            count += before->second;
            erase(before);
        }
    }
    insert(base, count);
}

void RangePool::pass_grace() {
    for (const auto& [base, count] : waiting_) untake(base, count);
    waiting_.clear();
}

std::uint32_t RangePool::in_use() const noexcept {
    std::uint32_t used = size_ - free_entries_;
    for (const auto& range : waiting_) used -= range.second;
    return used;
}

void RangePool::insert(std::uint32_t base, std::uint32_t count) {
    by_base_.emplace(base, count);
    by_count_.emplace(count, base);
}

void RangePool::erase(std::map<std::uint32_t, std::uint32_t>::iterator at) {
    by_count_.erase({at->second, at->first});
    by_base_.erase(at);
}

}  // namespace mesh::datapath
