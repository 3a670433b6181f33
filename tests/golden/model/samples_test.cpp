// Every key and value that Cilium's own types wrote (tests/golden/samples/cilium-1.15.txt) parses,
// and encodes to the same bytes again.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/validate.hpp"

namespace mesh::model {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs read_samples() {
    std::ifstream in(MESH_SOURCE_DIR "/tests/golden/samples/cilium-1.15.txt");
    Pairs pairs;
    std::string key;
    std::string value;
    while (std::getline(in, key)) {
        if (key.starts_with('#')) continue;
        std::getline(in, value);
        pairs.emplace_back(key, value);
    }
    return pairs;
}

/// The value after a round trip, or the error.
std::string again(const ParsedKey& key, std::string_view value) {
    const auto encoded = [](const auto& parsed) {
        return parsed ? encode(*parsed) : parsed.error().message();
    };
    switch (key.kind) {
        case KeyKind::kClusterConfig:
            return encoded(parse_cluster_config(key.full, value));
        case KeyKind::kNode:
            return encoded(parse_node(key.full, value));
        case KeyKind::kService:
            return encoded(parse_service(key.full, value));
        case KeyKind::kIp:
            return encoded(parse_ip(key.full, value));
        case KeyKind::kIdentity:
            return encoded(parse_identity(key.full, value));
        case KeyKind::kSynced:
        case KeyKind::kHeartbeat: {
            const auto seconds = parse_timestamp(key.full, value);
            return seconds ? encode_timestamp(*seconds) : seconds.error().message();
        }
        case KeyKind::kHasClusterConfig:
            return "true";
        default:
            return "unknown key";
    }
}

/// The key as our builders make it from what the value says.
std::string built(const ParsedKey& key, std::string_view value) {
    switch (key.kind) {
        case KeyKind::kClusterConfig:
            return cluster_config_key(key.cluster);
        case KeyKind::kNode: {
            const auto node = parse_node(key.full, value);
            return node ? node_key(node->cluster, node->name) : node.error().message();
        }
        case KeyKind::kService: {
            const auto service = parse_service(key.full, value);
            return service ? service_key(service->cluster, service->namespace_, service->name)
                           : service.error().message();
        }
        case KeyKind::kIp: {
            const auto pair = parse_ip(key.full, value);
            return pair ? ip_key(*pair) : pair.error().message();
        }
        case KeyKind::kIdentity: {
            const auto id = parse_identity_id(key.full);
            return id ? identity_key(*id) : id.error().message();
        }
        case KeyKind::kSynced:
            return synced_key(key.cluster, key.resource, key.layout);
        case KeyKind::kHeartbeat:
            return std::string(kHeartbeatKey);
        case KeyKind::kHasClusterConfig:
            return std::string(kHasClusterConfigKey);
        default:
            return "unknown key";
    }
}

TEST(Samples, EveryKeyAndValueRoundTrips) {
    const Pairs samples = read_samples();
    std::map<KeyKind, int> seen;
    for (const auto& [key, value] : samples) {
        const ParsedKey parsed = parse_key(key);
        ++seen[parsed.kind];
        EXPECT_EQ(again(parsed, value), value) << key;
        EXPECT_EQ(built(parsed, value), key);
    }
    // All kinds of the file were met, so that an empty file or a dead parser is no success.
    const std::map<KeyKind, int> expected{
        {KeyKind::kClusterConfig, 1}, {KeyKind::kNode, 2},
        {KeyKind::kService, 2},       {KeyKind::kIp, 2},
        {KeyKind::kIdentity, 2},      {KeyKind::kSynced, 4},
        {KeyKind::kHeartbeat, 1},     {KeyKind::kHasClusterConfig, 1}};
    EXPECT_EQ(seen, expected);
}

TEST(Samples, EveryObjectIsValid) {
    const Connection connection{
        .cluster = "c1", .id = ClusterId{1}, .local_id = ClusterId{2}, .max_clusters = 255};
    for (const auto& [key, value] : read_samples()) {
        const ParsedKey parsed = parse_key(key);
        Result<void> valid;
        if (parsed.kind == KeyKind::kNode) {
            valid = validate_node(connection, parsed, *parse_node(key, value));
        } else if (parsed.kind == KeyKind::kService) {
            valid = validate_service(connection, parsed, *parse_service(key, value));
        } else if (parsed.kind == KeyKind::kIp) {
            IpIdentityPair pair = *parse_ip(key, value);
            valid = validate_ip(connection, parsed, pair);
        } else if (parsed.kind == KeyKind::kIdentity) {
            valid = validate_identity(connection, parsed, *parse_identity(key, value));
        } else if (parsed.kind == KeyKind::kClusterConfig) {
            valid = validate_cluster_config(connection, *parse_cluster_config(key, value));
        }
        EXPECT_TRUE(valid) << valid.error().message();
    }
}

}  // namespace
}  // namespace mesh::model
