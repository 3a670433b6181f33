// Selectors and peers of network policies.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "model/names.hpp"
#include "sources/config/policy_reader.hpp"

namespace mesh::sources::config::policy_reader {

using namespace model::policy;
using model::IpPrefix;

namespace {

constexpr std::string_view kKeyForm =
    "a label's key of the form [source:][prefix/]name, name at most 63 of letters, digits, '-', "
    "'_' and '.', alphanumeric at both ends";

/// Sets source and key from a key as written.
void read_key(const Field& at, std::string_view text, Keys keys, LabelRequirement& out) {
    std::string whole(text);
    if (keys == Keys::kSourced) {
        if (const auto colon = text.find(':'); colon != std::string_view::npos) {
            out.source = text.substr(0, colon);
            text.remove_prefix(colon + 1);
            // As Cilium checks it: with a dot in the place of the colon.
            whole[colon] = '.';
            if (out.source.empty() || text.empty()) at.expected(kKeyForm);
            if (out.source == "any") out.source.clear();
        }
    }
    if (!model::is_qualified_name(whole)) at.expected(kKeyForm);
    out.key = text;
    if (keys == Keys::kK8s || keys == Keys::kNamespace) out.source = kSourceK8s;
    if (keys == Keys::kNamespace) out.key.insert(0, kNamespaceLabelsPrefix);
    if (out.source == kSourceCidr && !IpPrefix::parse(out.key)) {
        at.expected("an address block after \"cidr:\"");
    }
}

std::string read_value(const Field& value) {
    std::string text = value.string();
    if (!model::is_label_text(text)) {
        value.expected("at most 63 letters, digits, '-', '_' and '.', alphanumeric at both ends");
    }
    return text;
}

LabelRequirement read_expression(const Field& field, Keys keys) {
    field.only({"key", "operator", "values"});
    LabelRequirement one;
    const Field key = field["key"];
    read_key(key, key.required_string(), keys, one);
    const Field op = field["operator"];
    static constexpr std::array<std::string_view, 4> kOperators{"In", "NotIn", "Exists",
                                                                "DoesNotExist"};
    const std::string name = op.required_string();
    const auto at = std::ranges::find(kOperators, name);
    if (at == kOperators.end()) op.expected("one of In, NotIn, Exists, DoesNotExist");
    one.op = static_cast<SelectorOperator>(at - kOperators.begin());
    const Field values = field["values"];
    each_of(values, kMaxPolicyList,
            [&](const Field& value) { one.values.push_back(read_value(value)); });
    const bool listed = one.op == SelectorOperator::kIn || one.op == SelectorOperator::kNotIn;
    if (listed && one.values.empty()) values.expected("at least one value with In and NotIn");
    if (!listed && !one.values.empty()) values.expected("no values with Exists and DoesNotExist");
    std::ranges::sort(one.values);
    one.values.erase(std::unique(one.values.begin(), one.values.end()), one.values.end());
    return one;
}

EndpointSelector read_endpoint_selector(const Field& field) {
    if (field.kind() != DocumentValue::Kind::kMap) field.expected("a label selector");
    return {read_selector(field, Keys::kSourced)};
}

template <class T, class F>
std::optional<std::vector<T>> read_list(const Field& list, F&& read) {
    if (!list.present()) return std::nullopt;
    std::vector<T> all;
    each_of(list, kMaxPolicyList, [&](const Field& item) { all.push_back(read(item)); });
    return all;
}

Entity read_entity(const Field& field) {
    const std::string name = field.required_string();
    const auto entity = find_entity(name);
    if (!entity) {
        field.expected(
            "one of all, world, world-ipv4, world-ipv6, cluster, host, remote-node, "
            "kube-apiserver, ingress, health, init, unmanaged, none");
    }
    return entity.value_or(Entity::kNone);
}

ServiceSelector read_service(const Field& field) {
    field.only({"k8sService", "k8sServiceSelector"});
    const Field by_name = field["k8sService"];
    const Field by_labels = field["k8sServiceSelector"];
    ServiceSelector one;
    if (by_name.present() == by_labels.present()) {
        field.expected("one of k8sService and k8sServiceSelector");
    }
    if (by_name.present()) {
        by_name.only({"serviceName", "namespace"});
        one.name = by_name["serviceName"].required_string();
        one.namespace_ = by_name["namespace"].required_string();
    } else if (by_labels.present()) {
        by_labels.only({"selector", "namespace"});
        one.namespace_ = by_labels["namespace"].string();
        const Field selector = by_labels["selector"];
        if (!selector.present()) selector.expected("a label selector");
        one.selector = read_selector(selector, Keys::kPlain);
    }
    return one;
}

void read_cidrs(const Field& element, std::string_view plain, std::string_view set, Peers& peers) {
    const Field addresses = element[plain];
    const Field rules = element[set];
    if (!addresses.present() && !rules.present()) return;
    auto& cidrs = peers.cidrs.emplace();
    each_of(addresses, kMaxPolicyList, [&](const Field& item) {
        if (auto rule = read_cidr(item, nullptr)) cidrs.push_back(std::move(*rule));
    });
    each_of(rules, kMaxPolicyList, [&](const Field& item) {
        item.only({"cidr", "except", "cidrGroupRef", "cidrGroupSelector"});
        for (const std::string_view group : {"cidrGroupRef", "cidrGroupSelector"}) {
            if (item[group].present()) {
                item[group].expected("nothing here: CiliumCIDRGroups are not enforced");
            }
        }
        const Field except = item["except"];
        if (auto rule = read_cidr(item["cidr"], &except)) cidrs.push_back(std::move(*rule));
    });
}

/// At most one list of peers may be given.
void check_exclusive(const Field& element, std::span<const std::string_view> names) {
    std::string_view first;
    for (const std::string_view name : names) {
        if (!element[name].present()) continue;
        if (!first.empty()) {
            element[name].expected(fmt::format("nothing beside {}", first));
            return;
        }
        first = name;
    }
}

}  // namespace

std::vector<LabelRequirement> read_selector(const Field& field, Keys keys) {
    std::vector<LabelRequirement> all;
    if (!field.present()) return all;
    field.only({"matchLabels", "matchExpressions"});
    const Field labels = field["matchLabels"];
    if (labels.size() > kMaxPolicyList) labels.expected("fewer labels");
    labels.each_member([&](const std::string& name, const Field& value) {
        LabelRequirement& one = all.emplace_back();
        read_key(value, name, keys, one);
        one.values = {read_value(value)};
    });
    each_of(field["matchExpressions"], kMaxPolicyList,
            [&](const Field& item) { all.push_back(read_expression(item, keys)); });
    std::ranges::sort(all);
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
}

std::optional<CidrRule> read_cidr(const Field& cidr, const Field* except) {
    const auto block = IpPrefix::parse(cidr.required_string());
    if (!block) {
        cidr.expected("an address or a block of addresses, like 10.0.0.0/8");
        return std::nullopt;
    }
    CidrRule rule{*block, {}};
    if (except == nullptr) return rule;
    each_of(*except, kMaxPolicyList, [&](const Field& item) {
        const auto inner = IpPrefix::parse(item.required_string());
        if (!inner || !block->contains(*inner)) {
            item.expected(fmt::format("a block of addresses within {}", block->to_string()));
            return;
        }
        rule.except.push_back(*inner);
    });
    std::ranges::sort(rule.except);
    rule.except.erase(std::unique(rule.except.begin(), rule.except.end()), rule.except.end());
    return rule;
}

Peers read_peers(const Field& element, const Context& context) {
    static constexpr std::array<std::string_view, 6> kFrom{
        "fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet", "fromNodes", "fromGroups"};
    static constexpr std::array<std::string_view, 8> kTo{"toEndpoints", "toEntities", "toCIDR",
                                                         "toCIDRSet",   "toNodes",    "toGroups",
                                                         "toServices",  "toFQDNs"};
    const bool ingress = context.direction == Direction::kIngress;
    const auto names =
        ingress ? std::span<const std::string_view>(kFrom) : std::span<const std::string_view>(kTo);
    check_exclusive(element, names);
    for (const std::size_t unenforced : {4U, 5U}) {
        const Field field = element[names[unenforced]];
        if (field.present()) field.expected("nothing here: this kind of peers is not enforced");
    }
    Peers peers;
    peers.endpoints = read_list<EndpointSelector>(element[names[0]], read_endpoint_selector);
    peers.entities = read_list<Entity>(element[names[1]], read_entity);
    read_cidrs(element, names[2], names[3], peers);
    if (auto required = read_list<EndpointSelector>(
            element[ingress ? "fromRequires" : "toRequires"], read_endpoint_selector)) {
        peers.requires_ = std::move(*required);
    }
    if (ingress) return peers;
    peers.services = read_list<ServiceSelector>(element["toServices"], read_service);
    if (const Field fqdns = element["toFQDNs"]; fqdns.present()) {
        if (context.deny) fqdns.expected("nothing here: names cannot be denied");
        peers.fqdns = read_fqdns(fqdns);
    }
    return peers;
}

void read_network_policy_peers(const Field& list, std::string_view own_namespace,
                               RuleElement& element) {
    element.any_peer = list.size() == 0;
    each_of(list, kMaxPolicyList, [&](const Field& peer) {
        peer.only({"podSelector", "namespaceSelector", "ipBlock"});
        const Field pods = peer["podSelector"];
        const Field spaces = peer["namespaceSelector"];
        const Field block = peer["ipBlock"];
        if (block.present()) {
            if (pods.present() || spaces.present()) block.expected("no selector beside ipBlock");
            block.only({"cidr", "except"});
            const Field except = block["except"];
            auto rule = read_cidr(block["cidr"], &except);
            if (!element.peers.cidrs) element.peers.cidrs.emplace();
            if (rule) element.peers.cidrs->push_back(std::move(*rule));
            return;
        }
        if (!pods.present() && !spaces.present()) {
            peer.expected("podSelector, namespaceSelector or ipBlock");
        }
        EndpointSelector selector{read_selector(pods, Keys::kK8s)};
        auto& all = selector.requirements;
        const auto by_space = read_selector(spaces, Keys::kNamespace);
        all.insert(all.end(), by_space.begin(), by_space.end());
        const std::string source(kSourceK8s);
        const std::string key(kNamespaceKey);
        if (!spaces.present()) {
            all.push_back({source, key, SelectorOperator::kIn, {std::string(own_namespace)}});
        } else if (by_space.empty()) {
            all.push_back({source, key, SelectorOperator::kExists, {}});
        }
        std::ranges::sort(all);
        all.erase(std::unique(all.begin(), all.end()), all.end());
        if (!element.peers.endpoints) element.peers.endpoints.emplace();
        element.peers.endpoints->push_back(std::move(selector));
    });
}

std::vector<FqdnSelector> read_fqdns(const Field& list) {
    std::vector<FqdnSelector> all;
    each_of(list, kMaxPolicyList, [&](const Field& item) {
        item.only({"matchName", "matchPattern"});
        const auto read = [](const Field& field, bool pattern) {
            std::string text = field.string();
            std::ranges::transform(text, text.begin(), [](char c) {
                return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
            });
            const bool good = text.size() <= 255 &&
                              std::ranges::all_of(text,
                                                  [&](char c) {
                                                      return model::is_lower_alnum(c) || c == '-' ||
                                                             c == '_' || c == '.' ||
                                                             (pattern && c == '*');
                                                  }) &&
                              text.find("..") == std::string::npos && !text.starts_with('.');
            if (!good) {
                field.expected(pattern
                                   ? "a DNS name of at most 255 letters, digits, '-', '_', '*', '.'"
                                   : "a DNS name of at most 255 letters, digits, '-', '_', '.'");
            }
            if (text.ends_with('.')) text.pop_back();
            return text;
        };
        FqdnSelector one{read(item["matchName"], false), read(item["matchPattern"], true)};
        if (one.match_name.empty() == one.match_pattern.empty()) {
            item.expected("one of matchName and matchPattern");
        }
        all.push_back(std::move(one));
    });
    return all;
}

}  // namespace mesh::sources::config::policy_reader
