#include "model/wireguard_key.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using mesh::Errc;
using mesh::model::WireguardPublicKey;
using testing::HasSubstr;

TEST(WireguardPublicKey, HasTheTextOfWg) {
    const std::string text = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const auto key = WireguardPublicKey::parse(text);
    ASSERT_TRUE(key);
    EXPECT_EQ(key->bytes()[0], 0x85);
    EXPECT_EQ(key->bytes()[31], 0x6a);
    EXPECT_EQ(key->to_string(), text);
}

TEST(WireguardPublicKey, RefusesWhatIsNone) {
    for (const char* bad : {
             "",
             "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTm=",     // short
             "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n",  // a line
             "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmoA",    // 33 bytes
             "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp=",    // unused bits set
             "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo=",    // not this alphabet
             "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",    // zero
         }) {
        const auto key = WireguardPublicKey::parse(bad);
        ASSERT_FALSE(key) << bad;
        EXPECT_EQ(key.error().code(), Errc::kInvalidArgument);
        EXPECT_THAT(key.error().detail(), HasSubstr("expected"));
    }
}

}  // namespace
