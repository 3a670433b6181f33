#include "announcement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "model/codec.hpp"
#include "model/keys.hpp"

namespace mesh::bench {

namespace {

using namespace mesh::model;

constexpr std::uint32_t kOwn = 1;

std::string namespace_of(std::uint32_t i) {
    return fmt::format("ns-{}", i % 50);
}

Node make_node(std::uint32_t cluster, std::uint32_t i) {
    Node node;
    node.name = fmt::format("node-{}", i);
    node.cluster = cluster_name(cluster);
    node.cluster_id = ClusterId{cluster};
    node.addresses = {{{"InternalIP", node_address(cluster, i).to_string()},
                       {"CiliumInternalIP", pod_address(cluster, i, 251).to_string()}}};
    node.ipv4_alloc_cidr = IpPrefix(pod_address(cluster, i, 0), 24);
    node.ipv4_health_ip = pod_address(cluster, i, 252);
    node.source = "custom-resource";
    node.node_identity = IdentityId{6};
    node.boot_id = fmt::format("6e0a3c9e-0000-4000-8000-{:012}", i);
    return node;
}

Identity make_identity(std::uint32_t cluster, std::uint32_t i) {
    Identity identity;
    identity.id = IdentityId{(cluster << 16) + 256 + i};
    const auto label = [&](std::string_view key, std::string value) {
        identity.labels.push_back({Text("k8s"), Text(key), Text(value)});
    };
    label("app", fmt::format("app-{}", i));
    label("io.cilium.k8s.policy.cluster", cluster_name(cluster));
    label("io.cilium.k8s.policy.serviceaccount", "default");
    label("io.kubernetes.pod.namespace", namespace_of(i));
    sort_labels(identity.labels);
    return identity;
}

IpIdentityPair make_ip(std::uint32_t cluster, std::uint32_t node, std::uint32_t pod,
                       const MeshSize& size) {
    IpIdentityPair pair;
    pair.ip = pod_address(cluster, node, pod);
    pair.host_ip = node_address(cluster, node);
    pair.id = IdentityId{pod_identity(cluster, node, pod, size)};
    pair.k8s_namespace = Text(namespace_of(node + pod));
    pair.k8s_pod_name = Text(fmt::format("deployment-{}-5d8f7c9b6d-{:05x}", pod, node));
    return pair;
}

SharedList<ServicePort> port(std::uint16_t number) {
    return SharedList<ServicePort>(std::vector<ServicePort>{{Text("http"), Text("TCP"), number}});
}

IpAddress backend_address(std::uint32_t cluster, std::uint32_t service, std::uint32_t b,
                          const MeshSize& size) {
    const std::uint32_t i = (service * size.backends + b) % (size.nodes * size.pods);
    return pod_address(cluster, i % size.nodes, i / size.nodes);
}

Service make_service(std::uint32_t cluster, std::uint32_t i, const MeshSize& size) {
    Service service;
    service.cluster = Text(cluster_name(cluster));
    service.cluster_id = ClusterId{cluster};
    service.namespace_ = Text(namespace_of(i));
    service.name = Text(fmt::format("svc-{}", i));
    service.include_external = true;
    service.shared = true;
    service.frontends.push_back({service_address(i), port(kServicePort), Text()});
    for (std::uint32_t b = 0; b < size.backends; ++b) {
        service.backends.push_back({backend_address(cluster, i, b, size), port(8080), Text()});
    }
    return service;
}

LocalService make_local_service(std::uint32_t i, const MeshSize& size) {
    LocalService service;
    service.namespace_ = namespace_of(i);
    service.name = fmt::format("svc-{}", i);
    service.type = "ClusterIP";
    service.cluster_ips = {service_address(i)};
    service.ports = {{"http", "TCP", kServicePort}};
    service.global = true;
    service.shared = true;
    for (std::uint32_t b = 0; b < size.backends; ++b) {
        LocalBackend backend;
        backend.address = backend_address(kOwn, i, b, size);
        backend.ports = {{"http", "TCP", 8080}};
        service.backends.push_back(std::move(backend));
    }
    std::ranges::sort(service.backends, {}, &LocalBackend::address);
    return service;
}

}  // namespace

std::string cluster_name(std::uint32_t cluster) {
    return fmt::format("cluster{}", cluster);
}

IpAddress pod_address(std::uint32_t cluster, std::uint32_t node, std::uint32_t pod) {
    return IpAddress::v4((10U << 24) + (cluster << 20) + (node << 8) + pod + 1);
}

std::uint32_t pod_identity(std::uint32_t cluster, std::uint32_t node, std::uint32_t pod,
                           const MeshSize& size) {
    return (cluster << 16) + 256 + (node * size.pods + pod) % size.identities;
}

IpAddress node_address(std::uint32_t cluster, std::uint32_t node) {
    return IpAddress::v4((172U << 24) + ((15 + cluster) << 16) + node + 1);
}

IpAddress service_address(std::uint32_t service) {
    return IpAddress::v4((100U << 24) + (64U << 16) + service + 1);
}

void announce_cluster(std::uint32_t cluster, std::int64_t unix_seconds, const Put& put) {
    const std::string name = cluster_name(cluster);
    ClusterConfig config;
    config.id = ClusterId{cluster};
    config.synced_canaries = true;
    config.max_connected_clusters = 255;
    config.service_exports_enabled = false;
    put(cluster_config_key(name), encode(config));
    const std::string now = encode_timestamp(unix_seconds);
    for (const Resource resource : kResources) put(synced_key(name, resource), now);
    put(std::string(kHeartbeatKey), now);
}

void announce_objects(std::uint32_t cluster, const MeshSize& size, const Put& put) {
    const std::string name = cluster_name(cluster);
    for (std::uint32_t n = 0; n < size.nodes; ++n) {
        const Node node = make_node(cluster, n);
        put(node_key(name, node.name), encode(node));
    }
    for (std::uint32_t i = 0; i < size.identities; ++i) {
        const Identity identity = make_identity(cluster, i);
        put(identity_key(identity.id), encode(identity));
    }
    for (std::uint32_t n = 0; n < size.nodes; ++n) {
        for (std::uint32_t p = 0; p < size.pods; ++p) {
            const IpIdentityPair pair = make_ip(cluster, n, p, size);
            put(ip_key(pair), encode(pair));
        }
    }
    for (std::uint32_t i = 0; i < size.services; ++i) {
        const Service service = make_service(cluster, i, size);
        put(service_key(name, service.namespace_.view(), service.name.view()), encode(service));
        if (cluster != kOwn) continue;
        const LocalService local = make_local_service(i, size);
        put(local_service_key(local.namespace_.view(), local.name.view()), encode(local));
    }
}

}  // namespace mesh::bench
