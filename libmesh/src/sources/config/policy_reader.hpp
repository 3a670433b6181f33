// The parts of parse_policies(): readers of selectors, peers, ports and L7 rules. Private to
// sources/config.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/policy.hpp"
#include "sources/config/field.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::sources::config::policy_reader {

/// What the rule at hand is part of.
struct Context {
    model::policy::Direction direction = model::policy::Direction::kIngress;
    bool deny = false;
    bool nodes = false;  ///< of a nodeSelector
    PolicyFeatures features{};
};

/// How keys of a selector are to be read.
enum class Keys : std::uint8_t {
    kSourced,    ///< "<source>:<key>", no source = any
    kPlain,      ///< as Kubernetes has them, of no source
    kK8s,        ///< as Kubernetes has them, of source k8s
    kNamespace,  ///< as Kubernetes has them, labels of a namespace
};

/// Calls f for each element of a list that must not be longer than `limit`.
template <class F>
void each_of(const Field& list, std::size_t limit, F&& f) {
    if (list.size() > limit) {
        list.expected("at most " + std::to_string(limit) + " elements");
        return;
    }
    list.each(std::forward<F>(f));
}

/// A LabelSelector: matchLabels and matchExpressions; requirements sorted.
[[nodiscard]] std::vector<model::policy::LabelRequirement> read_selector(const Field& field,
                                                                         Keys keys);
/// The peers and what is exclusive among them.
[[nodiscard]] model::policy::Peers read_peers(const Field& element, const Context& context);
/// A NetworkPolicy's `from` or `to`; sets element.any_peer where it has none.
void read_network_policy_peers(const Field& list, std::string_view own_namespace,
                               model::policy::RuleElement& element);
/// @param except nullptr: none
[[nodiscard]] std::optional<model::policy::CidrRule> read_cidr(const Field& cidr,
                                                               const Field* except);
/// A list of matchName or matchPattern.
[[nodiscard]] std::vector<model::policy::FqdnSelector> read_fqdns(const Field& list);

/// toPorts and icmps.
[[nodiscard]] std::vector<model::policy::PortRule> read_ports(const Field& element,
                                                              const Context& context);
/// A NetworkPolicy's `ports`.
[[nodiscard]] std::vector<model::policy::PortRule> read_network_policy_ports(const Field& list);
/// The `rules` of a toPorts element.
void read_l7(const Field& rules, const Context& context, model::policy::L7Rules& out);

}  // namespace mesh::sources::config::policy_reader
