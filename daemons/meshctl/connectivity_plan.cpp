#include "meshctl/connectivity_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include "meshctl/connectivity_checks.hpp"
#include "sandbox/names.hpp"

namespace mesh::ctl::connectivity {
namespace {

constexpr std::uint32_t kMostId = 511;
constexpr std::uint32_t kUsualMostId = 255;

Result<std::uint32_t> parse_id(std::string_view text) {
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error != std::errc() || end != text.data() + text.size() || id == 0 || id > kMostId) {
        return invalid_argument(
            fmt::format("--cluster-ids: \"{}\": expected 1 to {}", text, kMostId));
    }
    return id;
}

sandbox::CreateOptions options_of(std::string name, std::uint32_t id) {
    sandbox::CreateOptions options;
    options.name = std::move(name);
    options.cluster_id = id;
    // One octet of IPv4 for 511 ids; Plan::make sees to it that the two differ.
    options.pod_cidr = fmt::format("10.{}.0.0/17,fd00:{:x}::/48", id % 256, id);
    options.service_cidr = fmt::format("10.{}.128.0/17,fd00:{:x}:1::/112", id % 256, id);
    return options;
}

std::string service_manifest(std::string_view name, std::string_view type,
                             std::string_view annotations) {
    return fmt::format(R"(---
apiVersion: v1
kind: Service
metadata: {{name: {}, namespace: {}, annotations: {{{}}}}}
spec:
  type: {}
  selector: {{app: server}}
  ipFamilyPolicy: PreferDualStack
  ports:
  - {{name: web, port: {}, targetPort: {}}}
  - {{name: who, port: {}, targetPort: {}, protocol: UDP}}
)",
                       name, kNamespace, annotations, type, kServiceTcpPort, kPodPort,
                       kServiceUdpPort, kPodPort);
}

std::string pods_manifest(std::uint32_t node) {
    return fmt::format(R"(---
apiVersion: v1
kind: Pod
metadata: {{name: {}, namespace: {}, labels: {{app: server}}}}
spec:
  nodeName: {}
  containers:
  - name: server
    command: [mesh-echo, --udp, --port, "{}"]
    ports:
    - {{name: web, containerPort: {}}}
    - {{name: who, containerPort: {}, protocol: UDP}}
    readinessProbe: {{httpGet: {{path: /healthz, port: web}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {}, namespace: {}, labels: {{app: client}}}}
spec:
  nodeName: {}
  containers: [{{name: client, command: [sleep, infinity]}}]
)",
                       server_name(node), kNamespace, sandbox::node_name(node), kPodPort, kPodPort,
                       kPodPort, client_name(node), kNamespace, sandbox::node_name(node));
}

}  // namespace

Result<Plan> Plan::make(const std::string& prefix, const std::string& ids) {
    Plan plan;
    plan.clusters = {prefix + "-a", prefix + "-b"};
    plan.outside = prefix + "-out";
    for (const std::string& name : plan.names()) {
        if (auto names = sandbox::Names::make(name); !names) {
            return std::move(names).error().with_prefix("--prefix");
        }
    }
    const std::size_t comma = ids.find(',');
    if (comma == std::string::npos) {
        return invalid_argument(fmt::format("--cluster-ids \"{}\": expected two, as 201,202", ids));
    }
    MESH_TRY(plan.ids[0], parse_id(std::string_view(ids).substr(0, comma)));
    MESH_TRY(plan.ids[1], parse_id(std::string_view(ids).substr(comma + 1)));
    if (plan.ids[0] % 256 == plan.ids[1] % 256) {
        return invalid_argument(fmt::format(
            "--cluster-ids {}: expected two that differ, also in their last 8 bits", ids));
    }
    return plan;
}

std::vector<std::string> Plan::names() const {
    return {clusters[0], clusters[1], outside};
}

sandbox::CreateOptions Plan::options(std::size_t cluster, const std::string& mode) const {
    sandbox::CreateOptions options = options_of(clusters.at(cluster), ids.at(cluster));
    options.nodes = kNodes;
    options.routing = mode == "native" || mode == "encrypted-native" ? "native" : "tunnel";
    if (mode.starts_with("encrypted")) {
        options.encryption = "wireguard";
        options.encryption_strict = true;
    }
    options.max_clusters = std::max(ids[0], ids[1]) > kUsualMostId ? kMostId : kUsualMostId;
    if (cluster > 0) options.inherit_ca = clusters[0];
    return options;
}

sandbox::CreateOptions Plan::outside_options() const {
    // Nothing uses its id and CIDRs.
    sandbox::CreateOptions options = options_of(outside, 1);
    options.daemons = false;
    return options;
}

std::string manifest() {
    std::string out =
        fmt::format("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n", kNamespace);
    out += service_manifest("global", "NodePort", R"(service.cilium.io/global: "true")");
    out += service_manifest("local", "ClusterIP", "");
    for (std::uint32_t node = 1; node <= kNodes; ++node) out += pods_manifest(node);
    return out;
}

}  // namespace mesh::ctl::connectivity
