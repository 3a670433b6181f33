// connect and disconnect: the one small secret by which a cluster follows another.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "sandbox/daemons.hpp"
#include "sandbox/internal.hpp"

namespace mesh::sandbox {
namespace {

struct SecretFiles {
    std::string config, ca, certificate, key;
};

// Names as the chart of Cilium has them (protocol.md §2). Only `config` is one that agents act on.
SecretFiles secret_files(const Paths& paths, std::string_view remote) {
    const std::string base = fmt::format("{}/{}", paths.clustermesh(), remote);
    return {base, base + ".etcd-client-ca.crt", base + ".etcd-client.crt",
            base + ".etcd-client.key"};
}

Result<void> check_distinct(const State& a, const State& b) {
    if (a.name == b.name) {
        return invalid_argument(fmt::format("{}: a cluster does not connect to itself", a.name));
    }
    if (a.max_clusters != b.max_clusters) {
        return Error(Errc::kConflict,
                     fmt::format("{} and {} differ in --max-connected-clusters: {} and {}", a.name,
                                 b.name, a.max_clusters, b.max_clusters));
    }
    if (a.cluster_id == b.cluster_id) {
        return Error(Errc::kConflict,
                     fmt::format("{} and {} have the same cluster id {}: create one with another",
                                 a.name, b.name, a.cluster_id));
    }
    for (const model::IpPrefix& mine : a.pod_cidrs) {
        for (const model::IpPrefix& theirs : b.pod_cidrs) {
            if (mine.contains(theirs) || theirs.contains(mine)) {
                return Error(Errc::kConflict,
                             fmt::format("pod CIDR {} of {} overlaps {} of {}", mine.to_string(),
                                         a.name, theirs.to_string(), b.name));
            }
        }
    }
    return {};
}

/// Who the remote is: agents hold it to that. Cilium ignores the section.
std::string owner_yaml(const State& remote) {
    std::string yaml = fmt::format("mesh:\n  id: {}\n  pod-cidrs:\n", remote.cluster_id);
    for (const model::IpPrefix& cidr : remote.pod_cidrs)
        yaml += fmt::format("  - {}\n", cidr.to_string());
    return yaml;
}

Result<std::string> read(const std::string& path) {
    return pki::read_file(path);
}

// Both sides would otherwise only show a failing handshake.
Result<void> check_trust(const Environment& environment, const Paths& mine, const Paths& theirs,
                         std::string_view cluster, std::string_view remote) {
    const WallTime now = environment.clock->wall_now();
    MESH_TRY(const std::string client, read(mine.pki("remote.crt")));
    MESH_TRY(const std::string ca, read(theirs.pki("ca.crt")));
    if (auto trusted = pki::verify(client, ca, pki::Usage::kClient, now); !trusted) {
        return Error(Errc::kPermission,
                     fmt::format("{} does not trust the certificates of {} ({}): create one of "
                                 "them with --inherit-ca and the other's name",
                                 remote, cluster, trusted.error().detail()));
    }
    return {};
}

}  // namespace

Result<void> connect(const Environment& environment, std::string_view cluster,
                     std::string_view remote) {
    MESH_TRY(const Opened sandbox, open_locked(environment, cluster));
    MESH_TRY(const State other, open_complete(environment, remote));
    MESH_CHECK(check_distinct(sandbox.state, other));
    const Paths theirs = environment.paths(remote);
    MESH_CHECK(check_trust(environment, sandbox.paths, theirs, cluster, remote));
    const SecretFiles files = secret_files(sandbox.paths, remote);
    MESH_TRY(const std::string ca, read(theirs.pki("ca.crt")));
    MESH_TRY(const std::string certificate, read(sandbox.paths.pki("remote.crt")));
    MESH_TRY(const std::string key, read(sandbox.paths.pki("remote.key")));
    const std::string& staging = sandbox.paths.folder;
    MESH_CHECK(pki::write_file(files.ca, ca, pki::FileMode::kPublic, staging));
    MESH_CHECK(pki::write_file(files.certificate, certificate, pki::FileMode::kPublic, staging));
    MESH_CHECK(pki::write_file(files.key, key, pki::FileMode::kPrivate, staging));
    // Last: agents act on this one, and find the others in place.
    return pki::write_file(
        files.config,
        etcd_client_yaml(remote_endpoint(other), files.ca, files.certificate, files.key) +
            owner_yaml(other),
        pki::FileMode::kPublic, staging);
}

Result<void> disconnect(const Environment& environment, std::string_view cluster,
                        std::string_view remote) {
    MESH_TRY(const Opened sandbox, open_locked(environment, cluster));
    MESH_CHECK(Names::make(remote));
    const SecretFiles files = secret_files(sandbox.paths, remote);
    if (::unlink(files.config.c_str()) != 0) {
        if (errno == ENOENT) {
            return not_found(fmt::format("{} is not connected to {}", cluster, remote));
        }
        return unavailable(
            fmt::format("remove {}: {}", files.config, std::generic_category().message(errno)));
    }
    ::unlink(files.certificate.c_str());
    ::unlink(files.key.c_str());
    ::unlink(files.ca.c_str());
    return {};
}

}  // namespace mesh::sandbox
