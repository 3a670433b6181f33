#include "datapath/wireguard/peer_table.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "runtime/clock.hpp"

namespace mesh::datapath {
namespace {

using model::IpAddress;
using model::IpPrefix;
using model::WireguardPublicKey;
using testing::ElementsAre;
using testing::IsEmpty;

WireguardPublicKey key(std::uint8_t last) {
    WireguardPublicKey::Bytes bytes{};
    bytes[31] = last;
    return WireguardPublicKey(bytes);
}
IpPrefix prefix(const char* text) {
    return IpPrefix::parse(text).value();
}
WireguardPeer peer(std::uint8_t last, std::vector<const char*> prefixes) {
    WireguardPeer made;
    made.public_key = key(last);
    made.endpoint.address = IpAddress::v4(192, 0, 2, last);
    for (const char* text : prefixes) made.allowed_ips.push_back(prefix(text));
    std::ranges::sort(made.allowed_ips);
    return made;
}

// What a device does with what it is told, as kernel and wireguard-go do it.
struct FakeWireguard {
    bool exists = false, up = false;
    WireguardState state;
    std::vector<std::string> told;  ///< one line for each step
    int fail_after = -1;            ///< steps until it fails; -1 = never

    void take(const WireguardPeerChange& change) {
        std::string line = std::to_string(change.public_key.bytes()[31]);
        if (change.remove) {
            told.push_back(line + " removed");
            state.peers.erase(change.public_key);
            return;
        }
        WireguardPeerState& held = state.peers[change.public_key];
        if (change.endpoint) {
            held.endpoint = change.endpoint;
            line += " at " + change.endpoint->address.to_string();
        }
        if (change.keepalive) {
            held.keepalive = *change.keepalive;
            line += " keepalive " + std::to_string(change.keepalive->count());
        }
        if (change.replace_allowed_ips) {
            held.allowed_ips.clear();
            line += " =";
        }
        for (const IpPrefix& p : change.allowed_ips) {
            for (auto& [other, its] : state.peers) std::erase(its.allowed_ips, p);
            held.allowed_ips.push_back(p);
            line += " " + p.to_string();
        }
        std::ranges::sort(held.allowed_ips);
        if (change.start_session) line += " now";
        told.push_back(line);
    }
    std::vector<std::string> news() { return std::exchange(told, {}); }
};

class FakeDevice final : public WireguardDevice {
  public:
    explicit FakeDevice(FakeWireguard& at) : at_(at) {}
    [[nodiscard]] const std::string& name() const noexcept override { return name_; }
    [[nodiscard]] WireguardBackend backend() const noexcept override {
        return WireguardBackend::kUserspace;
    }
    [[nodiscard]] Result<bool> ensure() override { return !std::exchange(at_.exists, true); }
    [[nodiscard]] Result<WireguardState> state() override {
        if (!at_.exists) return not_found("no device");
        return at_.state;
    }
    [[nodiscard]] Result<void> configure(const WireguardSettings& settings) override {
        at_.told.emplace_back("configured");
        if (settings.private_key) at_.state.private_key = settings.private_key;
        if (settings.port) at_.state.port = *settings.port;
        if (settings.mark) at_.state.mark = *settings.mark;
        return {};
    }
    [[nodiscard]] Result<void> set_up() override {
        at_.up = true;
        return {};
    }
    [[nodiscard]] Result<void> apply(std::span<const WireguardPeerChange> changes) override {
        for (const WireguardPeerChange& change : changes) {
            if (!at_.exists || at_.fail_after == 0) return unavailable("it died");
            if (at_.fail_after > 0) --at_.fail_after;
            at_.take(change);
        }
        return {};
    }
    [[nodiscard]] Result<void> remove() override {
        at_ = FakeWireguard();
        return {};
    }
    [[nodiscard]] int ended_fd() const noexcept override { return -1; }

  private:
    FakeWireguard& at_;
    std::string name_ = "fake";
};

class Table : public testing::Test {
  protected:
    WireguardTable make() {
        WireguardSettings settings;
        settings.private_key.emplace(WireguardPrivateKey::Bytes{8});
        settings.port = kWireguardPort;
        settings.mark = 0;
        return {std::make_unique<FakeDevice>(wireguard_), settings};
    }
    std::vector<std::string> apply(WireguardTable& table, std::vector<WireguardChange> changes) {
        EXPECT_TRUE(table.apply(changes));
        return wireguard_.news();
    }
    FakeWireguard wireguard_;
};

TEST_F(Table, OnlyWhatChangedIsSent) {
    WireguardTable table = make();
    EXPECT_TRUE(table.reconcile()->device_made);
    EXPECT_TRUE(wireguard_.up);
    EXPECT_EQ(wireguard_.state.port, kWireguardPort);
    EXPECT_THAT(wireguard_.news(), ElementsAre("configured"));
    EXPECT_THAT(apply(table, {peer(1, {"10.1.0.0/24"}), peer(2, {"10.2.0.0/24"})}),
                ElementsAre("1 at 192.0.2.1 10.1.0.0/24", "2 at 192.0.2.2 10.2.0.0/24"));
    EXPECT_THAT(apply(table, {peer(1, {"10.1.0.0/24"})}), IsEmpty());
    EXPECT_THAT(apply(table, {peer(1, {"10.1.0.0/24", "10.1.1.0/24"})}),
                ElementsAre("1 10.1.1.0/24"));
    EXPECT_THAT(apply(table, {peer(1, {"10.1.1.0/24"})}), ElementsAre("1 = 10.1.1.0/24"));
    WireguardPeer moved = peer(1, {"10.1.1.0/24"});
    moved.endpoint.address = IpAddress::v4(192, 0, 2, 99);
    moved.keepalive = std::chrono::seconds(25);
    EXPECT_THAT(apply(table, {moved}), ElementsAre("1 at 192.0.2.99 keepalive 25"));
    EXPECT_THAT(apply(table, {key(1), key(7)}), ElementsAre("1 removed"));
    EXPECT_THAT(apply(table, {key(1)}), IsEmpty());
}

TEST_F(Table, ANewKeyTakesOverBeforeTheOldOneGoesAndShakesHands) {
    WireguardTable table = make();
    ASSERT_TRUE(table.reconcile());
    (void)apply(table, {peer(1, {"10.1.0.0/24"}), peer(2, {"10.2.0.0/24"})});
    EXPECT_THAT(apply(table, {key(1), peer(9, {"10.1.0.0/24"})}),
                ElementsAre("9 at 192.0.2.9 10.1.0.0/24 now", "1 removed"));
    // A peer that replaces nobody waits for its first packet.
    EXPECT_THAT(apply(table, {key(9), peer(4, {"10.4.0.0/24"})}),
                ElementsAre("4 at 192.0.2.4 10.4.0.0/24", "9 removed"));
}

TEST_F(Table, APrefixThatGoesFromPeerToPeerIsNeverWithoutOne) {
    WireguardTable table = make();
    ASSERT_TRUE(table.reconcile());
    (void)apply(table, {peer(1, {"10.1.0.0/24", "10.9.0.0/24"}), peer(2, {"10.2.0.0/24"})});
    EXPECT_THAT(apply(table, {peer(1, {"10.1.0.0/24"}), peer(2, {"10.2.0.0/24", "10.9.0.0/24"})}),
                ElementsAre("2 10.9.0.0/24"));
    // Two that claim one: the later.
    EXPECT_THAT(apply(table, {peer(1, {"10.1.0.0/24", "10.9.0.0/24"})}),
                ElementsAre("1 10.9.0.0/24"));
    EXPECT_THAT(table.peers().at(key(2)).allowed_ips, ElementsAre(prefix("10.2.0.0/24")));
    EXPECT_THAT(apply(table, {peer(1, {"10.2.0.0/24"}), peer(2, {"10.1.0.0/24", "10.9.0.0/24"})}),
                ElementsAre("1 10.2.0.0/24", "2 10.1.0.0/24 10.9.0.0/24"));
}

TEST_F(Table, ARestartAdoptsAndSendsTheDifferenceOnly) {
    {
        WireguardTable table = make();
        ASSERT_TRUE(table.reconcile());
        (void)apply(table,
                    {peer(1, {"10.1.0.0/24"}), peer(2, {"10.2.0.0/24"}), peer(3, {"10.3.0.0/24"})});
    }
    WireguardTable table = make();
    // What is known before the start is only noted.
    EXPECT_THAT(apply(table, {peer(1, {"10.1.0.0/24"}), peer(2, {"10.2.0.0/24", "10.5.0.0/24"}),
                              peer(4, {"10.3.0.0/24"})}),
                IsEmpty());
    const auto outcome = table.reconcile();
    ASSERT_TRUE(outcome);
    EXPECT_EQ(*outcome, (WireguardOutcome{false, 1, 1, 1}));
    EXPECT_THAT(wireguard_.news(),
                ElementsAre("2 10.5.0.0/24", "4 at 192.0.2.4 10.3.0.0/24 now", "3 removed"));
    EXPECT_EQ(*table.reconcile(), WireguardOutcome{});
    EXPECT_THAT(wireguard_.news(), IsEmpty());
}

TEST_F(Table, ADeviceThatDiedIsFilledAgain) {
    WireguardTable table = make();
    ASSERT_TRUE(table.reconcile());
    (void)apply(table, {peer(1, {"10.1.0.0/24"})});
    wireguard_ = FakeWireguard();
    const std::vector<WireguardChange> more{peer(2, {"10.2.0.0/24"})};
    EXPECT_FALSE(table.apply(more));  // its caller hears of it
    EXPECT_TRUE(table.reconcile()->device_made);
    // Its peers go on sending under sessions that it lost, until it shakes hands.
    EXPECT_THAT(wireguard_.news(), ElementsAre("configured", "1 at 192.0.2.1 10.1.0.0/24 now",
                                               "2 at 192.0.2.2 10.2.0.0/24 now"));
}

TEST_F(Table, PeersOfAFormerRunAreKeptUntilEverybodyHadTheirSay) {
    {
        WireguardTable table = make();
        ASSERT_TRUE(table.reconcile());
        (void)apply(table, {peer(1, {"10.1.0.0/24"}), peer(2, {"10.2.0.0/24"})});
    }
    WireguardTable table = make();
    EXPECT_EQ(*table.reconcile(UnknownPeers::kKeep), WireguardOutcome{});
    EXPECT_THAT(wireguard_.news(), IsEmpty());
    // Meanwhile the node of 1 has taken another key.
    EXPECT_THAT(apply(table, {peer(3, {"10.1.0.0/24"})}),
                ElementsAre("3 at 192.0.2.3 10.1.0.0/24"));
    EXPECT_TRUE(wireguard_.state.peers.contains(key(2)));
    EXPECT_EQ(*table.reconcile(), (WireguardOutcome{false, 0, 0, 2}));
    EXPECT_THAT(wireguard_.news(), ElementsAre("1 removed", "2 removed"));
}

TEST_F(Table, ChangesItsKeyWithoutTouchingPeers) {
    WireguardTable table = make();
    ASSERT_TRUE(table.reconcile());
    (void)apply(table, {peer(1, {"10.1.0.0/24"})});
    const WireguardPrivateKey next(WireguardPrivateKey::Bytes{16});
    ASSERT_TRUE(table.set_private_key(next));
    EXPECT_TRUE(wireguard_.state.private_key == next);
    EXPECT_THAT(wireguard_.news(), ElementsAre("configured"));
    ASSERT_TRUE(table.reconcile());
    EXPECT_THAT(wireguard_.news(), IsEmpty());
}

// Random peers of few prefixes, a device that fails after any step and a table that restarts: what
// the device holds afterwards is what is desired; and a peer that stays is not touched.
TEST_F(Table, TheDeviceHoldsWhatIsDesiredWhateverFailed) {
    const char* const kPrefixes[] = {"10.0.0.0/24", "10.0.0.0/25", "10.0.1.0/24",
                                     "fd00::/64",   "fd01::/64",   "10.0.2.0/24"};
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
        SCOPED_TRACE(testing::Message() << "seed " << seed);
        Rng rng(seed);
        wireguard_ = FakeWireguard();
        std::optional<WireguardTable> table(make());
        ASSERT_TRUE(table->reconcile());
        for (int step = 0; step < 500; ++step) {
            std::vector<WireguardChange> changes;
            for (auto left = 1 + rng.below(3); left > 0; --left) {
                const auto last = static_cast<std::uint8_t>(1 + rng.below(5));
                if (rng.below(3) == 0) {
                    changes.emplace_back(key(last));
                    continue;
                }
                WireguardPeer made = peer(last, {});
                for (auto n = rng.below(4); n > 0; --n) {
                    made.allowed_ips.push_back(prefix(kPrefixes[rng.below(6)]));
                }
                made.keepalive = std::chrono::seconds(rng.below(2));
                changes.emplace_back(made);
            }
            // Once it is told of a failure, and for what it cannot see, the caller reconciles.
            bool mend = false;
            if (rng.below(10) == 0) wireguard_.fail_after = static_cast<int>(rng.below(3));
            if (rng.below(20) == 0) {
                wireguard_ = FakeWireguard();
                mend = true;
            }
            const auto before = wireguard_.state.peers;
            if (rng.below(20) == 0) {
                const auto peers = table->peers();
                table.emplace(make());
                std::vector<WireguardChange> all;
                for (const auto& [k, p] : peers) all.emplace_back(p);
                ASSERT_TRUE(table->apply(all));
                mend = true;
            }
            wireguard_.told.clear();
            if (!table->apply(changes)) mend = true;
            wireguard_.fail_after = -1;
            if (mend) {
                ASSERT_TRUE(table->reconcile());
            }
            std::map<WireguardPublicKey, WireguardPeer> held;
            for (const auto& [k, state] : wireguard_.state.peers) {
                held[k] = {k, state.endpoint.value(), state.allowed_ips, state.keepalive};
            }
            ASSERT_EQ(held, table->peers()) << "step " << step;
            for (const std::string& line : wireguard_.told) {
                if (line == "configured") continue;
                const WireguardPublicKey k = key(static_cast<std::uint8_t>(std::stoi(line)));
                const auto was = before.find(k);
                const auto is = std::as_const(wireguard_.state.peers).find(k);
                const bool same = was != before.end() && is != wireguard_.state.peers.end() &&
                                  was->second.allowed_ips == is->second.allowed_ips &&
                                  was->second.endpoint == is->second.endpoint &&
                                  was->second.keepalive == is->second.keepalive;
                ASSERT_FALSE(same) << line << " at step " << step;
            }
        }
    }
}

}  // namespace
}  // namespace mesh::datapath
