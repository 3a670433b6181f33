// Replicas of mesh-proxy in front of one etcd: a client that moves between them never goes back in
// time and never misses a delete, whatever the state of the replica that it comes to. With a real
// etcd, real proxies, etcdctl (which is clientv3) and our own client.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <optional>

#include "etcd_writer.hpp"
#include "mesh_proxy_fixture.hpp"
#include "relay.hpp"

namespace mesh {
namespace {

using test::Answer;
using test::ChildProcess;
using test::EtcdOptions;
using test::EtcdProcess;
using test::EtcdWriter;
using test::Relay;
using test::Words;
using namespace std::chrono_literals;

const std::string kState = "cilium/state/";

std::uint16_t port_of(const std::string& address) {
    return static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
}

/// What etcdctl prints of a change.
std::string put_text(const std::string& key, const std::string& value) {
    return "PUT\n" + kState + key + "\n" + value + "\n";
}
std::string delete_text(const std::string& key) {
    return "DELETE\n" + kState + key + "\n\n";
}

/// One proxy, with a line of its own to the etcd.
struct Replica {
    std::string name, address;
    Words more;
    std::unique_ptr<Relay> upstream;
    ChildProcess process;
};

class ProxyReplicasTest : public test::MeshProxyTest {
  protected:
    void SetUp() override {
        MeshProxyTest::SetUp();
        if (IsSkipped()) return;
        etcd_ = start_etcd("one");
        writer_ = std::make_unique<EtcdWriter>(etcd_->endpoint());
        writer_->put("cilium/.heartbeat", "now");
        writer_->put(kState + "a", "1");
    }
    std::unique_ptr<EtcdProcess> start_etcd(const std::string& name, EtcdOptions options = {}) {
        options.name = name;
        options.more = {"--unsafe-no-fsync"};
        return std::make_unique<EtcdProcess>(folder_, std::move(options));
    }
    void start(Replica& replica) {
        write(replica.name + ".yaml", "endpoints:\n- http://" + replica.upstream->address() + "\n");
        Words more = replica.more;
        more.push_back("--etcd-config=" + folder_.file(replica.name + ".yaml"));
        replica.process = make_proxy(replica.name, replica.address, std::move(more));
    }
    Replica replica(const std::string& name, const EtcdProcess& of, Words more = {}) {
        Replica out;
        out.name = name;
        out.address = "127.0.0.1:" + std::to_string(test::free_port());
        out.more = std::move(more);
        out.upstream = std::make_unique<Relay>(port_of(of.endpoint()));
        start(out);
        EXPECT_TRUE(until([&] { return status_of(out, "stale") == "false"; })) << log_of(out);
        return out;
    }
    std::string log_of(const Replica& replica) const {
        return test::read_text(folder_.file(replica.name + ".log"));
    }
    /// A field of "upstream" in its status document; "revision" is the document's.
    std::string status_of(const Replica& replica, const std::string& field) {
        const auto text =
            test::run_command({"curl", "-s", "--unix-socket", folder_.file(replica.name + ".sock"),
                               "http://proxy/v1/status"},
                              folder_)
                .second;
        boost::system::error_code ec;
        const auto document = boost::json::parse(text, ec);
        if (ec || !document.is_object()) return "";
        const auto* upstream = document.as_object().if_contains("upstream");
        const auto* found = field == "revision" ? document.as_object().if_contains(field)
                                                : upstream->as_object().if_contains(field);
        return found == nullptr ? "" : boost::json::serialize(*found);
    }
    std::int64_t number_of(const Replica& replica, const std::string& field) {
        const std::string text = status_of(replica, field);
        return text.empty() ? -1 : std::stoll(text);
    }
    bool reached(const Replica& replica, std::int64_t revision) {
        return number_of(replica, "revision") >= revision;
    }
    /// Cut from etcd, and knows it.
    void cut(Replica& replica) {
        replica.upstream->cut();
        ASSERT_TRUE(until([&] { return status_of(replica, "stale") == "true"; }));
    }
    void rejoin(Replica& replica) {
        replica.upstream->join();
        ASSERT_TRUE(until([&] { return status_of(replica, "stale") == "false"; }))
            << log_of(replica);
    }
    Words client(const std::string& endpoints, const Words& words) {
        Words command = {"etcdctl",
                         "--endpoints=" + endpoints,
                         "--cacert=" + folder_.file("ca.crt"),
                         "--cert=" + folder_.file("remote.crt"),
                         "--key=" + folder_.file("remote.key"),
                         "--dial-timeout=20s",
                         "--command-timeout=20s"};
        command.insert(command.end(), words.begin(), words.end());
        return command;
    }
    Answer get(const std::string& address, Words words) {
        words.insert(words.begin(), "get");
        const auto [code, text] =
            test::run_command(client("https://" + address, words), folder_, {{"ETCDCTL_API", "3"}});
        return {code, text};
    }
    ChildProcess watch(const std::string& name, const std::string& endpoints,
                       std::int64_t revision) {
        return ChildProcess(
            client(endpoints, {"watch", kState, "--prefix", "--rev=" + std::to_string(revision)}),
            folder_.file(name), {{"ETCDCTL_API", "3"}});
    }
    std::string told(const std::string& name) const { return test::read_text(folder_.file(name)); }
    bool tells(const std::string& name, const std::string& text) {
        return until([&] { return told(name) == text; });
    }
    etcd::ClientOptions options_for(const Words& addresses) const {
        etcd::ClientOptions options;
        for (const std::string& address : addresses) {
            options.endpoints.push_back("https://" + address);
        }
        options.ca_file = folder_.file("ca.crt");
        options.cert_file = folder_.file("remote.crt");
        options.key_file = folder_.file("remote.key");
        options.backoff_limit = 200ms;
        return options;
    }

    std::unique_ptr<EtcdWriter> writer_;
};

TEST_F(ProxyReplicasTest, AWatchThatMovesWithItsClientMissesNothing) {
    Replica a = replica("a", *etcd_);
    Replica b = replica("b", *etcd_);
    // clientv3 with a list of endpoints, and one that an address leads elsewhere.
    Relay address(port_of(a.address));
    const auto first = writer_->put(kState + "b", "1");
    ASSERT_TRUE(until([&] { return reached(a, first) && reached(b, first); }));
    const ChildProcess list =
        watch("list", "https://" + a.address + ",https://" + b.address, first);
    const ChildProcess moved = watch("moved", "https://" + address.address(), first);
    std::string all = put_text("b", "1");
    ASSERT_TRUE(tells("list", all)) << told("list");
    ASSERT_TRUE(tells("moved", all)) << told("moved");

    // Deletes, and a key that is gone and there again, while nobody is connected.
    address.cut();
    a.process.stop(SIGKILL);
    writer_->del(kState + "a");
    writer_->del(kState + "b");
    writer_->put(kState + "b", "2");
    all += delete_text("a") + delete_text("b") + put_text("b", "2");
    address.move_to(port_of(b.address));
    EXPECT_TRUE(tells("list", all)) << told("list");
    EXPECT_TRUE(tells("moved", all)) << told("moved");

    // And back, to one that is behind what the client has seen.
    start(a);
    ASSERT_TRUE(until([&] { return status_of(a, "stale") == "false"; }));
    cut(a);
    writer_->put(kState + "c", "1");
    all += put_text("c", "1");
    ASSERT_TRUE(tells("moved", all)) << told("moved");
    address.move_to(port_of(a.address));
    // The watch is there, and is told nothing that its client has had.
    ASSERT_TRUE(until([&] { return test::read_text(folder_.file("moved")) == all; }));
    writer_->del(kState + "b");
    writer_->put(kState + "d", "1");
    all += delete_text("b") + put_text("d", "1");
    rejoin(a);
    EXPECT_TRUE(tells("moved", all)) << told("moved");
}

TEST_F(ProxyReplicasTest, AReplicaThatIsBehindLetsRevisionsAheadWaitOrSaysSo) {
    Replica a = replica("a", *etcd_);
    cut(a);
    const auto ahead = writer_->put(kState + "b", "1");
    const auto later = writer_->put(kState + "c", "1");
    const Answer refused = get(a.address, {kState + "b", "--rev=" + std::to_string(ahead)});
    EXPECT_NE(refused.code, 0);
    EXPECT_TRUE(refused.has("required revision is a future revision")) << refused.text;
    // Created at once, told from just there.
    const ChildProcess waiting = watch("waiting", "https://" + a.address, later);

    // Our client sees what the replica claims: never more than it has.
    boost::asio::io_context loop;
    SystemClock clock;
    auto reader =
        *etcd::Client::make(loop.get_executor(), options_for({a.address}), clock, Rng(3), Logger());
    reader->start();
    std::vector<std::int64_t> claims, events;
    etcd::WatchEvents on;
    on.on_created = [&](const etcd::Header& header) { claims.push_back(header.revision); };
    on.on_in_step = [&](const etcd::Header& header) { claims.push_back(header.revision); };
    on.on_events = [&](const etcd::Header&, std::span<const etcd::WatchEvent> batch) {
        for (const auto& event : batch) events.push_back(event.kv.mod_revision);
    };
    etcd::WatchOptions from;
    from.range = etcd::prefix_range(kState);
    auto watch = reader->watch(std::move(from), std::move(on));
    const auto turn_until = [&](const std::function<bool()>& condition) {
        return until([&] {
            loop.run_for(10ms);
            loop.restart();
            return condition();
        });
    };
    ASSERT_TRUE(turn_until([&] { return claims.size() == 1; }));
    reader->request_progress();
    ASSERT_TRUE(turn_until([&] { return claims.size() == 2; }));
    for (const std::int64_t claim : claims) EXPECT_LT(claim, ahead);
    EXPECT_TRUE(events.empty());

    rejoin(a);
    EXPECT_TRUE(tells("waiting", put_text("c", "1"))) << told("waiting");
    ASSERT_TRUE(turn_until([&] { return events.size() == 2; }));
    EXPECT_EQ(events, (std::vector<std::int64_t>{ahead, later}));
    const Answer there = get(a.address, {kState + "b", "--rev=" + std::to_string(ahead)});
    EXPECT_EQ(there.text, kState + "b\n1\n");
    watch.reset();
    bool stopped = false;
    boost::asio::co_spawn(loop, reader->async_stop(), [&](std::exception_ptr) { stopped = true; });
    EXPECT_TRUE(turn_until([&] { return stopped; }));
}

TEST_F(ProxyReplicasTest, LinearizableReadsNeverGoBackInTime) {
    // Several loops, of which one alone has the mirror.
    Replica a = replica("a", *etcd_, {"--loops=3"});
    Replica b = replica("b", *etcd_, {"--loops=3"});
    boost::asio::io_context loop;
    SystemClock clock;
    std::vector<std::unique_ptr<etcd::Client>> readers;
    for (const Replica* each : {&a, &b, &a, &b}) {
        readers.push_back(*etcd::Client::make(loop.get_executor(), options_for({each->address}),
                                              clock, Rng(3), Logger()));
        readers.back()->start();
    }
    bool done = false;
    int older = 0;
    auto read = [&](etcd::Client& reader, std::int64_t at) -> boost::asio::awaitable<void> {
        etcd::RangeRequest request;
        request.range.key = kState + "a";
        const auto answer = co_await reader.async_range(std::move(request));
        EXPECT_TRUE(answer) << answer.error().message();
        if (answer && answer->header.revision < at) ++older;
    };
    auto play = [&]() -> boost::asio::awaitable<void> {
        for (int i = 0; i < 50; ++i) {
            const std::int64_t at = writer_->put(kState + "a", std::to_string(i));
            for (const auto& reader : readers) co_await read(*reader, at);
            if (i % 10 != 0) continue;
            // Nothing of this comes as an event: the revision alone.
            const std::int64_t other = writer_->put("other/key", std::to_string(i));
            for (const auto& reader : readers) co_await read(*reader, other);
        }
        for (const auto& reader : readers) co_await reader->async_stop();
        done = true;
    };
    boost::asio::co_spawn(loop, play, [](std::exception_ptr) {});
    const auto end = std::chrono::steady_clock::now() + 120s;
    while (!done && std::chrono::steady_clock::now() < end) {
        loop.run_for(10ms);
        loop.restart();
    }
    ASSERT_TRUE(done);
    // A machine that stalls for a second leaves reads unproven, which may be older, and are told.
    const auto unproven = number_of(a, "reads_unproven") + number_of(b, "reads_unproven");
    EXPECT_LE(older, unproven);
    EXPECT_LT(unproven, 50) << "of 220";
    EXPECT_GT(number_of(a, "questions"), 0);
    EXPECT_EQ(number_of(a, "lists"), 1);
}

TEST_F(ProxyReplicasTest, AQuietEtcdWhoseRevisionRisesIsFollowedByWhoReads) {
    Replica a = replica("a", *etcd_);
    // Nothing but a read takes the replica's revision beyond what it has events of.
    const auto follows = [&](std::int64_t revision) {
        return until([&] {
            const Answer answer = get(a.address, {kState + "a", "-w", "json"});
            boost::system::error_code ec;
            const auto document = boost::json::parse(answer.text, ec);
            return !ec &&
                   document.at("header").at("revision").to_number<std::int64_t>() >= revision;
        });
    };
    EXPECT_TRUE(follows(writer_->put("other/key", "1"))) << log_of(a);
    // The last change that it knows is gone from etcd's history, and proves nothing any more.
    const auto now = writer_->put("other/key", "2");
    direct({"compaction", std::to_string(now)});
    EXPECT_TRUE(follows(now)) << log_of(a);
    EXPECT_TRUE(follows(writer_->put("other/key", "3"))) << log_of(a);
    // A page of a revision that another replica told is there, too.
    const auto page = writer_->put("other/key", "4");
    ASSERT_TRUE(until([&] {
        return get(a.address, {kState + "a", "--rev=" + std::to_string(page)}).code == 0;
    })) << log_of(a);
    EXPECT_EQ(number_of(a, "lists"), 1);
}

TEST_F(ProxyReplicasTest, AnEtcdThatHangsOrIsGoneTakesNoReadsDown) {
    Replica a = replica("a", *etcd_);
    etcd_->pause();
    // Within a second, not with the etcd's timeout; and told in numbers.
    EXPECT_EQ(get(a.address, {kState + "a"}).text, kState + "a\n1\n");
    EXPECT_TRUE(until([&] { return number_of(a, "reads_unproven") >= 1; }));
    EXPECT_EQ(get(a.address, {kState + "a"}).text, kState + "a\n1\n");
    etcd_->resume();
    // And proven again.
    ASSERT_TRUE(until([&] {
        const auto before = number_of(a, "reads_unproven");
        return get(a.address, {kState + "a"}).code == 0 && number_of(a, "reads_unproven") == before;
    }));
    etcd_->kill();
    ASSERT_TRUE(until([&] { return status_of(a, "stale") == "true"; }));
    const auto waited = number_of(a, "questions");
    EXPECT_EQ(get(a.address, {kState + "a"}).text, kState + "a\n1\n");
    EXPECT_EQ(get(a.address, {kState + "a", "--consistency=s"}).text, kState + "a\n1\n");
    EXPECT_EQ(number_of(a, "questions"), waited + 1) << "a serializable read asks nobody";
}

TEST_F(ProxyReplicasTest, AClientThatComesToAnotherEtcdIsTold) {
    Replica a = replica("a", *etcd_);
    EtcdOptions options;
    options.token = "another";
    const auto another = start_etcd("two", options);
    EtcdWriter other(another->endpoint());
    for (int i = 0; i < 20; ++i) other.put(kState + "z", std::to_string(i));
    Replica b = replica("b", *another);
    Relay address(port_of(a.address));

    boost::asio::io_context loop;
    SystemClock clock;
    auto reader = *etcd::Client::make(loop.get_executor(), options_for({address.address()}), clock,
                                      Rng(3), Logger());
    reader->start();
    std::optional<etcd::WatchEnd> end;
    std::vector<std::string> keys;
    bool created = false;
    etcd::WatchEvents on;
    on.on_created = [&](const etcd::Header&) { created = true; };
    on.on_events = [&](const etcd::Header&, std::span<const etcd::WatchEvent> batch) {
        for (const auto& event : batch) keys.emplace_back(event.kv.key);
    };
    on.on_end = [&](const etcd::WatchEnd& why) { end = why; };
    etcd::WatchOptions from;
    from.range = etcd::prefix_range(kState);
    auto watch = reader->watch(std::move(from), std::move(on));
    const auto turn_until = [&](const std::function<bool()>& condition) {
        return until([&] {
            loop.run_for(10ms);
            loop.restart();
            return condition();
        });
    };
    ASSERT_TRUE(turn_until([&] { return created; }));
    const auto first = writer_->put(kState + "b", "1");
    ASSERT_TRUE(turn_until([&] { return keys.size() == 1; }));
    address.move_to(port_of(b.address));
    ASSERT_TRUE(turn_until([&] { return end.has_value(); }));
    EXPECT_EQ(end->reason, etcd::WatchEnd::Reason::kHistoryChanged) << end->error.message();
    EXPECT_EQ(keys, Words{kState + "b"}) << "nothing of the other one";
    watch.reset();
    bool stopped = false;
    boost::asio::co_spawn(loop, reader->async_stop(), [&](std::exception_ptr) { stopped = true; });
    EXPECT_TRUE(turn_until([&] { return stopped; }));

    // One proxy whose etcd is exchanged: etcdctl's watch is ended, as it has nothing to go by.
    ChildProcess watcher = this->watch("exchanged", "https://" + a.address, first);
    ASSERT_TRUE(until([&] { return told("exchanged").find(kState + "b") != std::string::npos; }));
    a.upstream->move_to(port_of(another->endpoint()));
    EXPECT_TRUE(until([&] { return told("exchanged").find("compacted") != std::string::npos; }))
        << told("exchanged");
    EXPECT_EQ(told("exchanged").find(kState + "z"), std::string::npos) << told("exchanged");
}

TEST_F(ProxyReplicasTest, DeletesOfACompactedPastAreToldExactly) {
    Replica a = replica("a", *etcd_);
    const auto first = writer_->put(kState + "b", "1");
    writer_->put(kState + "c", "1");
    const ChildProcess watcher = watch("watch", "https://" + a.address, first);
    std::string all = put_text("b", "1") + put_text("c", "1");
    ASSERT_TRUE(tells("watch", all)) << told("watch");
    cut(a);
    writer_->del(kState + "a");
    writer_->del(kState + "c");
    writer_->put(kState + "c", "2");
    writer_->put(kState + "d", "1");
    const auto now = writer_->put("other/key", "1");  // deletes are told as of the list
    direct({"compaction", std::to_string(now)});
    rejoin(a);
    // One put for what was deleted and put again: the list shows no more.
    all += put_text("c", "2") + put_text("d", "1") + delete_text("a");
    EXPECT_TRUE(tells("watch", all)) << told("watch");
    EXPECT_EQ(number_of(a, "lists"), 2);
    EXPECT_EQ(number_of(a, "history_changes"), 0);
}

TEST_F(ProxyReplicasTest, AReplicaWithAnOldDataDirGoesOnWhereItsClientsAre) {
    Replica a = replica("a", *etcd_);
    Replica b = replica("b", *etcd_, {"--data-dir=" + folder_.file("kept")});
    Relay address(port_of(a.address));
    const auto first = writer_->put(kState + "b", "1");
    ASSERT_TRUE(until([&] { return number_of(b, "durable_revision") >= first; }));
    b.process.stop(SIGKILL);
    const ChildProcess watcher = watch("watch", "https://" + address.address(), first);
    writer_->del(kState + "a");
    writer_->put(kState + "c", "1");
    std::string all = put_text("b", "1") + delete_text("a") + put_text("c", "1");
    ASSERT_TRUE(tells("watch", all)) << told("watch");
    // It starts with what it had, cut from etcd; the client comes, and etcd later.
    b.upstream->cut();
    start(b);
    ASSERT_TRUE(until([&] { return status_of(b, "restored") == "true"; })) << log_of(b);
    address.move_to(port_of(b.address));
    EXPECT_EQ(get(b.address, {kState + "a", "--consistency=s"}).text, kState + "a\n1\n");
    writer_->del(kState + "b");
    rejoin(b);
    all += delete_text("b");
    EXPECT_TRUE(tells("watch", all)) << told("watch");
    EXPECT_EQ(number_of(b, "lists"), 0) << log_of(b);
    EXPECT_EQ(get(b.address, {kState, "--prefix", "--keys-only"}).text, kState + "c\n\n");
}

TEST_F(ProxyReplicasTest, ReplicasOfDifferentMembersAreOneToTheirClients) {
    EtcdOptions one;
    EtcdOptions two;
    for (EtcdOptions* each : {&one, &two}) {
        each->client_port = test::free_port();
        each->peer_port = test::free_port();
        each->token = "pair";
    }
    one.initial_cluster = "m1=http://127.0.0.1:" + std::to_string(one.peer_port) +
                          ",m2=http://127.0.0.1:" + std::to_string(two.peer_port);
    two.initial_cluster = one.initial_cluster;
    const auto first = start_etcd("m1", one);
    const auto second = start_etcd("m2", two);
    EtcdWriter pair(first->endpoint());
    const auto begin = pair.put(kState + "a", "1");
    Replica a = replica("a", *first);
    Replica b = replica("b", *second);
    const auto header = [&](const Replica& of) {
        const Answer answer = get(of.address, {kState + "a", "-w", "json"});
        return boost::json::parse(answer.text).at("header").as_object();
    };
    const auto of_a = header(a);
    const auto of_b = header(b);
    EXPECT_EQ(of_a.at("cluster_id"), of_b.at("cluster_id"));
    EXPECT_NE(of_a.at("member_id"), of_b.at("member_id"));
    EXPECT_GE(of_b.at("revision").to_number<std::int64_t>(),
              of_a.at("revision").to_number<std::int64_t>());
    // By a list that is resumed page by page, wherever a page comes from.
    const auto revision = std::to_string(begin);
    EXPECT_EQ(get(b.address, {kState, "--prefix", "--rev=" + revision}).text,
              get(a.address, {kState, "--prefix", "--rev=" + revision}).text);
    const auto seen = pair.put(kState + "a", "one");
    const ChildProcess watcher =
        watch("watch", "https://" + a.address + ",https://" + b.address, seen);
    std::string all = put_text("a", "one");
    ASSERT_TRUE(tells("watch", all)) << told("watch");
    a.process.stop(SIGKILL);
    pair.del(kState + "a");
    all += delete_text("a");
    EXPECT_TRUE(tells("watch", all)) << told("watch");
    // The other one takes over whichever it was.
    start(a);
    ASSERT_TRUE(until([&] { return status_of(a, "stale") == "false"; }));
    b.process.stop(SIGKILL);
    pair.put(kState + "a", "two");
    all += put_text("a", "two");
    EXPECT_TRUE(tells("watch", all)) << told("watch");
}

}  // namespace
}  // namespace mesh
