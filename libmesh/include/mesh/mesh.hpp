// mesh::Mesh: one node's view of the whole mesh. It follows the own cluster and every configured
// remote, merges their services, writes the datapath, and answers what it knows. mesh-agent is a
// thin program around it; an embedder links it instead.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/version.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <mesh/events.hpp>
#include <mesh/explain.hpp>
#include <mesh/export.hpp>
#include <mesh/publish.hpp>
#include <mesh/views.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mesh {

/// @addtogroup cpp_mesh
/// @{

/// How loud a log line is.
enum class LogSeverity : std::uint8_t { kDebug, kInfo, kWarn, kError };

/// Takes one finished log line. Called on the mesh's loop: its thread, the executor, or a thread
/// that calls a member. Must not block or throw, and may use the mesh: also destroy it.
using LogCallback =
    std::function<void(LogSeverity severity, std::string_view subsystem, std::string_view text)>;

/// Encryption of what pods of different nodes say to each other (kBpf, with routing). Nodes without
/// a published key are spoken to in plain.
struct EncryptionOptions {
    std::string kind = "none";  ///< or "wireguard"; "ipsec" is refused
    /// Packets that would go to, or came from, a node with a key in plain are dropped.
    bool strict = false;
    /// Private key, made with the first start; the public one is kept beside it, in the file with
    /// ".pub" added. Who publishes the node puts that into annotation network.cilium.io/wg-pub-key.
    std::string key_file = "/var/lib/libmesh/wireguard.key";
    std::uint16_t port = 51871;    ///< UDP; the same on all nodes of all clusters
    std::string device;            ///< made if absent; empty = a name of this node's own
    std::string backend = "auto";  ///< "kernel", "userspace" (wireguard-go), or what there is
};

/// Bounds of the kernel's tables, in entries. Tables that are pinned already are resized without a
/// break, never below what they hold. What finds no room is left out, logged, counted and shown in
/// status; it is written when room becomes free.
struct MapSizes {
    std::uint32_t ipcache = 1'048'576;  ///< prefixes: one for each address of a pod or node
    std::uint32_t nodes = 65'536;       ///< addresses of nodes
    std::uint32_t endpoints = 8'192;    ///< addresses of this node's pods
    std::uint32_t nat = 131'072;        ///< two for each flow that leaves the mesh; oldest go first
    std::uint32_t services = 65'536;    ///< frontends
    std::uint32_t backends = 131'072;   ///< summed over frontends
    std::uint32_t policy = 16'384;      ///< rows of one pod's policy; beyond, that pod is locked
};

/// Network policy of this node's pods (kBpf, with routing). Policies are those of the own cluster.
struct PolicyOptions {
    /// "default": a direction of a pod is enforced once a policy with default deny selects the pod;
    /// "always": always; "never": no policy is enforced.
    std::string enforcement = "default";
    bool audit = false;  ///< what policies deny passes, and is told as an event
    /// Pods with another mode, "MODE:LABEL,...": "always", "default", "never" or "audit", and
    /// labels that a pod must have all of, as in
    /// "audit:app=web,k8s:io.kubernetes.pod.namespace=shop". The first that fits a pod counts for
    /// it, instead of `enforcement` and `audit`.
    std::vector<std::string> endpoint_modes;
    /// A selector of peers that names no cluster means the own one; else all.
    bool default_local_cluster = true;
    /// A pod's node may always connect to it, and goes past L7 rules that do not name the host.
    bool allow_localhost = true;
    bool verdict_events = false;  ///< an event for each new connection that passes, too
    /// A file of HTTP requests that went through a policy, a line of JSON each; empty: the latest
    /// are kept in memory.
    std::string access_log;
    /// Where the names that pods asked for are kept over a restart, for toFQDNs; empty: they are
    /// learnt anew.
    std::string fqdn_cache;
};

/// Where rows go.
struct DatapathOptions {
    /// What takes the rows.
    enum class Kind : std::uint8_t {
        kMemory,  ///< tables of the kernel's bounds, in memory: what mesh-agent does without rights
        kBpf,     ///< BPF maps and programs of the kernel: needs root
        kNone,    ///< nowhere: the mesh is read, by whoever needs no privileges
    };
    Kind kind = Kind::kNone;
    /// cgroup v2 folder whose processes get service load balancing (kBpf).
    std::string cgroup;
    /// BPF file system; mounted there if it is none yet (kBpf).
    std::string bpffs = "/sys/fs/bpf";
    /// Folder of this node's pins, relative to bpffs; a restarted agent adopts what is there
    /// (kBpf).
    std::string pin_directory = "mesh";
    /// Named network namespaces, as ip-netns keeps them, whose connected UDP sockets are ended when
    /// their backend goes: those files of `netns_directory` whose name begins with `netns_prefix`.
    /// An empty directory: only the namespace of the process itself.
    std::string netns_directory;
    std::string netns_prefix;
    /// How pods of other nodes are reached. Other than kNone needs root, and in the network
    /// namespace of the process the device that has the node's InternalIP.
    enum class Routing : std::uint8_t {
        kNone,    ///< left to others
        kNative,  ///< a route to each other node's pod CIDRs: the nodes share a network
        kTunnel,  ///< packets are encapsulated between the nodes
    };
    Routing routing = Routing::kNone;
    /// "vxlan", or "geneve" where the kernel has it; the same in all clusters (kTunnel).
    std::string tunnel_protocol = "vxlan";
    std::string overlay_device = "mesh_vxlan";  ///< made if absent (kTunnel)
    std::uint16_t overlay_port = 0;  ///< UDP; 0 = 8472 for VXLAN, 6081 for Geneve (kTunnel)
    /// Packets of pods to outside of the mesh leave with the node's address (kBpf), save those to
    /// `non_masquerade_cidrs`.
    bool masquerade = false;
    std::vector<std::string> non_masquerade_cidrs;
    /// Entries of the Maglev table of a frontend for clients outside of the cluster; a prime of
    /// Cilium's list, 251 to 131071, the same on all nodes. 0 = 4093 (kBpf).
    std::uint32_t maglev_table_size = 0;
    /// Flows of services that are remembered where packets are translated (kBpf). 0 = 131072.
    std::uint32_t max_service_flows = 0;
    /// Folder of files of this node's pods, as mesh-cni and the sandbox write them (kBpf); empty:
    /// this node has no pods.
    std::string endpoints_directory;
    EncryptionOptions encryption;
    MapSizes sizes;  ///< kBpf
};

/// Probes of other nodes, and of backends of services with annotation libmesh.io/health-check; with
/// kBpf only.
struct HealthOptions {
    std::uint16_t port = 4240;  ///< where nodes answer, the same in all clusters; 0 = no probes
    std::chrono::milliseconds interval{200};  ///< of nodes; 50 ms to 60 s
    std::chrono::milliseconds timeout{200};   ///< likewise
    std::uint32_t failures = 2;               ///< in a row, to count as unreachable; 1 to 10
    std::uint32_t probes_per_second = 1000;   ///< beyond, all intervals grow in proportion
};

/// Connections through services whose backend went: the application gets an error at once instead
/// of silence. Those to a terminating backend end by themselves.
struct ResetOptions {
    bool tcp = true;
    bool udp = true;
    /// How long a backend is unhealthy, with others to use instead, until connections to it are
    /// reset; those to a backend that is gone are reset after 1 s. 0 to 1 h.
    std::chrono::milliseconds grace{5000};
};

/// An etcd to connect to, with its TLS material in memory.
struct EtcdOptions {
    /// "https://host:port" or "http://host:port", all of one kind; empty = not given.
    std::vector<std::string> endpoints;
    std::string ca_pem;             ///< PEM text; empty = the system's roots
    std::string cert_pem, key_pem;  ///< PEM texts of the client's pair; both or neither
};

/// How to open a mesh: who this node is, where its cluster's etcd and the remotes are. All else has
/// a default. @thread any thread (a plain value)
struct MeshOptions {
    std::string cluster_name;                    ///< spec wire.md §17
    std::uint32_t cluster_id = 0;                ///< 1..max_connected_clusters
    std::uint32_t max_connected_clusters = 255;  ///< 255 or 511, equal in all clusters
    std::string node_name;                       ///< this node, as its cluster publishes it
    std::string etcd_config;         ///< path of the etcd client YAML of the own cluster; or etcd
    EtcdOptions etcd;                ///< in its place
    std::string clustermesh_config;  ///< folder of remotes, one file each; empty = none
    /// Remotes as such a folder has them, name → bytes, for instance the data of the Secret
    /// cilium-clustermesh: what has `endpoints:` is a remote, and a PEM path in it whose last part
    /// is the name of another of these files stands for that. A file of the folder takes the place
    /// of the remote of its name.
    std::map<std::string, std::string> remote_files;
    DatapathOptions datapath;
    /// Follow the zone hints of EndpointSlices and of remotes' records: if every backend of a
    /// frontend has some and one names this node's zone (label topology.kubernetes.io/zone), new
    /// connections go to the backends meant for the zone.
    bool enable_service_topology = false;
    /// How long remotes' services are awaited before unconfirmed kernel state goes; 1 s to 1 h.
    std::chrono::seconds sync_timeout{60};
    HealthOptions health;
    ResetOptions resets;
    PolicyOptions policy;
    /// A remote without connection for that long loses its services, unless its file says
    /// otherwise (max-stale-age); 0 = what is known of it stays, fail-static.
    std::chrono::seconds remote_max_stale_age{0};
    LogCallback log;
    /// Where all handlers run, one at a time whoever runs the executor: that of an io_context or a
    /// thread_pool, or any other; kept from running out of work. The mesh's own thread then only
    /// waits for its sockets and timers. Used until the mesh is closed. Empty = that thread.
    boost::asio::any_io_executor executor;
    /// Of the program, which with an executor is the library's own; leave it.
    unsigned boost_version = BOOST_VERSION;
};

/// The mesh as one node sees it. Its members look at it between two of its handlers, on the
/// caller's thread: they never wait for an executor to be run, only for the handler that runs now.
/// @thread every member function may be called from any thread, those that run the executor too;
///         only wait_ready() waits for what the executor has yet to do
class MESH_API Mesh {
  public:
    /// Checks the options and starts to follow the own cluster and the remotes on a thread of its
    /// own, or on the executor given. Returns at once; nothing needs to be reachable yet. When the
    /// clusters' first lists are read, free pages of the process's heap go back to the system
    /// (glibc's malloc_trim).
    /// @errors kInvalidArgument names the option; kPermission without the rights for kBpf;
    ///         kUnavailable when the kernel refuses a program or map
    [[nodiscard]] static Result<std::unique_ptr<Mesh>> open(MeshOptions options);

    /// close(), then waits until all has ended, publications having left, as by their close(),
    /// within some 3 seconds for all. The executor need not be run for that. On the mesh's loop, as
    /// in a log callback, it returns at once, and the rest ends later: the log callback is not
    /// called any more. The kernel keeps serving what was written last; a later open() with the
    /// same pin_directory adopts it.
    ~Mesh();
    Mesh(const Mesh&) = delete;
    Mesh& operator=(const Mesh&) = delete;

    /// Begins to end it and returns at once. From now on members tell of nothing, or kCancelled,
    /// and subscriptions are closed: what waits in them may still be read.
    /// The rest runs on the mesh's own thread: of an executor nothing but `done` is asked any more.
    /// @param done called once nothing of the mesh runs, on the executor or the mesh's own thread;
    ///        at once if all has ended before. It may destroy the mesh, and is called also after
    ///        that was destroyed.
    void close(std::function<void()> done = {});

    /// Other remotes than MeshOptions::remote_files had, or the last call: those that are new,
    /// other than before or gone are connected to, configured or drained, the others notice
    /// nothing. Returns at once.
    /// @errors kInvalidArgument names the file: nothing is changed; kCancelled: closed
    [[nodiscard]] Result<void> set_remote_files(const std::map<std::string, std::string>& files);

    /// True once the own cluster and every configured remote are ready, and no file of a remote is
    /// in error.
    [[nodiscard]] bool ready() const;
    /// Waits for ready(); looks only, on the mesh's loop. Not on a thread without which the
    /// executor is not run: there it only ends with `timeout`.
    /// @return false when `timeout` passed first, it was interrupted, or closed
    [[nodiscard]] bool wait_ready(std::chrono::milliseconds timeout) const;
    /// Has wait_ready() return false at once, now and later: before the destructor, where other
    /// threads may be waiting.
    void interrupt() noexcept;
    /// Whether interrupt() was called.
    [[nodiscard]] bool interrupted() const noexcept;
    /// Whether the caller is on the mesh's loop, as in a log callback.
    [[nodiscard]] bool on_own_thread() const noexcept;

    /// All services of the own cluster, with the backends of every cluster, by namespace and name.
    [[nodiscard]] std::vector<ServiceView> services() const;
    /// One service, or nullopt.
    [[nodiscard]] std::optional<ServiceView> service(std::string_view namespace_,
                                                     std::string_view name) const;

    /// The backends of a service, of all its frontends; each address and port once.
    /// @param service "namespace/name"
    /// @errors kInvalidArgument: no such form; kNotFound: no such service of the own cluster
    [[nodiscard]] Result<std::vector<BackendView>> backends(std::string_view service) const;
    /// The ip with the longest prefix that holds the address; between clusters that claim the same,
    /// the own one goes first, then the lowest id.
    /// @param address IPv4 or IPv6 text
    /// @errors kInvalidArgument: no address; kNotFound: no cluster has it
    [[nodiscard]] Result<IpView> lookup(std::string_view address) const;

    /// All of a kind, as they are at one moment, by cluster in the order of preference and by key.
    /// @complexity O(objects); half of it holds the mesh's handlers up
    [[nodiscard]] std::vector<NodeView> nodes() const;
    /// Likewise.
    [[nodiscard]] std::vector<IpView> ips() const;
    /// Likewise.
    [[nodiscard]] std::vector<IdentityView> identities() const;
    /// The own cluster first, then the remotes by name.
    [[nodiscard]] std::vector<ClusterView> clusters() const;
    /// All ips of all clusters in records of fixed size, in the order of address, length and
    /// cluster id; for a million of them.
    [[nodiscard]] std::vector<IpRecord> ip_records() const;
    /// Likewise into memory of the caller's.
    /// @param records room for them
    /// @param count how many there are
    /// @return whether `records` was large enough; else nothing is written
    [[nodiscard]] bool read_ip_records(std::span<IpRecord> records, std::size_t& count) const;
    /// Objects of some kinds at one moment, each as an upsert, without copies of their own.
    [[nodiscard]] EventBatch list(Objects objects) const;

    /// lookup() likewise, and one service by "namespace/name".
    /// @errors as lookup() and backends()
    [[nodiscard]] Result<EventBatch> list_ip(std::string_view address) const;
    /// Likewise.
    [[nodiscard]] Result<EventBatch> list_service(std::string_view service) const;

    /// Follows changes: a snapshot, then each change in order; before ready() the snapshot is what
    /// is known by then. May outlive the mesh.
    /// @errors kInvalidArgument: no or unknown kinds; kCapacity: no file descriptor is left
    [[nodiscard]] Result<Subscription> subscribe(SubscribeOptions options = {});
    /// Likewise, told to `callback` on a thread of the subscription's own.
    [[nodiscard]] Result<Subscription> subscribe(SubscribeOptions options, EventsCallback callback);

    /// Registers a workload that no Kubernetes object describes, such as the host that this runs
    /// on, in the own cluster; until the Publication or the mesh ends. Returns at once:
    /// Publication::wait() tells what came of it. The etcd user needs to write
    /// `mesh/local/workloads/v1/<name>` and to read that and
    /// `mesh/local/workload-status/v1/<name>`.
    /// @errors kInvalidArgument names the field
    [[nodiscard]] Result<Publication> publish(const WorkloadOptions& options);

    /// The status document that `meshctl status -o json` shows: own cluster, remotes with their
    /// state, freshness, counts and refusals, datapath. JSON text.
    [[nodiscard]] std::string status_json() const;
    /// The documents of services() and service() as JSON text.
    [[nodiscard]] std::string services_json() const;
    /// Likewise; nullopt: no such service.
    [[nodiscard]] std::optional<std::string> service_json(std::string_view namespace_,
                                                          std::string_view name) const;
    /// Whether a packet passes and by which rules of both its ends, where each is written, who the
    /// ends are, and by which cluster this is known. By the policies of the own cluster as this
    /// node enforces them, or as one would.
    /// @errors kInvalidArgument names what cannot be understood; kNotFound: no such pod or
    ///         identity; kUnavailable: the own cluster is not known yet; kCancelled: closed
    /// @complexity O(identities); of a node that enforces no policies, O(objects of all clusters)
    ///             if it was not asked for a minute: it keeps nothing compiled
    [[nodiscard]] Result<Explanation> explain(const PolicyTraceQuery& query) const;
    /// The same as the document of GET /v1/policy/trace. @errors, @complexity as explain()
    [[nodiscard]] Result<std::string> policy_trace_json(const PolicyTraceQuery& query) const;
    /// Which packets of this node's pods other policies would let pass or not, in groups of peers
    /// and ports; of a node that enforces no policies, of all pods of the own cluster. The document
    /// of GET /v1/policy/diff.
    /// @param documents policies as YAML or JSON text, in place of those of the same name
    /// @param prune policies that are not among them would go
    /// @errors kInvalidArgument: mistakes in the text, a line each; kUnavailable, kCancelled as
    ///         explain()
    [[nodiscard]] Result<std::string> policy_diff_json(std::string_view documents,
                                                       bool prune) const;
    /// Metrics in Prometheus' text format.
    [[nodiscard]] std::string metrics_text() const;

  private:
    struct Impl;
    explicit Mesh(std::shared_ptr<Impl> impl);
    std::shared_ptr<Impl> impl_;
};

/// @}

}  // namespace mesh
