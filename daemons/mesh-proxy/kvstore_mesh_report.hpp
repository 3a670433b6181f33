// What mesh-proxy tells of its KVStoreMesh: status and metrics.
#pragma once

#include <boost/json/object.hpp>
#include <string>

#include "reflect/kvstore_mesh.hpp"

namespace mesh::proxy_daemon {

/// The member "kvstoremesh" of /v1/status.
[[nodiscard]] boost::json::object to_json(const reflect::KvstoreMeshStatus& status);
/// Prometheus text.
[[nodiscard]] std::string to_metrics(const reflect::KvstoreMeshStatus& status);

}  // namespace mesh::proxy_daemon
