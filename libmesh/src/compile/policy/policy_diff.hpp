// What other policies would change: which packets of which endpoints, by peers and ports. Peers for
// whom the same changes are one group, and so are endpoints, so that a change that touches ten
// thousand identities is a few lines. Users: engine, meshctl.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "compile/policy/explain.hpp"
#include "compile/policy/policy_compiler.hpp"

namespace mesh::compile {

/// What becomes of a packet, and the L7 rules that a proxy holds its requests to.
struct PolicyOutcome {
    /// kAllowed, kRedirected, or kDenied whether by a rule or for want of one.
    PolicyAnswer answer = PolicyAnswer::kDenied;
    std::string parser{};           ///< of a redirect
    std::vector<std::string> l7{};  ///< of which one must hold, sorted; "everything": it does
    friend auto operator<=>(const PolicyOutcome&, const PolicyOutcome&) = default;
};

/// Packets with another outcome than before.
struct PortChange {
    static constexpr std::uint8_t kAll = 0, kOthers = 255;
    std::uint8_t protocol = kAll;  ///< kOthers: none that policies can name
    std::uint16_t first = 0, last = 0;
    PolicyOutcome before, after;
    friend auto operator<=>(const PortChange&, const PortChange&) = default;
};

struct PolicyDifference {
    /// Of the endpoints for which this changes: each sort of labels once.
    struct Subject {
        std::vector<model::Label> labels;      ///< sorted
        std::vector<std::uint32_t> endpoints;  ///< ascending
        friend auto operator<=>(const Subject&, const Subject&) = default;
    };
    std::vector<Subject> subjects;
    model::policy::Direction direction = model::policy::Direction::kIngress;
    std::vector<std::uint32_t> peers;  ///< known identities, ascending
    bool other_peers = false;          ///< and everybody whose identity is not known
    std::vector<PortChange> ports;     ///< ascending
};

/// What to put in place of policies: new or other ones, and those to do without.
struct PolicyUpdate {
    std::vector<model::policy::PolicyPtr> upserts;
    std::vector<model::policy::PolicyKey> removals;
};

struct PolicyDiff {
    std::vector<PolicyDifference> differences;  ///< in a lasting order
    /// Endpoints (by labels) for which the new rules contradict each other: nothing would pass.
    std::vector<std::string> conflicts;
    /// Stand for blocks of addresses and DNS names that some policy names and no identity has yet;
    /// their numbers mean nothing beyond this.
    std::vector<PolicyIdentity> made_up;
};

/// What the update would change for the endpoints of a compiler, which stays as it is. Endpoints
/// that an old or new version of a policy selects are compiled twice, by the old and by the new
/// policies; others cannot change.
/// @param compiler after flush()
/// @complexity O(identities) to copy them, two builds of the policies of the endpoints selected,
///   then O(sorts of endpoints × (identities selected + classes × entries × log entries))
[[nodiscard]] PolicyDiff diff(const PolicyCompiler& compiler, const PolicyUpdate& update);

/// The same for two compilers with the same identities; endpoints that both have are compared.
[[nodiscard]] PolicyDiff diff(const PolicyCompiler& before, const PolicyCompiler& after);

}  // namespace mesh::compile
