// Deletes the flows of services at tc that have timed out, a few at a time. The programs take such
// flows for absent themselves: this only gives their room back. Internal to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>

#include "bpf/layout.h"
#include "datapath/pods.hpp"

namespace mesh::datapath {

class FlowWalk {
  public:
    /// @param flows, answers the maps; borrowed
    FlowWalk(int flows, int answers, std::uint64_t max_flows, const FlowTimeouts& timeouts);

    /// @see PodDatapath::collect_flows
    [[nodiscard]] Result<void> step(std::size_t most, TimePoint now);
    [[nodiscard]] const FlowStats& stats() const noexcept { return stats_; }

  private:
    [[nodiscard]] bool is_over(const mesh_answer& answer, std::uint8_t proto,
                               std::uint64_t now) const;
    void look_at(const mesh_flow_key& key, const mesh_answer& answer, std::uint64_t now);

    int flows_;
    int answers_;
    FlowTimeouts timeouts_;
    FlowStats stats_;
    std::uint32_t position_ = 0;     ///< in answers
    bool at_start_ = true;           ///< position_ means nothing yet
    std::uint64_t live_so_far_ = 0;  ///< of this round
};

}  // namespace mesh::datapath
