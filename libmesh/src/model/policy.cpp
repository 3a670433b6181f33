#include "model/policy.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mesh::model::policy {
namespace {

constexpr std::array<std::string_view, 13> kEntityNames{
    "all",         "world",          "world-ipv4", "world-ipv6", "cluster", "host",
    "remote-node", "kube-apiserver", "ingress",    "health",     "init",    "unmanaged",
    "none"};

}  // namespace

bool holds(const LabelRequirement& requirement, LabelArray labels) {
    const auto label = std::ranges::find_if(labels, [&](const Label& one) {
        return one.key == requirement.key &&
               (requirement.source.empty() || one.source == requirement.source);
    });
    const bool present = label != labels.end();
    const auto listed = [&] {
        return std::ranges::binary_search(requirement.values, label->value.view(), {},
                                          [](const auto& v) { return std::string_view(v); });
    };
    switch (requirement.op) {
        case SelectorOperator::kExists:
            return present;
        case SelectorOperator::kDoesNotExist:
            return !present;
        case SelectorOperator::kIn:
            return present && listed();
        case SelectorOperator::kNotIn:
            return !present || !listed();
    }
    return false;
}

bool EndpointSelector::names_key(std::string_view source, std::string_view key) const {
    return std::ranges::any_of(requirements, [&](const LabelRequirement& one) {
        return one.key == key && (one.source.empty() || one.source == source);
    });
}

bool EndpointSelector::names_source(std::string_view source) const {
    return std::ranges::any_of(requirements,
                               [&](const LabelRequirement& one) { return one.source == source; });
}

bool EndpointSelector::matches(LabelArray labels) const {
    return std::ranges::all_of(requirements,
                               [&](const LabelRequirement& one) { return holds(one, labels); });
}

std::optional<Entity> find_entity(std::string_view name) {
    const auto at = std::ranges::find(kEntityNames, name);
    if (at == kEntityNames.end()) return std::nullopt;
    return static_cast<Entity>(at - kEntityNames.begin());
}

std::string_view to_string(Entity entity) {
    return kEntityNames.at(static_cast<std::size_t>(entity));
}

std::string_view L7Rules::parser() const noexcept {
    if (!http.empty()) return "http";
    if (!dns.empty()) return "dns";
    if (!kafka.empty()) return "kafka";
    if (!l7proto.empty()) return l7proto;
    return server_names.empty() ? "" : "tls";
}

bool operator==(const PortRule& a, const PortRule& b) {
    const bool same_rules = a.rules == b.rules || (a.rules && b.rules && *a.rules == *b.rules);
    return same_rules && a.ports == b.ports && a.listener == b.listener &&
           a.listener_priority == b.listener_priority;
}

std::string_view to_string(PolicyKind kind) {
    switch (kind) {
        case PolicyKind::kNetworkPolicy:
            return "NetworkPolicy";
        case PolicyKind::kCiliumNetworkPolicy:
            return "CiliumNetworkPolicy";
        case PolicyKind::kCiliumClusterwideNetworkPolicy:
            return "CiliumClusterwideNetworkPolicy";
    }
    return "?";
}

std::string PolicyKey::to_string() const {
    return namespace_.empty() ? fmt::format("{} {}", policy::to_string(kind), name)
                              : fmt::format("{} {}/{}", policy::to_string(kind), namespace_, name);
}

}  // namespace mesh::model::policy
