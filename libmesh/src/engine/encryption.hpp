// Encryption between this node and the others: the WireGuard device with its peers, the routes that
// lead there, and what the programs know of it (bpf/encryption.h). Peers follow the nodes of all
// clusters; a change costs what that node has.
//
// With tunnel routing the overlay's packets are encrypted as they are, so that the identity in
// their header arrives; with native routing the pods' own packets are, and packets of nodes to
// pods. Packets between nodes, and of pods to nodes' own addresses, are not.
//
// Nothing is torn down when the agent ends: a running wireguard-go, its peers and the routes are
// adopted, and what nobody confirms goes with finish_adoption(). A device that ends is made again.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/object.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <mesh/mesh.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "compile/encryption/peer_compiler.hpp"
#include "datapath/netlink/rtnetlink.hpp"
#include "datapath/pods.hpp"
#include "datapath/wireguard/peer_table.hpp"
#include "engine/encryption_routes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

/// Bytes that WireGuard adds to a packet, over an IPv6 underlay.
inline constexpr std::uint32_t kWireguardOverhead = 80;

/// What of a node's options and state encryption needs.
struct EncryptionContext {
    EncryptionOptions options;
    bool tunnel = false;
    std::uint16_t tunnel_port = 0;  ///< UDP, of the overlay (tunnel)
    state::ClusterKey own;
    std::string node;
};

[[nodiscard]] EncryptionContext encryption_context(const MeshOptions& options,
                                                   const state::ClusterKey& own);

/// @thread the executor's thread
class Encryption {
  public:
    /// Checks kind and the other options by themselves.
    /// @errors kInvalidArgument
    [[nodiscard]] static Result<void> check(const DatapathOptions& options);
    /// Loads or makes the key and looks for what can encrypt: what make() may fail of.
    [[nodiscard]] static Result<void> prepare(const EncryptionContext& context);
    /// Loads or makes the key. Changes nothing in the kernel yet.
    /// @param pods outlives this object
    /// @param on_due called when flush() has something to do of itself
    /// @errors as load_or_make_private_key() and make_wireguard_device()
    [[nodiscard]] static Result<std::unique_ptr<Encryption>> make(
        const boost::asio::any_io_executor& executor, EncryptionContext context,
        datapath::PodDatapath& pods, Logger log, std::function<void()> on_due);
    /// Takes back what an earlier run with encryption left. The device goes too if it has the name
    /// that options give.
    [[nodiscard]] static Result<void> disable(const EncryptionContext& context,
                                              datapath::PodDatapath& pods);

    void stop();

    void note(const state::Effect& effect) { compiler_.note(effect); }
    /// Brings device, peers and routes to what the tables say. Call it before the ipcache is
    /// written: a new node's packets are to be encrypted from the first.
    /// @errors the first failure; the next call does all of it again
    [[nodiscard]] Result<void> flush(const state::ClusterTables& tables);
    /// Everybody had their say: the next flush() removes what is left of an earlier run.
    void finish_adoption();

    /// Reads the key file again and, if the key is another, gives it to the device. Who publishes
    /// the node is to publish the new public key at once.
    /// @errors as load_private_key(), and of the device; the old key stays
    [[nodiscard]] Result<void> reload_key();

    /// For status and metrics; without asking the device.
    [[nodiscard]] bool up() const noexcept { return up_; }
    [[nodiscard]] std::size_t peer_count() const noexcept { return peers_.size(); }
    [[nodiscard]] std::vector<compile::EncryptionNode> without_key() const {
        return compiler_.without_key();
    }
    [[nodiscard]] std::uint64_t device_starts() const noexcept { return device_starts_; }
    /// "" once the node's record has this node's key.
    [[nodiscard]] std::string unpublished() const;
    /// The document of GET /v1/status, member "encryption".
    [[nodiscard]] boost::json::object summary() const;
    /// GET /v1/encryption: with each peer as the device tells it.
    [[nodiscard]] boost::json::object document();

  private:
    using PublicKey = model::WireguardPublicKey;
    Encryption(const boost::asio::any_io_executor& executor, EncryptionContext context,
               datapath::WireguardPrivateKey key, PublicKey public_key, datapath::Netns netns,
               datapath::Rtnetlink netlink, datapath::PodDatapath& pods, Logger log,
               std::function<void()> on_due);
    void take(compile::EncryptionChanges changes);
    void forget(const PublicKey& key);
    void note_published(std::string key);
    [[nodiscard]] bool find_self(const state::ClusterTables& tables);
    [[nodiscard]] bool is_routed(const model::IpPrefix& prefix) const;
    [[nodiscard]] Result<void> make_table();
    [[nodiscard]] Result<void> bring_up();
    [[nodiscard]] Result<void> tell_programs();
    [[nodiscard]] Result<void> apply_changes();
    [[nodiscard]] Result<void> mark(const model::IpPrefix& prefix, bool encrypted);
    [[nodiscard]] Result<void> write_public_key() const;
    void watch_end();
    void watch_link();
    void check_link();
    [[nodiscard]] std::set<model::IpPrefix> routed() const;
    void lost(std::string_view why);

    EncryptionContext context_;
    datapath::WireguardPrivateKey key_;
    PublicKey public_key_;
    datapath::Netns netns_;
    datapath::Rtnetlink netlink_;
    datapath::PodDatapath& pods_;
    Logger log_;
    std::function<void()> on_due_;
    compile::EncryptionCompiler compiler_;
    std::map<PublicKey, compile::EncryptionPeer> peers_;
    std::set<model::IpPrefix> wanted_;   ///< of all peers
    std::set<model::IpPrefix> touched_;  ///< since the last apply
    std::vector<datapath::WireguardChange> pending_;
    std::optional<datapath::WireguardTable> table_;
    std::optional<EncryptionRoutes> routes_;
    std::optional<model::IpAddress> node4_, node6_;
    std::string published_;
    std::string error_;
    std::uint32_t ifindex_ = 0;
    std::uint64_t device_starts_ = 0;
    bool told_unpublished_ = false;
    bool adopting_ = true;
    bool up_ = false;
    bool stopped_ = false;
    boost::asio::posix::stream_descriptor ended_;  ///< of the process behind the device
    boost::asio::steady_timer check_;
};

}  // namespace mesh::engine
