#include "compile/ipcache/ipcache_compiler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <variant>

#include "compile/ipcache/claims.hpp"
#include "compile/ipcache/node_claims.hpp"
#include "compile/ipcache/prefix_set.hpp"
#include "model/usable.hpp"

namespace mesh::compile {
namespace {

using model::IdentityId;
using model::IpAddress;
using model::IpPrefix;

// Reserved identities (wire.md §15).
constexpr IdentityId kHost{1};
constexpr IdentityId kWorld{2};
constexpr IdentityId kHealth{4};
constexpr IdentityId kRemoteNode{6};
constexpr IdentityId kIngress{8};

/// A row of a node, a CIDR or this node's own as it was returned. Those of ips are not kept: the
/// tables have them.
struct Returned {
    IpcacheRow row;
    bool is_peer = false;   ///< its address is in the set of nodes
    bool is_local = false;  ///< of no cluster's claim
};

IdentityId identity_of(const NodeClaim& claim) {
    switch (claim.kind) {
        case NodeAddressKind::kHealth:
            return kHealth;
        case NodeAddressKind::kIngress:
            return kIngress;
        case NodeAddressKind::kInternal:
        case NodeAddressKind::kExternal:
        case NodeAddressKind::kCiliumInternal:
            break;
    }
    return claim.own_node ? kHost : kRemoteNode;
}

IpcacheClaim public_claim(const Claim& claim) {
    IpcacheClaim result{.cluster = *claim.cluster, .source = claim.source, .node = {}};
    if (claim.node != nullptr) result.node = claim.node->node;
    if (claim.route != nullptr) result.node = claim.route->node.name;
    return result;
}

std::string text_of(const IpcacheClaim& claim) {
    switch (claim.source) {
        case IpcacheSource::kNode:
            return fmt::format("the address of node {}/{}", claim.cluster.name, claim.node);
        case IpcacheSource::kIp:
            return fmt::format("the ip of {}", claim.cluster.name);
        case IpcacheSource::kCidr:
            return fmt::format("the pod CIDR of {}/{}", claim.cluster.name, claim.node);
    }
    return {};
}

const Claim* winner_of(const std::vector<Claim>& claims) {
    const auto at = std::ranges::find(claims, false, &Claim::suppressed);
    return at == claims.end() ? nullptr : &*at;
}

/// Whether the claim goes without a row against the will of its cluster.
bool is_loser(const Claim& claim, const Claim* winner) {
    return claim.suppressed || (winner != nullptr && claim.cluster != winner->cluster);
}

}  // namespace

struct IpcacheCompiler::State {
    State(const state::ClusterTables& its_tables, const RouteTable& routes, IpcacheOptions options)
        : tables(its_tables), claims(its_tables, routes, std::move(options)) {}

    const state::ClusterTables& tables;
    mutable Claims claims;  ///< Claims::of() keeps its result in it
    std::map<IpPrefix, Returned> returned;
    PrefixSet conflicts;
    std::array<std::map<IpPrefix, IdentityId>, 2> locals;  ///< by family
    /// To compile when no claim is left to, as their rows follow those of the mesh around them.
    PrefixSet dirty_locals;
    PrefixSet wide;  ///< prefixes other than single addresses whose row is of a claim

    [[nodiscard]] std::optional<IpAddress> tunnel(const std::optional<IpAddress>& to) const;
    [[nodiscard]] std::optional<IpcacheRow> ip_row(const Claim& claim,
                                                   const IpPrefix& prefix) const;
    [[nodiscard]] IpcacheRow node_row(const Claim& claim, const IpPrefix& prefix) const;
    [[nodiscard]] IpcacheRow cidr_row(const Claim& claim, const IpPrefix& prefix) const;
    void compile(const IpPrefix& prefix, IpcacheChanges& changes);
    void compile_local(const IpPrefix& prefix, IpcacheChanges& changes);
    [[nodiscard]] std::optional<IdentityId> find_local(const IpPrefix& prefix) const;
    [[nodiscard]] bool settle_ip(const Claim& winner, const IpPrefix& prefix,
                                 IpcacheChanges& changes);
    void settle_other(const Claim& winner, const IpPrefix& prefix, IpcacheChanges& changes);
    void settle_peer(const Returned* held, const Returned* now, IpcacheChanges& changes);
    [[nodiscard]] std::optional<IpcacheRow> row_of(const Claim& claim,
                                                   const IpPrefix& prefix) const;
    /// The mesh's row of the narrowest prefix around this one.
    [[nodiscard]] std::optional<IpcacheRow> row_around(const IpPrefix& prefix);
    /// The mesh's row of a prefix came, changed or went.
    void note_mesh_row(const IpPrefix& prefix, bool is_there);
    /// Takes back what was returned of the prefix. @return whether anything was
    bool take_back(const IpPrefix& prefix, const ClusterClaims* but, IpcacheChanges& changes);
};

std::optional<IpAddress> IpcacheCompiler::State::tunnel(const std::optional<IpAddress>& to) const {
    if (!to || claims.is_own_address(*to) || !is_usable(*to)) return std::nullopt;
    return to;
}

std::optional<IpcacheRow> IpcacheCompiler::State::ip_row(const Claim& claim,
                                                         const IpPrefix& prefix) const {
    const auto pair = tables.find_ip(claim.cluster->name, prefix);
    if (!pair) return std::nullopt;
    const bool here =
        claims.is_own(*claim.cluster) && pair->host_ip && claims.is_own_address(*pair->host_ip);
    return IpcacheRow{.prefix = prefix,
                      .identity = pair->id == kHost && !here ? kRemoteNode : pair->id,
                      .cluster = claim.cluster->id,
                      .tunnel = tunnel(pair->host_ip),
                      .encryption_key = pair->key};
}

IpcacheRow IpcacheCompiler::State::node_row(const Claim& claim, const IpPrefix& prefix) const {
    return {.prefix = prefix,
            .identity = identity_of(*claim.node),
            .cluster = claim.cluster->id,
            .tunnel = tunnel(claim.node->tunnel),
            .encryption_key = claim.node->encryption_key,
            .is_node = claim.node->is_node()};
}

IpcacheRow IpcacheCompiler::State::cidr_row(const Claim& claim, const IpPrefix& prefix) const {
    const auto node = tables.find_node(claim.cluster->name, claim.route->node.name);
    return {.prefix = prefix,
            .identity = kWorld,
            .cluster = claim.cluster->id,
            .tunnel = tunnel(claim.route->gateway),
            .encryption_key = node ? node->encryption_key : std::uint8_t{0},
            .is_node = false,
            .is_cidr = true};
}

std::optional<IpcacheRow> IpcacheCompiler::State::row_of(const Claim& claim,
                                                         const IpPrefix& prefix) const {
    switch (claim.source) {
        case IpcacheSource::kIp:
            return ip_row(claim, prefix);
        case IpcacheSource::kNode:
            return node_row(claim, prefix);
        case IpcacheSource::kCidr:
            return cidr_row(claim, prefix);
    }
    return std::nullopt;
}

std::optional<IpcacheRow> IpcacheCompiler::State::row_around(const IpPrefix& prefix) {
    std::optional<IpPrefix> narrowest;
    wide.for_each_around(prefix.address(), [&](const IpPrefix& around) {
        if (around.length() < prefix.length()) narrowest = around;
    });
    if (!narrowest) return std::nullopt;
    const Claim* winner = winner_of(claims.of(*narrowest));
    return winner != nullptr ? row_of(*winner, *narrowest) : std::nullopt;
}

void IpcacheCompiler::State::note_mesh_row(const IpPrefix& prefix, bool is_there) {
    if (prefix.is_host()) return;
    if (is_there) {
        wide.insert(prefix);
    } else {
        wide.erase(prefix);
    }
    const auto& its = locals[prefix.is_v4() ? 0 : 1];
    for (auto at = its.upper_bound(prefix); at != its.end() && prefix.contains(at->first); ++at) {
        dirty_locals.insert(at->first);
    }
}

bool IpcacheCompiler::State::take_back(const IpPrefix& prefix, const ClusterClaims* but,
                                       IpcacheChanges& changes) {
    bool any = false;
    if (ClusterClaims* holder = claims.holder(prefix); holder != nullptr && holder != but) {
        holder->returned.erase(prefix);
        any = true;
    }
    if (const auto held = returned.find(prefix); held != returned.end()) {
        settle_peer(&held->second, nullptr, changes);
        returned.erase(held);
        any = true;
    }
    return any;
}

void IpcacheCompiler::State::settle_peer(const Returned* held, const Returned* now,
                                         IpcacheChanges& changes) {
    const bool was = held != nullptr && held->is_peer;
    const bool is = now != nullptr && now->is_peer;
    if (is && (!was || held->row.cluster != now->row.cluster)) {
        changes.nodes_upserts.push_back({now->row.prefix.address(), now->row.cluster});
    } else if (was && !is) {
        changes.nodes_removed.push_back(held->row.prefix.address());
    }
}

bool IpcacheCompiler::State::settle_ip(const Claim& winner, const IpPrefix& prefix,
                                       IpcacheChanges& changes) {
    ClusterClaims& of = *winner.of;
    if (of.returned.contains(prefix) && !of.changed.contains(prefix)) return true;
    auto row = ip_row(winner, prefix);
    if (!row) return false;
    take_back(prefix, &of, changes);
    of.returned.insert(prefix);
    changes.upserts.push_back(std::move(*row));
    note_mesh_row(prefix, true);
    return true;
}

void IpcacheCompiler::State::settle_other(const Claim& winner, const IpPrefix& prefix,
                                          IpcacheChanges& changes) {
    const bool is_node = winner.source == IpcacheSource::kNode;
    Returned now{.row = is_node ? node_row(winner, prefix) : cidr_row(winner, prefix),
                 .is_peer = is_node && winner.node->is_underlay(),
                 .is_local = false};
    if (ClusterClaims* holder = claims.holder(prefix)) holder->returned.erase(prefix);
    const auto held = returned.find(prefix);
    const Returned* before = held == returned.end() ? nullptr : &held->second;
    settle_peer(before, &now, changes);
    if (before == nullptr || before->row != now.row) {
        changes.upserts.push_back(now.row);
        note_mesh_row(prefix, true);
    }
    returned.insert_or_assign(prefix, std::move(now));
}

std::optional<IdentityId> IpcacheCompiler::State::find_local(const IpPrefix& prefix) const {
    const auto& its = locals[prefix.is_v4() ? 0 : 1];
    const auto at = its.find(prefix);
    if (at == its.end()) return std::nullopt;
    return at->second;
}

void IpcacheCompiler::State::compile_local(const IpPrefix& prefix, IpcacheChanges& changes) {
    const Claim* winner = winner_of(claims.of(prefix));
    if (winner != nullptr && row_of(*winner, prefix)) return;
    const auto local = find_local(prefix);
    if (!local) {
        if (take_back(prefix, nullptr, changes)) changes.removed.push_back(prefix);
        return;
    }
    Returned now{.row = {.prefix = prefix}, .is_peer = false, .is_local = true};
    if (auto around = row_around(prefix)) now.row = std::move(*around);
    now.row.prefix = prefix;
    now.row.identity = *local;
    const auto held = returned.find(prefix);
    if (held != returned.end() && held->second.is_local && held->second.row == now.row) return;
    (void)take_back(prefix, nullptr, changes);
    changes.upserts.push_back(now.row);
    returned.emplace(prefix, std::move(now));
}

void IpcacheCompiler::State::compile(const IpPrefix& prefix, IpcacheChanges& changes) {
    const std::vector<Claim>& found = claims.of(prefix);
    const Claim* winner = winner_of(found);
    if (std::ranges::any_of(found, [&](const Claim& c) { return is_loser(c, winner); })) {
        conflicts.insert(prefix);
    } else {
        conflicts.erase(prefix);
    }
    bool settled = false;
    if (winner != nullptr && winner->source == IpcacheSource::kIp) {
        settled = settle_ip(*winner, prefix, changes);
    } else if (winner != nullptr) {
        settle_other(*winner, prefix, changes);
        settled = true;
    }
    if (settled != wide.contains(prefix)) note_mesh_row(prefix, settled);
    if (!settled && find_local(prefix)) {
        // What was returned stays until then, and with it what is known to differ from it.
        dirty_locals.insert(prefix);
        return;
    }
    if (!settled && take_back(prefix, nullptr, changes)) changes.removed.push_back(prefix);
    for (const Claim& claim : found) {
        if (claim.source == IpcacheSource::kIp) claim.of->changed.erase(prefix);
    }
}

IpcacheCompiler::IpcacheCompiler(const state::ClusterTables& tables, const RouteTable& routes,
                                 IpcacheOptions options)
    : state_(std::make_unique<State>(tables, routes, std::move(options))) {
    // Nodes first: the addresses of this node decide what the rows of ips look like.
    for (const state::ClusterKey& cluster : tables.clusters()) {
        tables.for_each_node(cluster.name, [&](const model::Node& node) {
            note({cluster, state::Changed<model::Node>{nullptr, &node}});
        });
    }
    for (const state::ClusterKey& cluster : tables.clusters()) {
        tables.for_each_ip(cluster.name, [&](const model::IpIdentityPair& pair) {
            note({cluster, state::Changed<model::IpIdentityPair>{nullptr, &pair}});
        });
    }
}
IpcacheCompiler::~IpcacheCompiler() = default;
IpcacheCompiler::IpcacheCompiler(IpcacheCompiler&&) noexcept = default;
IpcacheCompiler& IpcacheCompiler::operator=(IpcacheCompiler&&) noexcept = default;

void IpcacheCompiler::note(const state::Effect& effect) {
    if (const auto* node = std::get_if<state::Changed<model::Node>>(&effect.change)) {
        state_->claims.note(effect.cluster, *node);
    } else if (const auto* ip =
                   std::get_if<state::Changed<model::IpIdentityPair>>(&effect.change)) {
        state_->claims.note(effect.cluster, *ip);
    }
}

void IpcacheCompiler::note_local(const IpPrefix& prefix, std::optional<IdentityId> identity) {
    auto& its = state_->locals[prefix.is_v4() ? 0 : 1];
    if (identity) {
        its.insert_or_assign(prefix, *identity);
    } else if (its.erase(prefix) == 0) {
        return;
    }
    state_->dirty_locals.insert(prefix);
}

void IpcacheCompiler::note_routes(const RouteChanges& changes) {
    state_->claims.note(changes);
}

IpcacheChanges IpcacheCompiler::flush(std::size_t most) {
    IpcacheChanges changes;
    PrefixSet& dirty = state_->claims.dirty();
    for (; most > 0; --most) {
        const auto prefix = dirty.pop_first();
        if (!prefix) break;
        state_->compile(*prefix, changes);
    }
    for (; most > 0; --most) {
        const auto prefix = state_->dirty_locals.pop_first();
        if (!prefix) break;
        state_->compile_local(*prefix, changes);
    }
    if (dirty.empty()) state_->claims.forget_empty();
    std::ranges::sort(changes.upserts, {}, &IpcacheRow::prefix);
    std::ranges::sort(changes.removed);
    std::ranges::sort(changes.nodes_upserts, {}, &TunnelPeer::address);
    std::ranges::sort(changes.nodes_removed);
    return changes;
}

bool IpcacheCompiler::pending() const noexcept {
    return !state_->claims.dirty().empty() || !state_->dirty_locals.empty();
}

std::vector<IpcacheConflict> IpcacheCompiler::conflicts(std::size_t most) const {
    std::vector<IpcacheConflict> result;
    if (most == 0) return result;
    state_->conflicts.for_each_while([&](const IpPrefix& prefix) {
        const std::vector<Claim>& found = state_->claims.of(prefix);
        const Claim* winner = winner_of(found);
        IpcacheConflict conflict{.prefix = prefix, .winner = {}, .losers = {}, .text = {}};
        std::string separator = prefix.to_string() + ": ";
        if (winner != nullptr) {
            conflict.winner = public_claim(*winner);
            conflict.text += separator + text_of(*conflict.winner) + " has the row";
            separator = "; ";
        }
        for (const Claim& claim : found) {
            if (!is_loser(claim, winner)) continue;
            conflict.losers.push_back(public_claim(claim));
            conflict.text +=
                fmt::format("{}{} gets none, as {}", separator, text_of(conflict.losers.back()),
                            claim.suppressed ? state_->claims.reason(claim, prefix)
                                             : winner->cluster->name + " goes first");
            separator = "; ";
        }
        if (!conflict.losers.empty()) result.push_back(std::move(conflict));
        return result.size() < most;
    });
    return result;
}

std::size_t IpcacheCompiler::conflict_count() const noexcept {
    return state_->conflicts.size();
}

std::size_t IpcacheCompiler::bytes() const noexcept {
    constexpr std::size_t kNode = 4 * sizeof(void*) + 16;  // of a tree, with malloc's
    const std::size_t locals = state_->locals[0].size() + state_->locals[1].size();
    return state_->claims.bytes() + state_->conflicts.bytes() + state_->wide.bytes() +
           state_->dirty_locals.bytes() + locals * (kNode + sizeof(IpPrefix) + sizeof(IdentityId)) +
           state_->returned.size() * (kNode + sizeof(IpPrefix) + sizeof(Returned));
}

}  // namespace mesh::compile
