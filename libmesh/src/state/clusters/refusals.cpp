#include "state/clusters/refusals.hpp"

#include "model/utf8.hpp"

namespace mesh::state {

namespace {
constexpr Duration kLogEvery = std::chrono::seconds(10);
/// Keys come from a remote: what is kept and logged of them is bounded.
constexpr std::size_t kMostText = 512;
}  // namespace

std::string_view to_string(Refusal reason) noexcept {
    switch (reason) {
        case Refusal::kKey:
            return "key";
        case Refusal::kValue:
            return "value";
        case Refusal::kForeign:
            return "foreign";
        case Refusal::kForeignIp:
            return "foreign-ip";
        case Refusal::kLimit:
            return "limit";
        case Refusal::kTooLarge:
            return "too-large";
        case Refusal::kRate:
            return "rate";
        case Refusal::kNotShared:
            return "not-shared";
    }
    return "unknown";
}

void Refusals::add(TimePoint now, std::string_view key, Refusal reason, std::string_view detail,
                   std::uint64_t times) {
    const auto i = static_cast<std::size_t>(reason);
    Count& count = counts_[i];
    count.count += times;
    count.last_key = model::printable(key, kMostText);
    count.last_detail = model::printable(detail, kMostText);
    if (on_refused_) on_refused_(key, reason, detail);
    if (reason == Refusal::kNotShared) return;
    if (logged_[i] && now - *logged_[i] < kLogEvery) {
        unlogged_[i] += times;
        return;
    }
    logged_[i] = now;
    unlogged_[i] += times - 1;
    if (unlogged_[i] == 0) {
        log_.warn("remote cluster {}: entry refused ({}): {}", cluster_, to_string(reason),
                  count.last_detail);
    } else {
        log_.warn(
            "remote cluster {}: entry refused ({}), with {} others since the last such line: {}",
            cluster_, to_string(reason), unlogged_[i], count.last_detail);
    }
    unlogged_[i] = 0;
}

std::uint64_t Refusals::total() const noexcept {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < kRefusals; ++i) {
        if (static_cast<Refusal>(i) != Refusal::kNotShared) sum += counts_[i].count;
    }
    return sum;
}

}  // namespace mesh::state
