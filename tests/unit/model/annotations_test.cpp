#include "model/annotations.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using mesh::model::Affinity;
using mesh::model::parse_service_annotations;
using mesh::model::parse_service_exposure;
using mesh::model::ServiceExposure;
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

TEST(ServiceAnnotations, WhatHasNoEffectIsToldOnce) {
    for (const char* name :
         {"service.cilium.io/lb-algorithm", "service.cilium.io/forwarding-mode",
          "service.cilium.io/src-ranges-policy", "service.cilium.io/proxy-delegation",
          "service.cilium.io/global-sync-endpoint-slices"}) {
        const auto flags = parse_service_annotations(StringMap{{name, "true"}}, false);
        EXPECT_THAT(flags.warnings, ElementsAre(std::string("annotation ") + name +
                                                " is not supported and has no effect"));
    }
    EXPECT_THAT(
        parse_service_annotations(StringMap{{"service.kubernetes.io/topology-mode", "Auto"}}, false)
            .warnings,
        ElementsAre("annotation service.kubernetes.io/topology-mode is not supported and "
                    "has no effect: the hints of EndpointSlices are used as they are"));
}

TEST(ServiceExposure, AllOnEachNodeUnlessTold) {
    EXPECT_EQ(parse_service_exposure(std::nullopt), ServiceExposure{});
    EXPECT_EQ(parse_service_exposure(StringMap{{"app", "x"}}), ServiceExposure{});
    EXPECT_FALSE(ServiceExposure{}.node_bound());
    EXPECT_TRUE(ServiceExposure{}.on_node({}));
}

TEST(ServiceExposure, TypesAreAListInAnyCase) {
    const auto types = [](const char* text) {
        const auto e = parse_service_exposure(StringMap{{"service.cilium.io/type", text}});
        return std::string(e.cluster_ip ? "C" : "") + (e.node_port ? "N" : "") +
               (e.load_balancer ? "L" : "") + (e.external_ips ? "E" : "") +
               std::to_string(e.warnings.size());
    };
    EXPECT_EQ(types("ClusterIP"), "C0");
    EXPECT_EQ(types("LoadBalancer"), "L0");
    EXPECT_EQ(types("nodeport, EXTERNALIPS"), "NE0");
    EXPECT_EQ(types("ClusterIP,Other"), "C1");
    EXPECT_EQ(types("Other"), "CNLE1") << "as if it were not there";
    EXPECT_EQ(types(""), "CNLE0");
    EXPECT_EQ(types("ClusterIP,,"), "C1");
    EXPECT_THAT(parse_service_exposure(StringMap{{"service.cilium.io/type", "Other"}}).warnings,
                ElementsAre("annotation service.cilium.io/type: \"other\" is ignored, expected a "
                            "list of ClusterIP, NodePort, LoadBalancer and ExternalIPs"));
}

TEST(ServiceExposure, NodesAreChosenByLabelOrSelector) {
    const StringMap big{{"service.cilium.io/node", "big"}, {"cores", "8"}};
    const auto label = parse_service_exposure(StringMap{{"service.cilium.io/node", "big"}});
    EXPECT_TRUE(label.node_bound());
    EXPECT_TRUE(label.on_node(big));
    EXPECT_FALSE(label.on_node({}));
    EXPECT_FALSE(label.on_node(StringMap{{"service.cilium.io/node", "Big"}}));
    const auto both = parse_service_exposure(StringMap{
        {"service.cilium.io/node", "big"}, {"service.cilium.io/node-selector", "!cores"}});
    EXPECT_FALSE(both.on_node(big)) << "the selector goes first";
    EXPECT_TRUE(both.on_node({}));
    const auto bad = parse_service_exposure(StringMap{
        {"service.cilium.io/node", "big"}, {"service.cilium.io/node-selector", "cores ="}});
    EXPECT_FALSE(bad.on_node(StringMap{{"cores", "8"}})) << "an empty value is a value";
    const auto broken = parse_service_exposure(StringMap{
        {"service.cilium.io/node", "big"}, {"service.cilium.io/node-selector", "cores in"}});
    EXPECT_FALSE(broken.node_bound());
    EXPECT_THAT(broken.warnings,
                ElementsAre("annotation service.cilium.io/node-selector is ignored: \"cores in\": "
                            "expected '(' at byte 8"));
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
