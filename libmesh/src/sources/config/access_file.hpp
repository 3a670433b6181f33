// The file that says who may do what at a proxy (mesh-proxy --access-file): users by certificate,
// their roles, and what the roles may do and use up. Cilium's own file of users (the ConfigMap
// clustermesh-remote-users, spec protocol.md §10) is one of this form. A parse has no side effects
// and does no I/O; serve/etcd/access_table makes of it what is asked per request.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::sources::config {

/// A name or key: itself, or, written with a "*" at its end, all that begin with it. "{cluster}" in
/// it stands for the own cluster's name. @thread any thread (a plain value)
struct AccessPattern {
    std::string text;     ///< without the "*"
    bool prefix = false;  ///< it had one
    friend bool operator==(const AccessPattern&, const AccessPattern&) = default;
};

/// Whom a role is for: by what the verified client certificate says.
struct AccessUser {
    enum class By : std::uint8_t {
        kName,  ///< `name:` its common name
        kDns,   ///< `dns:` one of its DNS names; letter case does not count
        kUri,   ///< `uri:` one of its URIs, such as spiffe://...
    };
    By by = By::kName;
    AccessPattern pattern;
    std::string role;
    friend bool operator==(const AccessUser&, const AccessUser&) = default;
};

/// Bounds; nullopt = not said, 0 = none.
struct AccessLimits {
    std::optional<std::uint64_t> streams;              ///< Watch and LeaseKeepAlive calls at a time
    std::optional<std::uint64_t> watches;              ///< of all those streams
    std::optional<std::uint64_t> requests_per_second;  ///< messages of every kind
    std::optional<std::uint64_t> request_burst;        ///< nullopt = as many as in a second
    std::optional<std::uint64_t> waiting_requests;     ///< further ones are refused
    std::optional<std::uint64_t> bytes_in_per_second;  ///< of requests
    std::optional<std::uint64_t> bytes_out_per_second;  ///< of answers and watch events
    friend bool operator==(const AccessLimits&, const AccessLimits&) = default;
};

/// What a role may do; nullopt = not said.
struct AccessRole {
    std::string name;
    std::optional<std::vector<std::string>> listeners;  ///< remote, local; where it counts at all
    std::optional<std::vector<AccessPattern>> read;     ///< keys of Range and Watch
    std::optional<std::vector<AccessPattern>> write;    ///< keys of Put and DeleteRange; leases
    std::optional<bool> transactions;                   ///< Txn, whose parts need their own rights
    std::optional<bool> status;                         ///< Maintenance.Status, Cluster.MemberList
    std::optional<bool> maintenance;                    ///< Compact and the rest of Maintenance
    AccessLimits limits;                                ///< of one client: a name at one address
    AccessLimits limits_per_name;                       ///< of all clients of a name together
    friend bool operator==(const AccessRole&, const AccessRole&) = default;
};

/// @thread any thread (a plain value)
struct AccessFile {
    std::vector<AccessUser> users;
    std::vector<AccessRole> roles;
    friend bool operator==(const AccessFile&, const AccessFile&) = default;
};

/// The most that such a file may hold, as a ConfigMap.
inline constexpr std::size_t kMaxAccessFileBytes = 1024 * 1024;

/// Roles that exist without being in the file; one of the same name there changes what it names.
inline constexpr std::string_view kRemoteRole = "remote", kLocalRole = "local",
                                  kAdminRole = "admin", kNoRole = "none";

/// Parses the YAML (or JSON) text. Fields that it does not know, roles that nobody has described,
/// and a user that comes twice with different roles are mistakes.
/// @param file for error texts
/// @errors kInvalidArgument "<file>: line <n>: <field>: expected ..., got ..."
[[nodiscard]] Result<AccessFile> parse_access_file(std::string_view text, std::string_view file);

}  // namespace mesh::sources::config
