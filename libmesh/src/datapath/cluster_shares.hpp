// How much of the table of backends each cluster has, and how much it may have: what remotes
// announce must not take the room that the own cluster's services need.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace mesh::datapath {

/// @thread same object not concurrently
class ClusterShares {
  public:
    /// @param clusters ids are below this
    /// @param backends that the table has room for
    ClusterShares(std::uint32_t clusters, std::uint32_t backends)
        : used_(clusters), backends_(backends) {}

    void set_own(std::uint32_t cluster) { own_ = cluster; }
    /// True for a cluster other than the own one, once that is known.
    [[nodiscard]] bool is_limited(std::uint32_t cluster) const noexcept {
        return own_ && cluster != *own_;
    }

    void add(std::uint32_t cluster) {
        ++used_.at(cluster);
        ++all_;
    }
    void remove(std::uint32_t cluster) {
        --used_.at(cluster);
        --all_;
    }

    /// How many backends more that cluster, which is limited, may have. @complexity O(1)
    [[nodiscard]] std::uint32_t room(std::uint32_t cluster) const {
        const std::uint32_t others = all_ - used_.at(*own_);
        return std::min(left(backends_ / 2, used_.at(cluster)), left(backends_ / 4 * 3, others));
    }

  private:
    [[nodiscard]] static std::uint32_t left(std::uint32_t limit, std::uint32_t used) {
        return limit > used ? limit - used : 0;
    }

    std::vector<std::uint32_t> used_;  // by cluster id
    std::uint32_t backends_;
    std::uint32_t all_ = 0;
    std::optional<std::uint32_t> own_;
};

}  // namespace mesh::datapath
