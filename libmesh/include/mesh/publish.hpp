// A workload that no Kubernetes object describes (a VM, a process) registers itself in its cluster:
// address, labels, backends of services, as long as it lives. The cluster's operator makes of it
// what it makes of a pod, so that every cluster of the mesh sees it.
#pragma once

#include <mesh/mesh.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <mesh/export.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mesh {

/// @addtogroup cpp_publishing
/// @{

/// A port of a workload that serves a Service of its cluster.
struct WorkloadBackend {
    std::string service;    ///< "namespace/name"
    std::string port_name;  ///< that of the Service's port; empty: its only one, which has none
    std::uint16_t port = 0;
    std::string protocol = "TCP";  ///< "TCP", "UDP" or "SCTP"
};

/// What a workload says of itself.
struct WorkloadOptions {
    std::string name;  ///< a DNS label; no other workload, and no pod of the namespace, has it
    std::string namespace_ = "default";
    /// IPv4 and IPv6 texts, 1 to 16: addresses that this host has and nothing else of the cluster.
    std::vector<std::string> ips;
    std::map<std::string, std::string> labels;  ///< make its security identity, as a pod's do
    std::vector<WorkloadBackend> backends;      ///< at most 64
    std::string zone;                           ///< topology.kubernetes.io/zone; empty = not told
    /// A node of the cluster, too, without pods: known as reserved:remote-node, not by its labels.
    bool node = false;
    /// How long it stays when this process ends without a word, 2 s to 24 h; at least what etcd
    /// grants. An update does not change it.
    std::chrono::seconds lease_ttl{15};
};

/// Whether the cluster has a workload.
enum class PublicationState : std::uint8_t {
    kPending = MESH_PUBLICATION_PENDING,      ///< etcd or the operator has not answered yet
    kPublished = MESH_PUBLICATION_PUBLISHED,  ///< the cluster has it as the options say
    /// It is not in the mesh. Tried again by itself when what stood against it is gone.
    kRefused = MESH_PUBLICATION_REFUSED,
    kClosed = MESH_PUBLICATION_CLOSED,  ///< it has left
};
/// "pending", "published", "refused", "closed".
[[nodiscard]] constexpr std::string_view to_string(PublicationState state) noexcept {
    switch (state) {
        case PublicationState::kPending:
            return "pending";
        case PublicationState::kPublished:
            return "published";
        case PublicationState::kRefused:
            return "refused";
        case PublicationState::kClosed:
            return "closed";
    }
    return "unknown";
}

/// How far a registration has come. @thread any thread (a plain value)
struct PublicationStatus {
    PublicationState state = PublicationState::kPending;
    /// One sentence: what is waited for, or why it is refused; of a published one what is missing,
    /// such as a Service; empty = nothing.
    std::string reason;
};

/// A workload that is registered, made by Mesh::publish(). It is kept registered, over lost leases
/// and etcds that restart, until this object or its mesh ends. A process that is killed is gone
/// after WorkloadOptions::lease_ttl.
/// @thread any thread, but for moves and the destructor
class MESH_API Publication {
  public:
    /// As close().
    ~Publication();
    Publication(Publication&&) noexcept;
    Publication& operator=(Publication&&) noexcept;

    /// How far it has come.
    [[nodiscard]] PublicationStatus state() const;
    /// Waits until it is published.
    /// @param timeout 0 = only look, negative = no limit
    /// @errors kConflict: refused by the cluster's operator, or another process has the name;
    ///         kPermission: refused by etcd; kTimeout: neither yet; kCancelled: closed;
    ///         kInvalidArgument: this is the mesh's log callback. The detail is the reason.
    [[nodiscard]] Result<void> wait(std::chrono::milliseconds timeout) const;
    /// Says something else from now on, in place: what does not change is not interrupted.
    /// @errors kInvalidArgument names the field, or the name is another; kCancelled: closed
    [[nodiscard]] Result<void> update(const WorkloadOptions& options);
    /// Leaves: the lease is revoked, and what hangs on it gone at once. May be called again.
    /// Waits for etcd some 3 seconds at most, and not at all on the mesh's loop or where the mesh
    /// has no thread of its own (MeshOptions::executor): what comes of it is not told then.
    /// @errors kTimeout: etcd did not answer, it leaves when the lease ends
    Result<void> close();

    /// Whether the caller is the mesh's own thread, as in a log callback: no wait() there.
    [[nodiscard]] bool on_mesh_thread() const noexcept;

    struct Impl;  ///< internal to the library
    explicit Publication(std::shared_ptr<Impl> impl);

  private:
    std::shared_ptr<Impl> impl_;
};

/// @}

}  // namespace mesh
