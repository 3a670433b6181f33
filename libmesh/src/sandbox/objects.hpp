// The Kubernetes objects that a sandbox understands: what it reads of a user's manifests, and the
// manifests that it writes, as the API server of a real cluster would show them to mesh-operator.
// Plain computation.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/ip.hpp"

namespace mesh::sandbox {

/// kind, namespace ("" for Node and Namespace) and name of an object.
struct ObjectRef {
    std::string kind, namespace_, name;
    friend auto operator<=>(const ObjectRef&, const ObjectRef&) = default;
    /// "Pod shop/client".
    [[nodiscard]] std::string to_string() const;
};

/// A user's object: checked as far as the sandbox uses it, otherwise as written.
struct Object {
    ObjectRef ref;
    boost::json::object manifest;
};

/// Checks kind, apiVersion, names and, by kind, all fields that the sandbox acts on.
/// Kinds: Namespace, Service, Pod, Deployment, EndpointSlice, and those of policies.
/// @param default_namespace for objects that name none
/// @errors kInvalidArgument "<file>: <kind> <name>: <field>: what was expected"
[[nodiscard]] Result<std::vector<Object>> parse_objects(std::string_view yaml,
                                                        std::string_view file,
                                                        std::string_view default_namespace);

struct PodPort {
    std::string name, protocol;
    std::uint16_t port = 0;
};
struct EnvironmentEntry {
    std::string name, value;
    std::string field;  ///< fieldPath of the downward API instead of a value, or ""
};
struct ReadinessProbe {
    bool http = false;
    std::string path;
    std::uint16_t port = 0;
};
/// What the sandbox uses of a Pod.
struct PodSpec {
    std::string container;
    std::vector<std::string> command;  ///< command and args
    std::vector<EnvironmentEntry> environment;
    std::string working_directory;  ///< "" = "/"
    std::vector<PodPort> ports;
    std::optional<std::string> node;          ///< spec.nodeName
    std::int64_t grace_seconds = 30;          ///< terminationGracePeriodSeconds
    std::int64_t pre_stop_seconds = 0;        ///< lifecycle.preStop.sleep.seconds
    std::optional<ReadinessProbe> readiness;  ///< passed once, at start
};
/// @errors kInvalidArgument "<field>: what was expected"
[[nodiscard]] Result<PodSpec> parse_pod_spec(const boost::json::object& pod);

/// How many replicas a Deployment asks for, and the pod manifest that it makes one by one.
struct DeploymentSpec {
    std::int64_t replicas = 1;
    boost::json::object pod_metadata, pod_spec;
};
[[nodiscard]] Result<DeploymentSpec> parse_deployment(const boost::json::object& deployment);

/// A pod as the sandbox runs it.
enum class PodPhase : std::uint8_t { kPending, kRunning, kSucceeded, kFailed };
struct Pod {
    std::string namespace_, name;
    std::string node;
    std::vector<model::IpAddress> ips;  ///< IPv4 first
    boost::json::object manifest;       ///< as applied
    std::string owner;                  ///< its Deployment's name, or ""
    std::string uid;
    PodPhase phase = PodPhase::kPending;
    bool ready = false;
    bool terminating = false;
    std::optional<int> exit_code;  ///< of its process; 128 + signal when killed
    std::string message;           ///< why it failed
    std::string started_at;        ///< RFC 3339
};
[[nodiscard]] std::string_view to_string(PodPhase phase) noexcept;

struct NodeInfo {
    std::string name;
    std::vector<model::IpAddress> addresses;  ///< IPv4 first
    std::vector<model::IpPrefix> pod_blocks;  ///< IPv4 first
    std::string wireguard_key{};              ///< public, base64; "" = none
};

/// The manifests of one cluster: file name → YAML. Pure function of its arguments, so that the same
/// state always gives the same files.
struct ClusterObjects {
    std::vector<NodeInfo> nodes;
    std::map<std::string, boost::json::object> namespaces;  ///< by name
    std::map<std::pair<std::string, std::string>, boost::json::object>
        services;                                                               ///< with clusterIP
    std::map<std::pair<std::string, std::string>, boost::json::object> slices;  ///< the user's own
    std::map<ObjectRef, boost::json::object> policies;
    std::map<std::pair<std::string, std::string>, Pod> pods;
};
[[nodiscard]] std::map<std::string, std::string> render_manifests(const ClusterObjects& cluster);

/// Whether a Service's families ask for IPv4, for IPv6 (spec.ipFamilies, spec.ipFamilyPolicy).
struct ServiceFamilies {
    bool v4 = true, v6 = false;
};
/// @param dual_stack whether the cluster's service CIDRs are of both families
/// @errors kInvalidArgument when the cluster has not what is required
[[nodiscard]] Result<ServiceFamilies> service_families(const boost::json::object& service,
                                                       bool dual_stack);
[[nodiscard]] bool is_headless(const boost::json::object& service);
/// The cluster IPs that the manifest itself asks for. @errors kInvalidArgument
[[nodiscard]] Result<std::vector<model::IpAddress>> requested_cluster_ips(
    const boost::json::object& service);
/// Puts clusterIP, clusterIPs and ipFamilies into a Service.
void set_cluster_ips(boost::json::object& service, const std::vector<model::IpAddress>& ips);
[[nodiscard]] std::vector<model::IpAddress> cluster_ips(const boost::json::object& service);

/// Looks up a path of keys, "a.b.c"; nullptr when a part is missing or no object.
[[nodiscard]] const boost::json::value* find_path(const boost::json::object& object,
                                                  std::string_view path);

}  // namespace mesh::sandbox
