// Policies of files as one set, and as the records that agents read.
#include "sources/config/policy_set.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sources/config/policy_documents.hpp"

namespace mesh::sources::config {
namespace {

using model::policy::PolicyKind;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string document(std::string_view name, std::string_view rules = "ingress: []") {
    return fmt::format(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {}\n"
        "  namespace: shop\nspec:\n  endpointSelector: {{}}\n  {}\n",
        name, rules);
}
const std::string kBad = "ingres: []";

std::vector<std::string> lines(const PolicySetUpdate& update) {
    std::vector<std::string> out;
    for (const auto& [key, record] : update.changes) {
        out.push_back((record ? "+" : "-") + key.to_string());
    }
    return out;
}

TEST(PolicySet, ABadDocumentKeepsItsPolicyAndTakesNothingFromOthers) {
    PolicySet set;
    EXPECT_THAT(lines(set.apply("a.yaml", document("one") + document("two") + document("three"))),
                ElementsAre("+CiliumNetworkPolicy shop/one", "+CiliumNetworkPolicy shop/three",
                            "+CiliumNetworkPolicy shop/two"));
    const auto update = set.apply("a.yaml", document("one", "egress: []") + document("two", kBad));
    EXPECT_THAT(lines(update),
                ElementsAre("+CiliumNetworkPolicy shop/one", "-CiliumNetworkPolicy shop/three"));
    EXPECT_THAT(update.errors,
                ElementsAre(HasSubstr("a.yaml: document 2: line 18: spec.ingres: expected")));
    EXPECT_EQ(set.size(), 2U);
    EXPECT_EQ(set.errors(), update.errors);
    EXPECT_TRUE(set.unread().empty()) << "it has a good version";
    EXPECT_THAT(set.apply("a.yaml", document("one", "egress: []") + document("two", kBad)).errors,
                IsEmpty())
        << "told once";
    EXPECT_THAT(lines(set.apply("a.yaml", document("one", "egress: []"))),
                ElementsAre("-CiliumNetworkPolicy shop/two"));
    EXPECT_THAT(set.errors(), IsEmpty());
}

TEST(PolicySet, AFileThatIsNoYamlOrCannotBeReadKeepsAll) {
    PolicySet set;
    (void)set.apply("a.yaml", document("one") + document("two"));
    EXPECT_THAT(lines(set.apply("a.yaml", "a: [")), IsEmpty());
    EXPECT_TRUE(set.unread().unknown);
    EXPECT_THAT(lines(set.fail("a.yaml", "a.yaml: open: no")), IsEmpty());
    EXPECT_THAT(set.errors(), ElementsAre("a.yaml: open: no"));
    EXPECT_EQ(set.size(), 2U);
    EXPECT_EQ(lines(set.remove("a.yaml")).size(), 2U);
    EXPECT_THAT(set.errors(), IsEmpty());
    EXPECT_FALSE(set.unread().unknown);
}

TEST(PolicySet, WhatWasNeverGoodIsNamed) {
    PolicySet set;
    (void)set.apply("a.yaml", document("one", kBad));
    const model::policy::PolicyKey one{PolicyKind::kCiliumNetworkPolicy, "shop", "one"};
    EXPECT_TRUE(set.unread().contains(one));
    EXPECT_FALSE(set.unread().unknown);
    (void)set.apply("a.yaml", document("one"));
    EXPECT_TRUE(set.unread().empty());
}

TEST(PolicySet, OfTwoFilesThatDefineAPolicyTheFirstCounts) {
    PolicySet set;
    (void)set.apply("b.yaml", document("one"));
    const auto update = set.apply("a.yaml", document("one", "egress: []"));
    EXPECT_THAT(lines(update), ElementsAre("+CiliumNetworkPolicy shop/one"));
    EXPECT_THAT(update.errors, ElementsAre(HasSubstr("is defined in a.yaml already")));
    EXPECT_THAT(lines(set.remove("a.yaml")), ElementsAre("+CiliumNetworkPolicy shop/one"));
    EXPECT_THAT(set.errors(), IsEmpty());
    EXPECT_EQ(set.counts().at(PolicyKind::kCiliumNetworkPolicy), 1U);
}

TEST(PolicySet, OtherObjectsAreNoneOfIts) {
    PolicySet set;
    EXPECT_THAT(set.apply("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n").errors,
                IsEmpty());
    EXPECT_THAT(set.apply("b.yaml",
                          "apiVersion: cilium.io/v2\nkind: CiliumNode\n"
                          "metadata: {name: n}\n")
                    .errors,
                IsEmpty());
    EXPECT_THAT(set.apply("c.yaml",
                          "apiVersion: cilium.io/v1\nkind: CiliumNetworkPolicy\n"
                          "metadata: {name: n}\n")
                    .errors,
                ElementsAre(HasSubstr("c.yaml: document 1")));
}

TEST(PolicyRecords, AreReadAsThePolicyThatWasWrittenLinesIncluded) {
    const std::string yaml =
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata:\n  name: all\n"
        "  managedFields: [{manager: x}]\n  annotations: {note: \"a \\\"b\\\"\\n\"}\n"
        "spec:\n  endpointSelector: {matchLabels: {app: 'web'}}\n"
        "  ingress:\n  - fromEndpoints:\n    - {}\n    toPorts:\n"
        "    - ports: [{port: '80', protocol: TCP}]\n      rules:\n        http:\n"
        "        - {method: GET, path: '/\\w+'}\n"
        "  - icmps: [{fields: [{type: 8, family: IPv4}]}]\n"
        "specs:\n- endpointSelector: {}\n  enableDefaultDeny: {ingress: no}\n"
        "  ingressDeny: [{fromCIDR: [10.0.0.0/8]}]\nstatus: {any: thing}\n";
    const auto features = PolicyFeatures::enforced();
    const auto parsed = parse_policy_records(yaml, "dir/all.yaml", features);
    ASSERT_THAT(parsed.errors, IsEmpty());
    ASSERT_EQ(parsed.records.size(), 1U);
    const auto& record = *parsed.records[0];
    EXPECT_EQ(record.file, "dir/all.yaml");
    EXPECT_THAT(record.lines, ElementsAre(8, 10, 17, 19, 21));
    EXPECT_EQ(record.text.find("managedFields"), std::string::npos);
    EXPECT_EQ(record.text.find("status"), std::string::npos);
    EXPECT_EQ(record.text.find('\n'), std::string::npos);

    const std::string key = model::local_policy_key(record.key);
    EXPECT_EQ(key, "mesh/local/policies/v1/CiliumClusterwideNetworkPolicy/-/all");
    const auto again = model::parse_policy_record(key, model::encode(record));
    ASSERT_TRUE(again) << again.error().message();
    EXPECT_EQ(*again, record);
    const auto policy = read_policy(*again, features);
    ASSERT_TRUE(policy) << policy.error().message();
    EXPECT_EQ(**policy, *parsed.policies[0]);
    EXPECT_EQ(**policy, *parse_policies(yaml, "dir/all.yaml", features).policies.at(0));
}

TEST(PolicyRecords, ItemsOfTypedListsSayWhatTheyAre) {
    const auto parsed = parse_policy_records(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n"
        "- metadata: {name: a, namespace: x}\n  spec: {podSelector: {}}\n",
        "f", PolicyFeatures::enforced());
    ASSERT_EQ(parsed.records.size(), 1U);
    EXPECT_TRUE(read_policy(*parsed.records[0], PolicyFeatures::enforced()));
}

TEST(PolicyRecords, ARecordThatIsNotItsPolicyIsRefused) {
    auto record =
        *parse_policy_records(document("one"), "f", PolicyFeatures::enforced()).records.at(0);
    record.key.name = "two";
    EXPECT_FALSE(read_policy(record, PolicyFeatures::enforced()));
    record.key.name = "one";
    record.lines.push_back(3);
    EXPECT_FALSE(read_policy(record, PolicyFeatures::enforced()));
    for (const std::string_view value :
         {R"({"file":"f"})", R"({"policy":[]})", R"({"policy":"x"})", R"({"policy":{})", ""}) {
        EXPECT_FALSE(model::parse_policy_record(model::local_policy_key(record.key), value))
            << value;
    }
    EXPECT_FALSE(
        model::parse_policy_record("mesh/local/policies/v1/Other/a/b", R"({"policy":{}})"));
}

}  // namespace
}  // namespace mesh::sources::config
