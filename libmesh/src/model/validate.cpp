#include "model/validate.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "model/utf8.hpp"

namespace mesh::model {
namespace {

constexpr std::size_t kMaxKey = 256;
constexpr std::size_t kMaxShown = 64;

std::string quoted(std::string_view text) {
    return fmt::format("\"{}\"", printable(text, kMaxShown));
}

/// @param got is not the peer's text, or is quoted()
Error refused(const ParsedKey& key, std::string_view field, std::string_view expected,
              std::string_view got) {
    return invalid_argument(fmt::format("{}: field {}: expected {}, got {}",
                                        printable(key.full, kMaxKey), field, expected, got));
}

Error refused_text(const ParsedKey& key, std::string_view field, std::string_view expected,
                   std::string_view got) {
    return refused(key, field, expected, quoted(got));
}

/// 1..max, or our own id, which a reader lets pass (it is checked again by who joins).
Result<void> check_cluster_id(const Connection& connection, const ParsedKey& key,
                              std::string_view field, ClusterId id) {
    if (id == connection.local_id && !connection.legacy &&
        connection.generation == Generation::k115) {
        return {};
    }
    if (connection.legacy && number(id) == 0) return {};
    if (number(id) < 1 || number(id) > connection.max_clusters) {
        return refused(key, field, fmt::format("a cluster id 1..{}", connection.max_clusters),
                       std::to_string(number(id)));
    }
    if (connection.generation == Generation::k119 && !connection.legacy && id != connection.id) {
        return refused(
            key, field,
            fmt::format("{}, the id of cluster {}", number(connection.id), connection.cluster),
            std::to_string(number(id)));
    }
    return {};
}

Result<void> check_cluster_field(const Connection& connection, const ParsedKey& key,
                                 std::string_view field, std::string_view cluster) {
    if (cluster == connection.cluster) return {};
    return refused_text(key, field, quoted(connection.cluster), cluster);
}

Result<void> check_key_field(const ParsedKey& key, std::string_view field, std::string_view in_key,
                             std::string_view value) {
    if (value == in_key && !value.empty()) return {};
    return refused_text(key, field, quoted(in_key) + " as in the key", value);
}

bool alphanumeric(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

}  // namespace

Result<void> check_cluster_name(std::string_view name) {
    const bool ok = !name.empty() && name.size() <= 32 && alphanumeric(name.front()) &&
                    alphanumeric(name.back()) &&
                    std::ranges::all_of(name, [](char c) { return alphanumeric(c) || c == '-'; });
    if (ok) return {};
    return invalid_argument(
        fmt::format("cluster name {}: expected 1 to 32 characters of a-z, 0-9 and -, the first "
                    "and last not a -",
                    quoted(name)));
}

Result<void> check_local_cluster(std::string_view name, ClusterId id, std::uint32_t max_clusters) {
    MESH_CHECK(check_cluster_name(name));
    if (max_clusters != 255 && max_clusters != 511) {
        return invalid_argument(
            fmt::format("maximum of clusters: expected 255 or 511, got {}", max_clusters));
    }
    if (number(id) > max_clusters) {
        return invalid_argument(
            fmt::format("cluster {}: id: expected 0..{}, got {}", name, max_clusters, number(id)));
    }
    if (name == "default" && number(id) != 0) {
        return invalid_argument(fmt::format(
            "cluster name \"default\": expected another name with cluster id {}", number(id)));
    }
    return {};
}

Result<void> validate_cluster_config(const Connection& connection, const ClusterConfig& config) {
    const std::string key = cluster_config_key(connection.cluster);
    const ParsedKey parsed = parse_key(key);
    const std::uint32_t id = number(config.id);
    const bool strict = connection.generation == Generation::k119;
    if (id > connection.max_clusters || (strict && id == 0)) {
        return refused(parsed, "id", fmt::format("a cluster id 1..{}", connection.max_clusters),
                       std::to_string(id));
    }
    if (strict && config.id == connection.local_id) {
        return refused(parsed, "id", "an id other than this cluster's own", std::to_string(id));
    }
    // An absent value means 255. A local 255 does not compare: the smaller ids are the same.
    const std::uint32_t their_max =
        config.max_connected_clusters == 0 ? 255 : config.max_connected_clusters;
    if (connection.max_clusters != 255 && their_max != connection.max_clusters) {
        return refused(parsed, "capabilities.maxConnectedClusters",
                       fmt::format("{} as here", connection.max_clusters),
                       std::to_string(config.max_connected_clusters));
    }
    return {};
}

Result<void> validate_node(const Connection& connection, const ParsedKey& key, const Node& node) {
    if (connection.generation == Generation::k119) {
        MESH_CHECK(check_cluster_field(connection, key, "Cluster", node.cluster));
        MESH_CHECK(check_key_field(key, "Name", key.name, node.name));
    }
    return check_cluster_id(connection, key, "ClusterID", node.cluster_id);
}

Result<void> validate_service(const Connection& connection, const ParsedKey& key,
                              const Service& service) {
    if (connection.generation == Generation::k119) {
        MESH_CHECK(check_cluster_field(connection, key, "cluster", service.cluster));
        MESH_CHECK(check_key_field(key, "namespace", key.namespace_name, service.namespace_));
        MESH_CHECK(check_key_field(key, "name", key.name, service.name));
    }
    return check_cluster_id(connection, key, "clusterID", service.cluster_id);
}

Result<void> validate_ip(const Connection& connection, const ParsedKey& key, IpIdentityPair& pair) {
    if (connection.generation == Generation::k119) {
        const std::string text = ip_key_tail(pair);
        if (text != key.tail) {
            return refused_text(key, "IP", quoted(key.tail) + " as in the key", text);
        }
        const unsigned limit = pair.ip.is_v4() ? 32 : 128;
        if (pair.prefix_length && *pair.prefix_length > limit) {
            return refused(key, "Mask", fmt::format("at most {} bits", limit),
                           std::to_string(*pair.prefix_length));
        }
        const bool own = identity_range(connection.id, connection.max_clusters).contains(pair.id);
        if (number(pair.id) >= kReservedIdentities && !own && !connection.legacy) {
            const auto range = identity_range(connection.id, connection.max_clusters);
            return refused(key, "ID",
                           fmt::format("an identity 0..255 or {}..{}", range.first, range.last),
                           std::to_string(number(pair.id)));
        }
    }
    // A remote's host is not ours.
    if (pair.id == kIdentityHost) pair.id = kIdentityRemoteNode;
    return {};
}

Result<void> check_identity_id(const Connection& connection, const ParsedKey& key, IdentityId id) {
    if (connection.generation == Generation::k115 || connection.legacy) return {};
    const auto range = identity_range(connection.id, connection.max_clusters);
    if (range.contains(id)) return {};
    return refused(key, "id",
                   fmt::format("an identity of cluster {}, {}..{}", connection.cluster, range.first,
                               range.last),
                   std::to_string(number(id)));
}

Result<void> validate_identity(const Connection& connection, const ParsedKey& key,
                               const Identity& identity) {
    MESH_CHECK(check_identity_id(connection, key, identity.id));
    if (connection.generation == Generation::k115) return {};
    bool found = false;
    for (const Label& label : identity.labels) {
        if (label.key != kClusterLabel) continue;
        if (label.source != "k8s") {
            return refused_text(key, fmt::format("label {}", kClusterLabel), "the source k8s",
                                label.source);
        }
        if (label.value != connection.cluster) {
            return refused_text(key, fmt::format("label {}", kClusterLabel),
                                quoted(connection.cluster), label.value);
        }
        found = true;
    }
    if (found) return {};
    return refused(key, fmt::format("label k8s:{}", kClusterLabel), quoted(connection.cluster),
                   "no such label");
}

Result<void> validate_service_export(const Connection& connection, const ParsedKey& key,
                                     const ServiceExport& service_export) {
    MESH_CHECK(check_cluster_field(connection, key, "cluster", service_export.cluster));
    MESH_CHECK(check_key_field(key, "namespace", key.namespace_name, service_export.namespace_));
    return check_key_field(key, "name", key.name, service_export.name);
}

std::vector<NamedPort> usable_named_ports(const IpIdentityPair& pair) {
    const auto folded = [](std::string_view text, char first, char last, int shift) {
        std::string out(text);
        for (char& c : out) {
            if (c >= first && c <= last) c = static_cast<char>(c + shift);
        }
        return out;
    };
    std::vector<NamedPort> usable;
    for (const NamedPort& port : pair.named_ports) {
        std::string protocol = folded(port.protocol, 'a', 'z', -32);
        if (protocol.empty()) protocol = "TCP";
        if (port.name.empty() || port.port == 0) continue;
        if (protocol != "TCP" && protocol != "UDP" && protocol != "SCTP") continue;
        usable.push_back({folded(port.name, 'A', 'Z', 32), protocol, port.port});
    }
    // Of equal names the last stays.
    std::ranges::stable_sort(usable, {}, &NamedPort::name);
    const auto kept =
        std::unique(usable.rbegin(), usable.rend(),
                    [](const NamedPort& a, const NamedPort& b) { return a.name == b.name; });
    usable.erase(usable.begin(), kept.base());
    return usable;
}

}  // namespace mesh::model
