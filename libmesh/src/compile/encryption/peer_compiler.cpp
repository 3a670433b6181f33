#include "compile/encryption/peer_compiler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <variant>

#include "model/usable.hpp"

namespace mesh::compile {
namespace {

using model::IpAddress;
using model::IpPrefix;
using model::WireguardPublicKey;

/// A node with what it claims.
struct Claimant {
    EncryptionNode key;
    bool own_cluster = false;
    bool own_node = false;
    std::optional<WireguardPublicKey> public_key;
    std::optional<IpAddress> endpoint;
    std::vector<IpPrefix> prefixes;     ///< in order, each once
    std::vector<std::string> unusable;  ///< sentences

    [[nodiscard]] auto cluster_rank() const {
        return std::tuple(!own_cluster, key.cluster.id, std::string_view(key.cluster.name));
    }
    [[nodiscard]] auto rank() const {
        return std::tuple_cat(std::tuple(!own_node), cluster_rank(),
                              std::tuple(std::string_view(key.name)));
    }
    [[nodiscard]] std::string text() const { return key.cluster.name + "/" + key.name; }
};

/// The order of preference.
struct ByRank {
    bool operator()(const Claimant* a, const Claimant* b) const { return a->rank() < b->rank(); }
};
using Claimants = std::set<const Claimant*, ByRank>;

void read_addresses(const model::Node& node, Claimant& result) {
    std::array<std::optional<IpAddress>, 4> first;  // internal v4, v6; external v4, v6
    if (!node.addresses) return;
    for (const model::NodeAddress& entry : *node.addresses) {
        const bool internal = entry.type == "InternalIP";
        const bool router = entry.type == "CiliumInternalIP";
        if (!internal && !router && entry.type != "ExternalIP") continue;
        IpAddress address;
        if (!IpAddress::parse_into(entry.ip, address)) continue;
        const IpPrefix prefix(address, 128);
        if (unusable_part(prefix)) continue;
        if (internal || router) result.prefixes.push_back(prefix);
        if (router) continue;
        auto& chosen = first[(internal ? 0U : 2U) + (address.is_v4() ? 0U : 1U)];
        if (!chosen) chosen = address;
    }
    const auto chosen = std::ranges::find_if(first, [](const auto& a) { return a.has_value(); });
    if (chosen == first.end()) return;
    result.endpoint = *chosen;
    result.prefixes.emplace_back(**chosen, std::uint8_t{128});
}

void read_cidrs(const model::Node& node, Claimant& result) {
    const auto add = [&](const IpPrefix& prefix) {
        if (const auto special = unusable_part(prefix)) {
            result.unusable.push_back(fmt::format("{} of {} is not allowed: it overlaps {}",
                                                  prefix.to_string(), result.text(),
                                                  special->to_string()));
        } else {
            result.prefixes.push_back(prefix);
        }
    };
    if (node.ipv4_alloc_cidr) add(*node.ipv4_alloc_cidr);
    if (node.ipv6_alloc_cidr) add(*node.ipv6_alloc_cidr);
    for (const auto* more : {&node.ipv4_secondary_alloc_cidrs, &node.ipv6_secondary_alloc_cidrs}) {
        if (*more) std::ranges::for_each(**more, add);
    }
}

Claimant read_node(const state::ClusterKey& cluster, const model::Node& node,
                   const EncryptionOptions& options) {
    Claimant result;
    result.key = {cluster, node.name};
    result.own_cluster = cluster.name == options.own_cluster;
    result.own_node = result.own_cluster && node.name == options.own_node;
    read_addresses(node, result);
    read_cidrs(node, result);
    std::ranges::sort(result.prefixes);
    result.prefixes.erase(std::unique(result.prefixes.begin(), result.prefixes.end()),
                          result.prefixes.end());
    if (node.wireguard_public_key.empty()) return result;
    if (const auto parsed = WireguardPublicKey::parse(node.wireguard_public_key)) {
        result.public_key = *parsed;
        if (!result.endpoint) {
            result.unusable.push_back(
                fmt::format("{} gets no peer: it has no usable address", result.text()));
        }
    } else {
        result.unusable.push_back(
            fmt::format("{} gets no peer: {}", result.text(), parsed.error().detail()));
    }
    return result;
}

/// The claims of one family.
struct Family {
    std::map<IpPrefix, Claimants> claimed;
    std::map<std::uint8_t, std::size_t> lengths;  ///< of claimed
    std::multiset<IpPrefix> own;                  ///< of the own cluster

    /// A prefix of the own cluster within `prefix`, or equal to it.
    [[nodiscard]] const IpPrefix* own_within(const IpPrefix& prefix) const {
        // Those within follow it directly: the order is by address, then by length.
        const auto at = own.lower_bound(prefix);
        return at != own.end() && prefix.contains(*at) ? &*at : nullptr;
    }
    /// Calls with each claimed prefix that strictly holds `prefix`, shortest first, until true.
    template <class Call>
    bool any_around(const IpPrefix& prefix, Call&& call) const {
        for (const auto& [length, count] : lengths) {
            if (length >= prefix.length()) break;
            const auto at = claimed.find(IpPrefix(prefix.address(), length));
            if (at != claimed.end() && call(at->first, at->second)) return true;
        }
        return false;
    }
};

}  // namespace

struct EncryptionCompiler::State {
    explicit State(EncryptionOptions its_options) : options(std::move(its_options)) {}

    EncryptionOptions options;
    std::map<EncryptionNode, Claimant> nodes;
    std::array<Family, 2> families;  ///< IPv4, IPv6
    std::map<WireguardPublicKey, Claimants> keys;
    std::set<EncryptionNode> dirty;
    std::map<EncryptionNode, EncryptionPeer> peers;  ///< as returned

    [[nodiscard]] Family& family(bool v4) { return families[v4 ? 0 : 1]; }
    [[nodiscard]] const Family& family(bool v4) const { return families[v4 ? 0 : 1]; }

    void mark(const Claimants& claimants) {
        for (const Claimant* node : claimants) dirty.insert(node->key);
    }
    void mark_with_inner(const IpPrefix& prefix);
    void mark_around(const IpPrefix& own);
    void add(Claimant claimant);
    void remove(const EncryptionNode& key);
    [[nodiscard]] bool takes_part(const IpPrefix& prefix, const Claimant& node) const {
        return node.own_cluster || family(prefix.is_v4()).own_within(prefix) == nullptr;
    }
    [[nodiscard]] const Claimant* preferred(const IpPrefix& prefix,
                                            const Claimants& claimants) const;
    [[nodiscard]] std::optional<std::string> refusal(const IpPrefix& prefix,
                                                     const Claimant& node) const;
    [[nodiscard]] std::optional<std::string> no_peer(const Claimant& node) const;
    [[nodiscard]] std::optional<EncryptionPeer> desired(const EncryptionNode& key) const;
};

/// A prefix that comes or goes changes what holds for all who claim it or something within it.
void EncryptionCompiler::State::mark_with_inner(const IpPrefix& prefix) {
    const auto& claimed = family(prefix.is_v4()).claimed;
    for (auto at = claimed.lower_bound(prefix); at != claimed.end() && prefix.contains(at->first);
         ++at) {
        mark(at->second);
    }
}

/// For wider prefixes, called while `own` is not among the own cluster's. One that holds another of
/// them as well is not concerned.
void EncryptionCompiler::State::mark_around(const IpPrefix& own) {
    const Family& f = family(own.is_v4());
    f.any_around(own, [&](const IpPrefix& prefix, const auto&) {
        if (f.own_within(prefix) == nullptr) mark_with_inner(prefix);
        return false;
    });
}

void EncryptionCompiler::State::add(Claimant claimant) {
    const EncryptionNode key = claimant.key;
    const Claimant& node = nodes.emplace(key, std::move(claimant)).first->second;
    dirty.insert(key);
    for (const IpPrefix& prefix : node.prefixes) {
        Family& f = family(prefix.is_v4());
        auto& claimants = f.claimed[prefix];
        if (claimants.empty()) ++f.lengths[prefix.length()];
        claimants.insert(&node);
        mark_with_inner(prefix);
        if (!node.own_cluster) continue;
        mark_around(prefix);
        f.own.insert(prefix);
    }
    if (!node.public_key) return;
    auto& claimants = keys[*node.public_key];
    claimants.insert(&node);
    mark(claimants);
}

void EncryptionCompiler::State::remove(const EncryptionNode& key) {
    const auto held = nodes.find(key);
    if (held == nodes.end()) return;
    const Claimant& node = held->second;
    dirty.insert(key);
    for (const IpPrefix& prefix : node.prefixes) {
        mark_with_inner(prefix);
        Family& f = family(prefix.is_v4());
        if (node.own_cluster) {
            f.own.erase(f.own.find(prefix));
            mark_around(prefix);
        }
        const auto at = f.claimed.find(prefix);
        at->second.erase(&node);
        if (!at->second.empty()) continue;
        f.claimed.erase(at);
        if (--f.lengths[prefix.length()] == 0) f.lengths.erase(prefix.length());
    }
    if (node.public_key) {
        const auto at = keys.find(*node.public_key);
        mark(at->second);
        at->second.erase(&node);
        if (at->second.empty()) keys.erase(at);
    }
    nodes.erase(held);
}

const Claimant* EncryptionCompiler::State::preferred(const IpPrefix& prefix,
                                                     const Claimants& claimants) const {
    const auto at = std::ranges::find_if(
        claimants, [&](const Claimant* node) { return takes_part(prefix, *node); });
    return at == claimants.end() ? nullptr : *at;
}

/// Why the node does not get the prefix that it claims.
std::optional<std::string> EncryptionCompiler::State::refusal(const IpPrefix& prefix,
                                                              const Claimant& node) const {
    const Family& f = family(prefix.is_v4());
    if (!node.own_cluster) {
        if (const IpPrefix* own = f.own_within(prefix)) {
            const Claimant& owner = **f.claimed.at(*own).begin();
            if (*own == prefix) return fmt::format("{} has it and goes first", owner.text());
            return fmt::format("it holds {} of {}", own->to_string(), owner.text());
        }
    }
    const Claimant* first = preferred(prefix, f.claimed.at(prefix));
    if (first != &node) return fmt::format("{} has it and goes first", first->text());
    std::optional<std::string> reason;
    f.any_around(prefix, [&](const IpPrefix& outer, const Claimants& claimants) {
        const Claimant* other = preferred(outer, claimants);
        if (other == nullptr || other->cluster_rank() >= node.cluster_rank()) return false;
        reason = fmt::format("it lies within {} of {}, which goes first", outer.to_string(),
                             other->text());
        return true;
    });
    return reason;
}

/// Why the node, which has a key and an address, gets no peer.
std::optional<std::string> EncryptionCompiler::State::no_peer(const Claimant& node) const {
    const Claimant* first = *keys.at(*node.public_key).begin();
    if (first != &node) return fmt::format("{} has its key and goes first", first->text());
    if (const auto reason = refusal(IpPrefix(*node.endpoint, 128), node)) {
        return fmt::format("its address {} is not allowed: {}", node.endpoint->to_string(),
                           *reason);
    }
    return std::nullopt;
}

std::optional<EncryptionPeer> EncryptionCompiler::State::desired(const EncryptionNode& key) const {
    const auto at = nodes.find(key);
    if (at == nodes.end()) return std::nullopt;
    const Claimant& node = at->second;
    if (node.own_node || !node.public_key || !node.endpoint || no_peer(node)) return std::nullopt;
    EncryptionPeer peer{*node.public_key, *node.endpoint, {}, key};
    for (const IpPrefix& prefix : node.prefixes) {
        if (!refusal(prefix, node)) peer.allowed_ips.push_back(prefix);
    }
    return peer;
}

EncryptionCompiler::EncryptionCompiler(EncryptionOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}
EncryptionCompiler::~EncryptionCompiler() = default;
EncryptionCompiler::EncryptionCompiler(EncryptionCompiler&&) noexcept = default;
EncryptionCompiler& EncryptionCompiler::operator=(EncryptionCompiler&&) noexcept = default;

void EncryptionCompiler::note(const state::Effect& effect) {
    const auto* change = std::get_if<state::Changed<model::Node>>(&effect.change);
    if (change == nullptr) return;
    const auto& name = (change->after != nullptr ? change->after : change->before)->name;
    state_->remove({effect.cluster, name});
    if (change->after != nullptr) {
        state_->add(read_node(effect.cluster, *change->after, state_->options));
    }
}

EncryptionChanges EncryptionCompiler::flush() {
    std::set<WireguardPublicKey> before;
    std::map<WireguardPublicKey, EncryptionPeer> upserts;
    std::set<WireguardPublicKey> unchanged;
    for (const EncryptionNode& key : std::exchange(state_->dirty, {})) {
        auto wanted = state_->desired(key);
        const auto held = state_->peers.find(key);
        if (held != state_->peers.end()) {
            before.insert(held->second.public_key);
            if (wanted == held->second) {
                unchanged.insert(held->second.public_key);
                continue;
            }
            state_->peers.erase(held);
        }
        if (!wanted) continue;
        upserts.emplace(wanted->public_key, *wanted);
        state_->peers.emplace(key, *std::move(wanted));
    }
    // A key that goes from one node to another is an upsert only.
    EncryptionChanges changes;
    for (const WireguardPublicKey& key : before) {
        if (!upserts.contains(key) && !unchanged.contains(key)) changes.removed.push_back(key);
    }
    for (auto& [key, peer] : upserts) changes.upserts.push_back(std::move(peer));
    return changes;
}

std::vector<std::string> EncryptionCompiler::conflicts() const {
    std::vector<std::string> sentences;
    for (const auto& [key, node] : state_->nodes) {
        if (node.own_node || !node.public_key || !node.endpoint) continue;
        if (const auto reason = state_->no_peer(node)) {
            sentences.push_back(fmt::format("{} gets no peer: {}", node.text(), *reason));
            continue;
        }
        for (const IpPrefix& prefix : node.prefixes) {
            if (const auto reason = state_->refusal(prefix, node)) {
                sentences.push_back(fmt::format("{} of {} is not allowed: {}", prefix.to_string(),
                                                node.text(), *reason));
            }
        }
    }
    return sentences;
}

std::vector<std::string> EncryptionCompiler::skipped() const {
    std::vector<std::string> sentences;
    for (const auto& [key, node] : state_->nodes) {
        if (node.own_node) continue;
        sentences.insert(sentences.end(), node.unusable.begin(), node.unusable.end());
    }
    return sentences;
}

std::vector<EncryptionNode> EncryptionCompiler::without_key() const {
    std::vector<EncryptionNode> found;
    for (const auto& [key, node] : state_->nodes) {
        if (!node.own_node && !node.public_key) found.push_back(key);
    }
    return found;
}

}  // namespace mesh::compile
