// Rates under a virtual clock; clients and names across loops; bounded memory.
#include "serve/etcd/clients.hpp"

#include <gtest/gtest.h>

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;

TEST(Rate, BurstThenSteady) {
    ManualClock clock;
    Rate rate;
    // As ClientShare asks: one must be there yet.
    const auto wait = [&] { return rate.wait(clock.now(), 10, 4); };
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(wait(), 0ns) << i;
        rate.take(clock.now(), 1, 10);
    }
    EXPECT_EQ(wait(), 100ms);
    clock.advance(60ms);
    EXPECT_EQ(wait(), 40ms);
    clock.advance(40ms);
    EXPECT_EQ(wait(), 0ns);
    rate.take(clock.now(), 1, 10);
    EXPECT_EQ(wait(), 100ms);
    clock.advance(1h);
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(wait(), 0ns) << "no more than the burst is saved up";
        rate.take(clock.now(), 1, 10);
    }
    EXPECT_EQ(wait(), 100ms);
}

TEST(Rate, DebtIsPaid) {
    ManualClock clock;
    Rate rate;
    EXPECT_EQ(rate.wait(clock.now(), 1000, 1000), 0ns);
    rate.take(clock.now(), 5000, 1000);
    EXPECT_EQ(rate.wait(clock.now(), 1000, 1000), 4s);
    EXPECT_EQ(rate.wait(clock.now(), 2000, 1000), 4500ms) << "what is due stays due";
    EXPECT_EQ(rate.wait(clock.now(), 0, 0), 0ns) << "no limit";
    rate.take(clock.now(), ~std::uint64_t{0}, 1);
    EXPECT_LE(rate.wait(clock.now(), 1, 0), 1h + 5s) << "no overflow";
}

TEST(ClientShare, TheLongestWaitCounts) {
    ManualClock clock;
    ClientShare share;
    const ClientLimits limits{.requests_per_second = 100,
                              .request_burst = 1,
                              .bytes_in_per_second = 1000,
                              .bytes_out_per_second = 10};
    EXPECT_EQ(share.wait(clock.now(), limits), 0ns);
    share.requests.take(clock.now(), 1, limits.requests_per_second);
    EXPECT_EQ(share.wait(clock.now(), limits), 10ms);
    share.bytes_in.take(clock.now(), 1500, limits.bytes_in_per_second);
    EXPECT_EQ(share.wait(clock.now(), limits), 500ms);
    share.bytes_out.take(clock.now(), 30, limits.bytes_out_per_second);
    EXPECT_EQ(share.wait(clock.now(), limits), 2s);
}

TEST(ClientRegistry, AddsUpLoopsAndKeepsWhatIsGone) {
    auto registry = std::make_shared<ClientRegistry>();
    auto one = registry->open("remote", "10.0.0.1");
    auto same = registry->open("remote", "10.0.0.1");
    auto other = registry->open("remote", "10.0.0.2");
    EXPECT_EQ(one->client, same->client);
    EXPECT_NE(one->client, other->client);
    EXPECT_EQ(one->client->of_name, other->client->of_name);
    one->counters.requests.add(3);
    same->counters.requests.add(4);
    same->counters.connections.add();
    registry->set_role(*one->client, "remote");
    auto clients = registry->clients();
    ASSERT_EQ(clients.size(), 2U);
    EXPECT_EQ(clients[0].address, "10.0.0.1");
    EXPECT_EQ(clients[0].role, "remote");
    EXPECT_EQ(clients[0].requests, 7U);
    EXPECT_EQ(clients[0].connections, 1U);
    same.reset();
    one.reset();
    clients = registry->clients();
    EXPECT_EQ(clients[0].requests, 7U);
    EXPECT_EQ(clients[0].connections, 0U);
    one = registry->open("remote", "10.0.0.1");
    one->counters.requests.add(1);
    EXPECT_EQ(registry->clients()[0].requests, 8U);
}

TEST(ClientRegistry, IdleClientsAreBounded) {
    auto registry = std::make_shared<ClientRegistry>();
    const auto stays = registry->open("stays", "10.0.0.1");
    (void)registry->open("first", "10.0.0.1");
    for (std::size_t i = 0; i < ClientRegistry::kMostIdle; ++i)
        (void)registry->open("n" + std::to_string(i), "10.0.0.1");
    const auto clients = registry->clients();
    EXPECT_EQ(clients.size(), ClientRegistry::kMostIdle + 1);
    for (const ClientStatus& one : clients) EXPECT_NE(one.name, "first");
    EXPECT_EQ(clients.back().name, "stays");
}

}  // namespace
}  // namespace mesh::serve
