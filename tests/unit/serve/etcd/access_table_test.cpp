// Roles by certificate, as mesh-proxy has them without a file and with one.
#include "serve/etcd/access_table.hpp"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <utility>

#include "serve/etcd/access_control.hpp"

namespace mesh::serve {
namespace {

constexpr std::array kActions{EtcdAction::kRange,   EtcdAction::kWatch,  EtcdAction::kPut,
                              EtcdAction::kDelete,  EtcdAction::kTxn,    EtcdAction::kCompact,
                              EtcdAction::kLease,   EtcdAction::kStatus, EtcdAction::kMaintenance,
                              EtcdAction::kMembers, EtcdAction::kOther};

rpc::Peer named(std::string name, bool verified = true) {
    rpc::Peer peer;
    peer.verified = verified;
    peer.common_name = std::move(name);
    return peer;
}

AccessRequest by(const rpc::Peer& peer, EtcdAction action, std::string_view key = {},
                 std::string_view listener = "remote") {
    return {.action = action, .method = "", .range = {key, {}}, .peer = peer, .listener = listener};
}

class TableAccessTest : public ::testing::Test {
  protected:
    void load(std::string_view text) {
        const auto done = control->load(text, "access.yaml");
        ASSERT_TRUE(done) << done.error().message();
    }
    std::string role_of(const rpc::Peer& peer) const {
        const AccessRole* role = control->table()->role_of(peer);
        return role != nullptr ? role->name() : "";
    }

    ManualClock clock;
    std::shared_ptr<AccessControl> control =
        std::make_shared<AccessControl>("one", clock, Logger());
    TableAccess mirror{control};
    TableAccess own{control, {.writable = true}};
    TableAccess legacy{control, {.init_locks = true}};
};

TEST_F(TableAccessTest, RemotesAreAdmittedToRangeAndWatchOnly) {
    for (const char* name : {"remote", "remote-two"}) {
        const rpc::Peer peer = named(name);
        for (const EtcdAction action : kActions) {
            const bool reads = action == EtcdAction::kRange || action == EtcdAction::kWatch;
            EXPECT_EQ(mirror.admits(by(peer, action)), reads);
            EXPECT_EQ(own.allows(by(peer, action, "cilium/state/x")), reads);
            EXPECT_FALSE(own.allows(by(peer, action, "mesh/local/x")));
            EXPECT_FALSE(own.admits(by(peer, action, "cilium/state/x", "local")));
        }
        for (const char* key : {"cilium/.heartbeat", "cilium/cluster-config/one",
                                "cilium/.has-cluster-config", "cilium/synced/one/x"})
            EXPECT_TRUE(mirror.allows(by(peer, EtcdAction::kRange, key))) << key;
        for (const char* key : {"cilium/cluster-config/two", "cilium/cluster-config/one2",
                                "cilium/synced/two/x", "cilium/cache/x", "cilium/state"})
            EXPECT_FALSE(mirror.allows(by(peer, EtcdAction::kRange, key))) << key;
    }
    for (const rpc::Peer& peer : {named("remote", false), named("remotes"), named("local-one"),
                                  named("admin-one"), named("")})
        EXPECT_FALSE(own.admits(by(peer, EtcdAction::kRange))) << peer.common_name;
}

TEST_F(TableAccessTest, InitLocksAreAdmittedAndNeverAllowed) {
    for (const EtcdAction action :
         {EtcdAction::kPut, EtcdAction::kDelete, EtcdAction::kTxn, EtcdAction::kLease}) {
        EXPECT_TRUE(legacy.admits(by(named("remote"), action)));
        EXPECT_FALSE(legacy.allows(by(named("remote"), action, "cilium/state/x")));
        EXPECT_FALSE(legacy.admits(by(named("stranger"), action)));
    }
    EXPECT_FALSE(legacy.admits(by(named("remote"), EtcdAction::kCompact)));
}

TEST_F(TableAccessTest, LocalsReadAllAndTheAdminWritesWhereTheStoreIsOwn) {
    for (const char* name : {"local-one", "admin-one"}) {
        const rpc::Peer peer = named(name);
        const bool admin = peer.common_name == "admin-one";
        EXPECT_TRUE(mirror.allows(by(peer, EtcdAction::kRange, "a", "local")));
        EXPECT_TRUE(mirror.allows(by(peer, EtcdAction::kTxn, {}, "local")));
        EXPECT_TRUE(mirror.allows(by(peer, EtcdAction::kStatus, {}, "local")));
        for (const EtcdAction action : {EtcdAction::kPut, EtcdAction::kDelete, EtcdAction::kLease,
                                        EtcdAction::kCompact, EtcdAction::kMaintenance}) {
            const AccessRequest request = by(peer, action, "a", "local");
            EXPECT_EQ(own.allows(request), admin);
            EXPECT_FALSE(mirror.admits(request));
            EXPECT_EQ(mirror.advice(request).empty(), !admin);
            EXPECT_EQ(mirror.reason(request),
                      admin ? DenialReason::kMirror : DenialReason::kMethod);
        }
        EXPECT_FALSE(own.allows(by(peer, EtcdAction::kOther, {}, "local")));
    }
    for (const rpc::Peer& peer :
         {named("admin-one", false), named("admin-two"), named("remote"), named("")})
        EXPECT_FALSE(own.admits(by(peer, EtcdAction::kRange, {}, "local"))) << peer.common_name;
}

TEST_F(TableAccessTest, AFileSaysWhoTheRemotesAreAndLeavesTheOwnOnes) {
    load("users:\n- {name: remote-two, role: remote}\n");
    EXPECT_EQ(role_of(named("remote-two")), "remote");
    EXPECT_EQ(role_of(named("remote")), "");
    EXPECT_EQ(role_of(named("remote-three")), "");
    EXPECT_EQ(role_of(named("local-one")), "local");
    EXPECT_EQ(role_of(named("admin-one")), "admin");
    load("users:\n- {name: \"admin-{cluster}\", role: none}\n- {name: local-one, role: admin}\n");
    EXPECT_EQ(role_of(named("admin-one")), "none");
    EXPECT_EQ(role_of(named("local-one")), "admin");
    const rpc::Peer peer = named("admin-one");
    for (const EtcdAction action : kActions)
        EXPECT_FALSE(own.admits(by(peer, action, "a", "local")));
}

TEST_F(TableAccessTest, ExactBeforePrefixLongerBeforeShorterNameBeforeUriBeforeDns) {
    load(R"(
users:
- {name: "*", role: a}
- {name: "remote-*", role: b}
- {name: remote-two, role: c}
- {uri: "spiffe://mesh/*", role: d}
- {uri: "spiffe://mesh/agent", role: e}
- {dns: "Agents.example", role: f}
- {dns: "node-*", role: g}
roles: {a: , b: , c: , d: , e: , f: , g: }
)");
    EXPECT_EQ(role_of(named("x")), "a");
    EXPECT_EQ(role_of(named("remote-")), "b");
    EXPECT_EQ(role_of(named("remote-three")), "b");
    EXPECT_EQ(role_of(named("remote-two")), "c");
    EXPECT_EQ(role_of(named("remote-two2")), "b");
    EXPECT_EQ(role_of(named("")), "");
    rpc::Peer peer = named("remote-two");
    peer.uris = {"spiffe://mesh/agent"};
    EXPECT_EQ(role_of(peer), "c");
    peer.common_name = "remote-three";
    EXPECT_EQ(role_of(peer), "e") << "exact before any prefix";
    peer.uris = {"spiffe://mesh/other"};
    EXPECT_EQ(role_of(peer), "d") << "the longer prefix";
    peer.uris = {"http://mesh/agent"};
    peer.dns_names = {"other", "AGENTS.example"};
    EXPECT_EQ(role_of(peer), "f");
    peer.common_name = "";
    peer.dns_names = {"Node-7"};
    EXPECT_EQ(role_of(peer), "g");
    peer.verified = false;
    EXPECT_EQ(role_of(peer), "");
}

TEST_F(TableAccessTest, RolesOfTheFile) {
    load(R"(
users:
- {name: writer, role: writer}
- {name: remote-two, role: remote}
roles:
  writer: {listeners: [remote], read: [a/*, b], write: ["own/{cluster}/*"]}
  remote: {status: true, limits: {requests-per-second: 5}}
)");
    const rpc::Peer writer = named("writer");
    EXPECT_TRUE(own.allows(by(writer, EtcdAction::kRange, "a/1")));
    EXPECT_TRUE(own.allows(by(writer, EtcdAction::kRange, "b")));
    EXPECT_FALSE(own.allows(by(writer, EtcdAction::kRange, "b1")));
    EXPECT_TRUE(own.allows(by(writer, EtcdAction::kPut, "own/one/x")));
    EXPECT_FALSE(own.allows(by(writer, EtcdAction::kDelete, "a/1")));
    EXPECT_EQ(own.reason(by(writer, EtcdAction::kDelete, "a/1")), DenialReason::kKey);
    EXPECT_TRUE(own.allows(by(writer, EtcdAction::kLease)));
    EXPECT_FALSE(own.allows(by(writer, EtcdAction::kTxn)));
    EXPECT_EQ(own.reason(by(writer, EtcdAction::kRange, "b", "local")), DenialReason::kListener);
    EXPECT_EQ(own.reason(by(named("x"), EtcdAction::kRange, "b")), DenialReason::kNoRole);

    const rpc::Peer remote = named("remote-two");
    EXPECT_TRUE(own.allows(by(remote, EtcdAction::kRange, "cilium/state/x"))) << "as built in";
    EXPECT_TRUE(own.allows(by(remote, EtcdAction::kStatus)));
    const ClientLimits limits = control->table()->role_of(remote)->limits();
    EXPECT_EQ(limits.requests_per_second, 5U);
    EXPECT_EQ(limits.request_burst, 5U);
    EXPECT_EQ(limits.watches, kDefaultLimits.watches);
}

TEST_F(TableAccessTest, ABadFileLeavesTheLastGoodTable) {
    load("users:\n- {name: remote-two, role: remote}\n");
    const auto generation = control->generation();
    const auto refused = control->load("users:\n- {name: x, role: boss}\n", "access.yaml");
    ASSERT_FALSE(refused);
    EXPECT_EQ(control->error(), refused.error().detail());
    EXPECT_EQ(control->generation(), generation);
    EXPECT_EQ(role_of(named("remote-two")), "remote");
    load("users: []\n");
    EXPECT_EQ(control->error(), "");
    EXPECT_EQ(role_of(named("remote-two")), "");
}

TEST_F(TableAccessTest, EachLoopIsToldOfANewTable) {
    boost::asio::io_context loop;
    int told = 0;
    auto token = control->subscribe(loop.get_executor(), [&] { ++told; });
    load("users: []\n");
    EXPECT_EQ(told, 0) << "on the loop, not here";
    loop.poll();
    EXPECT_EQ(told, 1);
    load("users: []\n");
    token.reset();
    loop.restart();
    loop.poll();
    EXPECT_EQ(told, 1);
}

}  // namespace
}  // namespace mesh::serve
