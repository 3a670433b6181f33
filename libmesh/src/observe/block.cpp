#include "observe/block.hpp"

#include <fmt/format.h>

#include <cstring>
#include <iterator>
#include <string>
#include <type_traits>

namespace mesh::observe {

namespace {

const char* to_text(model::BackendState state) {
    switch (state) {
        case model::BackendState::kActive:
            return "active";
        case model::BackendState::kTerminating:
            return "terminating";
        case model::BackendState::kQuarantined:
            return "quarantined";
        case model::BackendState::kMaintenance:
            return "maintenance";
    }
    return "unknown";
}

/// FNV-1a, over fields with their lengths.
class Hash {
  public:
    void add(std::string_view text) {
        add(text.size());
        for (const char c : text) step(static_cast<unsigned char>(c));
    }
    template <class T>
    requires std::is_integral_v<T> || std::is_enum_v<T>
    void add(T number) {
        auto rest = static_cast<std::uint64_t>(number);
        for (int i = 0; i < 8; ++i, rest >>= 8) step(rest & 0xff);
    }
    void add(const model::IpAddress& address) {
        for (const std::uint8_t byte : address.bytes()) step(byte);
    }
    [[nodiscard]] std::uint64_t value() const { return value_; }

  private:
    void step(std::uint64_t byte) { value_ = (value_ ^ byte) * 1'099'511'628'211U; }
    std::uint64_t value_ = 14'695'981'039'346'656'037U;
};

}  // namespace

template <class T>
T* Block::array(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    bytes_ += count * sizeof(T);
    if (count == 0) return nullptr;
    auto* at = static_cast<T*>(memory_.allocate(count * sizeof(T), alignof(T)));
    for (std::size_t i = 0; i < count; ++i) new (at + i) T();
    return at;
}

template <class T>
T* Block::make() {
    return array<T>(1);
}

const char* Block::text(std::string_view text) {
    if (text.empty()) return "";
    bytes_ += text.size() + 1;
    auto* at = static_cast<char*>(memory_.allocate(text.size() + 1, 1));
    std::memcpy(at, text.data(), text.size());
    at[text.size()] = '\0';
    return at;
}

const char* Block::text(const model::IpAddress& address) {
    scratch_.clear();
    address.append_to(scratch_);
    return text(scratch_);
}

const char* Block::text(const model::IpPrefix& prefix) {
    scratch_.clear();
    prefix.address().append_to(scratch_);
    fmt::format_to(std::back_inserter(scratch_), "/{}", prefix.length());
    return text(scratch_);
}

const char* Block::cluster_name(std::string_view name) {
    if (last_cluster_.data() == nullptr || last_cluster_ != name) {
        last_cluster_ = {text(name), name.size()};
    }
    return last_cluster_.data();
}

const mesh_pair* Block::pairs(const model::OptionalStringMap& map, std::size_t& count) {
    count = map ? map->size() : 0;
    if (count == 0) return nullptr;
    auto* const all = array<mesh_pair>(count);
    auto* at = all;
    for (const auto& [key, value] : *map) *at++ = {text(key), text(value)};
    return all;
}

mesh_event& Block::event(std::uint32_t kind, std::uint64_t sequence, std::uint32_t object) {
    auto* const made = make<mesh_event>();
    made->kind = kind;
    made->sequence = sequence;
    made->object = object;
    objects_ |= object;
    bytes_ += sizeof(void*);
    events_.push_back(made);
    return *made;
}

void Block::add_marker(std::uint32_t kind, std::uint64_t sequence) {
    event(kind, sequence, 0);
}

void Block::add(std::uint32_t kind, std::uint64_t sequence, const state::ClusterKey& cluster,
                const model::Node& node) {
    auto* const to = make<mesh_node>();
    to->cluster = cluster_name(cluster.name);
    to->cluster_id = model::number(cluster.id);
    to->name = text(node.name);
    to->wireguard_public_key = text(node.wireguard_public_key);
    to->encryption_key = node.encryption_key;
    if (node.addresses) {
        auto* const addresses = array<mesh_pair>(node.addresses->size());
        for (const auto& address : *node.addresses) {
            addresses[to->addresses_count++] = {text(address.type), text(address.ip)};
        }
        to->addresses = addresses;
    }
    std::vector<model::IpPrefix> cidrs;
    const auto one = [&](const auto& cidr) {
        if (cidr) cidrs.push_back(*cidr);
    };
    const auto some = [&](const auto& list) {
        if (list) cidrs.insert(cidrs.end(), list->begin(), list->end());
    };
    one(node.ipv4_alloc_cidr);
    some(node.ipv4_secondary_alloc_cidrs);
    one(node.ipv6_alloc_cidr);
    some(node.ipv6_secondary_alloc_cidrs);
    auto* const texts = array<const char*>(cidrs.size());
    for (const auto& cidr : cidrs) texts[to->pod_cidrs_count++] = text(cidr);
    to->pod_cidrs = texts;
    to->labels = pairs(node.labels, to->labels_count);
    event(kind, sequence, MESH_OBJECT_NODE).node = to;
}

void Block::add(std::uint32_t kind, std::uint64_t sequence, const state::ClusterKey& cluster,
                const model::IpIdentityPair& pair) {
    auto* const to = make<mesh_ip>();
    to->prefix = text(model::IpPrefix(pair.ip, pair.prefix_length.value_or(128)));
    to->cluster = cluster_name(cluster.name);
    to->cluster_id = model::number(cluster.id);
    to->identity = model::number(pair.id);
    to->encryption_key = pair.key;
    to->host = pair.host_ip ? text(*pair.host_ip) : "";
    to->k8s_namespace = text(pair.k8s_namespace);
    to->k8s_pod_name = text(pair.k8s_pod_name);
    event(kind, sequence, MESH_OBJECT_IP).ip = to;
}

void Block::add(std::uint32_t kind, std::uint64_t sequence, const state::ClusterKey& cluster,
                const model::Identity& identity) {
    auto* const to = make<mesh_identity>();
    to->cluster = cluster_name(cluster.name);
    to->cluster_id = model::number(cluster.id);
    to->id = model::number(identity.id);
    auto* const labels = array<const char*>(identity.labels.size());
    for (const auto& label : identity.labels) {
        labels[to->labels_count++] =
            text(fmt::format("{}:{}={}", label.source, label.key, label.value));
    }
    to->labels = labels;
    event(kind, sequence, MESH_OBJECT_IDENTITY).identity = to;
}

const mesh_frontend* Block::frontend(const compile::FrontendRow& row) {
    auto* const to = make<mesh_frontend>();
    to->address = text(row.key.address);
    to->port = row.key.port;
    to->protocol = text(compile::to_string(row.key.protocol));
    to->port_name = text(row.port_name);
    to->node_port = row.node_port ? 1 : 0;
    auto* const backends = array<const mesh_backend*>(row.backends.size());
    for (const auto& from : row.backends) {
        auto* const backend = make<mesh_backend>();
        backend->address = text(from.address);
        backend->port = from.port;
        backend->cluster = cluster_name(from.cluster.name);
        backend->state = to_text(from.state);
        // Sentences of a constant table, which end with NUL as literals do.
        backend->reason = compile::to_string(from.reason).data();
        backend->weight = from.weight;
        backend->selected = from.selected ? 1 : 0;
        backends[to->backends_count++] = backend;
    }
    to->backends = backends;
    return to;
}

void Block::add(std::uint32_t kind, std::uint64_t sequence,
                const compile::ServiceExplanation& service) {
    auto* const to = make<mesh_service>();
    to->namespace_ = text(service.service.namespace_);
    to->name = text(service.service.name);
    to->affinity = text(to_string(service.affinity));
    to->global = service.global ? 1 : 0;
    to->shared = service.shared ? 1 : 0;
    auto* const frontends = array<const mesh_frontend*>(service.frontends.size());
    for (const auto& row : service.frontends) frontends[to->frontends_count++] = frontend(row);
    to->frontends = frontends;
    auto* const notes = array<const char*>(service.notes.size());
    for (const auto& note : service.notes) notes[to->notes_count++] = text(note);
    to->notes = notes;
    event(kind, sequence, MESH_OBJECT_SERVICE).service = to;
}

void Block::add(std::uint32_t kind, std::uint64_t sequence, const state::SessionStatus& cluster,
                const state::ClusterKey& own) {
    auto* const to = make<mesh_cluster>();
    const bool is_own = cluster.cluster == own.name;
    const auto count = [&](state::Slot slot) {
        return std::uint64_t{cluster.slots[state::index(slot)].count};
    };
    to->name = text(cluster.cluster);
    to->state = text(to_string(cluster.state));
    to->last_failure = text(cluster.last_failure);
    to->nodes = count(state::Slot::kNodes);
    to->services = count(is_own ? state::Slot::kLocalServices : state::Slot::kServices);
    to->ips = count(state::Slot::kIps);
    to->identities = count(state::Slot::kIdentities);
    to->revision = cluster.position.revision;
    to->lag_revisions = cluster.lag_revisions;
    to->lag_ns = cluster.lag.count();
    to->last_proof_of_life_ns =
        cluster.last_proof_of_life ? cluster.last_proof_of_life->count() : -1;
    to->id = model::number(is_own ? own.id : cluster.config.id);
    to->own = is_own ? 1 : 0;
    to->ready = cluster.ready ? 1 : 0;
    to->connected = cluster.connected ? 1 : 0;
    event(kind, sequence, MESH_OBJECT_CLUSTER).cluster = to;
}

std::uint64_t fingerprint(const compile::ServiceExplanation& service) {
    Hash hash;
    hash.add(service.global);
    hash.add(service.shared);
    hash.add(service.affinity);
    for (const auto& row : service.frontends) {
        hash.add(row.key.address);
        hash.add(row.key.port);
        hash.add(row.key.protocol);
        hash.add(row.port_name);
        hash.add(row.node_port);
        hash.add(row.backends.size());
        for (const auto& backend : row.backends) {
            hash.add(backend.address);
            hash.add(backend.port);
            hash.add(backend.cluster.name);
            hash.add(backend.state);
            hash.add(backend.reason);
            hash.add(backend.weight);
            hash.add(backend.selected);
        }
    }
    hash.add(service.frontends.size());
    for (const auto& note : service.notes) hash.add(note);
    return hash.value();
}

}  // namespace mesh::observe
