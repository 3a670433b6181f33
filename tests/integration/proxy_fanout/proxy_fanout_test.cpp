// Many watchers of one mesh-proxy whose connections are spread over several event loops: each sees
// every event once and in order, and one that stops reading costs the others and the proxy's
// memory nothing.
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <charconv>
#include <fstream>

#include "mesh_proxy_fixture.hpp"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"

namespace mesh {
namespace {

using namespace std::chrono_literals;
using test::Words;

/// Resident memory of a process in bytes.
std::size_t resident(int pid) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/statm");
    std::size_t total = 0;
    std::size_t pages = 0;
    in >> total >> pages;
    return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// When each put began, by the number that its value begins with; how long its way to watchers was.
struct Latencies {
    std::vector<std::chrono::steady_clock::time_point> begun;
    std::vector<float> milliseconds;

    void note(std::string_view value) {
        std::size_t number = 0;
        std::from_chars(value.data(), value.data() + value.size(), number);
        if (number >= begun.size()) return;  // not one of put_many()
        const std::chrono::duration<float, std::milli> passed =
            std::chrono::steady_clock::now() - begun.at(number);
        milliseconds.push_back(passed.count());
    }
    /// Of those since the last call.
    float p99() {
        std::ranges::sort(milliseconds);
        const float out = milliseconds.at(milliseconds.size() * 99 / 100);
        milliseconds.clear();
        return out;
    }
};

/// One watch of all state, on a stream of its own. What it was told, event by event.
struct Watcher {
    rpc::ClientCallPtr call;
    bool created = false;
    std::vector<std::int64_t> revisions;
    std::string trouble;
    Latencies* latencies = nullptr;

    void take(std::string_view message) {
        etcdpb::WatchResponse response;
        if (!response.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
            trouble = "an answer that is none";
        }
        if (response.canceled()) trouble = "cancelled";
        created = created || response.created();
        for (const auto& event : response.events()) {
            revisions.push_back(event.kv().mod_revision());
            if (latencies != nullptr) latencies->note(event.kv().value());
        }
    }
};

class ProxyFanoutTest : public test::MeshProxyTest {
  protected:
    std::unique_ptr<rpc::Channel> channel(const std::string& at, const std::string& who,
                                          std::int32_t stream_window = 4 << 20) {
        rpc::ChannelOptions options;
        options.host = "127.0.0.1";
        options.port = static_cast<std::uint16_t>(std::stoi(at.substr(at.rfind(':') + 1)));
        options.stream_window = stream_window;
        if (!who.empty()) {
            options.tls = *rpc::TlsCredentials::load(rpc::TlsRole::kClient,
                                                     {.ca_file = folder_.file("ca.crt"),
                                                      .cert_file = folder_.file(who + ".crt"),
                                                      .key_file = folder_.file(who + ".key")},
                                                     {});
        }
        auto made = std::make_unique<rpc::Channel>(io_.get_executor(), options, clock_, Logger());
        made->connect([this](Result<void> connected) {
            EXPECT_TRUE(connected);
            ++connected_;
        });
        return made;
    }

    void open(int connections, int streams) {
        for (int i = 0; i < connections; ++i) channels_.push_back(channel(remote_, "remote"));
        ASSERT_TRUE(run_until([&] { return connected_ == connections; }));
        for (int i = 0; i < streams; ++i) {
            watchers_.push_back(std::make_unique<Watcher>());
            watchers_.back()->latencies = &latencies_;
            watch(*watchers_.back(), *channels_[static_cast<std::size_t>(i % connections)]);
        }
        ASSERT_TRUE(run_until([&] {
            return std::ranges::all_of(watchers_, [](const auto& w) { return w->created; });
        }));
    }

    void watch(Watcher& watcher, rpc::Channel& channel, std::int64_t from = 0) {
        rpc::CallEvents events;
        events.on_message = [&watcher](std::string_view message) { watcher.take(message); };
        events.on_end = [&watcher](const rpc::Status& status, const rpc::Metadata&) {
            watcher.trouble = "ended: " + status.message;
        };
        watcher.call = channel.call(etcdpb::kWatch, {}, std::move(events));
        etcdpb::WatchRequest request;
        request.mutable_create_request()->set_key("cilium/state/");
        request.mutable_create_request()->set_range_end("cilium/state0");
        request.mutable_create_request()->set_start_revision(from);
        ASSERT_EQ(watcher.call->write(rpc::encode_frame(request)), rpc::Write::kQueued);
    }

    /// Puts by a real client of etcd; the revision of the last one.
    std::int64_t put_many(int count, std::size_t bytes) {
        if (!upstream_) {
            const int before = connected_;
            upstream_ = channel(etcd_->endpoint(), "");
            EXPECT_TRUE(run_until([&] { return connected_ > before; }));
        }
        int done = 0;
        std::int64_t last = 0;
        for (int i = 0; i < count; ++i) {
            etcdpb::PutRequest request;
            request.set_key("cilium/state/ip/v1/default/10.0.0." + std::to_string(i % 50));
            std::string value = std::to_string(latencies_.begun.size()) + " ";
            value.resize(bytes, 'x');
            request.set_value(std::move(value));
            latencies_.begun.push_back(std::chrono::steady_clock::now());
            upstream_->unary(etcdpb::kPut, rpc::encode_frame(request), {},
                             [&](const rpc::UnaryResult& result) {
                                 ++done;
                                 etcdpb::PutResponse response;
                                 ASSERT_TRUE(result.status.ok()) << result.status.message;
                                 ASSERT_TRUE(response.ParseFromString(std::string(result.message)));
                                 last = std::max(last, response.header().revision());
                             });
            EXPECT_TRUE(run_until([&] { return i - done < 8; }));
        }
        EXPECT_TRUE(run_until([&] { return done == count; }));
        return last;
    }

    bool run_until(const std::function<bool()>& condition) {
        const auto end = std::chrono::steady_clock::now() + 60s;
        while (!condition()) {
            if (std::chrono::steady_clock::now() >= end) return false;
            io_.restart();
            io_.run_one_for(5ms);
            io_.poll();
        }
        return true;
    }

    [[nodiscard]] bool all_have(std::size_t events) const {
        return std::ranges::all_of(watchers_, [&](const auto& w) {
            return w->revisions.size() >= events || !w->trouble.empty();
        });
    }

    void expect_complete(const Watcher& watcher, std::int64_t last, std::size_t events) {
        EXPECT_EQ(watcher.trouble, "");
        ASSERT_EQ(watcher.revisions.size(), events);
        for (std::size_t i = 0; i < events; ++i) {
            ASSERT_EQ(watcher.revisions[i],
                      last - static_cast<std::int64_t>(events) + 1 + static_cast<std::int64_t>(i));
        }
    }

    boost::asio::io_context io_;
    Latencies latencies_;
    SystemClock clock_;
    std::vector<std::unique_ptr<Watcher>> watchers_;
    std::unique_ptr<rpc::Channel> upstream_;
    std::vector<std::unique_ptr<rpc::Channel>> channels_;
    int connected_ = 0;
};

TEST_F(ProxyFanoutTest, LoopsShareConnectionsAndAllSeeTheSame) {
    start_mirror({"--loops=4"});
    open(40, 200);
    const std::int64_t last = put_many(300, 100);
    ASSERT_TRUE(run_until([&] { return all_have(300); }));
    for (const auto& watcher : watchers_) expect_complete(*watcher, last, 300);

    const auto document = boost::json::parse(status());
    EXPECT_EQ(document.at("watchers").as_int64(), 200);
    EXPECT_EQ(document.at("connections").as_int64(), 40);
    int busy = 0;
    for (const auto& loop : document.at("loops").as_array()) {
        busy += loop.at("connections").as_int64() > 0 ? 1 : 0;
    }
    EXPECT_EQ(document.at("loops").as_array().size(), 4U);
    EXPECT_GE(busy, 3) << "40 connections by the kernel's hash";

    // Every loop answers, and from the same history: a watch from the past, on each connection.
    std::vector<std::unique_ptr<Watcher>> late;
    for (const auto& channel : channels_) {
        late.push_back(std::make_unique<Watcher>());
        watch(*late.back(), *channel, last - 99);
    }
    ASSERT_TRUE(run_until([&] {
        return std::ranges::all_of(late, [](const auto& w) { return w->revisions.size() >= 100; });
    }));
    for (const auto& watcher : late) expect_complete(*watcher, last, 100);
    EXPECT_EQ(proxy_.stop(SIGTERM), 0) << log();
    for (const auto& channel : channels_) channel->close();
}

TEST_F(ProxyFanoutTest, ASecondProxyDoesNotShareThePort) {
    start_mirror({"--loops=2"});
    test::ChildProcess second =
        make_proxy("second", remote_, {"--loops=2", "--etcd-config=" + folder_.file("etcd.yaml")});
    EXPECT_NE(second.wait(), 0);
    EXPECT_NE(test::read_text(folder_.file("second.log")).find("--listen-remote"),
              std::string::npos);
}

TEST_F(ProxyFanoutTest, LoopsAllShowWritesOfTheOwnStore) {
    start_proxy({"--embedded", "--loops=3", "--data-dir=" + folder_.file("store")});
    ASSERT_TRUE(until([&] {
        return ctl("admin", {"put", "cilium/.heartbeat", "1"}, local_).code == 0;
    })) << log();
    open(30, 30);
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(ctl("admin", {"put", "cilium/state/x", std::to_string(i)}, local_).code, 0);
    }
    ASSERT_TRUE(run_until([&] { return all_have(20); }));
    for (const auto& watcher : watchers_) {
        expect_complete(*watcher, watchers_.front()->revisions.back(), 20);
    }
    EXPECT_TRUE(ctl("remote", {"get", "cilium/state/x"}).has("19"));
    for (const auto& channel : channels_) channel->close();
}

TEST_F(ProxyFanoutTest, OneOfAThousandThatDoesNotReadCostsTheOthersNothing) {
    start_mirror({"--loops=2"});
    open(50, 999);
    ASSERT_NE(put_many(1100, 2000), 0);
    ASSERT_TRUE(run_until([&] { return all_have(1100); }));
    const float p99 = latencies_.p99();
    const std::size_t without = resident(proxy_.pid());

    Watcher stalled;
    const int connected = connected_;
    const auto own = channel(remote_, "remote-cluster2", 64 << 10);
    ASSERT_TRUE(run_until([&] { return connected_ > connected; }));
    watch(stalled, *own);
    ASSERT_TRUE(run_until([&] { return stalled.created; }));
    stalled.call->pause();

    const std::int64_t last = put_many(1100, 2000);
    ASSERT_TRUE(run_until([&] { return all_have(2200); }));
    const std::size_t with = resident(proxy_.pid());
    for (const auto& watcher : watchers_) expect_complete(*watcher, last, 2200);
    EXPECT_LT(stalled.revisions.size(), 600U) << "it was to be stalled";
    EXPECT_EQ(boost::json::parse(status()).at("watchers_behind").as_int64(), 1);

    // Of 2.2 MB that it did not take, a megabyte waits in its queue; history has the rest.
    std::printf("p99 of 999 watchers: %.1f ms; with one that does not read %.1f ms\n",
                static_cast<double>(p99), static_cast<double>(latencies_.p99()));
    std::printf("the proxy's memory: %zu MiB; with it %zu MiB\n", without >> 20, with >> 20);
    EXPECT_LT(with, without + (16U << 20));

    // And it misses nothing once it reads again.
    stalled.call->resume();
    ASSERT_TRUE(
        run_until([&] { return stalled.revisions.size() >= 1100 || !stalled.trouble.empty(); }));
    expect_complete(stalled, last, 1100);
    own->close();
    for (const auto& channel : channels_) channel->close();
}

}  // namespace
}  // namespace mesh
