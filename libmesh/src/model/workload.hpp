// What a workload that no Kubernetes object describes (a VM, a process) says of itself, in its own
// cluster's etcd and under its own lease, and what the cluster's operator decided about it. Own
// keys, below mesh/local/: no proxy serves them to a remote. The operator makes of an accepted one
// what it makes of a pod, a node and the endpoints of services (publish/workload_table.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "model/string_map.hpp"

namespace mesh::model {

inline constexpr std::size_t kMaxWorkloadBytes = 64 * 1024;
inline constexpr std::size_t kMaxWorkloadIps = 16;
inline constexpr std::size_t kMaxWorkloadLabels = 64;
inline constexpr std::size_t kMaxWorkloadBackends = 64;

/// A port of the workload that serves a Service of its cluster.
struct WorkloadBackend {
    std::string service;    ///< "namespace/name"
    std::string port_name;  ///< that of the Service's port; empty: its only one, which has none
    std::uint16_t port = 0;
    std::string protocol = "TCP";  ///< "TCP", "UDP" or "SCTP"
    [[nodiscard]] std::string_view service_namespace() const {
        return std::string_view(service).substr(0, service.find('/'));
    }
    [[nodiscard]] std::string_view service_name() const {
        return std::string_view(service).substr(service.find('/') + 1);
    }
    friend auto operator<=>(const WorkloadBackend&, const WorkloadBackend&) = default;
};

/// key mesh/local/workloads/v1/<name>
struct Workload {
    std::string name;
    std::string namespace_;
    std::vector<IpAddress> ips;  ///< sorted
    StringMap labels;
    std::vector<WorkloadBackend> backends;  ///< sorted
    std::string zone;                       ///< topology.kubernetes.io/zone; empty = not told
    bool node = false;                      ///< it is a node of the cluster, too, without pods
    friend bool operator==(const Workload&, const Workload&) = default;
};

/// The operator's answer; key mesh/local/workload-status/v1/<name>, under the operator's lease.
struct WorkloadStatus {
    std::int64_t revision = 0;  ///< the modification of the workload's key that was judged
    bool accepted = false;
    std::string reason;  ///< why it is refused; what an accepted one still waits for
    friend bool operator==(const WorkloadStatus&, const WorkloadStatus&) = default;
};

[[nodiscard]] std::string local_workload_key(std::string_view name);
[[nodiscard]] std::string local_workload_status_key(std::string_view name);

/// Whether one may be published: names that are DNS labels, addresses that somebody can have, each
/// thing once, and no more than the bounds above. Whose the addresses are is the operator's matter.
/// @errors kInvalidArgument names the field and what was expected
[[nodiscard]] Result<void> check_workload(const Workload& workload);
/// Sorts what has to be.
void normalise(Workload& workload);

/// Our own format: {"version": 1, "namespace", "ips": [..], "labels": {..}, "backends":
/// [{"service": "namespace/name", "portName", "port", "protocol"}], "zone", "node"}. Each field at
/// most once, and no other.
/// @param key names the workload and errors
/// @errors kInvalidArgument with key, field and what was expected; check_workload()'s, too
[[nodiscard]] Result<Workload> parse_workload(std::string_view key, std::string_view value);
[[nodiscard]] std::string encode(const Workload& workload);

/// {"version": 1, "revision": "123", "state": "accepted" or "refused", "reason"}
/// @errors likewise
[[nodiscard]] Result<WorkloadStatus> parse_workload_status(std::string_view key,
                                                           std::string_view value);
[[nodiscard]] std::string encode(const WorkloadStatus& status);

}  // namespace mesh::model
