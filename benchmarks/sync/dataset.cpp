#include "dataset.hpp"

#include <fmt/format.h>

#include "model/codec.hpp"
#include "model/keys.hpp"

namespace mesh::bench {

namespace {

using namespace mesh::model;

/// 10.32.0.0/11 is the cluster's: pods from its begin, nodes get a /24 each by their number.
IpAddress pod_address(std::uint32_t i) {
    return IpAddress::v4((10U << 24) + (32U << 16) + i);
}
IpAddress node_address(std::uint32_t i) {
    return IpAddress::v4((172U << 24) + (17U << 16) + i);
}

IdentityId identity_of(std::uint32_t i, const DatasetSize& size) {
    return IdentityId{kClusterId * 65'536 + 256 + i % size.identities};
}

Identity make_identity(std::uint32_t i, const DatasetSize& size) {
    Identity identity;
    identity.id = identity_of(i, size);
    const auto label = [&](std::string_view key, std::string value) {
        identity.labels.push_back({Text("k8s"), Text(key), Text(value)});
    };
    label("app", fmt::format("app-{}", i));
    label("io.cilium.k8s.namespace.labels.team", fmt::format("team-{}", i % 20));
    label("io.cilium.k8s.policy.cluster", kCluster);
    label("io.cilium.k8s.policy.serviceaccount", "default");
    label("io.kubernetes.pod.namespace", fmt::format("ns-{}", i % 50));
    sort_labels(identity.labels);
    return identity;
}

Node make_node(std::uint32_t i) {
    Node node;
    node.name = fmt::format("node-{}", i);
    node.cluster = kCluster;
    node.cluster_id = ClusterId{kClusterId};
    node.addresses = {{{"InternalIP", node_address(i).to_string()},
                       {"CiliumInternalIP", pod_address(i * 256 + 1).to_string()}}};
    node.ipv4_alloc_cidr = IpPrefix(pod_address(i * 256), 24);
    node.ipv4_health_ip = pod_address(i * 256 + 2);
    node.source = "custom-resource";
    node.node_identity = IdentityId{6};
    node.boot_id = fmt::format("6e0a3c9e-0000-4000-8000-{:012}", i);
    return node;
}

IpIdentityPair make_ip(std::uint32_t i, const DatasetSize& size) {
    IpIdentityPair pair;
    pair.ip = pod_address(i);
    pair.host_ip = node_address(i / 256);
    pair.id = identity_of(i, size);
    pair.k8s_namespace = Text(fmt::format("ns-{}", i % 50));
    pair.k8s_pod_name =
        Text(fmt::format("deployment-{}-5d8f7c9b6d-{:05x}", i % size.identities, i));
    return pair;
}

Service make_service(std::uint32_t i, const DatasetSize& size) {
    Service service;
    service.cluster = Text(kCluster);
    service.cluster_id = ClusterId{kClusterId};
    service.namespace_ = Text(fmt::format("ns-{}", i % 50));
    service.name = Text(fmt::format("svc-{}", i));
    service.include_external = true;
    service.shared = true;
    service.frontends.push_back(
        {IpAddress::v4((10U << 24) + (96U << 16) + i),
         SharedList<ServicePort>(std::vector<ServicePort>{{Text("http"), Text("TCP"), 80}}),
         Text()});
    for (std::uint32_t b = 0; b < size.backends; ++b) {
        service.backends.push_back(
            {pod_address((i * size.backends + b) % size.ips),
             SharedList<ServicePort>(std::vector<ServicePort>{{Text("http"), Text("TCP"), 8080}}),
             Text()});
    }
    return service;
}

LocalService make_local_service(std::uint32_t i) {
    LocalService service;
    service.namespace_ = Text(fmt::format("ns-{}", i % 50));
    service.name = Text(fmt::format("svc-{}", i));
    service.type = "ClusterIP";
    service.cluster_ips = {IpAddress::v4((10U << 24) + (96U << 16) + i)};
    service.ports = {{Text("http"), Text("TCP"), 80}};
    service.global = service.shared = true;
    return service;
}

}  // namespace

void make_own_dataset(const DatasetSize& size,
                      const std::function<void(std::string key, std::string value)>& put) {
    for (std::uint32_t i = 0; i < size.services; ++i) {
        const LocalService service = make_local_service(i);
        put(local_service_key(service.namespace_.view(), service.name.view()), encode(service));
    }
}

void make_ip_change(const DatasetSize& size, std::uint32_t i, std::uint32_t round,
                    const std::function<void(std::string key, std::string value)>& put) {
    IpIdentityPair pair = make_ip(i % size.ips, size);
    pair.id = identity_of(i + round + 1, size);
    put(ip_key(pair), encode(pair));
}

void make_dataset(const DatasetSize& size, std::int64_t unix_seconds,
                  const std::function<void(std::string key, std::string value)>& put) {
    for (std::uint32_t i = 0; i < size.nodes; ++i) {
        const Node node = make_node(i);
        put(node_key(kCluster, node.name), encode(node));
    }
    for (std::uint32_t i = 0; i < size.identities; ++i) {
        const Identity identity = make_identity(i, size);
        put(identity_key(identity.id), encode(identity));
    }
    for (std::uint32_t i = 0; i < size.ips; ++i) {
        const IpIdentityPair pair = make_ip(i, size);
        put(ip_key(pair), encode(pair));
    }
    for (std::uint32_t i = 0; i < size.services; ++i) {
        const Service service = make_service(i, size);
        put(service_key(kCluster, service.namespace_.view(), service.name.view()), encode(service));
    }
    ClusterConfig config;
    config.id = ClusterId{kClusterId};
    config.synced_canaries = true;
    config.max_connected_clusters = 255;
    config.service_exports_enabled = false;
    put(cluster_config_key(kCluster), encode(config));
    const std::string now = encode_timestamp(unix_seconds);
    for (const Resource resource : kResources) put(synced_key(kCluster, resource), now);
    put(std::string(kHeartbeatKey), now);
}

}  // namespace mesh::bench
