// What a large cluster publishes, made by our own codecs: every entry is one that a reader takes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace mesh::bench {

struct DatasetSize {
    std::uint32_t ips = 100'000;
    std::uint32_t services = 10'000;
    std::uint32_t backends = 10;  ///< of each service
    std::uint32_t identities = 5'000;
    std::uint32_t nodes = 1'000;
};

inline constexpr const char* kCluster = "cluster2";
inline constexpr std::uint32_t kClusterId = 2;

/// Calls `put` with each key and its value; cluster-config, canaries and heartbeat come last.
/// @param unix_seconds the time that canaries and heartbeat tell
void make_dataset(const DatasetSize& size, std::int64_t unix_seconds,
                  const std::function<void(std::string key, std::string value)>& put);

/// Likewise what cluster1's etcd has for a node of it that sees that cluster: the services, global,
/// without backends of their own.
void make_own_dataset(const DatasetSize& size,
                      const std::function<void(std::string key, std::string value)>& put);

/// The key and value of the i-th ip, with another identity in each round.
void make_ip_change(const DatasetSize& size, std::uint32_t i, std::uint32_t round,
                    const std::function<void(std::string key, std::string value)>& put);

}  // namespace mesh::bench
