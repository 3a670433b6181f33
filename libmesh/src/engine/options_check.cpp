#include "engine/options_check.hpp"

#include <fmt/format.h>

#include <chrono>

#include "compile/policy/endpoint_mode.hpp"
#include "engine/encryption.hpp"
#include "sources/config/etcd_yaml.hpp"

namespace mesh::engine {
namespace {

constexpr std::chrono::seconds kShortestSyncTimeout{1};
constexpr std::chrono::seconds kLongestSyncTimeout{3600};

Result<void> check_health(const HealthOptions& options) {
    using std::chrono::milliseconds;
    const auto in_range = [](milliseconds time) {
        return time >= milliseconds(50) && time <= milliseconds(60'000);
    };
    if (!in_range(options.interval))
        return invalid_argument("health.interval: expected 50 ms to 60 s");
    if (!in_range(options.timeout))
        return invalid_argument("health.timeout: expected 50 ms to 60 s");
    if (options.failures < 1 || options.failures > 10) {
        return invalid_argument("health.failures: expected 1 to 10");
    }
    if (options.probes_per_second < 1) {
        return invalid_argument("health.probes_per_second: expected at least 1");
    }
    return {};
}

}  // namespace

Result<void> check_options(const MeshOptions& options) {
    if (auto ok = sources::config::check_cluster_name(options.cluster_name); !ok) {
        return ok.error().with_prefix("cluster_name");
    }
    if (options.max_connected_clusters != 255 && options.max_connected_clusters != 511) {
        return invalid_argument(fmt::format("max_connected_clusters: expected 255 or 511, got {}",
                                            options.max_connected_clusters));
    }
    if (options.cluster_id < 1 || options.cluster_id > options.max_connected_clusters) {
        return invalid_argument(fmt::format("cluster_id: expected 1 to {}, got {}",
                                            options.max_connected_clusters, options.cluster_id));
    }
    if (options.node_name.empty()) {
        return invalid_argument("node_name: expected the name of this node, got nothing");
    }
    if (options.etcd_config.empty() == options.etcd.endpoints.empty()) {
        return invalid_argument(
            "etcd_config: expected the etcd client YAML of the own cluster, or etcd.endpoints");
    }
    // Zero would make its timer spin for as long as the own etcd is away.
    if (options.sync_timeout < kShortestSyncTimeout || options.sync_timeout > kLongestSyncTimeout) {
        return invalid_argument(
            fmt::format("sync_timeout: expected {} to {} s, got {}", kShortestSyncTimeout.count(),
                        kLongestSyncTimeout.count(), options.sync_timeout.count()));
    }
    if (options.datapath.kind != DatapathOptions::Kind::kBpf &&
        !options.datapath.endpoints_directory.empty()) {
        return invalid_argument("endpoints_directory: expected none without the kernel's datapath");
    }
    if (options.resets.grace < std::chrono::milliseconds::zero() ||
        options.resets.grace > std::chrono::hours(1)) {
        return invalid_argument("resets.grace: expected 0 to 1 h");
    }
    if (options.remote_max_stale_age < std::chrono::seconds::zero()) {
        return invalid_argument("remote_max_stale_age: expected 0 or more");
    }
    const std::string& enforcement = options.policy.enforcement;
    if (enforcement != "default" && enforcement != "always" && enforcement != "never") {
        return invalid_argument(fmt::format(
            "policy.enforcement: expected default, always or never, got \"{}\"", enforcement));
    }
    for (const std::string& mode : options.policy.endpoint_modes) {
        if (const auto good = compile::parse_endpoint_mode(mode); !good) {
            return good.error().with_prefix("policy.endpoint_modes");
        }
    }
    MESH_CHECK(check_health(options.health));
    return Encryption::check(options.datapath);
}

}  // namespace mesh::engine
