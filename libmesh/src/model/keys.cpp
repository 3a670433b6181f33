#include "model/keys.hpp"

#include <fmt/format.h>

#include "model/codec.hpp"
#include "model/utf8.hpp"

namespace mesh::model {
namespace {

constexpr std::string_view kV1 = "/v1/";

constexpr std::string_view layout_prefix(Layout layout) noexcept {
    return layout == Layout::kState ? kStatePrefix : kCachePrefix;
}

/// "cilium/state/nodes/v1/" and so on.
std::string base(Resource resource, Layout layout) {
    return fmt::format("{}{}{}", layout_prefix(layout), to_string(resource), kV1);
}

/// Takes `prefix` off the front. @return false, and `text` untouched, if it is not there
bool take(std::string_view& text, std::string_view prefix) noexcept {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

/// Takes a non-empty part and the slash behind it.
bool take_part(std::string_view& text, std::string_view& part) noexcept {
    const auto slash = text.find('/');
    if (slash == 0 || slash == std::string_view::npos) return false;
    part = text.substr(0, slash);
    text.remove_prefix(slash + 1);
    return true;
}

/// The last part: non-empty and without a slash.
bool last_part(std::string_view text, std::string_view& part) noexcept {
    if (text.empty() || text.find('/') != std::string_view::npos) return false;
    part = text;
    return true;
}

/// Takes "nodes/v1/" and so on.
bool take_resource(std::string_view& text, Resource& resource) noexcept {
    for (const Resource candidate : kResources) {
        std::string_view rest = text;
        if (take(rest, to_string(candidate)) && take(rest, kV1)) {
            resource = candidate;
            text = rest;
            return true;
        }
    }
    return false;
}

bool parse_namespaced(std::string_view rest, ParsedKey& key) noexcept {
    return take_part(rest, key.cluster) && take_part(rest, key.namespace_name) &&
           last_part(rest, key.name);
}

bool parse_ip_key(std::string_view rest, ParsedKey& key) noexcept {
    std::string_view space;
    if (!take_part(rest, space) || rest.empty()) return false;
    if (key.layout == Layout::kCache) {
        key.cluster = space;
    } else if (space != kIpAddressSpace) {
        return false;
    }
    key.tail = rest;
    key.kind = KeyKind::kIp;
    return true;
}

bool parse_identity_key(std::string_view rest, ParsedKey& key) noexcept {
    if (key.layout == Layout::kCache && !take_part(rest, key.cluster)) return false;
    if (take(rest, "id/")) {
        key.kind = KeyKind::kIdentity;
    } else if (key.layout == Layout::kState && take(rest, "value/")) {
        key.kind = KeyKind::kIdentityValue;
    } else if (key.layout == Layout::kState && take(rest, "locks/")) {
        key.kind = KeyKind::kIdentityLock;
    } else {
        return false;
    }
    key.tail = rest;
    return true;
}

/// What follows cilium/state/ or cilium/cache/.
bool parse_resource_key(std::string_view rest, ParsedKey& key) noexcept {
    if (!take_resource(rest, key.resource)) return false;
    switch (key.resource) {
        case Resource::kNodes:
            key.kind = KeyKind::kNode;
            return take_part(rest, key.cluster) && last_part(rest, key.name);
        case Resource::kServices:
            key.kind = KeyKind::kService;
            return parse_namespaced(rest, key);
        case Resource::kServiceExports:
            key.kind = KeyKind::kServiceExport;
            return parse_namespaced(rest, key);
        case Resource::kIps:
            return parse_ip_key(rest, key);
        case Resource::kIdentities:
            return parse_identity_key(rest, key);
    }
    return false;
}

/// What follows cilium/synced/.
bool parse_synced_key(std::string_view rest, ParsedKey& key) noexcept {
    key.kind = KeyKind::kSynced;
    if (!take_part(rest, key.cluster)) return false;
    if (take(rest, kCachePrefix)) {
        key.layout = Layout::kCache;
    } else if (!take(rest, kStatePrefix)) {
        return false;
    }
    for (const Resource candidate : kResources) {
        std::string_view text = rest;
        if (take(text, to_string(candidate)) && text == "/v1") {
            key.resource = candidate;
            return true;
        }
    }
    return false;
}

bool parse_any_key(std::string_view rest, ParsedKey& key) noexcept {
    if (take(rest, kStatePrefix)) return parse_resource_key(rest, key);
    if (take(rest, kCachePrefix)) {
        key.layout = Layout::kCache;
        return parse_resource_key(rest, key);
    }
    if (take(rest, kClusterConfigPrefix)) {
        key.kind = KeyKind::kClusterConfig;
        return last_part(rest, key.cluster);
    }
    if (take(rest, kSyncedPrefix)) return parse_synced_key(rest, key);
    if (take(rest, kLocalServicesPrefix)) {
        key.kind = KeyKind::kLocalService;
        return take_part(rest, key.namespace_name) && last_part(rest, key.name);
    }
    if (take(rest, kLocalIpsPrefix)) {
        key.kind = KeyKind::kLocalIp;
        return last_part(rest, key.tail);
    }
    if (take(rest, kLocalPoliciesPrefix)) {
        key.kind = KeyKind::kLocalPolicy;
        return take_part(rest, key.tail) && take_part(rest, key.namespace_name) &&
               last_part(rest, key.name);
    }
    if (take(rest, kLocalWorkloadsPrefix)) {
        key.kind = KeyKind::kLocalWorkload;
        return last_part(rest, key.name);
    }
    if (take(rest, kLocalWorkloadStatusPrefix)) {
        key.kind = KeyKind::kLocalWorkloadStatus;
        return last_part(rest, key.name);
    }
    if (rest == kHeartbeatKey) {
        key.kind = KeyKind::kHeartbeat;
        return true;
    }
    if (rest == kHasClusterConfigKey) {
        key.kind = KeyKind::kHasClusterConfig;
        return true;
    }
    return false;
}

}  // namespace

std::string_view to_string(Resource resource) noexcept {
    switch (resource) {
        case Resource::kNodes:
            return "nodes";
        case Resource::kServices:
            return "services";
        case Resource::kIps:
            return "ip";
        case Resource::kIdentities:
            return "identities";
        case Resource::kServiceExports:
            return "serviceexports";
    }
    return "unknown";
}

std::string resource_prefix(Resource resource, std::string_view cluster, Layout layout) {
    std::string prefix = base(resource, layout);
    if (layout == Layout::kState && resource == Resource::kIps) {
        prefix.append(kIpAddressSpace).append("/");
    } else if (layout == Layout::kState && resource == Resource::kIdentities) {
        prefix.append("id/");
    } else {
        prefix.append(cluster).append("/");
        if (resource == Resource::kIdentities) prefix.append("id/");
    }
    return prefix;
}

std::string cluster_config_key(std::string_view cluster) {
    return std::string(kClusterConfigPrefix).append(cluster);
}

std::string node_key(std::string_view cluster, std::string_view name, Layout layout) {
    return resource_prefix(Resource::kNodes, cluster, layout).append(name);
}

std::string service_key(std::string_view cluster, std::string_view namespace_name,
                        std::string_view name, Layout layout) {
    return resource_prefix(Resource::kServices, cluster, layout)
        .append(namespace_name)
        .append("/")
        .append(name);
}

std::string service_export_key(std::string_view cluster, std::string_view namespace_name,
                               std::string_view name, Layout layout) {
    return resource_prefix(Resource::kServiceExports, cluster, layout)
        .append(namespace_name)
        .append("/")
        .append(name);
}

std::string ip_key_tail(const IpIdentityPair& pair) {
    std::string tail = pair.ip.to_string();
    if (pair.prefix_length) tail.append("/").append(std::to_string(*pair.prefix_length));
    return tail;
}

std::string ip_key(const IpIdentityPair& pair, std::string_view cluster, Layout layout) {
    return resource_prefix(Resource::kIps, cluster, layout).append(ip_key_tail(pair));
}

std::string ip_key(const IpPrefix& prefix, std::string_view cluster, Layout layout) {
    return resource_prefix(Resource::kIps, cluster, layout)
        .append(prefix.is_host() ? prefix.address().to_string() : prefix.to_string());
}

std::string identity_key(IdentityId id, std::string_view cluster, Layout layout) {
    return resource_prefix(Resource::kIdentities, cluster, layout)
        .append(std::to_string(number(id)));
}

std::string identity_value_key(const std::vector<Label>& labels, std::string_view node) {
    return base(Resource::kIdentities, Layout::kState)
        .append("value/")
        .append(encode_labels(labels))
        .append("/")
        .append(node);
}

std::string synced_prefix(std::string_view cluster) {
    return std::string(kSyncedPrefix).append(cluster).append("/");
}

std::string synced_key(std::string_view cluster, Resource resource, Layout layout) {
    std::string key = synced_prefix(cluster) + base(resource, layout);
    key.pop_back();  // the canary's own key has no slash at its end
    return key;
}

std::string local_service_key(std::string_view namespace_name, std::string_view name) {
    return std::string(kLocalServicesPrefix).append(namespace_name).append("/").append(name);
}

std::string local_ip_key(const IpAddress& address) {
    return std::string(kLocalIpsPrefix).append(address.to_string());
}

Result<std::string> reflected_key(std::string_view key, std::string_view cluster) {
    const ParsedKey parsed = parse_key(key);
    switch (parsed.kind) {
        case KeyKind::kClusterConfig:
            return std::string(key);
        case KeyKind::kSynced:
            return synced_key(parsed.cluster, parsed.resource, Layout::kCache);
        case KeyKind::kNode:
        case KeyKind::kService:
        case KeyKind::kServiceExport:
        case KeyKind::kIp:
        case KeyKind::kIdentity:
            break;
        default:
            return invalid_argument(fmt::format(
                "{}: expected a key that is mirrored to other clusters", printable(key, 256)));
    }
    if (parsed.layout == Layout::kCache) return std::string(key);
    // Live keys that carry their cluster keep it: a remote's mistake is not made another's here.
    const std::string_view owner = parsed.cluster.empty() ? cluster : parsed.cluster;
    std::string out = resource_prefix(parsed.resource, owner, Layout::kCache);
    if (!parsed.namespace_name.empty()) out.append(parsed.namespace_name).append("/");
    return out.append(parsed.name).append(parsed.tail);
}

ParsedKey parse_key(std::string_view key) noexcept {
    ParsedKey parsed;
    parsed.full = key;
    if (parse_any_key(key, parsed)) return parsed;
    ParsedKey unknown;
    unknown.full = key;
    return unknown;
}

Result<void> check_key_part(std::string_view what, std::string_view name) {
    if (!name.empty() && name != "." && name != ".." &&
        name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos) {
        return {};
    }
    return invalid_argument(
        fmt::format("{} \"{}\": expected a name that is not empty, . or .., without a slash", what,
                    printable(name, 256)));
}

}  // namespace mesh::model
