// The datapath on the kernel: loads the socket load balancer (bpf/), pins it, attaches it to a
// cgroup, writes its maps. One per node; a second process is refused while the first lives, and
// adopts everything when the first has gone, however it went. No libbpf type shows here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <span>
#include <string>
#include <string_view>

#include "base/log.hpp"
#include "datapath/datapath.hpp"
#include "datapath/maglev_table.hpp"
#include "datapath/memory_datapath.hpp"

namespace mesh::datapath {

class PinDirectory;

struct BpfOptions {
    /// A BPF filesystem; mounted there if it is none yet (the directory is made if absent).
    std::string bpffs = "/sys/fs/bpf";
    /// Directory of this node's pins, relative to bpffs, e.g. "mesh/cluster1-node1".
    std::string pin_directory = "mesh";
    /// Path of the cgroup v2 directory whose processes use the services.
    std::string cgroup;
    /// Sizes of the tables. Pinned maps of other sizes are migrated to these, unless they hold more
    /// (a warning tells).
    TableSizes sizes;
    std::uint32_t affinity_entries = 65536;  ///< clients × services remembered; oldest go first
    /// Entries of the Maglev table of a frontend for clients outside of the cluster, one of
    /// is_maglev_size(); the same on all nodes, for these to choose alike.
    std::uint32_t maglev_size = kDefaultMaglevSize;
    std::uint32_t udp_flows = 65536;  ///< UDP sockets, and peers of unconnected ones, remembered
};

/// What end_stale_sockets() did.
struct SweepStats {
    std::uint64_t sockets_seen = 0;   ///< sockets that went through a service
    std::uint64_t sockets_ended = 0;  ///< of these, the ones whose backend is gone
};

/// A connected socket that went through a service of this node.
struct ServiceSocket {
    Protocol proto = Protocol::kTcp;
    model::IpAddress backend;  ///< and port: what it is connected to
    std::uint16_t port = 0;
    model::IpAddress frontend;  ///< and frontend_port: what the application asked for
    std::uint16_t frontend_port = 0;
    bool established = false;  ///< false: waits for the answer to its SYN
    bool live = false;         ///< the backend is one of some service
};

class BpfDatapath final : public Datapath {
  public:
    /// Loads or adopts. Programs that an earlier process attached are replaced atomically: at no
    /// moment is a connect untranslated. Pinned maps of an older layout or another size are
    /// migrated (README.md). What a failed call made is removed again.
    /// @errors kPermission: not root, or BPF is forbidden; kConflict: another process writes to
    ///         these pins, or they have a layout that this build does not know; kInvalidArgument:
    ///         cgroup is no cgroup v2 directory; kUnavailable: the kernel lacks something, or this
    ///         library was built without BPF
    [[nodiscard]] static Result<std::unique_ptr<BpfDatapath>> open(const BpfOptions& options,
                                                                   Logger logger = {});

    /// Detaches the programs and removes the pins: services stop. Leaves bpffs mounted and parent
    /// directories that are not empty. Succeeds when there is nothing.
    /// @errors kConflict: a process still writes to these pins; kInternal
    [[nodiscard]] static Result<void> teardown(const BpfOptions& options);

    ~BpfDatapath() override;

    /// True if there were no tables to adopt: an owner that gives up at once may teardown().
    [[nodiscard]] bool made_tables() const;

    void set_own_cluster(std::uint32_t cluster_id) override;
    [[nodiscard]] Result<ApplyStats> apply(std::span<const ServiceChange> changes) override;
    [[nodiscard]] AdoptStats adopted() const override;
    [[nodiscard]] Result<ApplyStats> finish_adopt_cluster(std::uint32_t cluster_id) override;
    [[nodiscard]] Result<ApplyStats> finish_adopt() override;
    [[nodiscard]] std::vector<ServiceStatus> dump() const override;
    [[nodiscard]] std::optional<ServiceStatus> find(const ServiceFrontend& frontend) const override;
    [[nodiscard]] Counters counters() const override;
    [[nodiscard]] Occupancy occupancy() const override;
    [[nodiscard]] std::string_view kind() const override { return "bpf"; }

    /// Ends connected UDP sockets (and, if asked, TCP ones) that went through a service to a
    /// backend which is gone: the application gets ECONNABORTED and connects again. Looks at every
    /// socket of the given network namespaces; sockets that connected to a backend directly, or
    /// through another node's services, are left alone. Idempotent.
    /// @param netns_paths files of network namespaces, e.g. /run/netns/pod1 or /proc/123/ns/net
    /// @errors kInvalidArgument: a path is no network namespace (the others are still swept);
    ///         kUnavailable: the kernel cannot end sockets (CONFIG_INET_DIAG_DESTROY)
    [[nodiscard]] Result<SweepStats> end_stale_sockets(std::span<const std::string> netns_paths,
                                                       bool tcp_too = false);

    /// Which sockets end_sockets() looks at.
    struct SocketKinds {
        bool tcp = true;
        bool udp = true;
    };
    /// Ends those of the sockets that go through services for which `ends` says so: the application
    /// gets ECONNABORTED, and the peer of a TCP socket a reset.
    /// @param ends called on another thread, while the caller waits
    /// @see end_stale_sockets for the rest
    [[nodiscard]] Result<SweepStats> end_sockets(
        std::span<const std::string> netns_paths, SocketKinds kinds,
        const std::function<bool(const ServiceSocket&)>& ends);

  private:
    struct State;
    [[nodiscard]] static Result<std::unique_ptr<BpfDatapath>> open_on(PinDirectory pins,
                                                                      const BpfOptions& options,
                                                                      const Logger& logger);
    explicit BpfDatapath(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace mesh::datapath
