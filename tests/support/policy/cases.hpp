// The policy sets that Cilium 1.15 compiled (tests/golden/samples/policy-README), ready to use.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "support/policy/reference.hpp"

namespace mesh::test {

struct PolicyCase {
    std::string name;
    RefWorld world;  ///< with 1.15's switches
    const RefIdentity* subject = nullptr;
    std::vector<const RefIdentity*> peers;  ///< in the order of the verdict strings
    boost::json::object expect;

    /// A row of verdicts that hold: rule_level_verdicts where there are some.
    struct Row {
        model::policy::Direction direction = model::policy::Direction::kIngress;
        std::uint8_t protocol = 0;
        std::uint16_t port = 0;
        std::string verdicts;
        /// Judged by the rules alone: 'A' may be a redirect.
        bool rule_level = false;
    };
    [[nodiscard]] std::vector<Row> rows() const;
};

/// All cases; the program ends with a message if they cannot be read. Not to be copied: pointers.
[[nodiscard]] const std::vector<PolicyCase>& policy_cases();

}  // namespace mesh::test
