// Limits per client and turns between clients, with two services (as two loops have them) that
// share one AccessControl, and clients whose names their certificates prove. What counts is who was
// served and in which order, not how fast.
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <map>
#include <optional>

#include "child_process.hpp"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "rpc/client.hpp"
#include "rpc/server.hpp"
#include "serve/etcd/access_control.hpp"
#include "serve/etcd/etcd_service.hpp"

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;

class AccessServiceTest : public ::testing::Test {
  protected:
    void SetUp() override {
        now_ = clock_.wall_now();
        ca_ = *pki::Authority::make("test ca", 24h, now_);
        write("ca.crt", ca_->certificate());
        issue("server", pki::server_request());
        store_ = *store::Store::open(std::make_unique<store::MemoryBackend>(),
                                     {.identity = {.cluster_id = 7, .member_id = 8}}, clock_.now());
        for (int i = 0; i < 2; ++i) serve();
    }
    void TearDown() override {
        channels_.clear();
        for (const auto& server : servers_) server->stop();
        loop_.poll();
        services_.clear();
        servers_.clear();
    }

    void write(const std::string& name, const std::string& text) {
        ASSERT_TRUE(pki::write_file(folder_.file(name), text, pki::FileMode::kPrivate));
    }
    rpc::TlsOptions files(const std::string& name) {
        return {.ca_file = folder_.file("ca.crt"),
                .cert_file = folder_.file(name + ".crt"),
                .key_file = folder_.file(name + ".key")};
    }
    void issue(const std::string& name, const pki::CertificateRequest& request) {
        const auto pair = ca_->issue(request, now_);
        ASSERT_TRUE(pair);
        write(name + ".crt", pair->certificate);
        write(name + ".key", pair->private_key);
    }
    void serve() {
        rpc::ServerOptions options;
        options.tls = files("server");
        services_.push_back(std::make_unique<EtcdService>(loop_.get_executor(), *store_, clock_,
                                                          EtcdServiceOptions{.access = control_},
                                                          Logger()));
        servers_.push_back(
            std::make_unique<rpc::Server>(loop_.get_executor(), options, clock_, Logger()));
        services_.back()->attach(
            *servers_.back(), "local",
            std::make_shared<TableAccess>(control_, TableAccess::Options{.writable = true}));
        ports_.push_back(*servers_.back()->listen("127.0.0.1", 0));
    }
    /// All may do everything, within these limits of theirs.
    void load(std::string_view limits, std::string_view rights = "write: [\"*\"]") {
        const auto done =
            control_->load("users: [{name: \"*\", role: r}]\nroles:\n  r: {read: [\"*\"], " +
                               std::string(rights) + ", limits: " + std::string(limits) + "}\n",
                           "access.yaml");
        ASSERT_TRUE(done) << done.error().message();
    }
    rpc::Channel& connect(const std::string& name, std::size_t to = 0) {
        if (!std::filesystem::exists(folder_.file(name + ".crt")))
            issue(name, pki::client_request(name));
        rpc::ChannelOptions options;
        options.host = "127.0.0.1";
        options.port = ports_[to];
        options.tls = *rpc::TlsCredentials::load(rpc::TlsRole::kClient, files(name), Logger());
        auto made = std::make_unique<rpc::Channel>(loop_.get_executor(), options, clock_, Logger());
        bool connected = false;
        made->connect([&](const Result<void>& done) {
            EXPECT_TRUE(done) << done.error().message();
            connected = true;
        });
        run_until([&] { return connected; });
        channels_.push_back(std::move(made));
        return *channels_.back();
    }
    template <class Condition>
    void run_until(Condition condition) {
        const auto deadline = std::chrono::steady_clock::now() + 30s;
        while (!condition()) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "nothing more happens";
            loop_.run_one_for(100ms);
            loop_.restart();
        }
    }
    void fill(int keys, std::size_t bytes) {
        for (int i = 0; i < keys; ++i)
            ASSERT_TRUE(
                store_->put({.key = "k" + std::to_string(i), .value = std::string(bytes, 'v')}));
    }
    static rpc::Frame all_keys() {
        etcdpb::RangeRequest request;
        request.set_key("k");
        request.set_range_end("l");
        return rpc::encode_frame(request);
    }
    /// What became of requests, by the client's name.
    struct Answers {
        int ok = 0, refused = 0;
        std::string text;  // of a refusal
    };
    void ask(rpc::Channel& on, const std::string& name) {
        on.unary(etcdpb::kRange, all_keys(), {}, [this, name](rpc::UnaryResult result) {
            Answers& answers = answers_[name];
            ++(result.status.ok() ? answers.ok : answers.refused);
            if (!result.status.ok()) answers.text = result.status.message;
        });
    }
    ClientStatus status(std::string_view name) {
        for (ClientStatus& one : control_->clients().clients())
            if (one.name == name) return std::move(one);
        return {};
    }
    std::uint64_t denials(std::string_view name, DenialReason reason) {
        for (const DenialCount& one : control_->denials().counts())
            if (one.client == name && one.reason == reason) return one.count;
        return 0;
    }

    struct Stream {
        rpc::ClientCallPtr call;
        int created = 0;
        std::vector<std::string> cancelled;  // reasons
        std::vector<std::string> values;
        std::optional<rpc::Status> ended;
    };
    std::shared_ptr<Stream> open(rpc::Channel& on, std::string_view method = etcdpb::kWatch) {
        auto stream = std::make_shared<Stream>();
        rpc::CallEvents events;
        events.on_message = [stream](std::string_view bytes) {
            etcdpb::WatchResponse response;
            ASSERT_TRUE(response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
            if (response.canceled())
                stream->cancelled.push_back(response.cancel_reason());
            else if (response.created())
                ++stream->created;
            for (const auto& event : response.events())
                stream->values.push_back(event.kv().value().substr(0, 4));
        };
        events.on_end = [stream](const rpc::Status& end, const rpc::Metadata&) {
            stream->ended = end;
        };
        stream->call = on.call(method, {}, events);
        return stream;
    }
    static void watch(Stream& stream, const std::string& key) {
        etcdpb::WatchRequest request;
        request.mutable_create_request()->set_key(key);
        static_cast<void>(stream.call->write(rpc::encode_frame(request)));
    }

    boost::asio::io_context loop_{1};
    SystemClock clock_;
    test::TemporaryFolder folder_;
    WallTime now_{};
    std::optional<pki::Authority> ca_;
    std::shared_ptr<AccessControl> control_ =
        std::make_shared<AccessControl>("one", clock_, Logger());
    std::unique_ptr<store::Store> store_;
    std::vector<std::unique_ptr<EtcdService>> services_;
    std::vector<std::unique_ptr<rpc::Server>> servers_;
    std::vector<std::uint16_t> ports_;
    std::vector<std::unique_ptr<rpc::Channel>> channels_;
    std::map<std::string, Answers> answers_;
};

TEST_F(AccessServiceTest, AGreedyClientWaitsForItselfAndOthersHardlyForIt) {
    load("{}");
    fill(5, 4000);
    constexpr int kConnections = 4, kEach = 800, kAll = kConnections * kEach;
    rpc::Channel& light = connect("light");
    for (int i = 0; i < kConnections; ++i) {
        rpc::Channel& greedy = connect("greedy");
        for (int n = 0; n < kEach; ++n) ask(greedy, "greedy");
    }
    run_until([&] { return status("greedy").waiting > kAll / 2; });
    for (int i = 1; i <= 5; ++i) {
        ask(light, "light");
        run_until([&] { return answers_["light"].ok == i; });
    }
    EXPECT_LT(answers_["greedy"].ok, kAll / 2) << "the light one waited for the greedy one's";
    EXPECT_EQ(status("light").queued, 0U);
    EXPECT_EQ(status("light").throttled, 0U);
    run_until([&] { return answers_["greedy"].ok == kAll; });
    EXPECT_EQ(answers_["greedy"].refused, 0);
    EXPECT_GT(status("greedy").bytes_out, std::uint64_t{kAll} * 20'000);
    EXPECT_EQ(status("greedy").waiting, 0U);
    EXPECT_EQ(status("greedy").connections, 4U);
}

TEST_F(AccessServiceTest, OverItsRateAClientWaitsAndBeyondABoundIsRefused) {
    load("{requests-per-second: 20, request-burst: 5, waiting-requests: 10}");
    rpc::Channel& client = connect("client");
    for (int i = 0; i < 15; ++i) ask(client, "client");
    run_until([&] { return answers_["client"].ok + answers_["client"].refused == 15; });
    EXPECT_EQ(answers_["client"].ok, 15) << answers_["client"].text;
    EXPECT_GT(status("client").throttled, 0U);
    EXPECT_EQ(status("client").denied, 0U);

    rpc::Channel& flood = connect("flood");
    for (int i = 0; i < 100; ++i) ask(flood, "flood");
    run_until([&] { return answers_["flood"].ok + answers_["flood"].refused == 100; });
    EXPECT_GE(answers_["flood"].ok, 15);
    EXPECT_GT(answers_["flood"].refused, 0);
    EXPECT_EQ(answers_["flood"].text,
              "etcdserver: too many requests: 10 of this client wait for their turn");
    EXPECT_EQ(denials("flood", DenialReason::kRequests),
              static_cast<std::uint64_t>(answers_["flood"].refused));
}

TEST_F(AccessServiceTest, StreamsAndWatchesAreCountedOverAllLoops) {
    load("{streams: 2, watches: 3}");
    rpc::Channel& first = connect("client", 0);
    rpc::Channel& second = connect("client", 1);
    auto one = open(first);
    auto two = open(second);
    watch(*one, "a");
    watch(*one, "b");
    watch(*two, "a");
    run_until([&] { return one->created + two->created == 3; });
    EXPECT_EQ(status("client").watches, 3U);
    watch(*two, "b");
    run_until([&] { return !two->cancelled.empty(); });
    ASSERT_FALSE(two->cancelled.empty());
    EXPECT_EQ(two->cancelled[0], "etcdserver: too many watches of this client");
    auto three = open(second);
    run_until([&] { return three->ended.has_value(); });
    ASSERT_TRUE(three->ended);
    EXPECT_EQ(three->ended->code, rpc::StatusCode::kResourceExhausted);
    EXPECT_EQ(denials("client", DenialReason::kStreams), 1U);
    EXPECT_EQ(denials("client", DenialReason::kWatches), 1U);
    auto other = open(connect("other"));
    watch(*other, "a");
    run_until([&] { return other->created == 1; });
    // What goes makes room.
    one->call->cancel();
    run_until([&] { return status("client").watches == 1; });
    auto four = open(first);
    watch(*four, "a");
    watch(*four, "b");
    run_until([&] { return four->created == 2; });
    EXPECT_FALSE(two->ended);
}

TEST_F(AccessServiceTest, OverAByteRateAWatchIsCaughtUpFromHistory) {
    load("{bytes-out-per-second: 200000}");
    auto slow = open(connect("slow"));
    watch(*slow, "k");
    run_until([&] { return slow->created == 1; });
    control_->set_table(AccessTable::make(
        *sources::config::parse_access_file(
            "users: [{name: slow, role: r}, {name: fast, role: f}]\n"
            "roles: {r: {read: [k], limits: {bytes-out-per-second: 200000}}, f: {read: [k]}}\n",
            "f"),
        "one"));
    auto fast = open(connect("fast"));
    watch(*fast, "k");
    run_until([&] { return fast->created == 1; });
    std::vector<std::string> expected;
    for (int i = 1000; i < 1040; ++i) {
        expected.push_back(std::to_string(i));
        ASSERT_TRUE(store_->put({.key = "k", .value = expected.back() + std::string(8000, 'v')}));
    }
    run_until([&] { return fast->values.size() == expected.size(); });
    EXPECT_EQ(fast->values, expected);
    EXPECT_EQ(status("fast").held_back, 0U);
    run_until([&] { return slow->values.size() >= expected.size(); });
    EXPECT_EQ(slow->values, expected) << "none lost, none twice";
    EXPECT_GT(status("slow").held_back, 0U);
}

TEST_F(AccessServiceTest, ANewTableEndsStreamsThatItForbids) {
    load("{}");
    auto keep_alive = open(connect("writer"), etcdpb::kLeaseKeepAlive);
    auto watches = open(connect("reader"));
    watch(*watches, "a");
    run_until([&] { return watches->created == 1 && status("writer").streams == 1; });
    load("{}", "write: []");
    run_until([&] { return keep_alive->ended.has_value(); });
    ASSERT_TRUE(keep_alive->ended);
    EXPECT_EQ(keep_alive->ended->code, rpc::StatusCode::kPermissionDenied);
    EXPECT_EQ(status("writer").streams, 0U);
    EXPECT_EQ(denials("writer", DenialReason::kRevoked), 1U);
    watch(*watches, "b");
    run_until([&] { return watches->created == 2; });
    EXPECT_FALSE(watches->ended);
    EXPECT_EQ(denials("reader", DenialReason::kRevoked), 0U);
}

}  // namespace
}  // namespace mesh::serve
