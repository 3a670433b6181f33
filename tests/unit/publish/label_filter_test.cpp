#include "publish/label_filter.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::publish {
namespace {

using ::testing::HasSubstr;

LabelFilter filter(std::string_view text) {
    auto parsed = LabelFilter::parse(text);
    EXPECT_TRUE(parsed) << parsed.error().message();
    return *std::move(parsed);
}

TEST(LabelFilter, TheDefaultIsCiliums) {
    const LabelFilter labels;
    for (const char* key : {"app", "app.kubernetes.io/name", "team", "example.org/x", "k8s-app",
                            "io.kubernetes.pod.namespace", "io.cilium.k8s.policy.cluster",
                            "io.cilium.k8s.policy.serviceaccount",
                            "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"}) {
        EXPECT_TRUE(labels.keeps("k8s", key)) << key;
        EXPECT_TRUE(labels.keeps("k8s", key)) << key << " again";
    }
    for (const char* key :
         {"io.kubernetes.pod.name", "kubernetes.io/arch", "failure-domain.beta.kubernetes.io/zone",
          "k8s.io/x", "topology.kubernetes.io/zone", "pod-template-hash", "pod-template-generation",
          "controller-revision-hash", "controller-uid", "annotation.x", "etcd_node",
          "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index",
          "batch.kubernetes.io/job-completion-index", "batch.kubernetes.io/controller-uid"}) {
        EXPECT_FALSE(labels.keeps("k8s", key)) << key;
    }
    EXPECT_TRUE(labels.keeps("reserved", "host"));
}

TEST(LabelFilter, AMarkDropsMore) {
    const LabelFilter labels = filter("!k8s:tier k8s:!zone.*,!example\\.org");
    EXPECT_FALSE(labels.keeps("k8s", "tier"));
    EXPECT_FALSE(labels.keeps("k8s", "tier-2")) << "a prefix";
    EXPECT_TRUE(labels.keeps("container", "tier")) << "another source";
    EXPECT_FALSE(labels.keeps("k8s", "zone-a"));
    EXPECT_FALSE(labels.keeps("k8s", "example.org/x"));
    EXPECT_TRUE(labels.keeps("k8s", "exampleXorg/x"));
    EXPECT_TRUE(labels.keeps("k8s", "my-tier")) << "anchored";
    EXPECT_TRUE(labels.keeps("k8s", "app"));
}

TEST(LabelFilter, WhatIsListedAloneStays) {
    const LabelFilter labels = filter("k8s:app k8s:app\\.kubernetes\\.io !k8s:app-version");
    EXPECT_TRUE(labels.keeps("k8s", "app"));
    EXPECT_FALSE(labels.keeps("k8s", "app-version")) << "the longer match decides";
    EXPECT_FALSE(labels.keeps("k8s", "team"));
    EXPECT_FALSE(labels.keeps("k8s", "pod-template-hash"));
    EXPECT_TRUE(labels.keeps("k8s", "io.kubernetes.pod.namespace")) << "of the default ones";
    EXPECT_TRUE(labels.keeps("reserved", "host"));
}

TEST(LabelFilter, ALongerMatchKeepsOneOfThoseThatAreDropped) {
    const LabelFilter labels = filter("k8s\\.io/team");
    EXPECT_TRUE(labels.keeps("k8s", "k8s.io/team"));
    EXPECT_FALSE(labels.keeps("k8s", "k8s.io/other"));
}

TEST(LabelFilter, BadPatternsAreToldApart) {
    EXPECT_THAT(LabelFilter::parse("app k8s:").error().detail(), HasSubstr("\"k8s:\""));
    EXPECT_THAT(LabelFilter::parse("!").error().detail(), HasSubstr("expected [source:]"));
    EXPECT_THAT(LabelFilter::parse("a(b").error().detail(), HasSubstr("regular expression"));
    EXPECT_THAT(LabelFilter::parse("!k8s:io.cilium.k8s.policy.cluster").error().detail(),
                HasSubstr("io.cilium.k8s.policy.cluster"));
    EXPECT_TRUE(LabelFilter::parse("  ,"));
}

}  // namespace
}  // namespace mesh::publish
