// Which remote holds which cluster id: a second remote with the same id is refused (spec
// protocol.md §4). An id is held from the time a remote's cluster-config is accepted until it is
// drained. Who comes first holds it, unless a remote's configuration file claims the id: then no
// other may hold it, and one that does gives it up. One per agent, shared by its sessions.
#pragma once

#include <functional>
#include <map>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "model/types.hpp"

namespace mesh::state {

/// @thread the thread of the sessions
class IdRegistry {
  public:
    /// Takes the id for a cluster. Taking what one holds already is fine; a cluster that holds
    /// another id must release it first.
    /// @errors kConflict: another cluster holds it, or its file claims it; names both
    [[nodiscard]] Result<void> reserve(model::ClusterId id, std::string_view cluster);
    /// Gives back what the cluster holds, if anything.
    void release(std::string_view cluster);

    /// The cluster's file says that this id is its own; nullopt = it says nothing (any more). Asks
    /// another that holds the id to give it up.
    void claim(std::string_view cluster, std::optional<model::ClusterId> id);
    /// The other cluster whose file claims the id, if this cluster's own does not.
    [[nodiscard]] std::optional<std::string> claimed_from(model::ClusterId id,
                                                          std::string_view cluster) const;
    /// Called when another's claim takes what the cluster holds: it is to look at claimed_from()
    /// soon, not in the call.
    void on_claimed(std::string_view cluster, std::function<void()> callback);

  private:
    std::map<model::ClusterId, std::string> holders_;
    std::map<std::string, model::ClusterId, std::less<>> claims_;
    std::map<std::string, std::function<void()>, std::less<>> callbacks_;
};

}  // namespace mesh::state
