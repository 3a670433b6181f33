// The rules of encoding/json, seen through the codecs that use them.
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "model/codec.hpp"

namespace mesh::model {
namespace {

std::string error_of(std::string_view value) {
    const auto node = parse_node("k", value);
    return node ? "accepted" : node.error().detail();
}

TEST(Json, NamesMatchExactlyElseFolded) {
    const auto config = parse_cluster_config(
        "k", R"({"ID":3,"id":5,"Capabilities":{"CACHED":true,"synced\u0043anaries":true}})");
    ASSERT_TRUE(config);
    EXPECT_EQ(config->id, ClusterId{5});
    EXPECT_TRUE(config->cached);
    EXPECT_TRUE(config->synced_canaries);
    // The order of the two does not matter to which field they name.
    EXPECT_EQ(parse_cluster_config("k", R"({"id":5,"ID":3})")->id, ClusterId{3});
}

TEST(Json, TheKelvinSignAndTheLongSFold) {
    const auto pair = parse_ip("k",
                               "{\"IP\":\"10.0.0.1\",\"\u212aey\":5,\"Ma\u017fk\":\"/w==\","
                               "\"\u212a8\u017fPodName\":\"p\"}");
    ASSERT_TRUE(pair);
    EXPECT_EQ(pair->key, 5);
    EXPECT_EQ(pair->prefix_length, 8);
    EXPECT_EQ(pair->k8s_pod_name, "p");
    EXPECT_EQ(parse_ip("k", "{\"IP\":\"10.0.0.1\",\"\u212bey\":5}")->key, 0);
}

TEST(Json, TheLastDuplicateWinsAndMapsMerge) {
    const auto node = parse_node(
        "k",
        R"({"Name":"a","Name":"b","Labels":{"x":"1","y":"2","x":"3"},"labels":{"y":"4","z":"5"},
                "IPv4AllocCIDR":{"IP":"10.0.0.0"},"IPv4AllocCIDR":{"Mask":"/wAAAA=="}})");
    ASSERT_TRUE(node);
    EXPECT_EQ(node->name, "b");
    EXPECT_EQ(node->labels, (StringMap{{"x", "3"}, {"y", "4"}, {"z", "5"}}));
    EXPECT_EQ(node->ipv4_alloc_cidr, *IpPrefix::parse("10.0.0.0/8"));
    EXPECT_TRUE(node->unusual_cidrs.empty());

    const auto service = parse_service(
        "k", R"({"backends":{"10.0.0.2":{"a":{"Port":1}},"10.0.0.1":{},"10.0.0.2":{"b":{"Port":2}}},
                "backends":{"10.0.0.3":{"c":{"Port":3},"a":{"Port":4},"c":{"Port":5}}}})");
    ASSERT_TRUE(service);
    // The entries merge, their port maps are replaced; all in order.
    ASSERT_EQ(service->backends.size(), 3U);
    EXPECT_EQ(service->backends[0].text(), "10.0.0.1");
    EXPECT_EQ(service->backends[1].ports, (SharedList<ServicePort>{{"b", "", 2}}));
    EXPECT_EQ(service->backends[2].ports, (SharedList<ServicePort>{{"a", "", 4}, {"c", "", 5}}));
}

TEST(Json, NullLeavesScalarsAndEmptiesMaps) {
    const auto node = parse_node(
        "k", R"({"Name":"a","Name":null,"ClusterID":3,"ClusterID":null,"Labels":{"a":null},
                "Annotations":{"b":"c"},"Annotations":null,"IPv4HealthIP":"10.0.0.1",
                "IPv4HealthIP":null,"IPv4AllocCIDR":{"IP":"10.0.0.0","Mask":"/wAAAA=="},
                "IPv4AllocCIDR":null})");
    ASSERT_TRUE(node);
    EXPECT_EQ(node->name, "a");
    EXPECT_EQ(node->cluster_id, ClusterId{3});
    EXPECT_EQ(node->labels, (StringMap{{"a", ""}}));
    EXPECT_FALSE(node->annotations);
    EXPECT_FALSE(node->ipv4_health_ip) << "an address is a slice to Go";
    EXPECT_FALSE(node->ipv4_alloc_cidr);
    EXPECT_TRUE(parse_node("k", "null"));
}

TEST(Json, UnknownFieldsOfAnyShapeAreSkipped) {
    const auto node = parse_node(
        "k",
        R"( {"a":[1,[],{},{"b":[-0.5e+3,true,false,null,"\ud83d\ude00"]}],"Name":"n","z":{}} )");
    ASSERT_TRUE(node) << node.error().message();
    EXPECT_EQ(node->name, "n");
}

TEST(Json, TextThatIsNotUtf8BecomesTheReplacementCharacter) {
    const auto name = [](std::string_view text) {
        const auto node = parse_node("k", std::string("{\"Name\":\"").append(text).append("\"}"));
        return node ? node->name : node.error().detail();
    };
    EXPECT_EQ(name("a\xff\xfe"), "a\ufffd\ufffd");
    EXPECT_EQ(name("\xc0\x80\xed\xa0\x80"),
              "\ufffd\ufffd\ufffd\ufffd\ufffd");                      // overlong, surrogate
    EXPECT_EQ(name("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");  // above U+10FFFF
    EXPECT_EQ(name("\xe4\xb8"), "\ufffd\ufffd");                      // cut short
    EXPECT_EQ(name("\\ud800"), "\ufffd");
    EXPECT_EQ(name("\\udc00\\ud800x"), "\ufffd\ufffdx");
    EXPECT_EQ(name("\\ud800\\u0041"), "\ufffdA");
    EXPECT_EQ(name("\\ud83d\\uDE00"), "\U0001f600");
    EXPECT_EQ(name("plain and long enough for words \xc3\xbc"),
              "plain and long enough for words ü");
    EXPECT_EQ(name("\\\"\\\\\\/\\b\\f\\n\\r\\t"), "\"\\/\b\f\n\r\t");
}

TEST(Json, IntegersAreLiteralsInRange) {
    const auto id = [](std::string_view text) {
        return parse_cluster_config("k", std::string("{\"id\":").append(text).append("}"));
    };
    EXPECT_EQ(id("0")->id, ClusterId{0});
    EXPECT_EQ(id("4294967295")->id, ClusterId{4294967295});
    for (const char* text : {"4294967296", "99999999999999999999", "-1", "-0", "7e0", "7.0", "true",
                             "\"7\"", "[]", "{}"}) {
        ASSERT_FALSE(id(text)) << text;
        EXPECT_EQ(id(text).error().detail(),
                  std::string("k: field id: expected an integer 0..4294967295, got ") + text);
    }
    for (const char* text : {"07", "+7", "7.", ".7", "7e", "NaN", "0x7", "-", "1_0"}) {
        ASSERT_FALSE(id(text)) << text;
        EXPECT_NE(id(text).error().detail().find("not JSON"), std::string::npos) << text;
    }
}

TEST(Json, WhatIsNotJsonNamesThePlace) {
    EXPECT_EQ(error_of(""), "k: not JSON: expected a value at byte 0, got the end of the value");
    EXPECT_EQ(error_of("hello"), "k: not JSON: expected a value at byte 0, got 'h'");
    EXPECT_EQ(error_of("{\"Name\":\"x\""),
              "k: not JSON: expected ',' or '}' at byte 11, got the end of the value");
    EXPECT_EQ(error_of("{}x"), "k: not JSON: expected the end of the value at byte 2, got 'x'");
    EXPECT_EQ(error_of("{\"Name\":\"x\",}"),
              "k: not JSON: expected a name in double quotes at byte 12, got '}'");
    EXPECT_EQ(error_of("{\"Labels\":{\"a\":\"x"),
              "k: field Labels.a: not JSON: expected a closing '\"' at byte 17, got the end of the "
              "value");
    EXPECT_NE(error_of("{\"Name\":\"a\nb\"}").find("control character"), std::string::npos);
    EXPECT_NE(error_of("{\"Name\":\"\\x\"}").find("an escape of JSON"), std::string::npos);
    EXPECT_NE(error_of("{\"Name\":\"\\u12g4\"}").find("hexadecimal"), std::string::npos);
    EXPECT_NE(error_of("\xef\xbb\xbf{}").find("at byte 0"), std::string::npos);
    EXPECT_NE(error_of("{\"x\":[1,]}").find("at byte 8"), std::string::npos);
    EXPECT_NE(error_of("{\"x\":[1 2]}").find("',' or ']'"), std::string::npos);
    EXPECT_NE(error_of("{\"x\" 1}").find("':'"), std::string::npos);
}

TEST(Json, NestingEndsAtTenThousand) {
    const auto nested = [](std::size_t levels) {
        return "{\"x\":" + std::string(levels - 1, '[') + std::string(levels - 1, ']') + "}";
    };
    EXPECT_EQ(error_of(nested(10000)), "accepted");
    EXPECT_EQ(error_of(nested(10001)), "k: expected at most 10000 levels of nesting, got more");
    EXPECT_NE(error_of(std::string(1000000, '[')), "accepted");
    EXPECT_NE(error_of("{\"x\":" + std::string(1000000, '{')), "accepted");
}

TEST(Json, WhatARemoteCouldRepeatAtWillIsBounded) {
    const auto repeated = [](std::string_view field, std::size_t times) {
        std::string text = "{";
        for (std::size_t i = 0; i < times; ++i) text.append(i == 0 ? "" : ",").append(field);
        return text.append("}");
    };
    EXPECT_EQ(error_of(repeated(R"("Labels":{"a":"b"})", 65)), "accepted");
    EXPECT_EQ(error_of(repeated(R"("Labels":{"a":"b"})", 66)),
              "k: field Labels: expected no more than 64 repeated maps in a value, got more");
    EXPECT_TRUE(parse_service("k", repeated(R"("backends":{"10.0.0.1":{}})", 65)));
    EXPECT_FALSE(parse_service("k", repeated(R"("backends":{"10.0.0.1":{}})", 66)));

    const auto addresses = [](std::size_t count) {
        std::string text = R"({"IPAddresses":[{})";
        for (std::size_t i = 1; i < count; ++i) text += ",{}";
        return text + "]}";
    };
    EXPECT_EQ(error_of(addresses(65536)), "accepted");
    EXPECT_EQ(error_of(addresses(65537)),
              "k: field IPAddresses: expected at most 65536 elements, got more");
}

TEST(Json, ErrorsNameTheFieldAndAreBounded) {
    EXPECT_EQ(error_of(R"({"ClusterID":"x"})"),
              R"(k: field ClusterID: expected an integer 0..4294967295, got "x")");
    EXPECT_EQ(error_of(R"({"EncryptionKey":256})"),
              "k: field EncryptionKey: expected an integer 0..255, got 256");
    EXPECT_EQ(error_of(R"({"Labels":{"a":"b","c":[1]}})"),
              "k: field Labels.c: expected a string, got [1]");
    EXPECT_EQ(error_of(R"({"IPAddresses":[{"Type":"InternalIP"},{"IP":"10.1"}]})"),
              R"(k: field IPAddresses[1].IP: expected an IPv4 or IPv6 address or "", got "10.1")");
    EXPECT_EQ(error_of(R"({"IPv4AllocCIDR":"10.0.0.0/8"})"),
              R"(k: field IPv4AllocCIDR: expected an object, got "10.0.0.0/8")");
    EXPECT_EQ(error_of(R"({"IPv4AllocCIDR":{"Mask":"***"}})"),
              R"(k: field IPv4AllocCIDR.Mask: expected bytes in base64, got "***")");
    EXPECT_EQ(error_of(R"({"Labels":[]})"), "k: field Labels: expected an object, got []");
    EXPECT_EQ(error_of("[]"), "k: expected an object, got []");
    const auto node =
        parse_node(std::string(100000, 'k'), "{\"Name\":" + std::string(100000, '9') + "}");
    ASSERT_FALSE(node);
    EXPECT_LT(node.error().detail().size(), 500U);
}

TEST(Json, BytesComeInBase64OrAsNumbers) {
    const auto length = [](std::string_view mask) {
        const auto pair =
            parse_ip("k", std::string(R"({"IP":"10.0.0.0","Mask":)").append(mask).append("}"));
        return pair
                   ? pair->prefix_length.has_value() ? std::to_string(*pair->prefix_length) : "none"
                   : pair.error().detail();
    };
    EXPECT_EQ(length("\"////AA==\""), "24");
    EXPECT_EQ(length("\"//\\n//AA==\""), "24");
    EXPECT_EQ(length("[255,255,0,0]"), "16");
    EXPECT_EQ(length("\"\""), "0");
    EXPECT_EQ(length("null"), "none");
    EXPECT_EQ(length("\"/wD/AA==\""), "0") << "not canonical";
    EXPECT_EQ(length("\"/v8=\""), "0") << "not canonical";
    for (const char* bad : {"\"////A\"", "\"////AA\"", "\"////AA=\"", "\"=\"", "\"////AA===\"",
                            "\"//=/\"", "\"//-_\"", "[256]", "\"AA==AA==\""}) {
        EXPECT_NE(length(bad).find("field Mask"), std::string::npos) << bad;
    }
}

}  // namespace
}  // namespace mesh::model
