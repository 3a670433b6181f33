#include "engine/l7_policy.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace mesh::engine {

using model::policy::Direction;

namespace {

// Of an address that nobody knows. @source wire.md §15
constexpr std::uint32_t kWorld = 2, kWorldIpv4 = 9, kWorldIpv6 = 10;

}  // namespace

L7Answer L7Policy::find(std::string_view parser, const L7Flow& flow) const {
    std::shared_ptr<const Views> views;
    {
        const std::lock_guard lock(mutex_);
        views = views_;
    }
    L7Answer out;
    const bool ingress = flow.direction == Direction::kIngress;
    const auto at = views->find(ingress ? flow.server : flow.client);
    if (at == views->end()) return out;
    const auto identity_of = [&](const model::IpAddress& address) {
        const std::uint32_t id = identity_of_(address);
        if (id != 0 && id != kWorld) return id;
        return address.is_v4() ? kWorldIpv4 : kWorldIpv6;
    };
    out.endpoint = at->second->id;
    out.client_identity = identity_of(flow.client);
    out.server_identity = identity_of(flow.server);
    const std::uint32_t peer = ingress ? out.client_identity : out.server_identity;
    // As the map has it: of the redirects that are for the peer, the narrowest.
    unsigned width = std::numeric_limits<unsigned>::max();
    for (const Redirect& redirect : at->second->redirects) {
        const unsigned its = unsigned{redirect.last_port} - redirect.port;
        if (redirect.direction != flow.direction || redirect.protocol != flow.protocol ||
            redirect.parser != parser || flow.server_port < redirect.port ||
            flow.server_port > redirect.last_port || its >= width) {
            continue;
        }
        std::vector<std::shared_ptr<const model::policy::L7Rules>> rules;
        for (const Rule& rule : redirect.rules) {
            if (rule.any || std::ranges::binary_search(*rule.members, peer)) {
                rules.push_back(rule.rules);
            }
        }
        if (rules.empty()) continue;
        width = its;
        out.found = true;
        out.any_of = std::move(rules);
    }
    return out;
}

void L7Policy::set(datapath::EndpointId id, const std::vector<model::IpAddress>& ips,
                   std::shared_ptr<const compile::EndpointPolicy> policy) {
    const auto held = endpoints_.find(id);
    const bool redirects = policy != nullptr && !policy->redirects().empty();
    if (!redirects) {
        if (held == endpoints_.end()) return;
        release(held->second);
        endpoints_.erase(held);
        dirty_.erase(id);
        gone_ = true;
        return;
    }
    Endpoint& endpoint = endpoints_[id];
    release(endpoint);
    endpoint.ips = ips;
    endpoint.policy = std::move(policy);
    dirty_.insert(id);
}

void L7Policy::freeze(datapath::EndpointId id) {
    const auto held = endpoints_.find(id);
    if (held == endpoints_.end()) return;
    release(held->second);
    dirty_.erase(id);
}

void L7Policy::release(Endpoint& endpoint) {
    for (const compile::SelectorId selector : endpoint.selectors) {
        const auto at = held_.find(selector);
        if (--at->second.users == 0) held_.erase(at);
    }
    endpoint.selectors.clear();
}

std::shared_ptr<const L7Policy::Members> L7Policy::hold(compile::SelectorId selector,
                                                        const compile::SelectorCache& selectors) {
    Held& held = held_[selector];
    ++held.users;
    if (held.members) return held.members;
    Members members;
    for (const compile::IdentitySlot slot : selectors.members(selector)) {
        members.push_back(selectors.identity(slot).id);
    }
    std::ranges::sort(members);
    held.members = std::make_shared<const Members>(std::move(members));
    return held.members;
}

void L7Policy::build(datapath::EndpointId id, Endpoint& endpoint,
                     const compile::SelectorCache& selectors) {
    release(endpoint);
    auto view = std::make_shared<View>();
    view->id = id;
    for (const compile::PolicyRedirect& from : endpoint.policy->redirects()) {
        Redirect& to = view->redirects.emplace_back();
        to.direction = from.direction;
        to.protocol = from.protocol;
        to.port = from.port;
        to.last_port = from.port == 0 && from.end_port == 0 ? std::uint16_t{65535}
                       : from.end_port != 0                 ? from.end_port
                                                            : from.port;
        to.parser = from.parser;
        for (const auto& rule : from.rules) {
            Rule& made = to.rules.emplace_back();
            made.rules = rule.rules;
            made.any = rule.peer == compile::kAnyPeer;
            if (made.any) continue;
            made.members = hold(rule.peer, selectors);
            endpoint.selectors.push_back(rule.peer);
        }
    }
    endpoint.view = std::move(view);
}

/// Endpoints of whose rules some select an identity that came or went.
void L7Policy::mark_users(const compile::SelectorCache& selectors) {
    std::set<compile::SelectorId> changed;
    for (const std::uint32_t id : std::exchange(identities_, {})) {
        const auto slot = selectors.find(id);
        for (const auto& [selector, held] : held_) {
            const bool had = std::ranges::binary_search(*held.members, id);
            const bool has = slot && selectors.selects(selector, *slot);
            if (had != has) changed.insert(selector);
        }
    }
    if (changed.empty()) return;
    for (auto& [id, endpoint] : endpoints_) {
        const bool uses = std::ranges::any_of(
            endpoint.selectors, [&](compile::SelectorId one) { return changed.contains(one); });
        if (uses) dirty_.insert(id);
    }
}

void L7Policy::flush(const compile::SelectorCache& selectors) {
    if (!identities_.empty()) mark_users(selectors);
    if (dirty_.empty() && !gone_) return;
    // All of them first: a number may stand for another selector now.
    for (const datapath::EndpointId id : dirty_) release(endpoints_.at(id));
    for (const datapath::EndpointId id : std::exchange(dirty_, {})) {
        build(id, endpoints_.at(id), selectors);
    }
    gone_ = false;
    auto views = std::make_shared<Views>();
    for (const auto& [id, endpoint] : endpoints_) {
        for (const model::IpAddress& ip : endpoint.ips) views->emplace(ip, endpoint.view);
    }
    {
        const std::lock_guard lock(mutex_);
        views_ = std::move(views);
    }
    generation_.fetch_add(1, std::memory_order_release);
}

}  // namespace mesh::engine
