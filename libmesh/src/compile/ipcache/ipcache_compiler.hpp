// Turns what all clusters announce into the rows of this node's ipcache: prefix → security
// identity, tunnel endpoint, encryption key (spec wire.md §4, §6, §15; protocol.md §6). The
// datapath finds the row of an address by its longest prefix. Incremental: effects on the tables
// and changes of routes mark prefixes; flush() compiles them and returns the rows that differ from
// what was returned before. Its result is always that of a compiler that sees the same tables for
// the first time.
//
// A prefix gets the row of one claim:
// - a node's address: identity 6 (1 for this node's own), 4 for its health endpoint, 8 for its
//   ingress. Those inside the pod network (CiliumInternalIP, health, ingress) lead to the node's
//   address; the others need no tunnel;
// - an ip/identity pair: its identity, and its host_ip as tunnel endpoint. Identity 1 (host) is
//   only true of this node, and is 6 elsewhere;
// - a pod CIDR that has a route: identity 2 (world), and the gateway as tunnel endpoint. Which
//   CIDRs have one is settled by RouteTable;
// - last of all, and in conflict with nobody: an identity that only this node knows, of a block
//   that policies name or of a DNS name's address (compile/identities). It says who that is, not
//   how to get there: cluster, tunnel and key are those of the mesh's row around it, if there is
//   one; else it has cluster 0 and no tunnel, which forwarding takes for no row at all.
// An address of this node, or one that nobody can have (loopback, link-local, multicast, ...), is
// never a tunnel endpoint; an address that nobody can have, or a prefix that overlaps such, is no
// claim at all.
//
// Equal prefixes: the own cluster's claim first, then that of the lowest cluster id, then by the
// cluster's name; within a cluster a node's address, then a pair, then a CIDR. A node's address or
// a pair gets no row if it
// - lies within (or equals) a pod CIDR announced by a cluster that goes first, or
// - holds an InternalIP or ExternalIP of a node of a cluster that goes first,
// as the more specific row would take that cluster's traffic. Both look at what is announced now,
// not at who came first or has the row, so that nothing flaps. Claims of one cluster upon another's
// prefix are conflicts; those within one cluster are that cluster's own matter.
//
// Used by engine after each batch, and by whoever shows status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compile/routes/route_table.hpp"
#include "model/ip.hpp"
#include "model/types.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile {

/// What the datapath knows of the addresses of a prefix.
struct IpcacheRow {
    model::IpPrefix prefix;
    model::IdentityId identity{};
    model::ClusterId cluster{};  ///< whose claim it is; 0: nobody's of the mesh
    /// The node to encapsulate to; nullopt for what is on this node and for nodes' own addresses.
    std::optional<model::IpAddress> tunnel;
    std::uint8_t encryption_key = 0;  ///< index, 0 = none
    bool is_node = false;             ///< a node itself, not a pod of it
    bool is_cidr = false;             ///< a pod CIDR: covers pods whose own rows are not here (yet)
    friend bool operator==(const IpcacheRow&, const IpcacheRow&) = default;
};

/// A node that may send to the tunnel device.
struct TunnelPeer {
    model::IpAddress address;
    model::ClusterId cluster{};
    friend bool operator==(const TunnelPeer&, const TunnelPeer&) = default;
};

/// The difference to what was returned before; each in order. A row that changed and changed back
/// between two flushes may be told again.
struct IpcacheChanges {
    std::vector<IpcacheRow> upserts;
    std::vector<model::IpPrefix> removed;
    std::vector<TunnelPeer> nodes_upserts;
    std::vector<model::IpAddress> nodes_removed;
    [[nodiscard]] bool empty() const noexcept {
        return upserts.empty() && removed.empty() && nodes_upserts.empty() && nodes_removed.empty();
    }
};

/// What announces a prefix.
enum class IpcacheSource : std::uint8_t { kNode, kIp, kCidr };

struct IpcacheClaim {
    state::ClusterKey cluster;
    IpcacheSource source = IpcacheSource::kIp;
    std::string node;  ///< of kNode and kCidr
    friend bool operator==(const IpcacheClaim&, const IpcacheClaim&) = default;
};

/// A prefix that several clusters claim, or that one claims in vain.
struct IpcacheConflict {
    model::IpPrefix prefix;
    std::optional<IpcacheClaim> winner;  ///< has the row; nullopt: nobody
    std::vector<IpcacheClaim> losers;    ///< in the order of preference
    std::string text;                    ///< one sentence that names all of them, and why
    friend bool operator==(const IpcacheConflict&, const IpcacheConflict&) = default;
};

struct IpcacheOptions {
    std::string own_cluster;
    std::string own_node;
};

/// The compiler. Keeps references to the tables and routes, which must outlive it, and of each ip
/// two bits: that it is announced, and that it has the row.
/// @thread same object not concurrently, and not while tables or routes change
class IpcacheCompiler {
  public:
    /// Marks all that the tables hold.
    /// @param routes sees the same effects; no flush() of it may have been missed
    IpcacheCompiler(const state::ClusterTables& tables, const RouteTable& routes,
                    IpcacheOptions options);
    ~IpcacheCompiler();
    IpcacheCompiler(IpcacheCompiler&&) noexcept;
    IpcacheCompiler& operator=(IpcacheCompiler&&) noexcept;

    /// Takes a change of a node or an ip. Give it every effect of the tables; other kinds are
    /// ignored.
    /// @complexity O(log n); of a node of the own cluster, what other clusters announce within its
    ///             CIDRs when they come or go; of this node, all ips when its addresses change
    void note(const state::Effect& effect);
    /// Takes what RouteTable::flush() returned. To be called after the effects of a batch were
    /// noted by both, and before flush().
    /// @complexity what clusters that go later announce within the prefixes that came or went
    void note_routes(const RouteChanges& changes);

    /// Gives a prefix the identity that this node has for it, or (nullopt) takes it back.
    /// @complexity O(log n)
    void note_local(const model::IpPrefix& prefix, std::optional<model::IdentityId> identity);

    /// Compiles marked prefixes.
    /// @param most prefixes to compile in this call, so that the rows of a first sync need not all
    ///        be in memory at once; call again while pending()
    /// @complexity O(clusters × log n) for each prefix marked; when the mesh's row of a wider
    /// prefix
    ///             changes, that for each local identity within it
    [[nodiscard]] IpcacheChanges flush(std::size_t most = std::numeric_limits<std::size_t>::max());
    /// Whether there is something to flush.
    [[nodiscard]] bool pending() const noexcept;

    /// Conflicts as of the last flush, at most so many: IPv4 before IPv6, single addresses before
    /// wider prefixes, then in order.
    [[nodiscard]] std::vector<IpcacheConflict> conflicts(std::size_t most) const;
    /// How many prefixes are in conflict, all of them.
    [[nodiscard]] std::size_t conflict_count() const noexcept;

    /// Bytes kept.
    [[nodiscard]] std::size_t bytes() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mesh::compile
