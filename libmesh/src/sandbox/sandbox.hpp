// Clusters of nodes on one machine, as kind is to Kubernetes: namespaces for nodes and pods, the
// daemons of a real cluster, and a small scheduler, kubelet and endpoint controller. Every function
// is one command of meshctl: it takes the sandbox's lock, does its work on the machine, and writes
// down what it did. A command that was killed half-way is finished by running it again, or undone
// by destroy().
#pragma once

#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "runtime/clock.hpp"
#include "sandbox/objects.hpp"
#include "sandbox/process.hpp"
#include "sandbox/state.hpp"

namespace mesh::sandbox {

/// Where sandboxes live, and what a command needs of its surroundings.
struct Environment {
    std::string root = "/run/libmesh/sandbox";
    std::string programs;  ///< folder of mesh-agent, meshctl and so on
    const Clock* clock = nullptr;
    /// Told what is going on, for commands that take long; may be empty.
    std::function<void(std::string_view)> progress;

    [[nodiscard]] Paths paths(std::string_view sandbox) const;
    void report(std::string_view text) const {
        if (progress) progress(text);
    }
};

struct CreateOptions {
    std::string name;
    std::uint32_t cluster_id = 0;      ///< 1..max_clusters
    std::uint32_t max_clusters = 255;  ///< 255 or 511, equal in all clusters of a mesh
    std::string pod_cidr;              ///< "10.10.0.0/16" or "10.10.0.0/16,fd00:10::/48"
    std::string service_cidr;
    std::uint32_t nodes = 1;
    std::string inherit_ca;          ///< another sandbox's name, or a folder with ca.crt and ca.key
    std::string routing = "tunnel";  ///< "tunnel" (VXLAN) or "native"
    std::string encryption = "none";  ///< or "wireguard"
    bool encryption_strict = false;   ///< see EncryptionOptions::strict
    bool real_etcd = false;           ///< etcd processes instead of mesh-proxy's own store
    bool daemons = true;
};

/// Makes a sandbox and waits until its daemons run. On failure nothing of it is left.
/// @errors kConflict: it exists; kInvalidArgument names the option; kNotFound: a program is
///   missing; kPermission: not root; kUnavailable with a daemon's last log lines
[[nodiscard]] Result<void> create(const Environment& environment, const CreateOptions& options);

/// Ends and removes everything whose name begins with the sandbox's, with or without a state file.
/// @errors kNotFound when there is nothing of that name
[[nodiscard]] Result<void> destroy(const Environment& environment, std::string_view name);

struct Summary {
    std::string name;
    std::optional<State> state;  ///< nullopt: only leftovers, or a state file that makes no sense
    std::size_t running_daemons = 0;
};
/// All sandboxes of the root, and leftovers of others on the machine.
[[nodiscard]] Result<std::vector<Summary>> list(const Environment& environment);

/// @errors kNotFound, kCorrupt
[[nodiscard]] Result<State> describe(const Environment& environment, std::string_view name);

/// What became of an object.
struct Change {
    ObjectRef object;
    std::string what;  ///< "created", "configured", "unchanged", "removed"
};

/// Makes the cluster hold the objects of a manifest, as `kubectl apply` would.
/// @param file for errors
/// @errors kInvalidArgument: nothing was changed; kCapacity: no address left; kUnavailable: a pod
///   did not start, with its last log lines
[[nodiscard]] Result<std::vector<Change>> apply(const Environment& environment,
                                                std::string_view name, std::string_view yaml,
                                                std::string_view file,
                                                std::string_view default_namespace);

/// Removes objects, and with a Namespace or Deployment what belongs to it. Pods are asked to stop
/// and given their grace period. Objects that are not there are skipped.
[[nodiscard]] Result<std::vector<Change>> remove(const Environment& environment,
                                                 std::string_view name,
                                                 const std::vector<ObjectRef>& objects);

/// What turns the calling process into a command inside a pod, or on a node.
/// @param pod  "<namespace>/<name>", "<name>" in namespace default; or "" with `node` given
[[nodiscard]] Result<ProcessSpec> prepare_exec(const Environment& environment,
                                               std::string_view name, std::string_view pod,
                                               std::string_view node,
                                               std::vector<std::string> command);

/// The life of one pod's process: starts it, waits for its end, notes that in the pod's status.
/// Runs in a process of its own ("meshctl sandbox supervise").
/// @param ready_fd told "ok" or why not, then closed
[[nodiscard]] Result<void> supervise(const Environment& environment, std::string_view name,
                                     std::string_view pod, int ready_fd);

/// Ends daemons at once (SIGKILL), as a crash would.
/// @param node "" = on all nodes
/// @return how many
/// @errors kNotFound when the sandbox has no such daemon
[[nodiscard]] Result<std::size_t> kill_daemons(const Environment& environment,
                                               std::string_view name, std::string_view daemon,
                                               std::string_view node);
/// Starts those that do not run, and waits until they do.
/// @param daemon "" = all
[[nodiscard]] Result<std::size_t> start_daemons(const Environment& environment,
                                                std::string_view name, std::string_view daemon,
                                                std::string_view node);

/// Gives a node's WireGuard device another key, and publishes it.
/// @errors kNotFound: no such node; kInvalidArgument: no encryption; kUnavailable: its agent does
///   not run; kTimeout: its agent does not take it
[[nodiscard]] Result<void> rotate_wireguard_key(const Environment& environment,
                                                std::string_view name, std::string_view node);

/// Gives `cluster` the one small secret that makes it follow `remote`: the etcd client's YAML and a
/// client certificate, in its agents' directory of remotes. One direction.
/// @errors kNotFound, kConflict: same id or overlapping CIDRs; kPermission: no common CA
[[nodiscard]] Result<void> connect(const Environment& environment, std::string_view cluster,
                                   std::string_view remote);
/// Takes it away. @errors kNotFound when it was not connected
[[nodiscard]] Result<void> disconnect(const Environment& environment, std::string_view cluster,
                                      std::string_view remote);

/// Makes ca.crt and ca.key in a folder. @errors kConflict when either is there
[[nodiscard]] Result<void> init_ca(const Environment& environment, const std::string& folder,
                                   std::string_view common_name);

}  // namespace mesh::sandbox
