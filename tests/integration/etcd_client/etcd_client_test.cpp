// The client against a real etcd: alone, behind a line that is cut, as three members, with TLS.
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <list>
#include <map>

#include "etcd_process.hpp"
#include "line.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "scripted_etcd.hpp"
#include "sources/etcd/client.hpp"
#include "sources/etcd/prefix_watcher.hpp"

namespace mesh::etcd {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using test::EtcdOptions;
using test::EtcdProcess;
using test::Line;
using test::ScriptedEtcd;

/// What a PrefixWatcher told, and what a reader of it then has.
struct Reader {
    std::map<std::string, std::string> state;
    std::vector<std::string> deletes;
    std::vector<std::int64_t> watched;  // mod revisions of changes that came by watch
    std::vector<PrefixWatcherEvents::State> states;
    int puts = 0;
    int synthetic = 0;
    int lists = 0;
    int progress = 0;
    bool split = false;
    std::string reason;

    PrefixWatcherEvents events() {
        PrefixWatcherEvents e;
        e.on_batch = [this](const Batch& batch) {
            if (!batch.from_list && !watched.empty() &&
                batch.changes.front().kv.mod_revision <= watched.back())
                split = true;
            for (const Change& c : batch.changes) {
                if (!batch.from_list) watched.push_back(c.kv.mod_revision);
                if (c.kind == Change::Kind::kPut) {
                    ++puts;
                    state[std::string(c.kv.key)] = c.kv.value;
                } else {
                    EXPECT_EQ(state.erase(std::string(c.kv.key)), 1U)
                        << "deleted twice: " << c.kv.key;
                    deletes.emplace_back(c.kv.key);
                    synthetic += c.synthetic ? 1 : 0;
                }
            }
        };
        e.on_list_done = [this](const Header&) { ++lists; };
        e.on_progress = [this](const Header&) { ++progress; };
        e.on_state = [this](PrefixWatcherEvents::State s, const Error* why) {
            states.push_back(s);
            if (why != nullptr) reason = why->message();
        };
        return e;
    }
};

class EtcdClientTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!test::have_etcd()) GTEST_SKIP() << "needs etcd-server and etcd-client";
    }

    void run(std::function<asio::awaitable<void>()> body) {
        bool done = false;
        asio::co_spawn(
            loop_,
            [&]() -> asio::awaitable<void> {
                co_await body();
                watchers_.clear();
                for (auto& c : clients_) co_await c->async_stop();
                done = true;
                loop_.stop();
            },
            [](std::exception_ptr e) {
                if (e) std::rethrow_exception(e);
            });
        loop_.run_for(120s);
        EXPECT_TRUE(done) << "the test did not end";
        clients_.clear();
    }

    Client& client(ClientOptions options) {
        options.backoff_limit = 500ms;
        auto made =
            Client::make(loop_.get_executor(), std::move(options), clock_, Rng(7), logger());
        EXPECT_TRUE(made) << made.error().message();
        clients_.push_back(*std::move(made));
        clients_.back()->start();
        return *clients_.back();
    }
    Client& client(const std::string& endpoint) {
        ClientOptions o;
        o.endpoints = {endpoint};
        return client(std::move(o));
    }

    PrefixWatcher& watch(Client& c, Reader& reader, PrefixWatcherOptions options) {
        watchers_.push_back(std::make_unique<PrefixWatcher>(c, clock_, Rng(3), std::move(options),
                                                            reader.events()));
        return *watchers_.back();
    }

    asio::awaitable<void> sleep(Duration d) {
        asio::steady_timer timer(loop_, std::chrono::ceil<std::chrono::microseconds>(d));
        co_await timer.async_wait(asio::use_awaitable);
    }
    /// Waits for a condition, at most for half a minute.
    asio::awaitable<void> until(std::function<bool()> condition) {
        const TimePoint end = clock_.now() + 30s;
        while (!condition() && clock_.now() < end) co_await sleep(5ms);
        EXPECT_TRUE(condition()) << "did not come to pass; log:\n" << log_;
    }
    asio::awaitable<std::int64_t> put(Client& c, std::string key, std::string value) {
        auto r = co_await c.async_put(key, value);
        // A write on a connection that broke is the writer's to repeat.
        for (int i = 0; !r && r.error().code() == Errc::kUnavailable && i < 5; ++i)
            r = co_await c.async_put(key, value);
        EXPECT_TRUE(r) << r.error().message();
        co_return r ? r->header.revision : 0;
    }
    /// etcdctl, as another program would use the same etcd.
    std::string etcdctl(std::vector<std::string> arguments, const std::string& endpoint) {
        arguments.insert(arguments.begin(), {"etcdctl", "--endpoints=" + endpoint});
        const auto [code, text] = test::run_command(arguments, folder_, {{"ETCDCTL_API", "3"}});
        EXPECT_EQ(code, 0) << text;
        return text;
    }
    Logger logger() {
        return {
            "etcd",
            [this](LogLevel, std::string_view, std::string_view t) { log_.append(t).append("\n"); },
            LogLevel::kDebug};
    }

    asio::io_context loop_{1};
    SystemClock clock_;
    test::TemporaryFolder folder_;
    std::string log_;
    std::list<std::unique_ptr<Client>> clients_;
    std::list<std::unique_ptr<PrefixWatcher>> watchers_;
};

TEST_F(EtcdClientTest, PlainRequests) {
    EtcdProcess etcd(folder_, {});
    run([&]() -> asio::awaitable<void> {
        Client& c = client(etcd.endpoint());
        const auto first = co_await put(c, "a/1", "one");
        co_await put(c, "a/2", "two");
        PutOptions with_previous;
        with_previous.prev_kv = true;
        auto changed = co_await c.async_put("a/1", "uno", with_previous);
        EXPECT_EQ(changed->prev_kv->value, "one");
        EXPECT_EQ(changed->prev_kv->mod_revision, first);

        RangeRequest request;
        request.range = prefix_range("a/");
        auto all = co_await c.async_range(request);
        EXPECT_EQ(all->kvs.size(), 2U);
        EXPECT_EQ(all->kvs[0].value, "uno");
        EXPECT_EQ(all->kvs[0].version, 2);
        EXPECT_EQ(all->kvs[0].create_revision, first);
        EXPECT_NE(all->header.cluster_id, 0U);
        EXPECT_NE(all->header.member_id, 0U);
        EXPECT_EQ(c.newest_header(), all->header);
        request.revision = first;
        auto past = co_await c.async_range(request);
        EXPECT_EQ(past->kvs.size(), 1U);
        EXPECT_EQ(past->kvs[0].value, "one");
        request.revision = 100'000;
        auto future = co_await c.async_range(request);
        EXPECT_EQ(future.error().code(), Errc::kInvalidArgument);

        Txn txn;
        txn.compare.push_back({"a/1", Compare::Target::kValue, Compare::Is::kEqual, 0, "uno"});
        txn.compare.push_back({"a/9", Compare::Target::kVersion, Compare::Is::kEqual, 0, ""});
        txn.success.emplace_back(PutOp{"a/9", "nine", 0});
        txn.success.emplace_back(GetOp{{"a/1", ""}, 0});
        txn.failure.emplace_back(DeleteOp{prefix_range("a/")});
        auto done = co_await c.async_txn(txn);
        EXPECT_TRUE(done->succeeded);
        EXPECT_EQ(done->results.size(), 2U);
        EXPECT_EQ(done->results[1].kvs[0].value, "uno");
        auto not_again = co_await c.async_txn(txn);
        EXPECT_FALSE(not_again->succeeded);
        request.revision = 0;
        request.count_only = true;
        auto none = co_await c.async_range(request);
        EXPECT_EQ(none->count, 0);

        auto status = co_await c.async_status();
        EXPECT_EQ(status->version.substr(0, 3), "3.4");
        EXPECT_EQ(status->leader, status->header.member_id);
        auto members = co_await c.async_member_list();
        EXPECT_EQ(members->members.size(), 1U);
        EXPECT_EQ(members->members[0].name, "default");
        EXPECT_EQ(members->members[0].client_urls, std::vector<std::string>{etcd.endpoint()});

        // What etcdctl writes and compacts is seen, and a revision that is gone is told as such.
        etcdctl({"put", "a/10", "ten"}, etcd.endpoint());
        request.count_only = false;
        auto ten = co_await c.async_range(request);
        EXPECT_EQ(ten->kvs[0].value, "ten");
        etcdctl({"compaction", std::to_string(ten->header.revision)}, etcd.endpoint());
        request.revision = first;
        auto gone = co_await c.async_range(request);
        EXPECT_EQ(gone.error().code(), Errc::kCompacted) << gone.error().message();
    });
}

TEST_F(EtcdClientTest, SeveralWatchesOnOneStream) {
    EtcdProcess etcd(folder_, {});
    run([&]() -> asio::awaitable<void> {
        Client& c = client(etcd.endpoint());
        co_await put(c, "x/0", "before");
        std::map<std::string, std::vector<std::string>> seen;
        std::map<std::string, int> created;
        std::vector<std::unique_ptr<Watch>> watches;
        for (const std::string name : {"x", "y", "z"}) {
            WatchOptions o;
            o.range = prefix_range(name + "/");
            o.start_revision = name == "x" ? 1 : 0;
            o.prev_kv = true;
            WatchEvents e;
            e.on_created = [&created, name](const Header&) { ++created[name]; };
            e.on_events = [&seen, name](const Header&, std::span<const WatchEvent> events) {
                for (const WatchEvent& event : events)
                    seen[name].push_back(std::string(event.kv.key) + "=" +
                                         std::string(event.kv.value) + "<" +
                                         std::string(event.prev_kv.value));
            };
            watches.push_back(c.watch(std::move(o), std::move(e)));
        }
        co_await until([&] { return created.size() == 3; });
        co_await put(c, "y/1", "a");
        co_await put(c, "y/1", "b");
        co_await put(c, "z/1", "c");
        co_await until([&] {
            return seen["z"].size() == 1 && seen["y"].size() == 2 && seen["x"].size() == 1;
        });
        EXPECT_EQ(seen["x"], std::vector<std::string>{"x/0=before<"});
        EXPECT_EQ(seen["y"], (std::vector<std::string>{"y/1=a<", "y/1=b<a"}));
        watches.erase(watches.begin() + 1);
        co_await put(c, "y/1", "d");
        co_await put(c, "z/1", "e");
        co_await until([&] { return seen["z"].size() == 2; });
        EXPECT_EQ(seen["y"].size(), 2U);
        // A handle that goes before etcd has answered.
        WatchOptions o;
        o.range = prefix_range("q/");
        c.watch(std::move(o), {}).reset();
        co_await put(c, "z/2", "f");
        co_await until([&] { return seen["z"].size() == 3; });
        watches.clear();
    });
}

TEST_F(EtcdClientTest, ListThenWatchResumesWithNothingLostOrDoubled) {
    EtcdProcess etcd(folder_, {});
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(etcd.endpoint());
        Client& c = client(etcd.endpoint());
        for (int i = 0; i < 20; ++i) co_await put(writer, "p/" + std::to_string(i), "v");
        co_await put(writer, "pq", "not below the prefix");
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        EXPECT_EQ(reader.state.size(), 20U);
        std::vector<std::int64_t> written;
        for (int i = 0; i < 200; ++i) {
            written.push_back(
                co_await put(writer, "p/" + std::to_string(i % 30), std::to_string(i)));
            if (i % 25 == 10) c.reconnect("the test says so");
        }
        co_await until(
            [&] { return !reader.watched.empty() && reader.watched.back() == written.back(); });
        EXPECT_EQ(reader.watched, written);
        EXPECT_FALSE(reader.split);
        EXPECT_EQ(reader.lists, 1);
        EXPECT_EQ(w.keys(), 30U);
        EXPECT_EQ(reader.state.size(), 30U);
        KeyRange one{"p/3", ""};
        co_await writer.async_delete(one);
        co_await until([&] { return reader.deletes == std::vector<std::string>{"p/3"}; });
        EXPECT_EQ(reader.synthetic, 0);
    });
}

TEST_F(EtcdClientTest, CompactionWhileAwayGivesExactDeletes) {
    EtcdOptions eo;
    eo.client_port = test::free_port();
    EtcdProcess etcd(folder_, eo);
    Line line(loop_, eo.client_port);
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(etcd.endpoint());
        for (int i = 0; i < 10; ++i) co_await put(writer, "p/" + std::to_string(i), "v");
        Client& c = client("127.0.0.1:" + std::to_string(line.port()));
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        EXPECT_EQ(reader.puts, 10);
        line.cut();
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kLost; });
        EXPECT_EQ(reader.state.size(), 10U) << "what is known stays";
        KeyRange three{"p/3", ""};
        KeyRange seven{"p/7", ""};
        co_await writer.async_delete(three);
        co_await writer.async_delete(seven);
        co_await put(writer, "p/5", "changed");
        co_await put(writer, "p/new", "n");
        const auto last = co_await put(writer, "other", "x");
        etcdctl({"compaction", std::to_string(last)}, etcd.endpoint());
        line.join();
        co_await until([&] {
            return reader.lists == 2 && w.state() == PrefixWatcherEvents::State::kWatching;
        });
        EXPECT_EQ(reader.deletes, (std::vector<std::string>{"p/3", "p/7"}));
        EXPECT_EQ(reader.synthetic, 2);
        EXPECT_EQ(reader.puts, 12) << "only what is newer is told again";
        EXPECT_EQ(reader.state.at("p/5"), "changed");
        EXPECT_EQ(w.keys(), 9U);
    });
}

TEST_F(EtcdClientTest, AnotherEtcdBehindTheSameAddressIsNoticed) {
    EtcdOptions a;
    a.name = "a";
    a.token = "one";
    EtcdProcess first(folder_, a);
    EtcdOptions b;
    b.name = "b";
    b.token = "two";
    EtcdProcess second(folder_, b);
    const auto port_of = [](const std::string& endpoint) {
        return static_cast<std::uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1)));
    };
    Line line(loop_, port_of(first.endpoint()));
    run([&]() -> asio::awaitable<void> {
        Client& wa = client(first.endpoint());
        Client& wb = client(second.endpoint());
        for (int i = 0; i < 5; ++i) co_await put(wa, "p/" + std::to_string(i), "a");
        for (int i = 3; i < 30; ++i) co_await put(wb, "p/" + std::to_string(i % 8), "b");
        Client& c = client("127.0.0.1:" + std::to_string(line.port()));
        bool told = false;
        c.on_connection([&](const ConnectionEvent& e) { told = told || e.cluster_changed; });
        Reader plain;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, plain, o);
        Reader gated;
        o.hold_on_history_change = true;
        PrefixWatcher& g = watch(c, gated, o);
        co_await until([&] {
            return w.state() == PrefixWatcherEvents::State::kWatching &&
                   g.state() == PrefixWatcherEvents::State::kWatching;
        });
        KeyRange gone = prefix_range("p/");
        gone.key = "p/5";
        co_await wb.async_delete(gone);
        line.lead_to(port_of(second.endpoint()));
        line.cut();
        line.join();
        co_await until(
            [&] { return plain.lists == 2 && g.state() == PrefixWatcherEvents::State::kHeld; });
        EXPECT_TRUE(told);
        EXPECT_EQ(plain.state.size(), 5U);
        for (const auto& [key, value] : plain.state) EXPECT_EQ(value, "b") << key;
        EXPECT_EQ(plain.synthetic, 0);
        // The gated reader keeps what it had until it is told to go on.
        EXPECT_EQ(gated.lists, 1);
        EXPECT_EQ(gated.state.at("p/1"), "a");
        g.proceed();
        co_await until([&] { return g.state() == PrefixWatcherEvents::State::kWatching; });
        EXPECT_EQ(gated.state, plain.state);
    });
}

TEST_F(EtcdClientTest, EtcdThatLostItsDataIsNoticedAlsoWhenItsIdsAreTheSame) {
    EtcdOptions eo;
    eo.client_port = test::free_port();
    eo.peer_port = test::free_port();
    EtcdProcess etcd(folder_, eo);
    Line line(loop_, eo.client_port);
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(etcd.endpoint());
        ClientOptions options;
        options.endpoints = {"127.0.0.1:" + std::to_string(line.port())};
        options.behind_limit = 500ms;
        Client& c = client(std::move(options));
        std::vector<std::uint64_t> clusters;
        std::string refusal;
        c.on_connection([&](const ConnectionEvent& e) {
            if (e.state == ConnectionEvent::State::kConnected)
                clusters.push_back(e.header.cluster_id);
            if (e.reason.message().find("is behind") != std::string::npos)
                refusal = e.reason.message();
        });
        std::int64_t reached = 0;
        for (int i = 0; i < 10; ++i) reached = co_await put(writer, "p/" + std::to_string(i), "v");
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        etcd.wipe();
        etcd.start();
        co_await until([&] { return reader.lists == 2; });
        EXPECT_EQ(reader.synthetic, 10);
        EXPECT_EQ(clusters.size(), 2U);
        EXPECT_EQ(clusters.front(), clusters.back());
        EXPECT_NE(refusal, "") << "taken at its word at once: it might have been a server behind";
        EXPECT_NE(refusal.find(fmt::format("{} was seen already", reached)), std::string::npos)
            << refusal;

        // Again, but now its revision has grown past ours before we are back.
        const auto first = co_await put(writer, "p/first", "1");
        co_await until([&] {
            return reader.state.count("p/first") == 1 &&
                   w.state() == PrefixWatcherEvents::State::kWatching;
        });
        refusal.clear();
        line.cut();
        etcd.wipe();
        etcd.start();
        std::int64_t grown = 0;
        while (grown <= first + 5) grown = co_await put(writer, "p/second", std::to_string(grown));
        line.join();
        co_await until([&] { return reader.lists == 3; });
        EXPECT_EQ(reader.deletes.back(), "p/first");
        EXPECT_EQ(reader.synthetic, 11);
        EXPECT_EQ(reader.state.size(), 1U);
        EXPECT_EQ(reader.state.count("p/second"), 1U);
        EXPECT_EQ(refusal, "") << "it was not behind";
    });
}

TEST_F(EtcdClientTest, EtcdThatLostItsDataAndCompactedIsReadAnewWithAllItsValues) {
    EtcdOptions eo;
    eo.client_port = test::free_port();
    eo.peer_port = test::free_port();
    EtcdProcess etcd(folder_, eo);
    Line line(loop_, eo.client_port);
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(etcd.endpoint());
        for (int i = 0; i < 4; ++i) co_await put(writer, "p/" + std::to_string(i), "old");
        Client& c = client("127.0.0.1:" + std::to_string(line.port()));
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        line.cut();
        etcd.wipe();
        etcd.start();
        // The very revisions of before, and nothing left that proves the difference.
        for (int i = 0; i < 4; ++i) co_await put(writer, "p/" + std::to_string(i), "new");
        std::int64_t last = 0;
        for (int i = 0; i < 5; ++i) last = co_await put(writer, "other", "x");
        etcdctl({"compaction", std::to_string(last)}, etcd.endpoint());
        line.join();
        co_await until([&] { return reader.lists == 2; });
        EXPECT_EQ(reader.state.size(), 4U);
        for (const auto& [key, value] : reader.state) EXPECT_EQ(value, "new") << key;
        EXPECT_EQ(reader.synthetic, 0);
    });
}

TEST_F(EtcdClientTest, AServerThatIsBehindIsLeftForTheNextOne) {
    run([&]() -> asio::awaitable<void> {
        auto ahead = std::make_unique<ScriptedEtcd>(loop_.get_executor(), clock_);
        ScriptedEtcd behind(loop_.get_executor(), clock_);
        for (ScriptedEtcd* one : {ahead.get(), &behind}) {
            one->put("p/1", "v");
            one->put("p/2", "v");
        }
        ahead->put("p/3", "v");
        ahead->put("p/4", "v");
        ClientOptions options;
        options.endpoints = {ahead->endpoint(), behind.endpoint()};
        Client& c = client(std::move(options));
        int refused = 0;
        std::string at;
        c.on_connection([&](const ConnectionEvent& e) {
            at = e.state == ConnectionEvent::State::kConnected ? e.endpoint : "";
            if (e.state != ConnectionEvent::State::kFailed) return;
            refused += e.reason.message().find("is behind") != std::string::npos ? 1 : 0;
        });
        // Whichever it came to first.
        co_await until([&] { return !at.empty(); });
        while (at == behind.endpoint()) {
            c.reconnect("the test says so");
            co_await until([&] { return !at.empty() && at != behind.endpoint(); });
        }
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        EXPECT_EQ(reader.state.size(), 4U);
        const int ranges = behind.ranges;
        ahead->stop();
        co_await until([&] { return refused >= 3; });
        EXPECT_EQ(w.state(), PrefixWatcherEvents::State::kLost);
        EXPECT_EQ(reader.deletes.size(), 0U) << "deleted what is there";
        EXPECT_EQ(behind.watches_asked_for, 0);
        EXPECT_GE(behind.ranges, ranges + refused);
        // A request does not go to it either, and is answered when it has caught up.
        RangeRequest request;
        request.range = prefix_range("p/");
        std::optional<std::size_t> found;
        asio::co_spawn(
            loop_,
            [&]() -> asio::awaitable<void> {
                auto got = co_await c.async_range(request);
                found = got ? got->kvs.size() : 0;
            },
            [](std::exception_ptr) {});
        const int before = refused;
        co_await until([&] { return refused > before + 1; });
        EXPECT_FALSE(found.has_value());
        behind.put("p/3", "v");
        behind.put("p/4", "v");
        co_await until([&] {
            return w.state() == PrefixWatcherEvents::State::kWatching && found.has_value();
        });
        EXPECT_EQ(*found, 4U);
        behind.put("p/5", "v");
        co_await until([&] { return reader.state.size() == 5; });
        EXPECT_EQ(reader.lists, 1) << "resumed, not listed again";
        EXPECT_EQ(reader.deletes.size(), 0U);
        watchers_.clear();
        for (auto& each : clients_) co_await each->async_stop();
    });
}

TEST_F(EtcdClientTest, ServersThatAllStayBehindAreAnotherHistoryInTheEnd) {
    for (const bool one_is_absent : {false, true}) {
        run([&]() -> asio::awaitable<void> {
            ScriptedEtcd server(loop_.get_executor(), clock_);
            ScriptedEtcd other(loop_.get_executor(), clock_);
            server.put("p/1", "v");
            other.put("p/1", "v");
            ClientOptions options;
            options.endpoints = {server.endpoint(), other.endpoint()};
            options.reached = {.cluster_id = 7, .revision = 1000};
            options.behind_limit = one_is_absent ? Duration(1h) : Duration(100ms);
            options.behind_limit_absent = one_is_absent ? Duration(300ms) : Duration(1h);
            if (one_is_absent) other.stop();
            const TimePoint begin = clock_.now();
            Client& c = client(std::move(options));
            bool connected = false;
            c.on_connection([&](const ConnectionEvent& e) {
                connected = connected || e.state == ConnectionEvent::State::kConnected;
            });
            co_await until([&] { return connected; });
            EXPECT_GE(clock_.now() - begin, one_is_absent ? 300ms : 100ms);
            Reader reader;
            PrefixWatcherOptions o;
            o.prefix = "p/";
            PrefixWatcher& w = watch(c, reader, o);
            co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
            EXPECT_EQ(reader.state.size(), 1U);
            watchers_.clear();
            for (auto& each : clients_) co_await each->async_stop();
        });
        loop_.restart();
    }
}

TEST_F(EtcdClientTest, AServerThatNeverMakesTheWatchIsLeft) {
    run([&]() -> asio::awaitable<void> {
        ScriptedEtcd server(loop_.get_executor(), clock_);
        server.put("p/1", "v");
        server.makes_watches = false;
        ClientOptions options;
        options.endpoints = {server.endpoint()};
        options.watch_create_timeout = 200ms;
        Client& c = client(std::move(options));
        std::string reason;
        c.on_connection([&](const ConnectionEvent& e) {
            if (e.state == ConnectionEvent::State::kLost) reason = e.reason.message();
        });
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return !reason.empty(); });
        EXPECT_EQ(reason, "unavailable: etcd did not create a watch within 200 ms");
        EXPECT_GE(server.watches_asked_for, 1);
        server.makes_watches = true;
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        EXPECT_EQ(reader.lists, 1);
        watchers_.clear();
        for (auto& each : clients_) co_await each->async_stop();
    });
}

TEST_F(EtcdClientTest, RegrownEtcdIsNoticedByTheLastChangeSeen) {
    EtcdOptions a;
    a.client_port = test::free_port();
    a.peer_port = test::free_port();
    EtcdProcess etcd(folder_, a);
    Line line(loop_, a.client_port);
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(etcd.endpoint());
        for (int i = 0; i < 4; ++i) co_await put(writer, "p/" + std::to_string(i), "old");
        Client& c = client("127.0.0.1:" + std::to_string(line.port()));
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        line.cut();
        etcd.wipe();
        etcd.start();
        for (int i = 0; i < 20; ++i) co_await put(writer, "p/new", std::to_string(i));
        line.join();
        co_await until([&] { return reader.lists == 2; });
        EXPECT_EQ(reader.synthetic, 4);
        EXPECT_EQ(reader.state, (std::map<std::string, std::string>{{"p/new", "19"}}));
    });
}

TEST_F(EtcdClientTest, OneOfThreeMembersDies) {
    std::vector<EtcdOptions> options(3);
    std::string all;
    for (int i = 0; i < 3; ++i) {
        auto& o = options[static_cast<std::size_t>(i)];
        o.name = "m" + std::to_string(i);
        o.client_port = test::free_port();
        o.peer_port = test::free_port();
        all += (i != 0 ? "," : "") + o.name + "=http://127.0.0.1:" + std::to_string(o.peer_port);
    }
    std::vector<std::unique_ptr<EtcdProcess>> members;
    ClientOptions co;
    for (auto& o : options) {
        o.initial_cluster = all;
        members.push_back(std::make_unique<EtcdProcess>(folder_, o));
        co.endpoints.push_back(members.back()->endpoint());
    }
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(co);
        Client& c = client(co);
        std::string at;
        c.on_connection([&](const ConnectionEvent& e) {
            if (e.state == ConnectionEvent::State::kConnected) at = e.endpoint;
        });
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        // Values tell the order: a put whose answer was lost may or may not have happened.
        std::vector<std::string> certain;
        const std::string before = at;
        for (int i = 0; i < 150; ++i) {
            if (i == 50)
                for (auto& m : members)
                    if (m->endpoint() == before) m->kill();
            std::string key = "p/" + std::to_string(i);
            auto done = co_await writer.async_put(key, "v");
            if (done) certain.push_back(key);
        }
        EXPECT_GT(certain.size(), 100U);
        co_await put(writer, "p/last", "v");
        co_await until([&] { return reader.state.count("p/last") == 1; });
        for (const std::string& key : certain) EXPECT_EQ(reader.state.count(key), 1U) << key;
        EXPECT_EQ(reader.lists, 1) << "resumed, not listed again";
        EXPECT_TRUE(
            std::is_sorted(reader.watched.begin(), reader.watched.end(), std::less_equal<>()) ||
            std::adjacent_find(reader.watched.begin(), reader.watched.end(),
                               std::greater_equal<>()) == reader.watched.end())
            << "a revision came twice or out of order";
        EXPECT_NE(at, before);
        EXPECT_FALSE(reader.split);
    });
}

/// Three members, one of which hangs without closing anything.
class HungMemberTest : public EtcdClientTest {
  protected:
    void SetUp() override {
        EtcdClientTest::SetUp();
        if (IsSkipped()) return;
        std::vector<EtcdOptions> options(3);
        std::string all;
        for (int i = 0; i < 3; ++i) {
            auto& o = options[static_cast<std::size_t>(i)];
            o.name = "m" + std::to_string(i);
            o.client_port = test::free_port();
            o.peer_port = test::free_port();
            all +=
                (i != 0 ? "," : "") + o.name + "=http://127.0.0.1:" + std::to_string(o.peer_port);
        }
        for (auto& o : options) {
            o.initial_cluster = all;
            members_.push_back(std::make_unique<EtcdProcess>(folder_, o));
            options_.endpoints.push_back(members_.back()->endpoint());
        }
    }

    /// A client that is connected, and the member that it is connected to.
    asio::awaitable<Client*> connected(std::string& at) {
        Client& c = client(options_);
        c.on_connection([&](const ConnectionEvent& e) {
            if (e.state == ConnectionEvent::State::kConnected) at = e.endpoint;
        });
        co_await put(c, "a", "before");
        EXPECT_FALSE(at.empty());
        co_return &c;
    }
    EtcdProcess& member(const std::string& endpoint) {
        for (auto& m : members_)
            if (m->endpoint() == endpoint) return *m;
        throw std::runtime_error("no member at " + endpoint);
    }

    std::vector<std::unique_ptr<EtcdProcess>> members_;
    ClientOptions options_;
};

TEST_F(HungMemberTest, ReadsGoOnAtAnotherWithinTheirDeadline) {
    run([&]() -> asio::awaitable<void> {
        std::string at;
        Client* c = co_await connected(at);
        const std::string hung = at;
        member(hung).pause();
        RangeRequest get;
        get.range.key = "a";
        auto got = co_await c->async_range(get);
        EXPECT_TRUE(got) << got.error().message();
        EXPECT_TRUE(got && got->kvs.size() == 1);
        EXPECT_NE(at, hung);
        member(hung).resume();
    });
}

TEST_F(HungMemberTest, ReconnectKeepsReadsAndTellsWritesThatTheirOutcomeIsUnknown) {
    run([&]() -> asio::awaitable<void> {
        std::string at;
        Client* c = co_await connected(at);
        const std::string hung = at;
        member(hung).pause();
        std::optional<Result<RangeResult>> read;
        std::optional<Result<PutResult>> write;
        const auto reading = [&]() -> asio::awaitable<void> {
            RangeRequest get;
            get.range.key = "a";
            read = co_await c->async_range(get);
        };
        const auto writing = [&]() -> asio::awaitable<void> {
            std::string key = "b";
            write = co_await c->async_put(key, "unknown");
        };
        asio::co_spawn(loop_, reading(), [](std::exception_ptr) {});
        asio::co_spawn(loop_, writing(), [](std::exception_ptr) {});
        // Both are on their way after a turn of the loop.
        co_await asio::post(loop_, asio::use_awaitable);
        co_await asio::post(loop_, asio::use_awaitable);
        c->reconnect("a test wants it");
        co_await until([&] { return read && write; });
        EXPECT_TRUE(*read) << read->error().message();
        EXPECT_TRUE(*read && (*read)->kvs.size() == 1);
        EXPECT_FALSE(*write);
        EXPECT_TRUE(!*write && write->error().code() == Errc::kUnavailable)
            << write->error().message();
        EXPECT_NE(at, hung);
        member(hung).resume();
    });
}

TEST_F(EtcdClientTest, LeaseIsKeptAndItsLossIsTold) {
    EtcdProcess etcd(folder_, {});
    run([&]() -> asio::awaitable<void> {
        Client& c = client(etcd.endpoint());
        auto lease = co_await c.async_lease_grant(2);
        EXPECT_TRUE(lease) << lease.error().message();
        PutOptions leased;
        leased.lease = lease->id;
        co_await c.async_put("l/1", "v", leased);
        int kept = 0;
        std::optional<Error> lost;
        LeaseEvents events;
        events.on_kept = [&](std::int64_t) { ++kept; };
        events.on_lost = [&](const Error& e) { lost = e; };
        auto keeper = c.keep_alive(lease->id, lease->ttl_seconds, events);
        // Longer than the TTL: without the keeper it would be gone.
        co_await until([&] { return kept >= 6; });
        RangeRequest get;
        get.range.key = "l/1";
        auto there = co_await c.async_range(get);
        EXPECT_EQ(there->kvs.size(), 1U);
        auto revoked = co_await c.async_lease_revoke(lease->id);
        EXPECT_TRUE(revoked);
        co_await until([&] { return lost.has_value(); });
        EXPECT_EQ(lost->code(), Errc::kNotFound) << lost->message();

        auto second = co_await c.async_lease_grant(2);
        lost.reset();
        keeper = c.keep_alive(second->id, second->ttl_seconds, events);
        etcd.pause();
        co_await until([&] { return lost.has_value(); });
        etcd.resume();
        EXPECT_EQ(lost->code(), Errc::kTimeout) << lost->message();
        keeper.reset();
    });
}

TEST_F(EtcdClientTest, PagesShowOneRevisionWhileOthersWrite) {
    EtcdProcess etcd(folder_, {});
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(etcd.endpoint());
        for (int at = 0; at < 3000;) {
            Txn txn;
            for (int i = 0; i < 100; ++i, ++at)
                txn.success.emplace_back(
                    PutOp{fmt::format("p/{:05}", at), std::string(200, 'v'), 0});
            auto done = co_await writer.async_txn(std::move(txn));
            EXPECT_TRUE(done) << done.error().message();
        }
        ClientOptions small;
        small.endpoints = {etcd.endpoint()};
        small.page_keys = 400;
        small.page_bytes = 20'000;
        Client& c = client(small);
        bool stop = false;
        bool stopped = false;
        asio::co_spawn(
            loop_,
            [&]() -> asio::awaitable<void> {
                for (int i = 0; !stop; ++i) {
                    co_await put(writer, fmt::format("p/{:05}", i % 3000), "new");
                    co_await put(writer, fmt::format("p/{:05}x", i % 3000), "added");
                }
                stopped = true;
            },
            [](std::exception_ptr) {});
        std::size_t pages = 0;
        std::size_t largest = 0;
        std::set<std::int64_t> revisions;
        std::vector<std::string> keys;
        RangeRequest request;
        request.range = prefix_range("p/");
        PageCallback page = [&](const Header& header, std::span<const KeyValueView> kvs) {
            ++pages;
            revisions.insert(header.revision);
            std::size_t bytes = 0;
            for (const auto& kv : kvs) {
                EXPECT_LE(kv.mod_revision, header.revision);
                keys.emplace_back(kv.key);
                bytes += kv.key.size() + kv.value.size();
            }
            if (pages > 2) largest = std::max(largest, bytes);
        };
        auto listed = co_await c.async_list(request, page);
        stop = true;
        EXPECT_TRUE(listed) << listed.error().message();
        EXPECT_EQ(revisions, std::set<std::int64_t>{listed->revision});
        EXPECT_GT(pages, 10U);
        EXPECT_LT(largest, 40'000U);
        request.revision = listed->revision;
        auto whole = co_await writer.async_range(request);
        EXPECT_EQ(whole->kvs.size(), keys.size());
        for (std::size_t i = 0; i < std::min(keys.size(), whole->kvs.size()); ++i)
            EXPECT_EQ(keys[i], whole->kvs[i].key);
        co_await until([&] { return stopped; });
    });
}

TEST_F(EtcdClientTest, StopWithinAListEndsTheListWhoseNextPageIsUnderWay) {
    EtcdProcess etcd(folder_, {});
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(etcd.endpoint());
        Txn txn;
        for (int at = 0; at < 100; ++at)
            txn.success.emplace_back(PutOp{fmt::format("p/{:05}", at), "v", 0});
        auto done = co_await writer.async_txn(std::move(txn));
        EXPECT_TRUE(done) << done.error().message();
        ClientOptions small;
        small.endpoints = {etcd.endpoint()};
        small.page_keys = 10;
        Client& c = client(small);
        RangeRequest request;
        request.range = prefix_range("p/");
        int pages = 0;
        bool stopped = false;
        PageCallback page = [&](const Header&, std::span<const KeyValueView> kvs) {
            EXPECT_EQ(kvs.size(), 10U);
            if (++pages != 3) return;
            asio::co_spawn(loop_, c.async_stop(), [&](std::exception_ptr e) {
                EXPECT_FALSE(e);
                stopped = true;
            });
        };
        auto listed = co_await c.async_list(request, page);
        EXPECT_FALSE(listed);
        EXPECT_EQ(listed.error().code(), Errc::kCancelled) << listed.error().message();
        EXPECT_EQ(pages, 3);
        co_await until([&] { return stopped; });
    });
}

TEST_F(EtcdClientTest, LargeTransactionComesInFragmentsAndWhole) {
    EtcdOptions eo;
    eo.more = {"--max-request-bytes=10000000", "--max-txn-ops=1000"};
    EtcdProcess etcd(folder_, eo);
    run([&]() -> asio::awaitable<void> {
        Client& c = client(etcd.endpoint());
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        int batches = 0;
        PrefixWatcherEvents events = reader.events();
        events.on_batch = [&, inner = events.on_batch](const Batch& b) {
            ++batches;
            inner(b);
        };
        watchers_.push_back(
            std::make_unique<PrefixWatcher>(c, clock_, Rng(3), o, std::move(events)));
        co_await until(
            [&] { return watchers_.back()->state() == PrefixWatcherEvents::State::kWatching; });
        Txn txn;
        for (int i = 0; i < 80; ++i)
            txn.success.emplace_back(PutOp{"p/" + std::to_string(i), std::string(100'000, 'b'), 0});
        auto done = co_await c.async_txn(std::move(txn));
        EXPECT_TRUE(done) << done.error().message();
        co_await until([&] { return reader.state.size() == 80; });
        EXPECT_EQ(batches, 1) << "one revision is one batch";
    });
}

TEST_F(EtcdClientTest, RequestsWithoutAnyEtcdEndWithTheReason) {
    run([&]() -> asio::awaitable<void> {
        ClientOptions o;
        o.endpoints = {"127.0.0.1:" + std::to_string(test::free_port())};
        o.request_timeout = 200ms;
        Client& c = client(o);
        auto failed = co_await c.async_put("a", "b");
        EXPECT_EQ(failed.error().code(), Errc::kUnavailable);
        EXPECT_NE(failed.error().detail().find("Connection refused"), std::string::npos)
            << failed.error().detail();
        EXPECT_NE(failed.error().detail().find(o.endpoints[0]), std::string::npos);
    });
}

TEST_F(EtcdClientTest, BadOptionsAreNamed) {
    ClientOptions o;
    EXPECT_FALSE(Client::make(loop_.get_executor(), o, clock_, Rng(1), {}));
    o.endpoints = {"https://a:b"};
    const auto bad = Client::make(loop_.get_executor(), o, clock_, Rng(1), {});
    ASSERT_FALSE(bad);
    EXPECT_NE(bad.error().detail().find("endpoint \"https://a:b\""), std::string::npos);
    o.endpoints = {"https://a:1"};
    o.ca_file = folder_.file("absent.crt");
    const auto no_file = Client::make(loop_.get_executor(), o, clock_, Rng(1), {});
    ASSERT_FALSE(no_file);
    EXPECT_NE(no_file.error().detail().find("absent.crt"), std::string::npos);
}

class EtcdTlsTest : public EtcdClientTest {
  protected:
    void SetUp() override {
        EtcdClientTest::SetUp();
        now_ = clock_.wall_now();
        ca_ = *pki::Authority::make("test ca", 48h, now_ - 24h);
        write("ca.crt", ca_->certificate());
        issue("server", pki::server_request());
        EtcdOptions o;
        o.ca_file = folder_.file("ca.crt");
        o.cert_file = folder_.file("server.crt");
        o.key_file = folder_.file("server.key");
        etcd_ = std::make_unique<EtcdProcess>(folder_, o);
    }
    void write(const std::string& name, const std::string& text) {
        ASSERT_TRUE(pki::write_file(folder_.file(name), text, pki::FileMode::kPrivate));
    }
    void issue(const std::string& name, const pki::CertificateRequest& request,
               std::optional<WallTime> at = {}) {
        const auto pair = ca_->issue(request, at.value_or(now_));
        ASSERT_TRUE(pair) << pair.error().message();
        write(name + ".crt", pair->certificate);
        write(name + ".key", pair->private_key);
    }
    ClientOptions tls(const std::string& name) {
        ClientOptions o;
        o.endpoints = {etcd_->endpoint()};
        o.ca_file = folder_.file("ca.crt");
        if (!name.empty()) {
            o.cert_file = folder_.file(name + ".crt");
            o.key_file = folder_.file(name + ".key");
        }
        o.request_timeout = 3s;
        return o;
    }
    asio::awaitable<std::string> refusal(ClientOptions o) {
        Client& c = client(std::move(o));
        std::string why;
        c.on_connection([&](const ConnectionEvent& e) {
            EXPECT_NE(e.state, ConnectionEvent::State::kConnected);
            // etcd may only be starting.
            if (why.empty() && e.reason.message().find("refused") != std::string::npos &&
                e.reason.message().find("Connection refused") == std::string::npos)
                why = e.reason.message();
            if (why.empty() && e.reason.code() == Errc::kPermission) why = e.reason.message();
        });
        co_await until([&] { return !why.empty(); });
        c.on_connection({});
        co_return why;
    }
    WallTime now_{};
    std::optional<pki::Authority> ca_;
    std::unique_ptr<EtcdProcess> etcd_;
};

TEST_F(EtcdTlsTest, NewCertificatesAreTakenWithoutLosingAWatch) {
    issue("client", pki::client_request("admin-one"));
    run([&]() -> asio::awaitable<void> {
        Client& writer = client(tls("client"));
        Client& c = client(tls("client"));
        int connections = 0;
        c.on_connection([&](const ConnectionEvent& e) {
            connections += e.state == ConnectionEvent::State::kConnected ? 1 : 0;
        });
        Reader reader;
        PrefixWatcherOptions o;
        o.prefix = "p/";
        PrefixWatcher& w = watch(c, reader, o);
        co_await until([&] { return w.state() == PrefixWatcherEvents::State::kWatching; });
        co_await put(writer, "p/1", "v");
        issue("client", pki::client_request("admin-two"));
        issue("server", pki::server_request({"new.example.com"}));
        co_await put(writer, "p/2", "v");
        co_await until([&] { return reader.state.size() == 2; });
        EXPECT_EQ(connections, 1);
        EXPECT_EQ(log_.find("TLS files changed"), std::string::npos);
        // The next connection is made with the new pair, and the watch goes on where it was.
        c.reconnect("the test says so");
        co_await until([&] { return connections == 2; });
        EXPECT_NE(log_.find("TLS files changed"), std::string::npos);
        co_await put(writer, "p/3", "v");
        co_await until([&] { return reader.state.size() == 3; });
        EXPECT_EQ(reader.lists, 1);
        EXPECT_EQ(log_.find("PRIVATE"), std::string::npos);
    });
}

TEST_F(EtcdTlsTest, RefusalsSayWhy) {
    issue("client", pki::client_request("admin-one"));
    auto short_lived = pki::client_request("admin-one");
    short_lived.validity = 1h;
    issue("expired", short_lived, now_ - 12h);
    const auto other = pki::Authority::make("other ca", 24h, now_);
    write("other.crt", other->certificate());
    run([&]() -> asio::awaitable<void> {
        ClientOptions o = tls("client");
        o.server_name = "elsewhere.example.com";
        auto why = co_await refusal(o);
        EXPECT_NE(why.find("permission: "), std::string::npos) << why;
        EXPECT_NE(
            why.find("expected elsewhere.example.com, it carries clustermesh-apiserver.cilium.io"),
            std::string::npos)
            << why;
        o = tls("client");
        o.ca_file = folder_.file("other.crt");
        why = co_await refusal(o);
        EXPECT_NE(why.find("unable to get local issuer certificate"), std::string::npos) << why;
        o = tls("expired");
        why = co_await refusal(o);
        EXPECT_NE(why.find("permission: "), std::string::npos) << why;
        EXPECT_NE(why.find("other side refuses our certificate"), std::string::npos) << why;
        o = tls("");
        why = co_await refusal(o);
        EXPECT_NE(why.find("permission: "), std::string::npos) << why;
        o = tls("client");
        o.server_name = "two.mesh.cilium.io";
        Client& good = client(o);
        co_await put(good, "a", "b");
        o.server_name = "elsewhere.example.com";
        o.insecure_skip_verify = true;
        Client& careless = client(o);
        co_await put(careless, "a", "c");
    });
}

}  // namespace
}  // namespace mesh::etcd
