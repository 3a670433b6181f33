#include "model/label_selector.hpp"

#include <gtest/gtest.h>

namespace mesh::model {
namespace {

const StringMap kLabels{{"zone", "z1"}, {"cores", "8"}, {"a.b/c", ""}, {"in", "x"}};

bool matches(std::string_view text) {
    const auto selector = LabelSelector::parse(text);
    EXPECT_TRUE(selector) << selector.error().message();
    return selector && selector->matches(kLabels);
}
std::string error_of(std::string_view text) {
    const auto selector = LabelSelector::parse(text);
    return selector ? "accepted" : selector.error().detail();
}

TEST(LabelSelector, EachOperator) {
    for (const char* yes : {"",
                            "  ",
                            "zone",
                            "zone=z1",
                            "zone == z1",
                            "zone in (z1)",
                            "zone in ( z2 , z1 )",
                            "!spot",
                            "! spot",
                            "zone!=z2",
                            "spot != x",
                            "zone notin (z2,z3)",
                            "spot notin (x)",
                            "cores>7",
                            "cores < 9",
                            "a.b/c",
                            "a.b/c=",
                            "a.b/c in (,x)",
                            "in",
                            "in in (x)",
                            "in=x"}) {
        EXPECT_TRUE(matches(yes)) << yes;
    }
    for (const char* no :
         {"spot", "zone=z2", "zone=", "spot=x", "zone in (z2)", "spot in (x)", "!zone", "zone!=z1",
          "zone notin (z2,z1)", "cores>8", "cores<8", "zone>1", "spot<1"}) {
        EXPECT_FALSE(matches(no)) << no;
    }
}

TEST(LabelSelector, AllRequirementsMustHold) {
    EXPECT_TRUE(matches("zone in (z1,z2), cores>4 ,!spot"));
    EXPECT_FALSE(matches("zone in (z1,z2),cores>8"));
    EXPECT_FALSE(matches("zone=z2,cores>4"));
}

TEST(LabelSelector, MistakesNameTextPlaceAndExpectation) {
    EXPECT_EQ(error_of("zone in z1"), "\"zone in z1\": expected '(' at byte 8");
    EXPECT_EQ(error_of("zone in (z1"), "\"zone in (z1\": expected ',' or ')' at byte 11");
    EXPECT_EQ(error_of("zone,"), "\"zone,\": expected a label's name at byte 5");
    EXPECT_EQ(error_of("=x"), "\"=x\": expected a label's name at byte 0");
    EXPECT_EQ(error_of("zone z1"),
              "\"zone z1\": expected one of =, ==, !=, in, notin, <, > at byte 5");
    EXPECT_EQ(error_of("cores > many"), "\"cores > many\": expected an integer at byte 8");
    EXPECT_EQ(error_of("zone = z1 z2"), "\"zone = z1 z2\": expected ',' or the end at byte 10");
    EXPECT_EQ(error_of("!\xff="), "\"!\ufffd=\": expected ',' or the end at byte 2");
}

}  // namespace
}  // namespace mesh::model
