// The etcd client's YAML file, by which Cilium names a remote cluster (spec protocol.md §2), and by
// which our daemons are told their own etcd (--etcd-config). The file's `mesh:` section holds what
// libmesh alone can do per remote: who it is (id, pod-cidrs), ages, limits, the owner check of ips.
// Cilium's agents read the same file: they parse it by clientv3's yaml.NewConfig, which is
// sigs.k8s.io/yaml without its strict mode, so that a field they do not know is ignored. Called by
// remotes_directory and by the daemons' flag handling. A parse has no side effects.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "model/types.hpp"
#include "runtime/clock.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::sources::config {

/// How to reach one etcd. In place of a PEM path there may be a PEM text (TlsOptions).
/// @thread any thread (a plain value)
struct EtcdClientConfig {
    std::vector<std::string> endpoints;  ///< "https://host:port", "http://host:port"; never empty
    std::string trusted_ca_file;         ///< PEM path; empty = the system's roots
    std::string cert_file, key_file;     ///< PEM paths of the client pair; both or neither
    bool insecure_transport = false;     ///< plain text; only with http:// or bare endpoints
    bool insecure_skip_tls_verify = false;
    std::optional<Duration> dial_timeout, keepalive_time, keepalive_timeout;  ///< nullopt = default

    /// True if the endpoints are to be spoken to over TLS.
    [[nodiscard]] bool tls() const;
    friend bool operator==(const EtcdClientConfig&, const EtcdClientConfig&) = default;
};

/// How much of one remote is believed (`mesh: limits:`). An entry over a bound is refused alone,
/// counted and named; 0 refuses all. @thread any thread (a plain value)
struct RemoteLimits {
    std::uint64_t services = 50'000;
    std::uint64_t backends_per_service = 10'000;
    std::uint64_t backends = 1'000'000;  ///< of all services together
    std::uint64_t ips = 1'000'000;
    std::uint64_t identities = 65'536;
    std::uint64_t nodes = 10'000;
    std::uint64_t cidrs_per_node = 256;
    std::uint64_t cidrs = 100'000;  ///< of all nodes together, and ip prefix entries
    std::uint64_t service_exports = 50'000;
    std::uint64_t value_bytes = 1'572'864;   ///< etcd's own request limit
    std::uint64_t key_bytes = 1'024;         ///< of one key
    std::uint64_t total_bytes = 512U << 20;  ///< keys and values of all entries in force
    std::uint64_t answer_bytes = 64U << 20;  ///< one answer of its etcd; fragments held of watches
    std::uint64_t events_per_second = 50'000;  ///< of watches; lists are bounded by the counts
    friend bool operator==(const RemoteLimits&, const RemoteLimits&) = default;
};

/// What goes when a remote has been silent for longer than `max-stale-age`.
enum class StaleScope : std::uint8_t { kServices, kAll };

/// The `mesh:` section. @thread any thread (a plain value)
struct RemotePolicy {
    std::optional<Duration> max_stale_age;  ///< nullopt = what is known stays for ever
    bool stale_age_given = false;  ///< the file says it, be it 0: no default of others counts
    StaleScope stale_scope = StaleScope::kServices;
    bool refuse_foreign_ips = false;  ///< refuse ips outside the CIDRs its nodes announce
    /// Who the remote is: its cluster-config must say this id, and no other remote may use it.
    /// nullopt = whatever it says, if it is the first to say so.
    std::optional<model::ClusterId> id;
    /// Where its pods are: nodes that announce other CIDRs, and ips outside that are no node's own
    /// address, are refused. Empty = anywhere.
    std::vector<model::IpPrefix> pod_cidrs;
    RemoteLimits limits;

    /// True if ips are judged by what the nodes announce.
    [[nodiscard]] bool needs_nodes() const { return refuse_foreign_ips || !pod_cidrs.empty(); }
    friend bool operator==(const RemotePolicy&, const RemotePolicy&) = default;
};

/// One remote cluster as its file tells it. @thread any thread (a plain value)
struct RemoteConfig {
    std::string cluster;  ///< the file's name
    EtcdClientConfig etcd;
    RemotePolicy policy;
    std::string content_hash;  ///< SHA-256 of the file's bytes, hex
    friend bool operator==(const RemoteConfig&, const RemoteConfig&) = default;
};

/// Parses the YAML text of an etcd client configuration.
/// @param file the path, for error texts and to resolve relative paths of TLS files against
/// @errors kInvalidArgument: "<file>:<line>: <field>: what was expected"
/// @source spec protocol.md §2; go.etcd.io/etcd clientv3's YAML field names
[[nodiscard]] Result<EtcdClientConfig> parse_etcd_yaml(std::string_view text,
                                                       std::string_view file);

/// The same with the `mesh:` section; cluster and content_hash are filled in.
/// @param cluster the remote's name (its file's name)
[[nodiscard]] Result<RemoteConfig> parse_remote_yaml(std::string_view text, std::string_view file,
                                                     std::string_view cluster);

/// Reads and parses a file (at most 256 KiB).
/// @errors kNotFound, kUnavailable (not readable), kInvalidArgument
[[nodiscard]] Result<EtcdClientConfig> read_etcd_yaml(const std::string& path);

/// What the file says, as the client takes it; what it does not say keeps the client's default. A
/// bare endpoint gets the scheme that the file as a whole asks for.
[[nodiscard]] etcd::ClientOptions client_options(const EtcdClientConfig& config);

/// SHA-256 in lower-case hex.
[[nodiscard]] std::string sha256_hex(std::string_view bytes);

/// Checks a cluster's name: 1-32 of a-z, 0-9 and '-', first and last alphanumeric; not "default".
/// @errors kInvalidArgument with the name and the rule
/// @source spec wire.md §17
[[nodiscard]] Result<void> check_cluster_name(std::string_view name);

}  // namespace mesh::sources::config
