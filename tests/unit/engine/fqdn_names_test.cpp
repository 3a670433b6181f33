// Names of toFQDNs → identities that only this node knows, over a restart, too.
#include "engine/fqdn_names.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

namespace mesh::engine {
namespace {

using model::IpAddress;
using namespace model::policy;

Policy policy(std::vector<FqdnSelector> selectors) {
    Policy policy{{PolicyKind::kCiliumNetworkPolicy, "shop", "p"}, {}};
    RuleElement element;
    element.peers.fqdns = std::move(selectors);
    Rule& rule = policy.rules.emplace_back();
    rule.allow[index_of(Direction::kEgress)].push_back(std::move(element));
    return policy;
}

class FqdnNamesTest : public testing::Test {
  protected:
    FqdnNamesTest()
        : file_(std::filesystem::temp_directory_path() /
                ("mesh-fqdn-names-" + std::to_string(::getpid()))) {
        make();
    }
    ~FqdnNamesTest() override { std::filesystem::remove(file_); }
    void make() {
        names_.reset();
        local_.emplace(compile::LocalIdentityOptions{}, Rng(7));
        names_.emplace(file_, *local_, clock_, Logger());
        names_->load();
    }
    /// Labels of the identity of an address; empty: it has none.
    std::vector<std::string> selectors_of(const IpAddress& address) {
        (void)local_->flush();
        std::vector<std::string> keys;
        const auto id = local_->find({address, 128});
        for (const auto& one : local_->identities()) {
            if (!id || one.id != *id) continue;
            for (const auto& label : one.labels) {
                if (label.source == kSourceFqdn) keys.push_back(label.key.str());
            }
        }
        return keys;
    }
    bool learn(std::string_view name, const IpAddress& address) {
        return names_->learn(3, name, std::vector{address}, std::chrono::seconds(300));
    }

    using Keys = std::vector<std::string>;
    const IpAddress kOne = IpAddress::v4(192, 0, 2, 1), kTwo = IpAddress::v4(192, 0, 2, 2);
    std::string file_;
    ManualClock clock_;
    std::optional<compile::LocalIdentities> local_;
    std::optional<FqdnNames> names_;
};

TEST_F(FqdnNamesTest, AddressesOfNamesThatPoliciesSelectGetIdentities) {
    const Policy first = policy({{"a.example.org", ""}, {"", "*.example.org"}});
    names_->note_policy(nullptr, &first);
    EXPECT_TRUE(learn("a.example.org", kOne));
    EXPECT_FALSE(learn("a.example.org", kOne)) << "nothing new";
    EXPECT_FALSE(learn("example.com", kTwo)) << "no policy names it";
    EXPECT_EQ(selectors_of(kOne), (Keys{"*.example.org", "a.example.org"}));
    EXPECT_EQ(selectors_of(kTwo), Keys{});
    // What was learnt before counts for a policy that comes later.
    const Policy second = policy({{"", "*.example.org"}, {"example.com", ""}});
    names_->note_policy(&first, &second);
    EXPECT_EQ(selectors_of(kOne), Keys{"*.example.org"});
    EXPECT_EQ(selectors_of(kTwo), Keys{"example.com"});
    names_->remove_endpoint(3);
    EXPECT_EQ(selectors_of(kOne), Keys{});
    names_->note_policy(&second, nullptr);
    EXPECT_EQ(names_->cache().selectors().size(), 0U);
}

TEST_F(FqdnNamesTest, WhatWasLearntOutlivesTheAgent) {
    const Policy one = policy({{"a.example.org", ""}});
    names_->note_policy(nullptr, &one);
    learn("a.example.org", kOne);
    names_->save();
    make();
    names_->note_policy(nullptr, &one);
    EXPECT_EQ(selectors_of(kOne), Keys{"a.example.org"});
}

}  // namespace
}  // namespace mesh::engine
