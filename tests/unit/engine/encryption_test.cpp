#include "engine/encryption.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::engine {
namespace {

using testing::HasSubstr;

DatapathOptions encrypted() {
    DatapathOptions options;
    options.kind = DatapathOptions::Kind::kBpf;
    options.routing = DatapathOptions::Routing::kTunnel;
    options.encryption.kind = "wireguard";
    return options;
}

std::string why_not(const DatapathOptions& options) {
    const auto checked = Encryption::check(options);
    if (checked) return "";
    EXPECT_EQ(checked.error().code(), Errc::kInvalidArgument);
    return checked.error().message();
}

TEST(EncryptionOptions, AreCheckedByThemselves) {
    EXPECT_EQ(why_not({}), "");
    EXPECT_EQ(why_not(encrypted()), "");
    auto options = encrypted();
    options.routing = DatapathOptions::Routing::kNative;
    EXPECT_EQ(why_not(options), "");
    options.routing = DatapathOptions::Routing::kNone;
    EXPECT_THAT(why_not(options), HasSubstr("expected the kernel's datapath, and routing mode"));
    options = encrypted();
    options.kind = DatapathOptions::Kind::kMemory;
    EXPECT_THAT(why_not(options), HasSubstr("expected the kernel's datapath"));
    options = encrypted();
    options.encryption.kind = "ipsec";
    EXPECT_THAT(why_not(options), HasSubstr("there is no IPsec here: expected wireguard or none"));
    options.encryption.kind = "rot13";
    EXPECT_THAT(why_not(options), HasSubstr("\"rot13\": expected wireguard or none"));
    options = encrypted();
    options.encryption.backend = "hardware";
    EXPECT_THAT(why_not(options), HasSubstr("expected auto, kernel or userspace"));
    options = encrypted();
    options.encryption.port = 0;
    EXPECT_THAT(why_not(options), HasSubstr("encryption.port"));
    options = {};
    options.encryption.strict = true;
    EXPECT_THAT(why_not(options), HasSubstr("encryption.strict"));
}

TEST(EncryptionContext, HasTheOverlaysPortWhereThereIsOne) {
    MeshOptions options;
    options.node_name = "node1";
    options.datapath = encrypted();
    const state::ClusterKey own{"c1", model::ClusterId{1}};
    EXPECT_EQ(encryption_context(options, own).tunnel_port, 8472);
    options.datapath.tunnel_protocol = "geneve";
    EXPECT_EQ(encryption_context(options, own).tunnel_port, 6081);
    options.datapath.overlay_port = 9000;
    EXPECT_EQ(encryption_context(options, own).tunnel_port, 9000);
    options.datapath.routing = DatapathOptions::Routing::kNative;
    EXPECT_EQ(encryption_context(options, own).tunnel_port, 0);
}

}  // namespace
}  // namespace mesh::engine
