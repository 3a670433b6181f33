// Nodes of several clusters on one underlay, each a network namespace with the pod datapath in it,
// and pods behind them. What the engine does in an agent is done by hand here.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "datapath/bpf/bpf_datapath.hpp"
#include "datapath/bpf/bpf_pods.hpp"
#include "test_node.hpp"

namespace mesh::test {

/// A pod: a namespace and the node's end of its link.
struct FabricPod {
    Netns netns;
    std::string ip4, ip6;
    std::uint32_t identity = 0;
    datapath::EndpointId id = 0;  ///< pod k of a node is k + 1
    std::vector<datapath::Endpoint> endpoints;
};

/// Node n of cluster n: 10.250.0.n and fd25::n on the underlay, pods 10.<10n>.1.0/24 and
/// fd10:<n>::/64, of which the first address is the node's own.
class FabricNode {
  public:
    explicit FabricNode(int n) : number_(n) {}
    [[nodiscard]] int number() const { return number_; }
    [[nodiscard]] std::string ip4() const { return "10.250.0." + std::to_string(number_); }
    [[nodiscard]] std::string ip6() const { return "fd25::" + std::to_string(number_); }
    [[nodiscard]] std::string cidr4() const {
        return "10." + std::to_string(10 * number_) + ".1.0/24";
    }
    [[nodiscard]] std::string cidr6() const { return "fd10:" + std::to_string(number_) + "::/64"; }
    /// The k-th address of the pod CIDR; 1 is the node's own.
    [[nodiscard]] std::string pod4(int k) const {
        return "10." + std::to_string(10 * number_) + ".1." + std::to_string(k);
    }
    [[nodiscard]] std::string pod6(int k) const {
        return "fd10:" + std::to_string(number_) + "::" + std::to_string(k);
    }
    [[nodiscard]] datapath::BpfPodsOptions options() const;
    /// Of its services, in a cgroup without processes: none of them is translated at its socket.
    [[nodiscard]] datapath::BpfOptions service_options() const;
    [[nodiscard]] datapath::BpfDatapath& services() { return *services_; }
    /// Options of a node with services, before open().
    void enable_services(const datapath::FlowTimeouts& timeouts, std::uint32_t max_flows);
    datapath::ApplyStats upsert(std::vector<datapath::ServiceRow> rows);
    [[nodiscard]] datapath::BpfPods& pods() { return *pods_; }
    /// Ends the writer, as if the agent died; open() adopts.
    void close() {
        pods_.reset();
        services_.reset();
    }
    void teardown();
    void open();
    /// Takes the events since the last call.
    [[nodiscard]] std::vector<datapath::PodEvent> events();
    [[nodiscard]] std::uint64_t dropped(datapath::DropReason reason) const;

    Netns netns;
    std::vector<std::unique_ptr<FabricPod>> all;

  private:
    int number_;
    bool with_services_ = false;
    datapath::FlowTimeouts timeouts_;
    std::uint32_t max_flows_ = 0;
    std::unique_ptr<datapath::BpfDatapath> services_;
    std::unique_ptr<datapath::BpfPods> pods_;
};

struct FabricOptions {
    bool tunnel = false;      ///< VXLAN, else native routes on the underlay
    bool masquerade = false;  ///< what leaves the mesh
    bool services = false;    ///< at tc
    datapath::FlowTimeouts timeouts;
    std::uint32_t max_flows = 4096;
};

/// Two nodes, one each of clusters 1 and 2, with two pods each.
class Fabric {
  public:
    explicit Fabric(bool tunnel, bool masquerade = false)
        : Fabric(FabricOptions{tunnel, masquerade, false, {}, 4096}) {}
    explicit Fabric(const FabricOptions& options);
    ~Fabric();
    [[nodiscard]] FabricNode& node(int n) { return *nodes_[static_cast<std::size_t>(n - 1)]; }
    /// Pod k (0, 1) of node n.
    [[nodiscard]] FabricPod& pod(int n, int k) { return *node(n).all[static_cast<std::size_t>(k)]; }
    /// All that a node's agent would know of the mesh.
    [[nodiscard]] datapath::PodsChanges everything() const;
    Netns hub;
    /// A host on the underlay that is no node: 10.250.0.100 and fd25::100. Knows the nodes only.
    Netns world;

  private:
    void add_node(int n);
    void add_pod(FabricNode& node, int k);
    void connect_nodes();
    void add_world();
    bool tunnel_;
    bool masquerade_;
    FabricOptions options_;
    std::vector<std::unique_ptr<FabricNode>> nodes_;
};

}  // namespace mesh::test
