// A key that parses is built again from its parts, byte for byte; addresses and prefixes, too.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/policy_record.hpp"

namespace {

using namespace mesh::model;

std::string rebuilt(const ParsedKey& key) {
    switch (key.kind) {
        case KeyKind::kClusterConfig:
            return cluster_config_key(key.cluster);
        case KeyKind::kNode:
            return node_key(key.cluster, key.name, key.layout);
        case KeyKind::kService:
            return service_key(key.cluster, key.namespace_name, key.name, key.layout);
        case KeyKind::kServiceExport:
            return service_export_key(key.cluster, key.namespace_name, key.name, key.layout);
        case KeyKind::kSynced:
            return synced_key(key.cluster, key.resource, key.layout);
        case KeyKind::kLocalService:
            return local_service_key(key.namespace_name, key.name);
        case KeyKind::kLocalPolicy:
            if (const auto policy = policy_key_of(key)) return local_policy_key(*policy);
            return std::string(key.full);
        case KeyKind::kIp:
        case KeyKind::kIdentity:
            return resource_prefix(key.resource, key.cluster, key.layout).append(key.tail);
        default:
            return std::string(key.full);
    }
}

void check(bool ok) {
    if (!ok) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const ParsedKey key = parse_key(text);
    check(rebuilt(key) == text);
    if (const auto copied = reflected_key(text, "c")) {
        check(parse_key(*copied).kind == key.kind);
        check(*reflected_key(*copied, "d") == *copied);
    }
    if (const auto id = parse_identity_id(text)) check(number(*id) != 0);
    if (const auto address = IpAddress::parse(text)) {
        check(*IpAddress::parse(address->to_string()) == *address);
    }
    if (const auto prefix = IpPrefix::parse(text)) {
        check(*IpPrefix::parse(prefix->to_string()) == *prefix);
    }
    return 0;
}
