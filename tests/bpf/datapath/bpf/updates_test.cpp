// Updates under load: no connect fails, none goes where it must not.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <set>

#include "echo_server.hpp"

namespace mesh::test {
namespace {

using datapath::Protocol;

constexpr const char* kVip = "10.11.0.1";

/// The backends of version v: each version removes one and brings one.
int first_of(int version) {
    return 1 + version % 8;
}
int second_of(int version) {
    return 1 + (version + 1) % 8;
}

TEST(UpdatesTest, TenThousandUpdatesUnderLoad) {
    const Network network;
    const EchoServer server(network);
    Node node;
    const auto front = frontend(kVip, 80, Protocol::kTcp);
    const auto row = [&](int version) {
        return service(front, {backend(first_of(version)), backend(second_of(version))});
    };
    node.upsert({row(0)});

    constexpr int kUpdates = 10000;
    constexpr int kTelling = 100;
    std::atomic<int> started{0};   // the version whose apply has begun
    std::atomic<int> finished{0};  // the version whose apply has returned
    std::atomic<bool> stop{false};
    std::atomic<int> connects{0}, failed{0}, wrong{0}, telling{0};
    std::thread clients([&] {
        network.client.run([&] {
            std::vector<std::thread> threads;
            for (int t = 0; t < 2; ++t) {
                threads.emplace_back([&] {
                    while (!stop) {
                        const int from = finished;
                        const Socket socket(AF_INET, SOCK_STREAM);
                        const int result = socket.connect(kVip, 80);
                        const int to = started;
                        const std::string who = result == 0 ? socket.receive() : "";
                        ++connects;
                        if (who.empty()) {
                            ++failed;
                            continue;
                        }
                        // Anything from the version that was complete before the connect began
                        // to the one that was begun when it ended.
                        std::set<std::string> allowed;
                        for (int v = from; v <= to && v < from + 8; ++v) {
                            allowed.insert(backend(first_of(v)).address.to_string());
                            allowed.insert(backend(second_of(v)).address.to_string());
                        }
                        if (allowed.size() < 8) ++telling;
                        if (!allowed.contains(who)) ++wrong;
                    }
                });
            }
            for (std::thread& thread : threads) thread.join();
        });
    });
    // On a busy machine a connect takes as long as many updates: then slower ones follow, until
    // enough connects could tell.
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    int version = 0;
    while (version < kUpdates || (telling <= kTelling && std::chrono::steady_clock::now() < end)) {
        started = ++version;
        node.upsert({row(version)});
        finished = version;
        // Not every update at once: a connect should be able to meet only one or two.
        if (version > kUpdates) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        } else if (version % 4 == 0) {
            std::this_thread::sleep_for(std::chrono::microseconds(500));
        }
    }
    stop = true;
    clients.join();
    RecordProperty("connects", connects);
    std::printf("%d updates, %d connects, %d of them telling\n", version, connects.load(),
                telling.load());
    EXPECT_EQ(failed, 0);
    EXPECT_EQ(wrong, 0);
    EXPECT_GT(telling, kTelling);
    EXPECT_EQ(node.datapath().occupancy().backends, 2U);
    EXPECT_EQ(node.datapath().occupancy().slots, 2U);
}

TEST(UpdatesTest, ServicesComeAndGoUnderLoad) {
    const Network network;
    const EchoServer server(network);
    Node node;
    // Others come and go, with other ids and slots each time; this one stays.
    const auto front = frontend(kVip, 80, Protocol::kTcp);
    node.upsert({service(front, {backend(1)})});
    std::atomic<bool> stop{false};
    std::atomic<int> connects{0}, wrong{0};
    std::thread client([&] {
        network.client.run([&] {
            while (!stop) {
                const Socket socket(AF_INET, SOCK_STREAM);
                if (socket.connect(kVip, 80) != 0 || socket.receive() != "10.10.0.1") ++wrong;
                ++connects;
            }
        });
    });
    constexpr int kConnects = 50;
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    for (int round = 0;
         round < 300 || (connects <= kConnects && std::chrono::steady_clock::now() < end);
         ++round) {
        std::vector<datapath::ServiceRow> rows;
        for (int n = 2; n < 30; ++n) {
            rows.push_back(service(frontend("10.11.0." + std::to_string(n), 80, Protocol::kTcp),
                                   {backend(2), backend(3)}));
        }
        node.upsert(rows);
        for (const auto& r : rows) node.remove(r.frontend);
    }
    stop = true;
    client.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_GT(connects, kConnects);
}

TEST(UpdatesTest, ThousandsOfServicesAtOnce) {
    const Network network;
    const EchoServer server(network);
    Node node;
    std::vector<datapath::ServiceRow> rows;
    for (int n = 0; n < 5000; ++n) {
        const std::string ip =
            "10.11." + std::to_string(n / 250) + "." + std::to_string(1 + n % 250);
        rows.push_back(service(frontend(ip, 80, Protocol::kTcp), {}));
        for (int b = 1; b <= 8; ++b) rows.back().backends.push_back(backend(b));
    }
    const auto stats = node.upsert(rows);
    EXPECT_EQ(stats.services_added, 5000U);
    EXPECT_EQ(stats.backends_added, 40000U);
    network.client.run([&] {
        for (std::size_t n = 0; n < rows.size(); n += 97) {
            const Socket socket(AF_INET, SOCK_STREAM);
            ASSERT_EQ(socket.connect(rows[n].frontend.address.to_string(), 80), 0);
            EXPECT_NE(socket.receive(), "");
        }
    });
    std::vector<datapath::ServiceChange> gone;
    for (const auto& row : rows) gone.push_back(datapath::ServiceChange::remove(row.frontend));
    const auto removed = node.datapath().apply(gone);
    ASSERT_TRUE(removed);
    EXPECT_EQ(removed->services_removed, 5000U);
    EXPECT_EQ(node.datapath().occupancy().slots, 0U);
    // And as many again: everything that was given back is there.
    EXPECT_EQ(node.upsert(rows).services_added, 5000U);
}

TEST(UpdatesTest, TheTableOfServicesHasABound) {
    Node node;
    std::vector<datapath::ServiceChange> changes;
    for (int n = 0; n < 9000; ++n) {
        const std::string ip =
            "10.11." + std::to_string(n / 250) + "." + std::to_string(1 + n % 250);
        changes.push_back(datapath::ServiceChange::upsert(
            service(frontend(ip, 80, Protocol::kTcp), {backend(1)})));
    }
    const auto stats = node.datapath().apply(changes);
    ASSERT_TRUE(stats);
    EXPECT_EQ(stats->services_added, 8191U);
    ASSERT_EQ(stats->rejected.size(), 9000U - 8191U);
    EXPECT_EQ(stats->rejected[0].error.code(), Errc::kCapacity);
}

}  // namespace
}  // namespace mesh::test
