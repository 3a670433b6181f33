#include "compile/policy/normal_rules.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace mesh::compile {

using namespace model::policy;

namespace {

LabelRequirement requirement(std::string_view source, std::string_view key, SelectorOperator op,
                             std::vector<std::string> values = {}) {
    return {std::string(source), std::string(key), op, std::move(values)};
}

void require(EndpointSelector& selector, LabelRequirement one) {
    auto& all = selector.requirements;
    const auto at = std::ranges::lower_bound(all, one);
    if (at == all.end() || *at != one) all.insert(at, std::move(one));
}

bool names_init(const EndpointSelector& selector) {
    return std::ranges::any_of(selector.requirements, [](const LabelRequirement& one) {
        return one.source == kSourceReserved && one.key == "init";
    });
}

bool names_namespace_labels(const EndpointSelector& selector) {
    return std::ranges::any_of(selector.requirements, [](const LabelRequirement& one) {
        return (one.source.empty() || one.source == kSourceK8s) &&
               one.key.starts_with(kNamespaceLabelsPrefix);
    });
}

/// Holds a selector to the policy's namespace, or to pods.
void require_namespace(EndpointSelector& selector, const std::string& own) {
    if (own.empty()) {
        require(selector, requirement(kSourceK8s, kNamespaceKey, SelectorOperator::kExists));
    } else {
        require(selector, requirement(kSourceK8s, kNamespaceKey, SelectorOperator::kIn, {own}));
    }
}

class Normaliser {
  public:
    Normaliser(const Policy& policy, const Rule& rule, const PolicyOptions& options)
        : policy_(policy), rule_(rule), options_(options) {}

    [[nodiscard]] EndpointSelector subject() const {
        EndpointSelector selector = rule_.subject;
        if (rule_.selects_nodes) return selector;
        const bool clusterwide = policy_.key.kind == PolicyKind::kCiliumClusterwideNetworkPolicy;
        const bool lifted = clusterwide && (selector.names_source(kSourceReserved) ||
                                            selector.names_key(kSourceK8s, kNamespaceKey));
        if (!lifted) require_namespace(selector, policy_.key.namespace_);
        return selector;
    }

    /// @param own_cluster whether to hold it to the own cluster if it names none
    [[nodiscard]] EndpointSelector peer(EndpointSelector selector, bool own_cluster) const {
        if (policy_.key.kind == PolicyKind::kNetworkPolicy) {
            if (options_.network_policies_select_pods) require_namespace(selector, {});
        } else {
            if (selector.names_source(kSourceReserved)) return selector;
            const bool lifted =
                names_init(rule_.subject) || selector.names_key(kSourceK8s, kNamespaceKey) ||
                (options_.namespace_labels_lift_namespace && names_namespace_labels(selector));
            if (!lifted) require_namespace(selector, policy_.key.namespace_);
        }
        if (own_cluster && options_.default_local_cluster &&
            !selector.names_key(kSourceK8s, kClusterKey)) {
            require(selector, requirement(kSourceK8s, kClusterKey, SelectorOperator::kIn,
                                          {options_.cluster}));
        }
        return selector;
    }

    [[nodiscard]] NormalElement element(const RuleElement& from, bool deny) const {
        NormalElement out;
        out.deny = deny;
        out.ports = from.ports;
        out.authentication = from.authentication;
        const Peers& peers = from.peers;
        if (from.any_peer) {
            out.any_endpoint = true;
            return out;
        }
        if (!peers.any_list()) {
            out.any = !from.ports.empty();
            return out;
        }
        if (peers.endpoints) {
            for (const EndpointSelector& one : *peers.endpoints) {
                out.endpoints.push_back({.requirements = peer(one, true).requirements});
            }
        }
        if (peers.entities) {
            for (const Entity& entity : *peers.entities) {
                add_entity(entity, out);
                note(out, PeerPlace::List::kEntities, entity, *peers.entities);
            }
        }
        if (peers.cidrs) {
            for (const CidrRule& rule : *peers.cidrs) {
                out.others.push_back({.kind = SelectorSpec::Kind::kCidr, .cidr = rule});
                note(out, PeerPlace::List::kCidrs, rule, *peers.cidrs);
            }
        }
        if (peers.fqdns) {
            for (const FqdnSelector& name : *peers.fqdns) {
                out.others.push_back({.requirements = {requirement(kSourceFqdn, name.text(),
                                                                   SelectorOperator::kExists)}});
                note(out, PeerPlace::List::kFqdns, name, *peers.fqdns);
            }
        }
        if (peers.services) {
            for (const ServiceSelector& service : *peers.services) {
                out.others.push_back({.kind = SelectorSpec::Kind::kService, .service = service});
                note(out, PeerPlace::List::kServices, service, *peers.services);
            }
        }
        const bool nobody = out.endpoints.empty() && out.others.empty() && !out.any &&
                            !(peers.entities && !peers.entities->empty());
        if (nobody && !from.ports.empty() && options_.empty_peers_match_any) out.any = true;
        return out;
    }

  private:
    /// Notes where the selectors at the end of `others` come from.
    template <class T>
    static void note(NormalElement& out, PeerPlace::List list, const T& item,
                     const std::vector<T>& all) {
        out.places.resize(out.others.size(),
                          {list, static_cast<std::uint16_t>(&item - all.data())});
    }
    static SelectorSpec reserved(std::string_view key) {
        return {.requirements = {requirement(kSourceReserved, key, SelectorOperator::kIn, {""})}};
    }
    void add_entity(Entity entity, NormalElement& out) const {
        const auto add = [&](std::string_view key) { out.others.push_back(reserved(key)); };
        switch (entity) {
            case Entity::kAll:
                out.any = true;
                return;
            case Entity::kNone:
                return;
            case Entity::kWorld:
                for (const auto* key : {"world", "world-ipv4", "world-ipv6"}) add(key);
                return;
            case Entity::kCluster:
                for (const auto* key : {"host", "remote-node", "init", "ingress", "health",
                                        "unmanaged", "kube-apiserver"}) {
                    add(key);
                }
                out.others.push_back(
                    {.requirements = {requirement(kSourceK8s, kClusterKey, SelectorOperator::kIn,
                                                  {options_.cluster})}});
                return;
            default:
                add(to_string(entity));
        }
    }

    const Policy& policy_;
    const Rule& rule_;
    const PolicyOptions& options_;
};

}  // namespace

NormalRule normalise(const Policy& policy, const Rule& rule, const PolicyOptions& options) {
    const Normaliser normaliser(policy, rule, options);
    NormalRule out;
    out.selects_nodes = rule.selects_nodes;
    out.subject = normaliser.subject();
    for (const Direction direction : kDirections) {
        const std::size_t at = index_of(direction);
        NormalDirection& to = out.directions[at];
        for (const bool deny : {false, true}) {
            for (const RuleElement& element : deny ? rule.deny[at] : rule.allow[at]) {
                to.elements.push_back(normaliser.element(element, deny));
                for (const EndpointSelector& one : element.peers.requires_) {
                    to.requires_[deny ? 1 : 0].push_back(normaliser.peer(one, false));
                }
            }
        }
        to.has_rules = !rule.allow[at].empty() || !rule.deny[at].empty();
        // A NetworkPolicy's rules enforce their direction, whatever its types say.
        const bool always = policy.key.kind == PolicyKind::kNetworkPolicy && to.has_rules;
        to.default_deny = always || rule.enable_default_deny[at].value_or(to.has_rules);
    }
    return out;
}

const SelectorSpec& host_selector() {
    static const SelectorSpec kHost{
        .requirements = {requirement(kSourceReserved, "host", SelectorOperator::kIn, {""})}};
    return kHost;
}

}  // namespace mesh::compile
