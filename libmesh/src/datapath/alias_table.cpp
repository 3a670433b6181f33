#include "datapath/alias_table.hpp"

#include <limits>
#include <numeric>

namespace mesh::datapath {

__extension__ using Wide = unsigned __int128;  // -Wpedantic knows no 128-bit integers

std::vector<AliasRow> make_alias_table(std::span<const std::uint16_t> weights) {
    const std::uint64_t count = weights.size();
    const std::uint64_t total = std::accumulate(weights.begin(), weights.end(), std::uint64_t{0});
    std::vector<AliasRow> rows(weights.size());
    // Scaled by the count, so that `total` is what a full row holds: no fractions, no rounding.
    std::vector<std::uint64_t> left(weights.size());
    std::vector<std::uint32_t> small;
    std::vector<std::uint32_t> large;
    for (std::uint32_t i = 0; i < count; ++i) {
        left[i] = weights[i] * count;
        rows[i] = {i, std::numeric_limits<std::uint32_t>::max()};
        if (left[i] < total) {
            small.push_back(i);
        } else if (left[i] > total) {
            large.push_back(i);
        }
    }
    while (!small.empty() && !large.empty()) {
        const std::uint32_t poor = small.back();
        const std::uint32_t rich = large.back();
        small.pop_back();
        // total < 2^16 * 2^20, left < total: the shift needs 128 bits.
        const auto share = (static_cast<Wide>(left[poor]) << 32) / total;
        rows[poor] = {rich, static_cast<std::uint32_t>(share)};
        left[rich] -= total - left[poor];
        if (left[rich] <= total) large.pop_back();
        if (left[rich] < total) small.push_back(rich);
    }
    return rows;
}

}  // namespace mesh::datapath
