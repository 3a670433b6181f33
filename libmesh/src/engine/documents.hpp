// The documents of the status API (GET /v1/..., /metrics), made from what the engine knows. The
// names of JSON fields and metrics are an API: meshctl, scripts and dashboards read them.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <map>
#include <mesh/mesh.hpp>
#include <span>
#include <string>
#include <vector>

#include "engine/encryption.hpp"
#include "engine/health_watch.hpp"
#include "engine/node_state.hpp"
#include "engine/pod_network.hpp"
#include "state/clusters/session.hpp"

namespace mesh::engine {

/// All that the status document tells, borrowed for the call.
struct StatusSources {
    const MeshOptions& options;
    bool ready = false;
    bool serving = false;                            ///< Agent::serving()
    bool synced = false;                             ///< nothing of a former run is kept any more
    std::span<const state::SessionStatus> clusters;  ///< the own one first
    const std::map<std::string, std::string>& config_errors;
    const NodeState& node;
    const datapath::Datapath& datapath;
    const datapath::PodDatapath* pods = nullptr;  ///< null without a pod network
    const PodNetwork* network = nullptr;
    const PolicyEngine* policy = nullptr;    ///< likewise
    const HealthWatch* health = nullptr;     ///< null if nothing is probed
    std::uint64_t sockets_ended = 0;         ///< whose backends went
    const Encryption* encryption = nullptr;  ///< null = there is none
    std::span<const std::string> route_failures;
    std::uint64_t flushes = 0;            ///< times that changes were compiled and written
    std::uint64_t route_comparisons = 0;  ///< times that routes were compared with the kernel's
    std::string_view last_error;          ///< of the datapath; empty = none
};

/// GET /v1/status.
[[nodiscard]] boost::json::object status_document(const StatusSources& sources);
/// GET /metrics, Prometheus' text format.
[[nodiscard]] std::string metrics_document(const StatusSources& sources);
/// GET /v1/services/<namespace>/<name>.
[[nodiscard]] boost::json::object to_json(const ServiceView& view);
/// One of GET /v1/endpoints: a pod of this node.
[[nodiscard]] boost::json::object to_json(const EndpointStatus& endpoint);
/// GET /v1/services.
[[nodiscard]] boost::json::array to_json(std::span<const ServiceView> views);

}  // namespace mesh::engine
