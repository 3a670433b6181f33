// The reference evaluator says of every packet of the recorded cases what is recorded of it; where
// Cilium's map contradicted the rules, what the rules say.
#include "support/policy/reference.hpp"

#include <gtest/gtest.h>

#include "support/policy/cases.hpp"

namespace mesh::test {
namespace {

TEST(PolicyReference, AgreesWithEveryRecordedVerdict) {
    std::size_t compared = 0;
    for (const PolicyCase& one : policy_cases()) {
        const Reference reference(one.world);
        EXPECT_EQ(reference.enforced(*one.subject, model::policy::Direction::kIngress),
                  one.expect.at("ingress_enforced").as_bool())
            << one.name;
        EXPECT_EQ(reference.enforced(*one.subject, model::policy::Direction::kEgress),
                  one.expect.at("egress_enforced").as_bool())
            << one.name;
        for (const PolicyCase::Row& row : one.rows()) {
            std::string verdicts;
            for (const RefIdentity* peer : one.peers) {
                const auto verdict =
                    reference.verdict(*one.subject, {row.direction, row.protocol, row.port, peer});
                const bool redirect = verdict == RefVerdict::kRedirect && row.rule_level;
                verdicts += redirect ? 'A' : static_cast<char>(verdict);
                // A denied packet that nothing allows: 1.15 leaves out some deny entries then.
                const char recorded = row.verdicts.at(verdicts.size() - 1);
                if (verdicts.back() == 'D' && recorded == '-') verdicts.back() = '-';
                ++compared;
            }
            EXPECT_EQ(verdicts, row.verdicts)
                << one.name << ": "
                << (row.direction == model::policy::Direction::kIngress ? "in " : "out ")
                << int{row.protocol} << " " << row.port;
        }
    }
    EXPECT_GT(compared, 100'000U);
}

}  // namespace
}  // namespace mesh::test
