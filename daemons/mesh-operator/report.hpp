// What mesh-operator tells about itself: the JSON of /v1/status and the metrics.
#pragma once

#include <string>
#include <vector>

#include "publish/etcd_publisher.hpp"
#include "publish/records.hpp"
#include "sources/config/manifests.hpp"

namespace mesh::operator_daemon {

/// A moment of the operator.
struct Report {
    publish::ClusterInfo cluster;
    publish::PublisherStatus publisher;
    const sources::config::ManifestDirectory* manifests = nullptr;
    std::string manifests_directory;
    std::string directory_error;  ///< empty = it can be read
    std::vector<publish::WorkloadReport> workloads;
};

/// Fields: cluster {name, id, maxConnectedClusters}, state, ready, objects {Kind: count, policies
/// included},
/// manifests {directory, errors [text], complete}, workloads [{name, namespace, state ("accepted",
/// "refused"), reason, ips [text], backends [{service, portName, port, protocol}], node}], etcd
/// {keys, pending, refused, identities, policies, lease (hex), leasesLost, puts, deletes,
/// transactions, lists, failures}, lastError {message, current} or null.
[[nodiscard]] std::string to_json(const Report& report);
/// The Prometheus text format; names begin with mesh_operator_.
[[nodiscard]] std::string to_metrics(const Report& report);

}  // namespace mesh::operator_daemon
