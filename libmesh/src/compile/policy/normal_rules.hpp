// Rules with all that the policy around them and the cluster add: namespaces, the own cluster,
// entities and services as selectors. One for each spec, shared by all endpoints that it selects.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "compile/policy/options.hpp"
#include "compile/policy/selector_cache.hpp"
#include "model/policy.hpp"

namespace mesh::compile {

/// Which item of a rule element's peers a selector stands for.
struct PeerPlace {
    enum class List : std::uint8_t { kEndpoints, kEntities, kCidrs, kFqdns, kServices };
    List list = List::kEndpoints;
    std::uint16_t item = 0;
    friend bool operator==(const PeerPlace&, const PeerPlace&) = default;
};

struct NormalElement {
    /// By labels: what other rules require of endpoints holds for them, too.
    std::vector<SelectorSpec> endpoints;
    std::vector<SelectorSpec> others;  ///< entities, blocks of addresses, names, services
    std::vector<PeerPlace> places;     ///< of others
    bool any_endpoint = false;  ///< everybody whom the requirements of other rules let through
    bool any = false;           ///< everybody
    bool deny = false;
    std::vector<model::policy::PortRule> ports;  ///< empty: all there is
    std::optional<model::policy::AuthType> authentication;
};

struct NormalDirection {
    std::vector<NormalElement> elements;
    /// fromRequires, toRequires: of allowing and of denying rules.
    std::array<std::vector<model::policy::EndpointSelector>, 2> requires_;
    bool default_deny = false;
    bool has_rules = false;
};

struct NormalRule {
    bool selects_nodes = false;
    model::policy::EndpointSelector subject;
    std::array<NormalDirection, 2> directions;
};

[[nodiscard]] NormalRule normalise(const model::policy::Policy& policy,
                                   const model::policy::Rule& rule, const PolicyOptions& options);

/// The selector that stands for the host alone.
[[nodiscard]] const SelectorSpec& host_selector();

}  // namespace mesh::compile
