#include "support/policy/reference.hpp"

#include <algorithm>

namespace mesh::test {

using namespace model::policy;
using model::IpPrefix;
using model::Label;

namespace {

std::optional<std::string> value_of(const std::vector<Label>& labels, const std::string& source,
                                    const std::string& key) {
    for (const Label& label : labels) {
        if (label.key.view() == key && (source.empty() || label.source.view() == source)) {
            return label.value.str();
        }
    }
    return std::nullopt;
}

bool has(const RefIdentity& identity, const char* source, const char* key) {
    return value_of(identity.labels, source, key).has_value();
}

bool requirement_holds(const LabelRequirement& one, const RefIdentity& identity) {
    auto value = value_of(identity.labels, one.source, one.key);
    if (one.source == "cidr") {
        // By containment, whatever of its blocks the identity has as a label.
        const auto block = IpPrefix::parse(one.key);
        value.reset();
        if (block && identity.cidr && block->contains(*identity.cidr)) value = "";
    }
    const bool listed =
        value && std::find(one.values.begin(), one.values.end(), *value) != one.values.end();
    switch (one.op) {
        case SelectorOperator::kIn:
            return listed;
        case SelectorOperator::kNotIn:
            return !listed;
        case SelectorOperator::kExists:
            return value.has_value();
        case SelectorOperator::kDoesNotExist:
            return !value.has_value();
    }
    return false;
}

bool all_hold(const EndpointSelector& selector, const RefIdentity& identity) {
    for (const LabelRequirement& one : selector.requirements) {
        if (!requirement_holds(one, identity)) return false;
    }
    return true;
}

bool names(const EndpointSelector& selector, const std::string& key) {
    for (const LabelRequirement& one : selector.requirements) {
        if (one.key == key && (one.source.empty() || one.source == "k8s")) return true;
    }
    return false;
}

bool names_reserved(const EndpointSelector& selector) {
    for (const LabelRequirement& one : selector.requirements) {
        if (one.source == "reserved") return true;
    }
    return false;
}

bool names_init(const EndpointSelector& selector) {
    for (const LabelRequirement& one : selector.requirements) {
        if (one.source == "reserved" && one.key == "init") return true;
    }
    return false;
}

bool names_namespace_labels(const EndpointSelector& selector) {
    for (const LabelRequirement& one : selector.requirements) {
        const bool source = one.source.empty() || one.source == "k8s";
        if (source && one.key.rfind("io.cilium.k8s.namespace.labels.", 0) == 0) return true;
    }
    return false;
}

bool subject_matches(const Policy& policy, const Rule& rule, const RefIdentity& subject) {
    if (has(subject, "reserved", "host") != rule.selects_nodes) return false;
    if (!all_hold(rule.subject, subject)) return false;
    if (rule.selects_nodes) return true;
    const auto space = value_of(subject.labels, "k8s", "io.kubernetes.pod.namespace");
    if (policy.key.kind != PolicyKind::kCiliumClusterwideNetworkPolicy) {
        return space == policy.key.namespace_;
    }
    return names_reserved(rule.subject) || names(rule.subject, "io.kubernetes.pod.namespace") ||
           space.has_value();
}

}  // namespace

/// A part of a rule that covers the packet.
struct Reference::Match {
    const RuleElement* element = nullptr;
    const PortRule* ports = nullptr;  ///< nullptr: the element has none
    const PortProtocol* port = nullptr;
    [[nodiscard]] bool redirects() const {
        return ports != nullptr && (ports->rules || !ports->listener.empty());
    }
};

std::vector<Reference::Selecting> Reference::selecting(const RefIdentity& subject) const {
    std::vector<Selecting> all;
    for (const PolicyPtr& policy : world_.policies) {
        for (const Rule& rule : policy->rules) {
            if (subject_matches(*policy, rule, subject)) all.push_back({policy.get(), &rule});
        }
    }
    return all;
}

bool Reference::exempt(const RefIdentity& subject) const {
    return world_.options.enforcement == compile::Enforcement::kNever ||
           (has(subject, "reserved", "host") && !world_.options.host_firewall);
}

bool Reference::default_deny(const std::vector<Selecting>& rules, Direction direction) const {
    for (const auto& [policy, rule] : rules) {
        const std::size_t at = index_of(direction);
        const bool has_rules = !rule->allow[at].empty() || !rule->deny[at].empty();
        // A NetworkPolicy's rules always enforce their direction.
        if (policy->key.kind == PolicyKind::kNetworkPolicy && has_rules) return true;
        if (rule->enable_default_deny[at].value_or(has_rules)) return true;
    }
    return false;
}

bool Reference::enforced(const RefIdentity& subject, Direction direction) const {
    if (exempt(subject)) return false;
    if (world_.options.enforcement == compile::Enforcement::kAlways) return true;
    if (has(subject, "reserved", "init")) return true;
    return default_deny(selecting(subject), direction);
}

bool Reference::selector_matches(const Selecting& from, const EndpointSelector& selector,
                                 const RefIdentity& peer, bool default_cluster) const {
    const compile::PolicyOptions& options = world_.options;
    if (!all_hold(selector, peer)) return false;
    const auto space = value_of(peer.labels, "k8s", "io.kubernetes.pod.namespace");
    if (from.policy->key.kind == PolicyKind::kNetworkPolicy) {
        if (options.network_policies_select_pods && !space) return false;
    } else {
        if (names_reserved(selector)) return true;
        const bool lifted =
            names_init(from.rule->subject) || names(selector, "io.kubernetes.pod.namespace") ||
            (options.namespace_labels_lift_namespace && names_namespace_labels(selector));
        const std::string& own = from.policy->key.namespace_;
        if (!lifted && (own.empty() ? !space : space != own)) return false;
    }
    if (!default_cluster || !options.default_local_cluster ||
        names(selector, "io.cilium.k8s.policy.cluster")) {
        return true;
    }
    return value_of(peer.labels, "k8s", "io.cilium.k8s.policy.cluster") == options.cluster;
}

bool Reference::cidr_matches(const CidrRule& rule, const RefIdentity& peer) const {
    const bool splits = world_.options.cidr_except_splits;
    if (!peer.cidr) {
        if (rule.cidr.length() != 0 || (splits && !rule.except.empty())) return false;
        return has(peer, "reserved", "world") ||
               has(peer, "reserved", rule.cidr.is_v4() ? "world-ipv4" : "world-ipv6");
    }
    if (!rule.cidr.contains(*peer.cidr)) return false;
    for (const IpPrefix& except : rule.except) {
        if (except.contains(*peer.cidr)) return false;
        if (splits && peer.cidr->contains(except)) return false;
    }
    return true;
}

bool Reference::entity_matches(Entity entity, const RefIdentity& peer) const {
    switch (entity) {
        case Entity::kAll:
            return true;
        case Entity::kNone:
            return false;
        case Entity::kWorld:
            return has(peer, "reserved", "world") || has(peer, "reserved", "world-ipv4") ||
                   has(peer, "reserved", "world-ipv6");
        case Entity::kWorldIpv4:
            return has(peer, "reserved", "world-ipv4");
        case Entity::kWorldIpv6:
            return has(peer, "reserved", "world-ipv6");
        case Entity::kCluster:
            for (const Entity part :
                 {Entity::kHost, Entity::kRemoteNode, Entity::kInit, Entity::kIngress,
                  Entity::kHealth, Entity::kUnmanaged, Entity::kKubeApiserver}) {
                if (entity_matches(part, peer)) return true;
            }
            return value_of(peer.labels, "k8s", "io.cilium.k8s.policy.cluster") ==
                   world_.options.cluster;
        default:
            return has(peer, "reserved", std::string(to_string(entity)).c_str());
    }
}

bool Reference::service_matches(const ServiceSelector& selector, const RefIdentity& peer) const {
    for (const RefService& service : world_.services) {
        if (!selector.namespace_.empty() && service.namespace_ != selector.namespace_) continue;
        if (!selector.name.empty()) {
            if (service.name != selector.name) continue;
        } else {
            RefIdentity labels;
            labels.labels = service.labels;
            if (!all_hold({selector.selector}, labels)) continue;
        }
        if (!service.selector.empty()) {
            if (!world_.options.services_with_selector) continue;
            bool good =
                value_of(peer.labels, "k8s", "io.kubernetes.pod.namespace") == service.namespace_;
            if (world_.options.default_local_cluster) {
                good = good && value_of(peer.labels, "k8s", "io.cilium.k8s.policy.cluster") ==
                                   world_.options.cluster;
            }
            for (const Label& label : service.selector) {
                good = good && value_of(peer.labels, "k8s", label.key.str()) == label.value.str();
            }
            if (good) return true;
            continue;
        }
        for (const auto& backend : service.backends) {
            if (peer.cidr && *peer.cidr == IpPrefix(backend, 128)) return true;
        }
    }
    return false;
}

bool Reference::element_selects_peer(const Selecting& from, const std::vector<Selecting>& all,
                                     bool deny, const RuleElement& element,
                                     const RefPacket& packet) const {
    const Peers& peers = element.peers;
    const RefIdentity& peer = *packet.peer;
    // What some rule requires of endpoints holds for all rules that select the subject.
    bool required = true;
    for (const auto& other : all) {
        const std::size_t at = index_of(packet.direction);
        for (const RuleElement& one : deny ? other.rule->deny[at] : other.rule->allow[at]) {
            for (const EndpointSelector& need : one.peers.requires_) {
                required = required && selector_matches(other, need, peer, false);
            }
        }
    }
    if (element.any_peer) return required;
    const bool any_with_ports = !element.ports.empty();
    if (!peers.any_list()) return any_with_ports;
    std::size_t listed = 0;
    if (peers.endpoints) {
        listed += peers.endpoints->size();
        for (const EndpointSelector& selector : *peers.endpoints) {
            if (required && selector_matches(from, selector, peer, true)) return true;
        }
    }
    if (peers.entities) {
        listed += peers.entities->size();
        for (const Entity entity : *peers.entities) {
            if (entity_matches(entity, peer)) return true;
        }
    }
    if (peers.cidrs) {
        listed += peers.cidrs->size();
        for (const CidrRule& rule : *peers.cidrs) {
            if (cidr_matches(rule, peer)) return true;
        }
    }
    if (peers.fqdns) {
        listed += peers.fqdns->size();
        for (const FqdnSelector& name : *peers.fqdns) {
            if (has(peer, "fqdn", name.text().c_str())) return true;
        }
    }
    if (peers.services) {
        listed += 1;  // one that resolves to nothing still selects nobody
        for (const ServiceSelector& selector : *peers.services) {
            if (service_matches(selector, peer)) return true;
        }
    }
    return listed == 0 && any_with_ports && world_.options.empty_peers_match_any;
}

bool Reference::covers(const PortProtocol& port, const RefPacket& packet) const {
    const auto protocol = static_cast<std::uint8_t>(port.protocol);
    if (port.protocol == Protocol::kAny) {
        if (packet.protocol != 6 && packet.protocol != 17 && packet.protocol != 132) return false;
    } else if (protocol != packet.protocol) {
        return false;
    }
    if (!port.name.empty()) {
        const RefPorts& names =
            packet.direction == Direction::kIngress ? world_.subject_ports : world_.peer_ports;
        const auto found = names.find({port.name, packet.protocol});
        return found != names.end() && found->second == packet.port;
    }
    const bool icmp = port.protocol == Protocol::kIcmp || port.protocol == Protocol::kIcmpv6;
    if (port.port == 0 && (!icmp || world_.options.icmp_type_zero_is_any)) return true;
    if (port.end_port != 0) return packet.port >= port.port && packet.port <= port.end_port;
    return packet.port == port.port;
}

std::vector<Reference::Match> Reference::matches(const RefIdentity& subject,
                                                 const RefPacket& packet, bool deny) const {
    std::vector<Match> found;
    const auto rules = selecting(subject);
    for (const Selecting& from : rules) {
        const std::size_t at = index_of(packet.direction);
        for (const RuleElement& element : deny ? from.rule->deny[at] : from.rule->allow[at]) {
            if (!element_selects_peer(from, rules, deny, element, packet)) continue;
            if (element.ports.empty()) found.push_back({&element, nullptr, nullptr});
            for (const PortRule& ports : element.ports) {
                for (const PortProtocol& port : ports.ports) {
                    if (covers(port, packet)) found.push_back({&element, &ports, &port});
                }
            }
        }
    }
    return found;
}

RefVerdict Reference::verdict(const RefIdentity& subject, const RefPacket& packet) const {
    if (exempt(subject)) return RefVerdict::kAllow;
    if (!matches(subject, packet, true).empty()) return RefVerdict::kDeny;
    const auto allows = matches(subject, packet, false);
    const bool from_host =
        packet.direction == Direction::kIngress && world_.options.allow_localhost &&
        has(*packet.peer, "reserved", "host") && !has(subject, "reserved", "host");
    for (const Match& match : allows) {
        if (!match.redirects()) continue;
        if (!from_host) return RefVerdict::kRedirect;
        // Only rules that name the host itself redirect it.
        const Peers& peers = match.element->peers;
        if (peers.entities) {
            for (const Entity entity : *peers.entities) {
                if (entity == Entity::kHost || entity == Entity::kCluster) {
                    return RefVerdict::kRedirect;
                }
            }
        }
        const EndpointSelector host{{{"reserved", "host", SelectorOperator::kIn, {""}}}};
        if (peers.endpoints && std::find(peers.endpoints->begin(), peers.endpoints->end(), host) !=
                                   peers.endpoints->end()) {
            return RefVerdict::kRedirect;
        }
    }
    if (from_host || !allows.empty()) return RefVerdict::kAllow;
    return enforced(subject, packet.direction) ? RefVerdict::kDrop : RefVerdict::kAllow;
}

std::vector<const L7Rules*> Reference::l7_rules(const RefIdentity& subject, const RefPacket& packet,
                                                std::uint16_t first, std::uint16_t end) const {
    std::vector<const L7Rules*> rules;
    for (const Match& match : matches(subject, packet, false)) {
        if (match.port == nullptr) continue;
        const bool named = !match.port->name.empty();
        const std::uint16_t number = named ? packet.port : match.port->port;
        const std::uint16_t last = match.port->end_port == number ? 0 : match.port->end_port;
        if (number == first && last == end) rules.push_back(match.ports->rules.get());
    }
    return rules;
}

}  // namespace mesh::test
