#include "model/annotations.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using mesh::model::Affinity;
using mesh::model::parse_service_annotations;
using mesh::model::StringMap;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(ServiceAnnotations, NoneMeansLocalOnly) {
    EXPECT_EQ(parse_service_annotations(std::nullopt, false), mesh::model::ServiceAnnotations{});
    EXPECT_EQ(parse_service_annotations(StringMap{{"app", "x"}}, true),
              mesh::model::ServiceAnnotations{});
}

TEST(ServiceAnnotations, GlobalIsSharedUnlessToldOtherwise) {
    for (const char* name : {"service.cilium.io/global", "io.cilium/global-service"}) {
        const auto flags = parse_service_annotations(StringMap{{name, "true"}}, false);
        EXPECT_TRUE(flags.global) << name;
        EXPECT_TRUE(flags.shared) << name;
        EXPECT_EQ(flags.affinity, Affinity::kNone) << name;
        EXPECT_THAT(flags.warnings, IsEmpty()) << name;
    }
    for (const char* name : {"service.cilium.io/shared", "io.cilium/shared-service"}) {
        const auto flags = parse_service_annotations(
            StringMap{{"service.cilium.io/global", "true"}, {name, "false"}}, false);
        EXPECT_TRUE(flags.global) << name;
        EXPECT_FALSE(flags.shared) << name;
    }
}

TEST(ServiceAnnotations, NothingCountsWithoutGlobal) {
    const auto flags = parse_service_annotations(StringMap{{"service.cilium.io/global", "false"},
                                                           {"service.cilium.io/shared", "true"},
                                                           {"service.cilium.io/affinity", "local"}},
                                                 true);
    EXPECT_EQ(flags, mesh::model::ServiceAnnotations{});
}

TEST(ServiceAnnotations, AffinityUnderBothNames) {
    for (const char* name : {"service.cilium.io/affinity", "io.cilium/service-affinity"}) {
        const auto with = [&](const char* value) {
            return parse_service_annotations(
                       StringMap{{"service.cilium.io/global", "true"}, {name, value}}, false)
                .affinity;
        };
        EXPECT_EQ(with("local"), Affinity::kLocal) << name;
        EXPECT_EQ(with("Remote"), Affinity::kRemote) << name;
        EXPECT_EQ(with("none"), Affinity::kNone) << name;
    }
}

TEST(ServiceAnnotations, TheNewNameWinsWhateverItsValue) {
    EXPECT_FALSE(parse_service_annotations(StringMap{{"service.cilium.io/global", "false"},
                                                     {"io.cilium/global-service", "true"}},
                                           false)
                     .global);
    EXPECT_FALSE(parse_service_annotations(StringMap{{"service.cilium.io/global", ""},
                                                     {"io.cilium/global-service", "true"}},
                                           false)
                     .global);
    const auto flags = parse_service_annotations(StringMap{{"service.cilium.io/global", "true"},
                                                           {"io.cilium/global-service", "false"},
                                                           {"service.cilium.io/shared", "true"},
                                                           {"io.cilium/shared-service", "false"},
                                                           {"service.cilium.io/affinity", "none"},
                                                           {"io.cilium/service-affinity", "local"}},
                                                 false);
    EXPECT_TRUE(flags.global);
    EXPECT_TRUE(flags.shared);
    EXPECT_EQ(flags.affinity, Affinity::kNone);
}

TEST(ServiceAnnotations, OnlyTrueInAnyCaseIsOn) {
    for (const auto& [value, on] : {std::pair{"true", true}, {"TRUE", true}, {"True", true}}) {
        const auto flags =
            parse_service_annotations(StringMap{{"service.cilium.io/global", value}}, false);
        EXPECT_EQ(flags.global, on) << value;
        EXPECT_THAT(flags.warnings, IsEmpty()) << value;
    }
    for (const char* value : {"1", "yes", " true", "", "on"}) {
        const auto flags =
            parse_service_annotations(StringMap{{"service.cilium.io/global", value}}, false);
        EXPECT_FALSE(flags.global) << value;
        EXPECT_EQ(flags.warnings.size(), 1U) << value;
    }
}

TEST(ServiceAnnotations, WarningsNameAnnotationValueAndExpectation) {
    const auto flags = parse_service_annotations(
        StringMap{{"io.cilium/global-service", "yes"}, {"service.cilium.io/affinity", "near"}},
        false);
    EXPECT_THAT(
        flags.warnings,
        ElementsAre(
            "annotation io.cilium/global-service: \"yes\" is read as false, expected true or "
            "false",
            "annotation service.cilium.io/affinity: \"near\" is read as none, expected local, "
            "remote or none"));
}

TEST(ServiceAnnotations, SliceSyncFollowsHeadlessUnlessTold) {
    const auto sync = [](StringMap annotations, bool headless) {
        annotations["service.cilium.io/global"] = "true";
        return parse_service_annotations(annotations, headless).sync_endpoint_slices;
    };
    EXPECT_FALSE(sync({}, false));
    EXPECT_TRUE(sync({}, true));
    EXPECT_TRUE(sync({{"service.cilium.io/global-sync-endpoint-slices", "true"}}, false));
    EXPECT_FALSE(sync({{"service.cilium.io/global-sync-endpoint-slices", "false"}}, true));
}

}  // namespace
