// Builds an EndpointPolicy from the rules that select its endpoints. Part of PolicyCompiler.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "compile/policy/endpoint_policy.hpp"
#include "compile/policy/normal_rules.hpp"
#include "compile/policy/selector_cache.hpp"

namespace mesh::compile {

/// Container ports by name and protocol number.
using NamedPorts = std::map<std::pair<std::string, std::uint8_t>, std::uint16_t>;

/// A normal rule whose selectors are in the cache; elements in the same order.
struct CachedRule {
    NormalRule rule;
    struct Element {
        std::vector<SelectorId> endpoints, others;
    };
    std::array<std::vector<Element>, 2> elements;
};

/// Rank of a redirect among entries. @param priority of its listener; 0: the parser's own
/// @source policy.md §8, listener priorities
[[nodiscard]] std::uint8_t redirect_precedence(const PolicyRedirect& redirect,
                                               std::uint16_t priority);
/// True if a proxy has to see the packets.
[[nodiscard]] bool is_redirect(const model::policy::PortRule& rule);

class PolicyBuilder {
  public:
    struct Subject {
        bool is_host = false, is_init = false;
        Enforcement enforcement = Enforcement::kDefault;
        const NamedPorts* own_ports = nullptr;
        const NamedPorts* peer_ports = nullptr;
    };
    /// Protocol, first and last port: what shares a redirect.
    using L4 = std::tuple<std::uint8_t, std::uint16_t, std::uint16_t>;
    struct PortUse {
        L4 l4;
        bool all_ports = false;
        const model::policy::PortRule* rule = nullptr;
        const model::policy::PortProtocol* port = nullptr;  ///< of the rule
    };
    /// What an element of a rule comes to for a subject.
    struct Use {
        const CachedRule* rule = nullptr;
        const NormalElement* element = nullptr;
        std::vector<SelectorId> peers;  ///< ascending
        std::vector<PortUse> ports;
    };

    PolicyBuilder(const PolicyOptions& options, SelectorCache& cache, SelectorId host,
                  DirectionPolicy::Scratch& scratch)
        : options_(options), cache_(cache), host_(host), scratch_(scratch) {}

    /// @param rules in a lasting order
    /// @param acquired set to selectors of the cache that this policy alone holds
    /// @return true if it depends on the names of peers' ports
    bool build(const std::vector<const CachedRule*>& rules, const Subject& subject,
               EndpointPolicy& out, std::vector<SelectorId>& acquired);

    /// What the rules' elements come to; those that select nobody or no port are left out.
    /// @param acquired more selectors of the cache that the result refers to
    [[nodiscard]] std::vector<Use> collect(const std::vector<const CachedRule*>& rules,
                                           const Subject& subject,
                                           model::policy::Direction direction,
                                           std::vector<SelectorId>& acquired);

  private:
    void build_direction(const std::vector<const CachedRule*>& rules, const Subject& subject,
                         model::policy::Direction direction, EndpointPolicy& out,
                         std::vector<SelectorId>& acquired);
    void add_required(const NormalElement& element,
                      const std::vector<model::policy::EndpointSelector>& required,
                      std::vector<SelectorId>& peers, std::vector<SelectorId>& acquired);
    void resolve(const model::policy::PortRule& rule, const Subject& subject,
                 model::policy::Direction direction, std::vector<PortUse>& out);
    /// @return numbers from 1 of the redirects of the direction
    [[nodiscard]] std::map<L4, std::uint16_t> make_redirects(const std::vector<Use>& uses,
                                                             model::policy::Direction direction,
                                                             EndpointPolicy& out) const;
    void add_shapes(const Use& use, const std::map<L4, std::uint16_t>& redirects,
                    const EndpointPolicy& out, std::vector<PeerShape>& shapes) const;

    const PolicyOptions& options_;
    SelectorCache& cache_;
    SelectorId host_;
    DirectionPolicy::Scratch& scratch_;
    bool uses_peer_ports_ = false;
};

}  // namespace mesh::compile
