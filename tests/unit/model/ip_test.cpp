#include "model/ip.hpp"

#include <gtest/gtest.h>

#include <string>

namespace {

using mesh::model::IpAddress;
using mesh::model::IpPrefix;

TEST(IpAddress, TextRoundTripsInCanonicalForm) {
    const std::pair<const char*, const char*> cases[] = {
        {"10.1.2.3", "10.1.2.3"},
        {"::ffff:10.1.2.3", "10.1.2.3"},
        {"2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},
        {"::", "::"},
        {"::1", "::1"},
        {"fe80:0:0:1::", "fe80:0:0:1::"},
        {"1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"},
        {"::1.2.3.4", "::102:304"},
    };
    for (const auto& [in, out] : cases) {
        const auto address = IpAddress::parse(in);
        ASSERT_TRUE(address) << in;
        EXPECT_EQ(address->to_string(), out);
    }
}

TEST(IpAddress, RefusesWhatIsNotAnAddress) {
    for (const char* text : {"", "10.1.2", "10.1.2.256", "010.1.2.3", "fe80::1%eth0", "1::2::3",
                             "x", "1:2:3:4:5:6:7:8:9", " 10.1.2.3"}) {
        EXPECT_FALSE(IpAddress::parse(text)) << text;
    }
}

TEST(IpPrefix, ClearsHostBitsAndContains) {
    const auto prefix = IpPrefix::parse("10.10.255.7/20");
    ASSERT_TRUE(prefix);
    EXPECT_EQ(prefix->to_string(), "10.10.240.0/20");
    EXPECT_TRUE(prefix->contains(*IpAddress::parse("10.10.250.1")));
    EXPECT_FALSE(prefix->contains(*IpAddress::parse("10.10.1.1")));
    EXPECT_FALSE(prefix->contains(*IpAddress::parse("::1")));
    EXPECT_TRUE(IpPrefix::parse("0.0.0.0/0")->contains(*prefix));
    EXPECT_EQ(IpPrefix::parse("fd00::1")->to_string(), "fd00::1/128");
    for (const char* text : {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "10.0.0.0/8x"}) {
        EXPECT_FALSE(IpPrefix::parse(text)) << text;
    }
}

}  // namespace
