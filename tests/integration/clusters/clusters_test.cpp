// What a hostile or broken remote can do to the process that follows it: nothing, beyond its own
// state. Beside each there is an honest one that must not feel it.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <stdexcept>

#include "etcd_process.hpp"
#include "lying_etcd.hpp"
#include "sources/etcd/client.hpp"
#include "sources/etcd/prefix_watcher.hpp"
#include "state/clusters/remote_cluster.hpp"

namespace mesh::state {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using test::LyingEtcd;

std::string nodes_prefix(const std::string& cluster) {
    return "cilium/state/nodes/v1/" + cluster + "/";
}
std::string node(const std::string& cluster, int id, const std::string& name) {
    return R"({"Name":")" + name + R"(","Cluster":")" + cluster + R"(","ClusterID":)" +
           std::to_string(id) + "}";
}

class ClustersTest : public testing::Test {
  protected:
    /// A remote with one node and its etcd.
    struct Remote {
        std::string name;
        std::unique_ptr<LyingEtcd> etcd;
        std::unique_ptr<RemoteCluster> cluster;
        int resets = 0, batches = 0;
    };

    Remote& remote(const std::string& name, int id) {
        auto& made = *remotes_.emplace_back(std::make_unique<Remote>());
        made.name = name;
        made.etcd = std::make_unique<LyingEtcd>(loop_.get_executor(), clock_);
        made.etcd->put("cilium/.heartbeat", "t");
        made.etcd->put("cilium/cluster-config/" + name,
                       R"({"id":)" + std::to_string(id) + R"(,"capabilities":{}})");
        made.etcd->put(nodes_prefix(name) + "n1", node(name, id, "n1"));
        return made;
    }
    void start(Remote& remote, const std::string& policy = "") {
        const auto config = sources::config::parse_remote_yaml(
            "endpoints: [" + remote.etcd->endpoint() + "]\n" + policy, remote.name, remote.name);
        ASSERT_TRUE(config) << config.error().message();
        if (!remote.cluster) {
            SessionOptions options;
            options.cluster = remote.name;
            options.local_id = model::ClusterId{1};
            options.times.probe = 100ms;
            ClusterEvents events;
            events.on_reset = [&remote](const std::string&) { ++remote.resets; };
            events.on_batch = [&remote](ClusterBatch&&) { ++remote.batches; };
            remote.cluster =
                std::make_unique<RemoteCluster>(loop_.get_executor(), std::move(options), ids_,
                                                clock_, Rng(7), logger(), std::move(events));
        }
        remote.cluster->configure(*config);
    }
    /// One that lies and one that does not.
    void start_both(const std::string& policy = "") {
        bad_ = &remote("bad", 7);
        good_ = &remote("good", 8);
        prepare_(*bad_->etcd);
        start(*bad_, policy);
        start(*good_);
    }
    void until(const std::function<bool()>& condition, const char* what) {
        const TimePoint end = clock_.now() + 60s;
        while (!condition() && clock_.now() < end) loop_.run_one_for(50ms);
        EXPECT_TRUE(condition()) << what << "; log:\n" << log_;
    }
    void finish() {
        if (good_ != nullptr) {
            until([&] { return good_->cluster->status().ready; }, "the honest remote is ready");
            EXPECT_EQ(good_->resets, 0);
        }
        int left = 0;
        for (auto& each : remotes_) {
            if (!each->cluster) continue;
            ++left;
            asio::co_spawn(loop_, each->cluster->stop(), [&left](std::exception_ptr) { --left; });
        }
        until([&] { return left == 0; }, "all stop");
    }
    void TearDown() override { finish(); }

    [[nodiscard]] static const Refusals::Count& refused(const Remote& remote, Refusal why) {
        static Refusals::Count count;
        count = remote.cluster->status().refused[static_cast<std::size_t>(why)];
        return count;
    }
    Logger logger() {
        return {"clusters", [this](LogLevel, std::string_view, std::string_view text) {
                    log_.append(text).append("\n");
                }};
    }
    static long peak_kib() {
        rusage usage{};
        ::getrusage(RUSAGE_SELF, &usage);
        return usage.ru_maxrss;
    }

    asio::io_context loop_{1};
    SystemClock clock_;
    std::string log_;
    IdRegistry ids_;
    std::vector<std::unique_ptr<Remote>> remotes_;
    Remote *bad_ = nullptr, *good_ = nullptr;
    std::function<void(LyingEtcd&)> prepare_ = [](LyingEtcd&) {};
};

bool asks_for_nodes(const etcdpb::RangeRequest& request) {
    return request.key().starts_with(nodes_prefix("bad"));
}

TEST_F(ClustersTest, AListedKeyThatIsShorterThanThePrefix) {
    prepare_ = [](LyingEtcd& etcd) {
        etcd.on_range = [](const auto& request, auto& response) {
            if (asks_for_nodes(request)) LyingEtcd::add(response, "x", "{}");
        };
    };
    start_both();
    until([&] { return bad_->cluster->status().ready; }, "ready, without the entry");
    EXPECT_EQ(refused(*bad_, Refusal::kKey).count, 1U);
    EXPECT_EQ(refused(*bad_, Refusal::kKey).last_key, "x");
    EXPECT_EQ(bad_->cluster->status().slots[index(Slot::kNodes)].count, 1U);
    EXPECT_EQ(bad_->resets, 0);
}

TEST_F(ClustersTest, AWatchedKeyThatIsShorterThanThePrefix) {
    prepare_ = [](LyingEtcd& etcd) {
        etcd.on_watch = [&etcd](rpc::ServerCall& call, const std::string& key, std::int64_t id) {
            if (key != nodes_prefix("bad")) return;
            etcdpb::WatchResponse response;
            etcd.head(response.mutable_header());
            response.set_watch_id(id);
            LyingEtcd::add_event(response, "x", "{}", 101);
            LyingEtcd::add_event(response, nodes_prefix("bad") + "n2", node("bad", 7, "n2"), 101);
            static_cast<void>(call.write(rpc::encode_frame(response)));
        };
    };
    start_both();
    until([&] { return bad_->cluster->status().slots[index(Slot::kNodes)].count == 2; },
          "the good one behind it is taken");
    EXPECT_EQ(refused(*bad_, Refusal::kKey).count, 1U);
    EXPECT_EQ(bad_->resets, 0);
}

TEST_F(ClustersTest, AListOfHugeKeysWithoutEnd) {
    std::uint64_t number = 0;
    prepare_ = [&number](LyingEtcd& etcd) {
        etcd.on_range = [&number](const auto& request, auto& response) {
            if (!asks_for_nodes(request)) return;
            response.clear_kvs();
            for (int i = 0; i < 3; ++i) {
                std::string key = std::to_string(1'000'000'000 + number++);
                key.append(1'000'000, 'k');
                LyingEtcd::add(response, nodes_prefix("bad") + key, "");
            }
            response.set_more(true);
        };
    };
    const long before = peak_kib();
    start_both("mesh: {limits: {total-bytes: 50000000}}");
    until([&] { return bad_->cluster->status().ready; }, "the list is ended");
    EXPECT_GT(refused(*bad_, Refusal::kTooLarge).count, 20U);
    EXPECT_EQ(refused(*bad_, Refusal::kLimit).count, 1U) << "the rest, that is not read";
    EXPECT_EQ(bad_->cluster->status().slots[index(Slot::kNodes)].count, 0U);
#ifndef __SANITIZE_ADDRESS__  // which keeps what was freed for a while
    EXPECT_LT(peak_kib() - before, 100 * 1024) << "of 164 MB";
#else
    static_cast<void>(before);
#endif
}

TEST_F(ClustersTest, MoreKeysThanTheLimit) {
    std::uint64_t number = 0;
    prepare_ = [&number](LyingEtcd& etcd) {
        etcd.on_range = [&number](const auto& request, auto& response) {
            if (!asks_for_nodes(request)) return;
            response.clear_kvs();
            for (int i = 0; i < request.limit(); ++i) {
                const std::string name = "n" + std::to_string(1'000'000'000 + number++);
                LyingEtcd::add(response, nodes_prefix("bad") + name, node("bad", 7, name));
            }
            response.set_more(true);
            response.set_count(1'000'000);
        };
    };
    start_both("mesh: {limits: {nodes: 100}}");
    until([&] { return bad_->cluster->status().ready; }, "the list is ended");
    EXPECT_EQ(bad_->cluster->status().slots[index(Slot::kNodes)].count, 100U);
    EXPECT_EQ(refused(*bad_, Refusal::kLimit).count, 1'000'000U - 100U) << "all are accounted for";
    EXPECT_LT(number, 20'000U);
}

TEST_F(ClustersTest, AListThatGoesRound) {
    prepare_ = [](LyingEtcd& etcd) {
        etcd.on_range = [](const auto& request, auto& response) {
            if (!asks_for_nodes(request)) return;
            response.clear_kvs();
            for (int i = 100; i < 200; ++i)
                LyingEtcd::add(response, nodes_prefix("bad") + std::to_string(i), "{");
            response.set_more(true);
        };
    };
    start_both();
    until(
        [&] {
            return bad_->cluster->status().last_failure.find("do not increase") !=
                   std::string::npos;
        },
        "the reason is told");
    EXPECT_FALSE(bad_->cluster->status().ready);
    EXPECT_LT(bad_->etcd->ranges, 100) << "tried again by backoff";
}

TEST_F(ClustersTest, APageOfMoreThanWasAskedFor) {
    prepare_ = [](LyingEtcd& etcd) {
        etcd.on_range = [](const auto& request, auto& response) {
            if (!asks_for_nodes(request)) return;
            response.clear_kvs();
            for (int i = 0; i < request.limit() + 1; ++i)
                LyingEtcd::add(response, nodes_prefix("bad") + std::to_string(1'000'000 + i), "");
        };
    };
    start_both();
    until(
        [&] {
            return bad_->cluster->status().last_failure.find("that were asked for") !=
                   std::string::npos;
        },
        "the reason is told");
}

TEST_F(ClustersTest, FragmentsWithoutALastOne) {
    prepare_ = [](LyingEtcd& etcd) {
        etcd.on_watch = [&etcd](rpc::ServerCall& call, const std::string& key, std::int64_t id) {
            if (key != nodes_prefix("bad")) return;
            for (int i = 0; i < 40; ++i) {
                etcdpb::WatchResponse response;
                etcd.head(response.mutable_header());
                response.set_watch_id(id);
                response.set_fragment(true);
                LyingEtcd::add_event(response, key + std::to_string(i), std::string(50'000, 'v'),
                                     101);
                static_cast<void>(call.write(rpc::encode_frame(response)));
            }
        };
    };
    start_both("mesh: {limits: {answer-bytes: 1000000}}");
    until(
        [&] {
            return bad_->cluster->status().last_failure.find("larger than 1000000 bytes") !=
                   std::string::npos;
        },
        "the reason is told");
}

TEST_F(ClustersTest, AThrowingReaderCostsItsClientOnly) {
    auto& etcd = *remote("bad", 7).etcd;
    etcd.on_watch = [&etcd](rpc::ServerCall& call, const std::string& key, std::int64_t id) {
        etcdpb::WatchResponse response;
        etcd.head(response.mutable_header());
        response.set_watch_id(id);
        LyingEtcd::add_event(response, key + "n2", "{}", 101);
        static_cast<void>(call.write(rpc::encode_frame(response)));
    };
    for (const bool by_list : {true, false}) {
        etcd::ClientOptions options;
        options.endpoints = {etcd.endpoint()};
        auto client = *etcd::Client::make(loop_.get_executor(), options, clock_, Rng(3), logger());
        std::vector<std::string> defects;
        client->on_defect([&](std::string_view what) { defects.emplace_back(what); });
        client->start();
        etcd::PrefixWatcherOptions watch;
        watch.prefix = nodes_prefix("bad");
        etcd::PrefixWatcherEvents events;
        events.on_batch = [&](const etcd::Batch& batch) {
            if (batch.from_list == by_list) throw std::runtime_error("boom");
        };
        auto watcher =
            std::make_unique<etcd::PrefixWatcher>(*client, clock_, Rng(3), watch, events);
        until([&] { return !defects.empty(); }, "the defect is told");
        EXPECT_EQ(defects.front(), "boom");
        watcher.reset();
        bool stopped = false;
        asio::co_spawn(loop_, client->async_stop(), [&](std::exception_ptr) { stopped = true; });
        until([&] { return stopped; }, "the client stops");
    }
}

TEST_F(ClustersTest, TheOwnerOfAnIdGetsItFromWhoTookIt) {
    auto& thief = remote("thief", 7);
    start(thief);
    until([&] { return thief.cluster->status().ready; }, "the thief is ready");
    auto& owner = remote("owner", 7);
    start(owner);
    until([&] { return owner.cluster->status().failures != 0; }, "the owner is refused");
    start(owner, "mesh: {id: 7}");
    until([&] { return owner.cluster->status().ready; }, "the owner has its id");
    EXPECT_FALSE(thief.cluster->status().ready);
    EXPECT_EQ(thief.cluster->status().slots[index(Slot::kNodes)].count, 0U);
    EXPECT_NE(thief.cluster->status().last_failure.find("belongs to remote cluster owner"),
              std::string::npos);
}

TEST_F(ClustersTest, AnIdleClusterIsNotBehindARealEtcd) {
    if (!test::have_etcd()) GTEST_SKIP() << "needs etcd-server and etcd-client";
    const test::TemporaryFolder folder;
    const test::EtcdProcess etcd(folder, {});
    etcd::ClientOptions options;
    options.endpoints = {etcd.endpoint()};
    auto writer = *etcd::Client::make(loop_.get_executor(), options, clock_, Rng(3), logger());
    writer->start();
    SessionOptions session;
    session.cluster = "own";
    session.own = true;
    session.local_id = model::ClusterId{1};
    session.slots = kOwnSlots;
    session.times.probe = 50ms;
    RemoteCluster own(loop_.get_executor(), std::move(session), ids_, clock_, Rng(7), logger(), {});
    own.configure(*sources::config::parse_remote_yaml("endpoints: [" + etcd.endpoint() + "]\n",
                                                      "own", "own"));
    until([&] { return own.status().ready; }, "ready");
    for (int i = 0; i < 5; ++i) {
        std::int64_t written = 0;
        asio::co_spawn(loop_, writer->async_put("cilium/.heartbeat", "t"),
                       [&](std::exception_ptr, const Result<etcd::PutResult>& put) {
                           ASSERT_TRUE(put) << put.error().message();
                           written = put->header.revision;
                       });
        // Nothing of its own has changed, and yet all watches are told up to here.
        until([&] { return written != 0 && own.status().position.revision >= written; },
              "all is told");
        until([&] { return own.status().lag_revisions == 0; }, "and it is not behind");
        EXPECT_EQ(own.status().lag, Duration(0));
    }
    int left = 2;
    const auto done = [&left](std::exception_ptr) { --left; };
    asio::co_spawn(loop_, own.stop(), done);
    asio::co_spawn(loop_, writer->async_stop(), done);
    until([&] { return left == 0; }, "all stop");
}

}  // namespace
}  // namespace mesh::state
