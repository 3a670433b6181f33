#include <mesh/events.hpp>
#include <utility>

#include "observe/subscription.hpp"

namespace mesh {

namespace observe {

namespace {

std::vector<std::string> texts(const char* const* from, std::size_t count) {
    return {from, from + count};
}

std::vector<std::pair<std::string, std::string>> pairs(const mesh_pair* from, std::size_t count) {
    std::vector<std::pair<std::string, std::string>> to;
    to.reserve(count);
    for (std::size_t i = 0; i < count; ++i) to.emplace_back(from[i].key, from[i].value);
    return to;
}

FrontendView to_view(const mesh_frontend& from) {
    FrontendView to;
    to.address = from.address;
    to.port = static_cast<std::uint16_t>(from.port);
    to.protocol = from.protocol;
    to.port_name = from.port_name;
    to.node_port = from.node_port != 0;
    to.backends.reserve(from.backends_count);
    for (std::size_t i = 0; i < from.backends_count; ++i) {
        const mesh_backend& backend = *from.backends[i];
        to.backends.push_back({.address = backend.address,
                               .port = static_cast<std::uint16_t>(backend.port),
                               .cluster = backend.cluster,
                               .state = backend.state,
                               .weight = backend.weight,
                               .selected = backend.selected != 0,
                               .reason = backend.reason});
    }
    return to;
}

}  // namespace

NodeView to_view(const mesh_node& from) {
    return {.cluster = from.cluster,
            .cluster_id = from.cluster_id,
            .name = from.name,
            .addresses = pairs(from.addresses, from.addresses_count),
            .pod_cidrs = texts(from.pod_cidrs, from.pod_cidrs_count),
            .encryption_key = from.encryption_key,
            .wireguard_public_key = from.wireguard_public_key,
            .labels = pairs(from.labels, from.labels_count)};
}

ServiceView to_view(const mesh_service& from) {
    ServiceView to;
    to.namespace_ = from.namespace_;
    to.name = from.name;
    to.global = from.global != 0;
    to.shared = from.shared != 0;
    to.affinity = from.affinity;
    for (std::size_t i = 0; i < from.frontends_count; ++i) {
        to.frontends.push_back(to_view(*from.frontends[i]));
    }
    to.notes = texts(from.notes, from.notes_count);
    return to;
}

IpView to_view(const mesh_ip& from) {
    return {.prefix = from.prefix,
            .cluster = from.cluster,
            .cluster_id = from.cluster_id,
            .identity = from.identity,
            .host = from.host,
            .encryption_key = from.encryption_key,
            .k8s_namespace = from.k8s_namespace,
            .k8s_pod_name = from.k8s_pod_name};
}

IdentityView to_view(const mesh_identity& from) {
    return {.cluster = from.cluster,
            .cluster_id = from.cluster_id,
            .id = from.id,
            .labels = texts(from.labels, from.labels_count)};
}

ClusterView to_view(const mesh_cluster& from) {
    ClusterView to;
    to.name = from.name;
    to.id = from.id;
    to.own = from.own != 0;
    to.state = from.state;
    to.ready = from.ready != 0;
    to.connected = from.connected != 0;
    to.nodes = from.nodes;
    to.services = from.services;
    to.ips = from.ips;
    to.identities = from.identities;
    to.revision = from.revision;
    to.lag_revisions = from.lag_revisions;
    to.lag = std::chrono::nanoseconds(from.lag_ns);
    if (from.last_proof_of_life_ns >= 0) {
        to.last_proof_of_life = std::chrono::nanoseconds(from.last_proof_of_life_ns);
    }
    to.last_failure = from.last_failure;
    return to;
}

}  // namespace observe

std::vector<Event> EventBatch::events() const {
    std::vector<Event> all;
    all.reserve(events_.size());
    for (const mesh_event* from : events_) {
        Event& to = all.emplace_back();
        to.kind = static_cast<EventKind>(from->kind);
        to.sequence = from->sequence;
        if (from->node != nullptr) to.object = observe::to_view(*from->node);
        if (from->service != nullptr) to.object = observe::to_view(*from->service);
        if (from->ip != nullptr) to.object = observe::to_view(*from->ip);
        if (from->identity != nullptr) to.object = observe::to_view(*from->identity);
        if (from->cluster != nullptr) to.object = observe::to_view(*from->cluster);
    }
    return all;
}

}  // namespace mesh
