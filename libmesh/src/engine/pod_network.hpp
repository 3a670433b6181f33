// This node's part of the pod network: the overlay device, the programs on devices, the routes to
// other nodes' pods, and the node's own pods, as their files tell. What is known of addresses
// elsewhere (ipcache) goes through NodeState.
//
// Nothing here is torn down when the agent ends: pods keep their network.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mesh/error.hpp>
#include <mesh/mesh.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "datapath/netlink/route_table.hpp"
#include "datapath/netlink/rtnetlink.hpp"
#include "datapath/pods.hpp"
#include "engine/endpoint_numbers.hpp"
#include "engine/policy_engine.hpp"
#include "model/types.hpp"
#include "sources/config/endpoint_files.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

/// The UDP port of the overlay: as the options say, or the protocol's usual one.
[[nodiscard]] std::uint16_t overlay_port(const DatapathOptions& options) noexcept;

/// A pod of this node, for status.
struct EndpointStatus {
    std::string id;  ///< of its file
    sources::config::EndpointFile file;
    std::uint32_t identity = 0;  ///< 0 = not known yet
    std::uint16_t number = 0;    ///< for policy; 0 = none was free
    bool attached = false;       ///< packets are forwarded
    std::string error;           ///< why not
};

/// @thread same object not concurrently
class PodNetwork {
  public:
    /// @param netlink of this node's namespace
    /// @param pods outlives this object
    PodNetwork(DatapathOptions options, state::ClusterKey own, std::string node,
               std::uint32_t max_connected_clusters, datapath::Rtnetlink netlink,
               datapath::PodDatapath& pods, Logger log);

    /// The pods that there are now, by id.
    /// @param complete false: some could not be read, so nothing is to be concluded from absence
    void set_endpoints(const std::map<std::string, sources::config::EndpointFile>& endpoints,
                       bool complete);

    /// Brings devices, settings and endpoints to what the own node's record, the own cluster's ip
    /// entries and the pods' files say. What fails is tried again by the next call.
    /// @errors the first failure; the rest was done. A pod that finds no room is none: it is told
    /// by
    ///         endpoints() and the log
    /// @complexity the own pods
    [[nodiscard]] Result<void> refresh(const state::ClusterTables& tables);

    /// The routes that this node's stack should have for pods elsewhere.
    /// @param gateways pod CIDRs and the nodes that have them
    [[nodiscard]] datapath::DesiredRoutes routes(const datapath::DesiredRoutes& gateways) const;
    /// Whether routes() may answer otherwise than before the last call of this.
    [[nodiscard]] bool take_routes_changed() noexcept {
        return std::exchange(routes_changed_, false);
    }

    [[nodiscard]] std::vector<EndpointStatus> endpoints() const;
    /// The pods for policy, and whether these are all that there are.
    [[nodiscard]] std::vector<PolicyPod> policy_pods() const;
    [[nodiscard]] bool complete() const noexcept { return complete_; }
    /// No pod of an earlier run is waited for any longer.
    void finish_adoption() { numbers_.finish_adoption(); }
    /// How many of the pods are not forwarded to.
    [[nodiscard]] std::size_t failed_endpoints() const noexcept {
        return static_cast<std::size_t>(std::ranges::count_if(
            endpoints_, [](const auto& pod) { return !pod.second.error.empty(); }));
    }
    /// An event for each packet while it is on.
    [[nodiscard]] Result<void> set_trace(bool on);

  private:
    struct Pod {
        sources::config::EndpointFile file;
        EndpointNumbers::Number number;
        std::uint32_t ifindex = 0;  ///< 0 = not attached
        std::string error;
    };
    [[nodiscard]] Result<void> refresh_settings(const state::ClusterTables& tables);
    [[nodiscard]] Result<void> prepare_overlay(datapath::PodsSettings& wanted);
    [[nodiscard]] Result<void> refresh_endpoints(const state::ClusterTables& tables);
    [[nodiscard]] Result<void> attach(Pod& pod);
    /// @param held what the datapath has of it; nullptr: nothing
    [[nodiscard]] std::uint32_t identity_of(const state::ClusterTables& tables,
                                            const model::IpAddress& address,
                                            const datapath::Endpoint* held) const;

    DatapathOptions options_;
    state::ClusterKey own_;
    std::string node_;
    datapath::Rtnetlink netlink_;
    datapath::PodDatapath& pods_;
    EndpointNumbers numbers_;
    Logger log_;
    datapath::PodsSettings wanted_;
    std::optional<datapath::PodsSettings> configured_;
    std::map<std::string, Pod> endpoints_;
    std::map<model::IpAddress, datapath::Endpoint> written_;  ///< as the datapath has them
    bool complete_ = false;
    bool routes_changed_ = false;
};

}  // namespace mesh::engine
