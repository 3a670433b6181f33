// Pod forwarding in the kernel: loads the programs of bpf/pods.bpf.c, pins their maps, puts them on
// devices at tc (clsact), writes the maps in batches. One per node, in the node's network
// namespace; programs and maps go on when the process has gone, and a successor adopts them. No
// libbpf type shows here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <string>

#include "base/log.hpp"
#include "datapath/pods.hpp"

namespace mesh::datapath {

class PinDirectory;

struct BpfPodsOptions {
    /// A BPF filesystem; mounted there if it is none yet.
    std::string bpffs = "/sys/fs/bpf";
    /// Directory of this node's pins, relative to bpffs; another than that of BpfOptions.
    std::string pin_directory = "mesh_pods";
    /// Bounds of the tables. Pinned maps of other sizes are migrated to these, unless they hold
    /// more (a warning tells).
    std::uint32_t max_ipcache = 1'048'576;
    std::uint32_t max_nodes = 65536;
    std::uint32_t max_endpoints = 8192;
    std::uint32_t max_nat = 131072;  ///< two for each flow that leaves the mesh; oldest go first
    /// The pin directory of this node's BpfDatapath, whose services are served at tc, too; it must
    /// be open. Empty: none are.
    std::string services_pin_directory;
    std::uint32_t max_policy_rows = 16384;  ///< of each endpoint
    std::uint32_t max_policy_flows =
        131072;                        ///< that policies let pass; the unused longest go first
    std::uint32_t max_flows = 131072;  ///< of services at tc; the flows unused longest go first
    FlowTimeouts flow_timeouts;
};

/// What a program saw of a packet.
struct PodEvent {
    enum class Kind : std::uint8_t { kDrop = 1, kTrace = 2, kPolicy = 3 };
    enum class Point : std::uint8_t {
        kFromPod = 1,
        kFromOverlay = 2,
        kToOverlay = 3,
        kFromDevice = 4,
        kToDevice = 5,
        kToPod = 6,
    };
    enum class To : std::uint8_t { kPod = 1, kOverlay = 2, kStack = 3, kDevice = 4 };
    enum class Verdict : std::uint8_t {
        kAllowed = 1,
        kDenied = 2,      ///< for the reason given; counted as a drop
        kRedirected = 3,  ///< to a proxy
        kAudited = 4,     ///< it would have been denied, and passed
    };

    Kind kind = Kind::kTrace;
    Point point = Point::kFromPod;
    DropReason reason{};        ///< of a drop, and of a policy that denied
    To to{};                    ///< of a trace: where the packet went
    Verdict verdict{};          ///< of a policy
    EndpointId endpoint = 0;    ///< whose policy
    bool egress = false;        ///< the endpoint sent the packet
    std::uint32_t cookie = 0;   ///< of the row that decided; 0 = none did
    std::uint64_t time_ns = 0;  ///< CLOCK_MONOTONIC
    model::IpAddress source, destination;
    std::uint16_t source_port = 0, destination_port = 0;  ///< host order; of ICMP: type and code
    std::uint8_t protocol = 0;                            ///< IPPROTO_*
    std::uint32_t source_identity = 0, destination_identity = 0;
    std::uint32_t ifindex = 0;
    std::uint32_t length = 0;  ///< bytes, with the Ethernet header
};
[[nodiscard]] std::string_view to_string(PodEvent::Point point) noexcept;
[[nodiscard]] std::string_view to_string(PodEvent::To to) noexcept;
[[nodiscard]] std::string_view to_string(PodEvent::Verdict verdict) noexcept;

class BpfPods final : public PodDatapath {
  public:
    /// Loads the programs on the pinned maps, or makes these. Pinned maps of an older layout or
    /// another size are migrated (README.md). Programs that an earlier process attached to devices
    /// of this network namespace are replaced, each atomically; to others nothing is attached yet.
    /// What a failed call made is removed again.
    /// @errors kPermission, kConflict (another process, or a layout that this build does not know),
    ///         kUnavailable
    [[nodiscard]] static Result<std::unique_ptr<BpfPods>> open(const BpfPodsOptions& options,
                                                               Logger logger = {});
    /// Removes the pins. The programs stay on the devices that have them until those go.
    /// @errors kConflict: a process still writes to these pins; kInternal
    [[nodiscard]] static Result<void> teardown(const BpfPodsOptions& options);

    ~BpfPods() override;

    /// True if there were no tables to adopt: an owner that gives up at once may teardown().
    [[nodiscard]] bool made_tables() const;

    [[nodiscard]] Result<void> configure(const PodsSettings& settings) override;
    [[nodiscard]] PodsSettings settings() const override;
    [[nodiscard]] Result<PodsStats> apply(const PodsChanges& changes) override;
    [[nodiscard]] Result<void> upsert_endpoint(const Endpoint& endpoint) override;
    [[nodiscard]] Result<void> remove_endpoint(const model::IpAddress& address) override;
    [[nodiscard]] std::vector<Endpoint> endpoints() const override;
    [[nodiscard]] Result<void> set_non_masquerade(
        const std::vector<model::IpPrefix>& cidrs) override;
    [[nodiscard]] Result<void> configure_encryption(const PodsEncryption& encryption) override;
    [[nodiscard]] Result<void> set_encrypted(const model::IpAddress& node, bool encrypted) override;
    [[nodiscard]] std::vector<model::IpAddress> encrypted() const override;
    [[nodiscard]] Result<void> attach(std::uint32_t ifindex, DeviceRole role) override;
    [[nodiscard]] Result<PodsStats> finish_adopt_cluster(std::uint32_t cluster_id) override;
    [[nodiscard]] Result<PodsStats> finish_adopt() override;
    [[nodiscard]] std::optional<IpcacheEntry> find(const model::IpPrefix& prefix) const override;
    [[nodiscard]] std::optional<IpcacheEntry> lookup(
        const model::IpAddress& address) const override;
    [[nodiscard]] std::vector<IpcacheEntry> adopted_local() const override;
    [[nodiscard]] PodsOccupancy occupancy() const override;
    [[nodiscard]] Result<void> collect_flows(std::size_t most, TimePoint now) override;
    [[nodiscard]] FlowStats flows() const override;
    [[nodiscard]] std::map<DropReason, DropCount> drops() const override;
    [[nodiscard]] PolicyDatapath& policy() override;

    /// Becomes readable when there are events. Owned by this object.
    [[nodiscard]] int event_fd() const noexcept;
    /// Takes what there is, at most `limit` events; `on` must not throw.
    /// @return how many
    std::size_t read_events(std::size_t limit, const std::function<void(const PodEvent&)>& on);

  private:
    struct State;
    [[nodiscard]] static Result<std::unique_ptr<BpfPods>> open_on(PinDirectory pins,
                                                                  const BpfPodsOptions& options,
                                                                  const Logger& logger);
    explicit BpfPods(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace mesh::datapath
