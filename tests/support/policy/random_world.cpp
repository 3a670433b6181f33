#include "support/policy/random_world.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace mesh::test {

using namespace model::policy;
using model::IpPrefix;
using model::Label;

namespace {

IpPrefix block(const char* text) {
    return *IpPrefix::parse(text);
}

constexpr std::array<const char*, 3> kClusters{"east", "west", "north"};

}  // namespace

RefIdentity RandomWorld::pod(std::uint32_t cluster, std::uint32_t number) {
    RefIdentity one;
    one.id = ((cluster + 1) << 16) + number;
    const std::string space = pick({"shop", "data", "ops"});
    one.labels = {{"k8s", "app", pick({"web", "api", "db"})},
                  {"k8s", "io.cilium.k8s.namespace.labels.team", space == "ops" ? "sre" : "dev"},
                  {"k8s", "io.cilium.k8s.policy.cluster", kClusters.at(cluster)},
                  {"k8s", "io.kubernetes.pod.namespace", space}};
    if (one_in(2)) one.labels.push_back({"k8s", "env", pick({"prod", "dev"})});
    std::ranges::sort(one.labels);
    return one;
}

LabelRequirement RandomWorld::requirement(bool peer) {
    LabelRequirement one;
    one.source = pick({"", "k8s"});
    switch (below(peer ? 8 : 4)) {
        case 0:
        case 1:
            one.key = "app";
            one.values = {pick({"web", "api", "db"})};
            break;
        case 2:
        case 3:
            one.key = "env";
            one.values = {pick({"prod", "dev"})};
            break;
        case 4:
        case 5:
            one.key = "io.cilium.k8s.policy.cluster";
            one.values = {kClusters.at(below(3))};
            break;
        case 6:
            one.key = "io.kubernetes.pod.namespace";
            one.values = {pick({"data", "ops", "shop"})};
            break;
        default:
            one.key = "io.cilium.k8s.namespace.labels.team";
            one.values = {pick({"dev", "sre"})};
    }
    one.op = one_in(2) ? SelectorOperator::kIn
                       : pick({SelectorOperator::kIn, SelectorOperator::kNotIn,
                               SelectorOperator::kExists, SelectorOperator::kDoesNotExist});
    if (one.op == SelectorOperator::kExists || one.op == SelectorOperator::kDoesNotExist) {
        one.values.clear();
    } else if (one.key == "app" && one_in(3) && one.values.front() != "web") {
        one.values.push_back("web");
    }
    return one;
}

EndpointSelector RandomWorld::selector(bool peer) {
    EndpointSelector out;
    if (peer && one_in(12)) {
        const std::string key = pick({"host", "remote-node", "health"});
        out.requirements = {{"reserved", key, SelectorOperator::kIn, {""}}};
        return out;
    }
    if (peer && one_in(20)) {
        out.requirements = {{"cidr", "10.0.0.0/8", SelectorOperator::kExists, {}}};
    }
    for (std::size_t n = below(3); n != 0; --n) out.requirements.push_back(requirement(peer));
    std::ranges::sort(out.requirements);
    return out;
}

void RandomWorld::peers(Direction direction, bool deny, Peers& out) {
    switch (below(9)) {
        case 0:
            return;
        case 1:
        case 2:
        case 3:
        case 4:
            out.endpoints.emplace();
            for (std::size_t n = below(3); n != 0; --n) out.endpoints->push_back(selector(true));
            if (one_in(12)) out.requires_.push_back(selector(true));
            return;
        case 5:
        case 6:
            out.entities.emplace();
            for (std::size_t n = 1 + below(2); n != 0; --n) {
                out.entities->push_back(static_cast<Entity>(below(13)));
            }
            return;
        case 7:
            out.cidrs.emplace();
            if (one_in(2)) {
                out.cidrs->push_back({block("10.0.0.0/8"), {block("10.1.0.0/16")}});
            } else if (one_in(2)) {
                out.cidrs->push_back({block("0.0.0.0/0"), {}});
            } else {
                out.cidrs->push_back({block("10.1.0.0/16"), {}});
            }
            return;
        default:
            if (direction == Direction::kIngress || deny) return;
            if (one_in(2)) {
                out.fqdns.emplace();
                out.fqdns->push_back({"a.example.org", ""});
            } else {
                out.services.emplace();
                out.services->push_back({pick({"ext", "int"}), "shop", {}});
            }
    }
}

PortRule RandomWorld::ports(bool deny, bool nodes) {
    PortRule out;
    for (std::size_t n = below(4); n != 0; --n) {
        PortProtocol port;
        port.protocol = pick({Protocol::kTcp, Protocol::kTcp, Protocol::kUdp, Protocol::kAny});
        switch (below(6)) {
            case 0:
                port.port = 0;
                break;
            case 1:
                port.port = pick<std::uint16_t>({78, 80, 82});
                port.end_port = pick<std::uint16_t>({82, 87, 95});
                break;
            case 2:
                port.name = pick({"named", "other"});
                break;
            default:
                port.port = pick<std::uint16_t>({80, 81, 443});
        }
        out.ports.push_back(port);
    }
    const bool l7 = !deny && !nodes && one_in(3);
    if (!l7) return out;
    for (PortProtocol& port : out.ports) {
        port.protocol = Protocol::kTcp;
        if (port.name.empty() && port.port == 0) port.port = 80;
    }
    L7Rules rules;
    rules.http.push_back({pick({"GET", "PUT"}), pick({"/a", "/b"}), "", {}, {}});
    out.rules = std::make_shared<const L7Rules>(std::move(rules));
    return out;
}

RuleElement RandomWorld::element(Direction direction, bool deny, bool nodes) {
    RuleElement out;
    peers(direction, deny, out.peers);
    if (one_in(8)) {
        PortRule icmp;
        icmp.ports.push_back({Protocol::kIcmp, pick<std::uint16_t>({0, 3, 8}), 0, ""});
        out.ports.push_back(std::move(icmp));
        return out;
    }
    for (std::size_t n = below(3); n != 0; --n) out.ports.push_back(ports(deny, nodes));
    return out;
}

Rule RandomWorld::rule(PolicyKind kind, const std::string& own_namespace) {
    Rule out;
    const bool native = kind == PolicyKind::kNetworkPolicy;
    out.selects_nodes = kind == PolicyKind::kCiliumClusterwideNetworkPolicy && one_in(4);
    if (!out.selects_nodes) out.subject = selector(false);
    for (const Direction direction : kDirections) {
        const std::size_t at = index_of(direction);
        for (std::size_t n = below(3); n != 0; --n) {
            RuleElement one = element(direction, false, out.selects_nodes);
            if (native) {
                one.peers.requires_.clear();
                one.peers.entities.reset();
                one.peers.fqdns.reset();
                one.peers.services.reset();
                for (auto& port_rule : one.ports) port_rule.rules.reset();
                if (one.peers.endpoints && one.peers.endpoints->empty())
                    one.peers.endpoints.reset();
                one.any_peer = !one.peers.any_list();
                // A podSelector alone is of the own namespace.
                if (one.peers.endpoints && one_in(2)) {
                    for (auto& peer : *one.peers.endpoints) {
                        peer.requirements.push_back({"k8s",
                                                     "io.kubernetes.pod.namespace",
                                                     SelectorOperator::kIn,
                                                     {own_namespace}});
                        std::ranges::sort(peer.requirements);
                    }
                }
            }
            out.allow[at].push_back(std::move(one));
        }
        if (native) {
            if (one_in(2)) out.enable_default_deny[at] = true;
            continue;
        }
        if (one_in(3)) out.deny[at].push_back(element(direction, true, out.selects_nodes));
        if (one_in(4)) out.enable_default_deny[at] = one_in(3);
    }
    return out;
}

PolicyPtr RandomWorld::policy(std::size_t number) {
    Policy out;
    out.key.kind =
        pick({PolicyKind::kNetworkPolicy, PolicyKind::kCiliumNetworkPolicy,
              PolicyKind::kCiliumNetworkPolicy, PolicyKind::kCiliumClusterwideNetworkPolicy});
    out.key.name = fmt::format("p{}", number);
    if (out.key.kind != PolicyKind::kCiliumClusterwideNetworkPolicy) {
        out.key.namespace_ = one_in(5) ? "data" : "shop";
    }
    const std::size_t rules = out.key.kind == PolicyKind::kNetworkPolicy ? 1 : 1 + below(2);
    for (std::size_t n = 0; n < rules; ++n) {
        out.rules.push_back(rule(out.key.kind, out.key.namespace_));
    }
    return std::make_shared<const Policy>(std::move(out));
}

RefWorld RandomWorld::make() {
    RefWorld world;
    if (one_in(2)) world.options = compile::PolicyOptions::as_of_1_15();
    world.options.cluster = "east";
    world.options.default_local_cluster = one_in(2);
    world.options.empty_peers_match_any = one_in(2);
    world.options.allow_localhost = !one_in(5);
    world.options.host_firewall = one_in(2);
    if (one_in(12)) world.options.enforcement = compile::Enforcement::kAlways;
    if (one_in(30)) world.options.enforcement = compile::Enforcement::kNever;
    world.identities = {
        {1, {{"reserved", "host", ""}}, {}},
        {2, {{"reserved", "world", ""}}, {}},
        {4, {{"reserved", "health", ""}}, {}},
        {6, {{"reserved", "remote-node", ""}}, {}},
        {(1U << 24) + 1,
         {{"cidr", "10.1.2.0/24", ""}, {"reserved", "world", ""}},
         block("10.1.2.0/24")},
        {(1U << 24) + 2,
         {{"cidr", "10.0.0.0/8", ""}, {"fqdn", "a.example.org", ""}, {"reserved", "world", ""}},
         block("10.0.0.0/8")},
        {(1U << 24) + 3,
         {{"cidr", "10.9.9.9/32", ""}, {"reserved", "world", ""}},
         block("10.9.9.9/32")}};
    for (std::uint32_t cluster = 0; cluster < 3; ++cluster) {
        for (std::uint32_t n = 1; n <= 3; ++n) world.identities.push_back(pod(cluster, n));
    }
    for (std::size_t n = 1 + below(4); n != 0; --n) world.policies.push_back(policy(n));
    if (one_in(2)) world.subject_ports = {{{"named", 6}, 8081}, {{"other", 17}, 5353}};
    if (one_in(2)) world.peer_ports = {{{"named", 6}, 8082}};
    world.services = {{"ext", "shop", {}, {}, {*model::IpAddress::parse("10.9.9.9")}},
                      {"int", "shop", {}, {{"", "app", "db"}}, {}}};
    return world;
}

namespace {

std::string text_of(const EndpointSelector& selector) {
    std::vector<std::string> parts;
    for (const auto& one : selector.requirements) {
        static constexpr std::array<const char*, 4> kOps{"in", "notin", "exists", "absent"};
        parts.push_back(fmt::format("{}:{} {} ({})", one.source, one.key,
                                    kOps.at(static_cast<std::size_t>(one.op)),
                                    fmt::join(one.values, ",")));
    }
    return fmt::format("{{{}}}", fmt::join(parts, "; "));
}

std::string text_of(const RuleElement& element) {
    std::string out = element.any_peer ? " anybody" : "";
    const Peers& peers = element.peers;
    if (peers.endpoints) {
        out += " endpoints";
        for (const auto& one : *peers.endpoints) out += text_of(one);
    }
    for (const auto& one : peers.requires_) out += " requires" + text_of(one);
    if (peers.entities) {
        for (const auto one : *peers.entities) out += fmt::format(" entity {}", to_string(one));
    }
    if (peers.cidrs) {
        for (const auto& one : *peers.cidrs) {
            out += fmt::format(" cidr {} but {}", one.cidr.to_string(), one.except.size());
        }
    }
    if (peers.fqdns) out += " fqdns";
    if (peers.services) {
        for (const auto& one : *peers.services) out += " service " + one.name;
    }
    for (const PortRule& rule : element.ports) {
        out += " [";
        for (const auto& port : rule.ports) {
            out += fmt::format(" {}/{}{}-{}", static_cast<int>(port.protocol), port.name, port.port,
                               port.end_port);
        }
        out += rule.rules ? " http]" : "]";
    }
    return out;
}

}  // namespace

std::string describe(const RefWorld& world) {
    std::string out;
    const auto& o = world.options;
    out += fmt::format(
        "enforcement {} localhost {} hostfw {} local-cluster {} lift {} empty-any {} icmp0 {} "
        "splits "
        "{} pods-only {} services {}\n",
        static_cast<int>(o.enforcement), o.allow_localhost, o.host_firewall,
        o.default_local_cluster, o.namespace_labels_lift_namespace, o.empty_peers_match_any,
        o.icmp_type_zero_is_any, o.cidr_except_splits, o.network_policies_select_pods,
        o.services_with_selector);
    for (const auto& identity : world.identities) {
        out += fmt::format("identity {}:", identity.id);
        for (const auto& l : identity.labels) {
            out += fmt::format(" {}:{}={}", l.source.view(), l.key.view(), l.value.view());
        }
        out += "\n";
    }
    for (const auto& policy : world.policies) {
        out += policy->key.to_string() + "\n";
        for (const Rule& rule : policy->rules) {
            out += fmt::format("  {} {}\n", rule.selects_nodes ? "nodes" : "pods",
                               text_of(rule.subject));
            for (const std::size_t at : {0U, 1U}) {
                const char* const name = at == 0 ? "ingress" : "egress";
                if (rule.enable_default_deny[at]) {
                    out += fmt::format("    {} default deny {}\n", name,
                                       *rule.enable_default_deny[at]);
                }
                for (const auto& e : rule.allow[at])
                    out += fmt::format("    {}{}\n", name, text_of(e));
                for (const auto& e : rule.deny[at]) {
                    out += fmt::format("    {}Deny{}\n", name, text_of(e));
                }
            }
        }
    }
    return out;
}

namespace {

/// Erases elements of the list that `get` finds in a world, one by one, while it fails.
template <class Get>
bool erase_each(RefWorld& world, const std::function<bool(const RefWorld&)>& fails, Get get) {
    bool any = false;
    for (std::size_t i = 0;;) {
        RefWorld less = world;
        auto* list = get(less);
        if (list == nullptr || i >= list->size()) return any;
        list->erase(list->begin() + static_cast<std::ptrdiff_t>(i));
        if (fails(less)) {
            world = std::move(less);
            any = true;
        } else {
            ++i;
        }
    }
}

/// A copy of a policy in the world that may be changed.
Policy& own(RefWorld& world, std::size_t index) {
    auto copy = std::make_shared<Policy>(*world.policies[index]);
    Policy& policy = *copy;
    world.policies[index] = std::move(copy);
    return policy;
}

}  // namespace

RefWorld shrink(RefWorld world, const std::function<bool(const RefWorld&)>& fails) {
    for (bool again = true; again;) {
        again = erase_each(world, fails, [](RefWorld& w) { return &w.policies; });
        again |= erase_each(world, fails, [](RefWorld& w) { return &w.identities; });
        for (std::size_t p = 0; p < world.policies.size(); ++p) {
            again |= erase_each(world, fails, [p](RefWorld& w) { return &own(w, p).rules; });
            for (std::size_t r = 0; r < world.policies[p]->rules.size(); ++r) {
                for (const std::size_t at : {0U, 1U}) {
                    const auto in = [p, r](RefWorld& w) -> Rule& { return own(w, p).rules[r]; };
                    again |= erase_each(world, fails, [&](RefWorld& w) { return &in(w).deny[at]; });
                    again |=
                        erase_each(world, fails, [&](RefWorld& w) { return &in(w).allow[at]; });
                    for (std::size_t e = 0; e < world.policies[p]->rules[r].allow[at].size(); ++e) {
                        again |= erase_each(world, fails,
                                            [&](RefWorld& w) { return &in(w).allow[at][e].ports; });
                        again |= erase_each(world, fails, [&](RefWorld& w) {
                            auto& peers = in(w).allow[at][e].peers.endpoints;
                            return peers ? &*peers : nullptr;
                        });
                    }
                }
            }
        }
    }
    return world;
}

}  // namespace mesh::test
