// Which remote holds which cluster id: a second remote with the same id is refused (spec
// protocol.md §4). An id is held from the time a remote's cluster-config is accepted until it is
// drained. One per agent, shared by its sessions.
#pragma once

#include <map>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

#include "model/types.hpp"

namespace mesh::state {

/// @thread the thread of the sessions
class IdRegistry {
  public:
    /// Takes the id for a cluster. Taking what one holds already is fine; a cluster that holds
    /// another id must release it first.
    /// @errors kConflict: another cluster holds it; names both
    [[nodiscard]] Result<void> reserve(model::ClusterId id, std::string_view cluster);
    /// Gives back what the cluster holds, if anything.
    void release(std::string_view cluster);

  private:
    std::map<model::ClusterId, std::string> holders_;
};

}  // namespace mesh::state
