// A RefWorld through the policy compiler, and packets through the entries that come out, by the
// datapath's rules (policy.md §8): what the property tests compare with the reference.
#pragma once

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "compile/policy/policy_compiler.hpp"
#include "support/policy/reference.hpp"

namespace mesh::test {

inline compile::PolicyIdentity to_policy_identity(const RefIdentity& identity) {
    return {identity.id, identity.labels, identity.cidr};
}

inline compile::PolicyService to_policy_service(const RefService& service) {
    return {service.name, service.namespace_, service.labels, service.selector, service.backends};
}

inline void fill(compile::PolicyCompiler& compiler, const RefWorld& world) {
    for (const RefIdentity& one : world.identities)
        compiler.upsert_identity(to_policy_identity(one));
    for (const RefService& one : world.services) compiler.upsert_service(to_policy_service(one));
    compiler.set_peer_ports(world.peer_ports);
    for (const auto& policy : world.policies) compiler.upsert_policy(policy);
}

/// The entries of one endpoint, as the policy map looks them up.
class MapLookup {
  public:
    using Entries = std::map<compile::PolicyMapKey, compile::PolicyMapValue>;
    explicit MapLookup(const Entries& entries) : entries_(entries) {}

    /// nullopt: dropped, since nothing is there.
    [[nodiscard]] std::optional<compile::PolicyMapValue> find(model::policy::Direction direction,
                                                              std::uint32_t identity,
                                                              std::uint8_t protocol,
                                                              std::uint16_t port) const {
        const auto own = longest(direction, identity, protocol, port);
        const auto any = longest(direction, 0, protocol, port);
        if (!own) return value(any);
        if (!any) return value(own);
        if (own->second.precedence != any->second.precedence) {
            return value(own->second.precedence > any->second.precedence ? own : any);
        }
        return value(own->first.length >= any->first.length ? own : any);
    }

  private:
    using Found = std::optional<std::pair<compile::PolicyMapKey, compile::PolicyMapValue>>;
    static std::optional<compile::PolicyMapValue> value(const Found& found) {
        if (!found) return std::nullopt;
        return found->second;
    }
    [[nodiscard]] Found longest(model::policy::Direction direction, std::uint32_t identity,
                                std::uint8_t protocol, std::uint16_t port) const {
        for (int length = 24; length >= 0; --length) {
            if (length > 0 && length < 8) continue;
            compile::PolicyMapKey key{identity, direction, 0, static_cast<std::uint8_t>(length), 0};
            if (length >= 8) {
                key.protocol = protocol;
                const unsigned shift = 24U - static_cast<unsigned>(length);
                key.port = static_cast<std::uint16_t>((unsigned{port} >> shift) << shift);
            }
            const auto found = entries_.find(key);
            if (found != entries_.end()) return *found;
        }
        return std::nullopt;
    }

    const Entries& entries_;
};

inline RefVerdict to_verdict(const std::optional<compile::PolicyMapValue>& value) {
    if (!value) return RefVerdict::kDrop;
    if (value->deny()) return RefVerdict::kDeny;
    return value->redirect != 0 ? RefVerdict::kRedirect : RefVerdict::kAllow;
}

inline MapLookup::Entries entries_of(const compile::PolicyCompiler& compiler,
                                     std::uint32_t endpoint) {
    MapLookup::Entries entries;
    const auto* policy = compiler.find(endpoint);
    if (policy == nullptr) return entries;
    for (const auto& [key, value] : policy->entries(compiler.selectors())) {
        entries.emplace(key, value);
    }
    return entries;
}

}  // namespace mesh::test
