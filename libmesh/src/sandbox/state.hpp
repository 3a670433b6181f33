// What a sandbox remembers between commands: one JSON file, replaced as a whole, behind a lock.
#pragma once

#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <string>
#include <utility>
#include <vector>

#include "model/ip.hpp"
#include "sandbox/names.hpp"
#include "sandbox/objects.hpp"
#include "sandbox/process.hpp"

namespace mesh::sandbox {

/// A program of the sandbox's control plane or of a node.
struct Daemon {
    std::string name;  ///< "mesh-proxy"
    std::string node;  ///< where it runs, "node1"
    std::vector<std::string> argv;
    std::string socket;  ///< its status socket; "" for etcd
    std::string log;
    ProcessId process;
};

struct State {
    std::string name;
    std::uint32_t cluster_id = 0;
    std::uint32_t max_clusters = 255;                       ///< of the mesh: 255 or 511
    std::vector<model::IpPrefix> pod_cidrs, service_cidrs;  ///< IPv4 first
    std::uint32_t nodes = 0;
    std::uint32_t slot = 0;
    std::string routing;              ///< "tunnel" or "native"
    std::string encryption = "none";  ///< or "wireguard"
    bool encryption_strict = false;
    std::map<std::string, std::string> wireguard_keys;  ///< public ones, base64, by node
    std::string etcd;       ///< "real", "embedded" or, without daemons, "none"
    bool complete = false;  ///< false while it is being created or deleted
    std::vector<Daemon> daemons;
    ClusterObjects objects;  ///< without .nodes, which follow from the fields above
    std::map<std::pair<std::string, std::string>, boost::json::object> deployments;
    std::map<std::string, std::uint64_t> cursors;  ///< address taken last, by node or family
    std::uint64_t next_uid = 1;
};

/// Paths below a sandbox's folder.
struct Paths {
    std::string folder;
    [[nodiscard]] std::string state() const { return folder + "/state.json"; }
    [[nodiscard]] std::string lock() const { return folder + "/lock"; }
    [[nodiscard]] std::string pki(std::string_view file) const;
    [[nodiscard]] std::string etc(std::string_view file) const;
    [[nodiscard]] std::string log(std::string_view name) const;
    [[nodiscard]] std::string socket(std::string_view name) const;
    [[nodiscard]] std::string manifests() const { return folder + "/manifests"; }
    [[nodiscard]] std::string clustermesh() const { return folder + "/clustermesh"; }
    [[nodiscard]] std::string endpoints(std::string_view node) const;
    [[nodiscard]] std::string data(std::string_view name) const;
};

/// @errors kNotFound; kCorrupt when the file makes no sense
[[nodiscard]] Result<State> load_state(const Paths& paths);
[[nodiscard]] Result<void> save_state(const Paths& paths, const State& state);
/// The text of the file, for tests and for load_state.
[[nodiscard]] std::string encode_state(const State& state);
[[nodiscard]] Result<State> decode_state(std::string_view text);

/// The nodes of a sandbox, computed.
[[nodiscard]] Result<std::vector<NodeInfo>> nodes_of(const State& state);

/// An exclusive lock on a file, held by this object; the kernel lets go of it when the process
/// ends, however it ends.
class FileLock {
  public:
    /// Waits for it. Makes the file if `create`.
    /// @errors kNotFound without `create`; kUnavailable
    [[nodiscard]] static Result<FileLock> acquire(const std::string& path, bool create);
    FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    FileLock& operator=(FileLock&&) = delete;
    ~FileLock();

  private:
    explicit FileLock(int fd) : fd_(fd) {}
    int fd_;
};

}  // namespace mesh::sandbox
