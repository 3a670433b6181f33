#include "engine/policy_rows.hpp"

namespace mesh::engine {

namespace {

/// Of a tier; all policies that there are today have the first. @source policy.md §8
constexpr std::uint32_t kFirstPriority = 0xffffffU << 8U;

}  // namespace

bool ProxyPorts::set(const std::string& parser, model::policy::Direction direction,
                     std::uint16_t port) {
    const std::pair key{parser, direction};
    if (port == 0) return ports_.erase(key) > 0;
    const auto [at, added] = ports_.try_emplace(key, port);
    return added || std::exchange(at->second, port) != port;
}

std::uint16_t ProxyPorts::find(const std::string& parser,
                               model::policy::Direction direction) const {
    const auto found = ports_.find({parser, direction});
    return found == ports_.end() ? kNoProxyPort : found->second;
}

datapath::PolicyKey to_key(const compile::PolicyMapKey& key) {
    return {.identity = key.identity,
            .egress = key.direction == model::policy::Direction::kEgress,
            .protocol = key.protocol,
            .length = key.length,
            .port = key.port};
}

datapath::PolicyVerdict to_verdict(const compile::PolicyMapValue& value,
                                   const compile::EndpointPolicy& policy,
                                   const ProxyPorts& proxies) {
    datapath::PolicyVerdict verdict;
    verdict.precedence = kFirstPriority | value.precedence;
    verdict.deny = value.deny();
    if (value.redirect != 0) {
        const auto& redirects = policy.redirects();
        const std::size_t index = value.redirect - 1U;
        verdict.proxy_port = index < redirects.size()
                                 ? proxies.find(redirects[index].parser, redirects[index].direction)
                                 : kNoProxyPort;
    }
    return verdict;
}

std::vector<datapath::PolicyRow> to_rows(const compile::EndpointPolicy& policy,
                                         const compile::SelectorCache& selectors,
                                         const ProxyPorts& proxies) {
    std::vector<datapath::PolicyRow> rows;
    rows.reserve(policy.entry_count());
    policy.each_entry(selectors, [&](const auto& key, const auto& value) {
        rows.push_back({to_key(key), to_verdict(value, policy, proxies)});
    });
    return rows;
}

std::vector<datapath::PolicyRowChange> to_row_changes(const compile::PolicyChange& change,
                                                      const ProxyPorts& proxies) {
    std::map<datapath::PolicyKey, std::optional<datapath::PolicyVerdict>> last;
    for (const auto& [key, value] : change.entries) {
        auto& verdict = last[to_key(key)];
        verdict.reset();
        if (value) verdict = to_verdict(*value, *change.policy, proxies);
    }
    std::vector<datapath::PolicyRowChange> changes;
    changes.reserve(last.size());
    for (const auto& [key, verdict] : last) changes.push_back({key, verdict});
    return changes;
}

}  // namespace mesh::engine
