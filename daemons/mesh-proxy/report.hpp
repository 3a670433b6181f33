// What mesh-proxy tells of itself: the status document and metrics, from plain numbers.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reflect/kvstore_mesh.hpp"
#include "serve/etcd/mirror.hpp"
#include "serving_loop.hpp"
#include "state/store/store.hpp"

namespace mesh::proxy_daemon {

struct ProxyReport {
    std::string cluster;
    std::uint32_t id = 0;
    bool embedded = false;
    store::Revision revision = 0;
    store::Identity identity;
    std::vector<LoopReport> loops;  ///< the main loop first
    std::optional<serve::MirrorStatus> mirror;
    double stale_seconds = 0;  ///< of the mirror
    std::optional<reflect::KvstoreMeshStatus> kvstore_mesh;
};

/// /v1/status.
[[nodiscard]] boost::json::object to_json(const ProxyReport& report);
/// /metrics: Prometheus text.
[[nodiscard]] std::string to_metrics(const ProxyReport& report);

}  // namespace mesh::proxy_daemon
