#include "datapath/wireguard/peer_table.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace mesh::datapath {
namespace {

using model::IpPrefix;
using model::WireguardPublicKey;
using Desired = std::map<WireguardPublicKey, WireguardPeer>;
using Held = std::map<WireguardPublicKey, WireguardPeerState>;

std::vector<IpPrefix> without(const std::vector<IpPrefix>& all, const std::vector<IpPrefix>& less) {
    std::vector<IpPrefix> rest;
    std::ranges::set_difference(all, less, std::back_inserter(rest));
    return rest;
}

// Prefixes whose holder changes: what touched peers take that they do not hold.
std::set<IpPrefix> taken_prefixes(const Desired& desired, const Held& held,
                                  const std::set<WireguardPublicKey>& touched) {
    std::set<IpPrefix> taken;
    for (const WireguardPublicKey& key : touched) {
        const auto wanted = desired.find(key);
        if (wanted == desired.end()) continue;
        const auto has = held.find(key);
        const auto more = has == held.end()
                              ? wanted->second.allowed_ips
                              : without(wanted->second.allowed_ips, has->second.allowed_ips);
        taken.insert(more.begin(), more.end());
    }
    return taken;
}

bool empty(const WireguardPeerChange& change) {
    WireguardPeerChange nothing;
    nothing.public_key = change.public_key;
    return change == nothing;
}

WireguardPeerChange new_peer(const WireguardPeer& wanted, const std::set<IpPrefix>& orphans) {
    WireguardPeerChange change;
    change.public_key = wanted.public_key;
    change.endpoint = wanted.endpoint;
    if (wanted.keepalive.count() != 0) change.keepalive = wanted.keepalive;
    change.allowed_ips = wanted.allowed_ips;
    change.start_session = std::ranges::any_of(
        wanted.allowed_ips, [&](const IpPrefix& prefix) { return orphans.contains(prefix); });
    return change;
}

WireguardPeerChange changed_peer(const WireguardPeer& wanted, const WireguardPeerState& has,
                                 const std::set<IpPrefix>& taken) {
    WireguardPeerChange change;
    change.public_key = wanted.public_key;
    if (has.endpoint != wanted.endpoint) change.endpoint = wanted.endpoint;
    if (has.keepalive != wanted.keepalive) change.keepalive = wanted.keepalive;
    // What another peer takes leaves this one by that. For what nobody takes the list is replaced:
    // the peer is then without any for a moment, so it is not done when it need not be.
    const auto gone = without(has.allowed_ips, wanted.allowed_ips);
    change.replace_allowed_ips =
        std::ranges::any_of(gone, [&](const IpPrefix& prefix) { return !taken.contains(prefix); });
    change.allowed_ips = change.replace_allowed_ips ? wanted.allowed_ips
                                                    : without(wanted.allowed_ips, has.allowed_ips);
    return change;
}

}  // namespace

std::vector<WireguardPeerChange> plan_wireguard_peers(const Desired& desired, const Held& held,
                                                      const std::set<WireguardPublicKey>& touched) {
    const std::set<IpPrefix> taken = taken_prefixes(desired, held, touched);
    std::set<IpPrefix> orphans;
    std::vector<WireguardPeerChange> removals;
    for (const WireguardPublicKey& key : touched) {
        const auto has = held.find(key);
        if (desired.contains(key) || has == held.end()) continue;
        orphans.insert(has->second.allowed_ips.begin(), has->second.allowed_ips.end());
        WireguardPeerChange& removal = removals.emplace_back();
        removal.public_key = key;
        removal.remove = true;
    }
    std::vector<WireguardPeerChange> steps;
    for (const WireguardPublicKey& key : touched) {
        const auto wanted = desired.find(key);
        if (wanted == desired.end()) continue;
        const auto has = held.find(key);
        auto change = has == held.end() ? new_peer(wanted->second, orphans)
                                        : changed_peer(wanted->second, has->second, taken);
        if (!empty(change) || has == held.end()) steps.push_back(std::move(change));
    }
    std::ranges::move(removals, std::back_inserter(steps));
    return steps;
}

WireguardTable::WireguardTable(std::unique_ptr<WireguardDevice> device, WireguardSettings settings)
    : device_(std::move(device)), settings_(std::move(settings)) {}

void WireguardTable::forget(const WireguardPublicKey& key, Keys& touched) {
    const auto at = desired_.find(key);
    touched.insert(key);
    if (at == desired_.end()) return;
    for (const IpPrefix& prefix : at->second.allowed_ips) owners_.erase(prefix);
    desired_.erase(at);
}

void WireguardTable::desire(WireguardPeer peer, Keys& touched) {
    forget(peer.public_key, touched);
    std::ranges::sort(peer.allowed_ips);
    peer.allowed_ips.erase(std::unique(peer.allowed_ips.begin(), peer.allowed_ips.end()),
                           peer.allowed_ips.end());
    for (const IpPrefix& prefix : peer.allowed_ips) {
        const auto [owner, fresh] = owners_.try_emplace(prefix, peer.public_key);
        if (fresh) continue;
        auto& others = desired_.at(owner->second).allowed_ips;
        others.erase(std::ranges::lower_bound(others, prefix));
        touched.insert(owner->second);
        owner->second = peer.public_key;
    }
    const WireguardPublicKey key = peer.public_key;
    desired_.insert_or_assign(key, std::move(peer));
}

Result<WireguardOutcome> WireguardTable::apply(std::span<const WireguardChange> changes) {
    Keys touched;
    for (const WireguardChange& change : changes) {
        if (const auto* peer = std::get_if<WireguardPeer>(&change)) {
            desire(*peer, touched);
        } else {
            forget(std::get<WireguardPublicKey>(change), touched);
        }
    }
    if (!started_) return WireguardOutcome{};
    if (!known_) return reconcile(unknown_);
    return send(touched);
}

Result<WireguardOutcome> WireguardTable::send(const Keys& touched, bool start_sessions) {
    auto steps = plan_wireguard_peers(desired_, held_, touched);
    WireguardOutcome outcome;
    for (WireguardPeerChange& step : steps) {
        step.start_session = !step.remove && (step.start_session || start_sessions);
        if (step.remove) {
            ++outcome.removed;
        } else {
            ++(held_.contains(step.public_key) ? outcome.changed : outcome.added);
        }
    }
    if (!steps.empty()) {
        known_ = false;
        MESH_CHECK(device_->apply(steps));
        known_ = true;
    }
    for (const WireguardPublicKey& key : touched) {
        const auto wanted = desired_.find(key);
        if (wanted == desired_.end()) {
            held_.erase(key);
            continue;
        }
        WireguardPeerState& held = held_[key];
        held.endpoint = wanted->second.endpoint;
        held.allowed_ips = wanted->second.allowed_ips;
        held.keepalive = wanted->second.keepalive;
    }
    return outcome;
}

Result<void> WireguardTable::configure(const WireguardState& state) {
    // A key that is set again would cut no session either, but need not be sent.
    WireguardSettings differing;
    if (settings_.private_key && state.private_key != settings_.private_key) {
        differing.private_key = settings_.private_key;
    }
    if (settings_.port && state.port != *settings_.port) differing.port = settings_.port;
    if (settings_.mark && state.mark != *settings_.mark) differing.mark = settings_.mark;
    if (!differing.private_key && !differing.port && !differing.mark) return {};
    return device_->configure(differing);
}

Result<WireguardOutcome> WireguardTable::reconcile(UnknownPeers unknown) {
    unknown_ = unknown;
    const bool had_peers = started_ && !held_.empty();
    started_ = true;
    known_ = false;
    MESH_TRY(const bool made, device_->ensure());
    MESH_TRY(WireguardState state, device_->state());
    MESH_CHECK(configure(state));
    MESH_CHECK(device_->set_up());
    held_ = std::move(state.peers);
    Keys touched;
    for (const auto& [key, peer] : desired_) touched.insert(touched.end(), key);
    if (unknown == UnknownPeers::kRemove) {
        for (const auto& [key, peer] : held_) touched.insert(key);
    }
    // Peers would go on sending under sessions that ended with the device: 15 s by WireGuard's own
    // timers.
    MESH_TRY(WireguardOutcome outcome, send(touched, made && had_peers));
    known_ = true;
    outcome.device_made = made;
    return outcome;
}

Result<void> WireguardTable::set_private_key(const WireguardPrivateKey& key) {
    settings_.private_key = key;
    if (!started_) return {};
    WireguardSettings only;
    only.private_key = key;
    const auto done = device_->configure(only);
    if (!done) known_ = false;
    return done;
}

Result<void> WireguardTable::remove() {
    started_ = known_ = false;
    held_.clear();
    return device_->remove();
}

}  // namespace mesh::datapath
