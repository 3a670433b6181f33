#include "engine/policy_peers.hpp"

#include <algorithm>
#include <utility>
#include <variant>

#include "model/validate.hpp"

namespace mesh::engine {

using namespace model::policy;

namespace {

compile::PolicyIdentity to_identity(const compile::LocalIdentity& from) {
    return {from.id, from.labels, from.cidr};
}

std::vector<model::Label> to_labels(const model::OptionalStringMap& map) {
    std::vector<model::Label> labels;
    if (!map) return labels;
    for (const auto& [key, value] : *map) labels.push_back({"", key, value});
    std::ranges::sort(labels);
    return labels;
}

/// Calls f(element) for each element of all rules, allowing or denying.
template <class F>
void each_element(const Policy& policy, F&& f) {
    for (const Rule& rule : policy.rules) {
        for (const Direction direction : kDirections) {
            for (const auto& element : rule.allow[index_of(direction)]) f(element);
            for (const auto& element : rule.deny[index_of(direction)]) f(element);
        }
    }
}

}  // namespace

std::uint8_t protocol_number(std::string_view name) noexcept {
    if (name == "TCP") return 6;
    if (name == "UDP") return 17;
    return name == "SCTP" ? 132 : 0;
}

compile::NamedPorts named_ports(const model::IpIdentityPair& pair) {
    compile::NamedPorts ports;
    if (pair.named_ports.empty()) return ports;
    for (const model::NamedPort& port : model::usable_named_ports(pair)) {
        const std::uint8_t protocol = protocol_number(port.protocol);
        if (protocol != 0) ports[{port.name.str(), protocol}] = port.port;
    }
    return ports;
}

PolicyPeers::PolicyPeers(compile::PolicyCompiler& compiler, compile::LocalIdentityOptions options,
                         Rng rng)
    : compiler_(compiler), local_(options, rng) {
    for (const auto& one : compile::reserved_identities(options.dual_stack)) {
        compiler_.upsert_identity(to_identity(one));
    }
}

void PolicyPeers::note(const state::Effect& effect) {
    if (const auto* identity = std::get_if<state::Changed<model::Identity>>(&effect.change)) {
        if (identity->after != nullptr) {
            const std::uint32_t id = model::number(identity->after->id);
            removed_.erase(id);
            touched_.insert(id);
            compiler_.upsert_identity({id, identity->after->labels, std::nullopt});
        } else {
            removed_.insert(model::number(identity->before->id));
        }
    } else if (const auto* ip =
                   std::get_if<state::Changed<model::IpIdentityPair>>(&effect.change)) {
        const bool same = ip->before != nullptr && ip->after != nullptr &&
                          ip->before->named_ports == ip->after->named_ports;
        if (same) return;
        if (ip->before != nullptr) count_ports(*ip->before, false);
        if (ip->after != nullptr) count_ports(*ip->after, true);
    } else if (const auto* local =
                   std::get_if<state::Changed<model::LocalService>>(&effect.change)) {
        const auto& one = local->after != nullptr ? *local->after : *local->before;
        services_due_.insert({one.namespace_.str(), one.name.str()});
    } else if (const auto* service = std::get_if<state::Changed<model::Service>>(&effect.change)) {
        const auto& one = service->after != nullptr ? *service->after : *service->before;
        const Name name{one.namespace_.str(), one.name.str()};
        // Remotes' backends count for services without a selector only.
        if (backends_.contains(name)) services_due_.insert(name);
    }
}

void PolicyPeers::count_ports(const model::IpIdentityPair& pair, bool add) {
    for (const auto& [key, port] : named_ports(pair)) {
        ports_due_ = true;
        auto& numbers = ports_[key];
        if (add) {
            ++numbers[port];
        } else if (const auto at = numbers.find(port); at != numbers.end() && --at->second == 0) {
            numbers.erase(at);
        }
        if (numbers.empty()) ports_.erase(key);
    }
}

void PolicyPeers::note_policy(const Policy* before, const Policy* after) {
    // The new one first, so that what both name stays as it is.
    if (after != nullptr) {
        claim_blocks(*after, true);
        count_services(*after, true);
    }
    if (before != nullptr) {
        claim_blocks(*before, false);
        count_services(*before, false);
    }
}

void PolicyPeers::claim_blocks(const Policy& policy, bool add) {
    const auto claim = [&](const model::IpPrefix& block) {
        if (add) {
            local_.acquire(block);
        } else {
            local_.release(block);
        }
    };
    each_element(policy, [&](const RuleElement& element) {
        if (!element.peers.cidrs) return;
        for (const CidrRule& rule : *element.peers.cidrs) {
            claim(rule.cidr);
            for (const model::IpPrefix& except : rule.except) claim(except);
        }
    });
}

void PolicyPeers::count_services(const Policy& policy, bool add) {
    each_element(policy, [&](const RuleElement& element) {
        if (!element.peers.services) return;
        for (const ServiceSelector& selector : *element.peers.services) {
            if (selector.name.empty()) {
                by_labels_ += add ? 1 : std::size_t(-1);
                // The first, or the last, of them concerns all.
                if (by_labels_ == (add ? 1 : 0)) {
                    for (const auto& [name, backends] : backends_) services_due_.insert(name);
                }
                continue;
            }
            const Name name{selector.namespace_, selector.name};
            services_due_.insert(name);
            if (add) {
                ++named_[name];
            } else if (const auto at = named_.find(name); at != named_.end() && --at->second == 0) {
                named_.erase(at);
            }
        }
    });
}

bool PolicyPeers::is_named(const Name& name) const {
    return by_labels_ > 0 || named_.contains(name);
}

void PolicyPeers::refresh_service(const Name& name, const state::ClusterTables& tables) {
    const auto local = tables.find_local_service(name);
    backends_.erase(name);
    if (!local) {
        compiler_.remove_service(name.namespace_, name.name);
        return claim_backends(name);
    }
    compile::PolicyService service;
    service.name = name.name;
    service.namespace_ = name.namespace_;
    service.labels = to_labels(local->labels);
    service.selector = to_labels(local->selector);
    if (service.selector.empty()) {
        for (const auto& backend : local->backends) service.backends.push_back(backend.address);
        if (local->global) {
            tables.for_each_service_named(name, [&](const auto&, const model::Service& remote) {
                for (const auto& one : remote.backends) service.backends.push_back(one.address);
            });
        }
        std::ranges::sort(service.backends);
        service.backends.erase(std::unique(service.backends.begin(), service.backends.end()),
                               service.backends.end());
        backends_[name] = service.backends;
    }
    compiler_.upsert_service(service);
    claim_backends(name);
}

void PolicyPeers::claim_backends(const Name& name) {
    std::vector<model::IpAddress> wanted;
    if (const auto at = backends_.find(name); at != backends_.end() && is_named(name)) {
        wanted = at->second;
    }
    std::vector<model::IpAddress> before;
    if (const auto at = claimed_.find(name); at != claimed_.end()) before = at->second;
    if (wanted == before) return;
    for (const auto& address : wanted) local_.acquire({address, 128});
    for (const auto& address : before) local_.release({address, 128});
    if (wanted.empty()) {
        claimed_.erase(name);
    } else {
        claimed_[name] = std::move(wanted);
    }
}

void PolicyPeers::flush(const state::ClusterTables& tables, bool settled) {
    for (const Name& name : std::exchange(services_due_, {})) refresh_service(name, tables);
    if (std::exchange(ports_due_, false)) {
        compile::NamedPorts agreed;
        for (const auto& [key, numbers] : ports_) {
            if (numbers.size() == 1) agreed[key] = numbers.begin()->first;
        }
        compiler_.set_peer_ports(std::move(agreed));
    }
    if (!settled) return;
    auto changes = local_.flush();
    for (const auto& one : changes.added) {
        removed_.erase(one.id);
        touched_.insert(one.id);
        compiler_.upsert_identity(to_identity(one));
    }
    for (const auto& [prefix, id] : changes.rows) rows_[prefix] = id;
    for (const auto& prefix : changes.removed_rows) rows_[prefix] = std::nullopt;
    removed_.insert(changes.removed.begin(), changes.removed.end());
}

bool PolicyPeers::flush_removed() {
    for (const std::uint32_t id : removed_) {
        touched_.insert(id);
        compiler_.remove_identity(id);
    }
    return !std::exchange(removed_, {}).empty();
}

}  // namespace mesh::engine
