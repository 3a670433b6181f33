// What subscribers are told must add up: applying every event in order gives what list() says,
// whatever changed, whoever else reads, and however little the queue holds.
#include "observe/observer.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "observe/subscription.hpp"
#include "runtime/clock.hpp"

namespace mesh::observe {
namespace {

using namespace std::chrono_literals;

const state::ClusterKey kOwn{"cluster1", model::ClusterId{1}};
const state::ClusterKey kRemote{"cluster2", model::ClusterId{2}};
constexpr std::size_t kPlenty = std::size_t{1} << 30;

/// All that an event shows of its object.
std::string text_of(const mesh_event& event) {
    std::string text;
    if (const auto* node = event.node) {
        text = fmt::format("{} {}", node->cluster_id, node->encryption_key);
        for (std::size_t i = 0; i < node->labels_count; ++i) {
            text += fmt::format(" {}={}", node->labels[i].key, node->labels[i].value);
        }
    } else if (const auto* ip = event.ip) {
        text = fmt::format("{} {} {} {} {}/{}", ip->cluster_id, ip->identity, ip->host,
                           ip->encryption_key, ip->k8s_namespace, ip->k8s_pod_name);
    } else if (const auto* identity = event.identity) {
        for (std::size_t i = 0; i < identity->labels_count; ++i) text += identity->labels[i];
    } else if (const auto* cluster = event.cluster) {
        text = fmt::format("{} {} {} {}", cluster->id, cluster->state, cluster->ready,
                           cluster->connected);
    } else if (const auto* service = event.service) {
        text = fmt::format("{} {} {}", service->global, service->shared, service->affinity);
        for (std::size_t i = 0; i < service->frontends_count; ++i) {
            const mesh_frontend& frontend = *service->frontends[i];
            text += fmt::format(" [{}:{}", frontend.address, frontend.port);
            for (std::size_t j = 0; j < frontend.backends_count; ++j) {
                const mesh_backend& backend = *frontend.backends[j];
                text += fmt::format(" {}:{} {} {} {}", backend.address, backend.port,
                                    backend.cluster, backend.selected, backend.reason);
            }
            text += "]";
        }
    }
    return text;
}

std::string key_of(const mesh_event& event) {
    if (event.node) return fmt::format("node {}/{}", event.node->cluster, event.node->name);
    if (event.ip) return fmt::format("ip {} {}", event.ip->cluster, event.ip->prefix);
    if (event.identity) {
        return fmt::format("identity {} {}", event.identity->cluster, event.identity->id);
    }
    if (event.cluster) return fmt::format("cluster {}", event.cluster->name);
    return fmt::format("service {}/{}", event.service->namespace_, event.service->name);
}

using State = std::map<std::string, std::string>;

/// A subscriber that keeps a state by what it is told, and checks what it is told.
class Follower {
  public:
    void take(const EventBatch& batch) {
        for (const mesh_event* event : batch.raw()) take(*event);
    }
    void take(const mesh_event& event) {
        ++events;
        EXPECT_GE(event.sequence, last_sequence_);
        const bool change = !in_snapshot_ && event.kind != MESH_EVENT_SNAPSHOT_BEGIN &&
                            event.kind != MESH_EVENT_SNAPSHOT_END;
        if (change) {
            EXPECT_GT(event.sequence, last_sequence_);
        }
        last_sequence_ = event.sequence;
        switch (event.kind) {
            case MESH_EVENT_SNAPSHOT_BEGIN:
                EXPECT_FALSE(in_snapshot_);
                in_snapshot_ = true;
                state.clear();
                ++snapshots;
                break;
            case MESH_EVENT_SNAPSHOT_END:
                EXPECT_TRUE(in_snapshot_);
                in_snapshot_ = false;
                break;
            case MESH_EVENT_UPSERT: {
                EXPECT_GT(snapshots, 0) << "a change before any snapshot";
                const auto [at, fresh] = state.insert_or_assign(key_of(event), text_of(event));
                EXPECT_TRUE(fresh || !in_snapshot_) << at->first << " twice in a snapshot";
                break;
            }
            case MESH_EVENT_DELETE:
                EXPECT_FALSE(in_snapshot_);
                EXPECT_EQ(state.erase(key_of(event)), 1U) << key_of(event);
                break;
            default:
                ADD_FAILURE() << event.kind;
        }
    }
    State state;
    int snapshots = 0;
    std::size_t events = 0;

  private:
    std::uint64_t last_sequence_ = 0;
    bool in_snapshot_ = false;
};

class ObserverTest : public testing::Test {
  protected:
    void apply(const state::ClusterKey& cluster, std::vector<state::ClusterChange> changes) {
        tables_.apply({cluster, std::move(changes)}, [this](const state::Effect& effect) {
            merger_.note(effect);
            observer_.note(effect);
        });
    }
    void flush() {
        do {
            observer_.note(merger_.flush(2));
        } while (merger_.pending());
        observer_.publish();
    }
    std::shared_ptr<Queue> subscribe(std::uint32_t objects = MESH_OBJECT_ALL,
                                     std::size_t most = kPlenty) {
        auto queue = Queue::make(objects, most);
        EXPECT_TRUE(queue);
        observer_.subscribe(*queue);
        return *queue;
    }
    [[nodiscard]] Result<EventBatch> take(Queue& queue) {
        return next(
            queue,
            [this](Queue& due) {
                observer_.resync(due);
                return true;
            },
            0ms);
    }
    void drain(Queue& queue, Follower& follower) {
        for (;;) {
            const auto batch = take(queue);
            ASSERT_TRUE(batch) << batch.error().message();
            if (batch->empty()) return;
            follower.take(*batch);
        }
    }
    [[nodiscard]] State listed(std::uint32_t objects = MESH_OBJECT_ALL) const {
        State state;
        for (const auto& block : observer_.list(objects)) {
            for (const mesh_event* event : block->events()) {
                state[key_of(*event)] = text_of(*event);
            }
        }
        return state;
    }

    static model::Node node(const std::string& cluster, const std::string& name, int label) {
        model::Node made;
        made.name = name;
        made.cluster = cluster;
        made.addresses.emplace().push_back({"InternalIP", "10.0.0.1"});
        made.labels = model::StringMap{{"label", std::to_string(label)}};
        return made;
    }
    static model::IpIdentityPair ip(std::uint8_t last, std::uint32_t identity) {
        model::IpIdentityPair pair;
        pair.ip = model::IpAddress::v4(10, 1, 0, last);
        pair.host_ip = model::IpAddress::v4(192, 168, 0, 1);
        pair.id = model::IdentityId{identity};
        pair.k8s_namespace = "shop";
        pair.k8s_pod_name = "a-pod-with-a-long-name-" + std::to_string(last);
        return pair;
    }
    static model::LocalService local(const std::string& name, std::uint8_t backend) {
        model::LocalService service;
        service.namespace_ = "shop";
        service.name = name;
        service.type = "ClusterIP";
        service.cluster_ips = {
            model::IpAddress::v4(10, 11, 0, static_cast<std::uint8_t>(name.back()))};
        service.ports = {{.name = "http", .protocol = "TCP", .port = 80}};
        service.global = service.shared = true;
        model::LocalBackend made;
        made.address = model::IpAddress::v4(10, 10, 0, backend);
        made.ports =
            std::vector<model::ServicePort>{{.name = "http", .protocol = "TCP", .port = 8080}};
        service.backends = {made};
        return service;
    }
    static model::Service remote(const std::string& name, std::uint8_t backend) {
        model::Service service;
        service.cluster = kRemote.name;
        service.cluster_id = kRemote.id;
        service.namespace_ = "shop";
        service.name = name;
        service.include_external = service.shared = true;
        model::ServiceAddress made;
        made.address = model::IpAddress::v4(10, 20, 0, backend);
        made.ports =
            std::vector<model::ServicePort>{{.name = "http", .protocol = "TCP", .port = 8080}};
        service.backends = {made};
        return service;
    }
    /// Some change or other.
    void change_something() {
        const auto& cluster = rng_.below(2) == 0 ? kOwn : kRemote;
        const std::string name = "x" + std::to_string(rng_.below(4));
        const auto number = static_cast<std::uint8_t>(rng_.below(6));
        const auto value = static_cast<std::uint32_t>(rng_.below(3));
        switch (rng_.below(11)) {
            case 0:
                return apply(
                    cluster,
                    {state::NodeUpsert{node(cluster.name, name, static_cast<int>(value))}});
            case 1:
                return apply(cluster, {state::NodeDelete{name}});
            case 2:
                return apply(cluster, {state::IpUpsert{ip(number, value + 100)}});
            case 3:
                return apply(cluster, {state::IpDelete{{ip(number, 0).ip, 128}}});
            case 4:
                return apply(
                    cluster,
                    {state::IdentityUpsert{
                        {model::IdentityId{number}, {{"k8s", "app", fmt::format("v{}", value)}}}}});
            case 5:
                return apply(cluster, {state::IdentityDelete{model::IdentityId{number}}});
            case 6:
                return apply(kOwn, {state::LocalServiceUpsert{local(name, number)}});
            case 7:
                return apply(kOwn, {state::LocalServiceDelete{{"shop", name}}});
            case 8:
                return apply(kRemote, {state::ServiceUpsert{remote(name, number)}});
            case 9:
                return apply(kRemote, {state::ServiceDelete{{"shop", name}}});
            default:
                statuses_.resize(1 + rng_.below(3));
                for (std::size_t i = 0; i < statuses_.size(); ++i) {
                    statuses_[i].cluster = "cluster" + std::to_string(i + 1);
                    statuses_[i].connected = rng_.below(2) == 0;
                }
        }
    }

    state::ClusterTables tables_{kOwn.name, 7};
    compile::ServiceMerger merger_{tables_, {.own = kOwn, .node = "node1"}};
    std::vector<state::SessionStatus> statuses_ = std::vector<state::SessionStatus>(1);
    Observer observer_{{.tables = tables_, .merger = merger_, .own = kOwn, .clusters = [this] {
                            return statuses_;
                        }}};
    Rng rng_{20261127};
};

TEST_F(ObserverTest, ASnapshotThenEachChangeInOrder) {
    apply(kOwn, {state::NodeUpsert{node(kOwn.name, "n1", 1)}, state::IpUpsert{ip(1, 100)}});
    flush();
    const auto queue = subscribe();
    const auto first = take(*queue);
    ASSERT_TRUE(first);
    const auto events = first->events();
    ASSERT_EQ(events.size(), 5U);
    EXPECT_EQ(events[0].kind, EventKind::kSnapshotBegin);
    EXPECT_TRUE(std::holds_alternative<ClusterView>(events[1].object));
    ASSERT_TRUE(std::holds_alternative<NodeView>(events[2].object));
    const auto& seen = std::get<NodeView>(events[2].object);
    EXPECT_EQ(seen.name, "n1");
    EXPECT_EQ(seen.cluster, "cluster1");
    EXPECT_EQ(seen.addresses.front(),
              std::pair(std::string("InternalIP"), std::string("10.0.0.1")));
    const IpView expected{.prefix = "10.1.0.1/32",
                          .cluster = "cluster1",
                          .cluster_id = 1,
                          .identity = 100,
                          .host = "192.168.0.1",
                          .encryption_key = 0,
                          .k8s_namespace = "shop",
                          .k8s_pod_name = "a-pod-with-a-long-name-1"};
    EXPECT_EQ(std::get<IpView>(events[3].object), expected);
    EXPECT_EQ(events[4].kind, EventKind::kSnapshotEnd);
    EXPECT_TRUE(take(*queue)->empty());

    apply(kOwn, {state::IpUpsert{ip(1, 101)}, state::IpDelete{{ip(1, 0).ip, 128}}});
    EXPECT_TRUE(take(*queue)->empty()) << "not told before the group is over";
    apply(kOwn, {state::LocalServiceUpsert{local("echo", 1)}});
    flush();
    const auto changes = take(*queue)->events();
    ASSERT_EQ(changes.size(), 3U);
    EXPECT_EQ(changes[0].kind, EventKind::kUpsert);
    EXPECT_EQ(std::get<IpView>(changes[0].object).identity, 101U);
    EXPECT_EQ(changes[1].kind, EventKind::kDelete);
    EXPECT_EQ(std::get<IpView>(changes[1].object).prefix, "10.1.0.1/32");
    const auto& service = std::get<ServiceView>(changes[2].object);
    EXPECT_EQ(service.name, "echo");
    ASSERT_EQ(service.frontends.size(), 1U);
    ASSERT_EQ(service.frontends[0].backends.size(), 1U);
    EXPECT_EQ(service.frontends[0].backends[0].address, "10.10.0.1");
    EXPECT_EQ(service.frontends[0].backends[0].reason, "active");
    // What shows nothing new is not told.
    apply(kOwn, {state::LocalServiceUpsert{local("echo", 1)}});
    flush();
    EXPECT_TRUE(take(*queue)->empty());
    apply(kOwn, {state::LocalServiceDelete{{"shop", "echo"}}});
    flush();
    const auto gone = take(*queue)->events();
    ASSERT_EQ(gone.size(), 1U);
    EXPECT_EQ(gone[0].kind, EventKind::kDelete);
    EXPECT_EQ(std::get<ServiceView>(gone[0].object).name, "echo");
}

TEST_F(ObserverTest, EachSubscriberIsToldItsOwnKindsOnly) {
    const auto ips = subscribe(MESH_OBJECT_IP);
    const auto nodes = subscribe(MESH_OBJECT_NODE);
    Follower of_ips, of_nodes;
    drain(*ips, of_ips);
    drain(*nodes, of_nodes);
    apply(kOwn, {state::NodeUpsert{node(kOwn.name, "n1", 1)}, state::IpUpsert{ip(1, 100)}});
    flush();
    drain(*ips, of_ips);
    drain(*nodes, of_nodes);
    EXPECT_EQ(of_ips.state, listed(MESH_OBJECT_IP));
    EXPECT_EQ(of_nodes.state, listed(MESH_OBJECT_NODE));
    EXPECT_EQ(of_ips.state.size(), 1U);
    EXPECT_EQ(of_nodes.state.size(), 1U);
}

TEST_F(ObserverTest, TheDescriptorIsReadableWhileThereIsSomething) {
    const auto readable = [](const Queue& queue) {
        pollfd item{queue.fd(), POLLIN, 0};
        return ::poll(&item, 1, 0) == 1;
    };
    const auto queue = subscribe();
    EXPECT_TRUE(readable(*queue)) << "a snapshot is due";
    Follower follower;
    drain(*queue, follower);
    EXPECT_FALSE(readable(*queue));
    apply(kOwn, {state::IpUpsert{ip(1, 100)}});
    EXPECT_FALSE(readable(*queue));
    flush();
    EXPECT_TRUE(readable(*queue));
    drain(*queue, follower);
    EXPECT_FALSE(readable(*queue));
    queue->close(true);
    EXPECT_TRUE(readable(*queue));
    EXPECT_EQ(take(*queue).error().code(), Errc::kCancelled);
    EXPECT_TRUE(readable(*queue));
}

TEST_F(ObserverTest, TooManyChangesGiveANewSnapshotAndNoMore) {
    const auto slow = subscribe(MESH_OBJECT_ALL, 4096);
    const auto quick = subscribe();
    Follower of_slow, of_quick;
    drain(*slow, of_slow);
    drain(*quick, of_quick);
    for (int i = 0; i < 100; ++i) {
        apply(kOwn, {state::IpUpsert{
                        ip(static_cast<std::uint8_t>(i % 7), 100U + static_cast<unsigned>(i))}});
        flush();
        drain(*quick, of_quick);
    }
    EXPECT_GE(slow->overflows(), 1U);
    drain(*slow, of_slow);
    EXPECT_EQ(of_slow.snapshots, 2);
    EXPECT_EQ(of_quick.snapshots, 1);
    EXPECT_EQ(of_slow.state, listed());
    EXPECT_EQ(of_quick.state, listed());
    EXPECT_LT(of_slow.events, of_quick.events);
    // And after it changes go on.
    apply(kOwn, {state::IpUpsert{ip(200, 7)}});
    flush();
    drain(*slow, of_slow);
    EXPECT_EQ(of_slow.snapshots, 2);
    EXPECT_EQ(of_slow.state, listed());
}

TEST_F(ObserverTest, AChangeLargerThanTheBoundIsToldAllTheSame) {
    const auto queue = subscribe(MESH_OBJECT_ALL, 1);
    Follower follower;
    drain(*queue, follower);
    apply(kOwn, {state::NodeUpsert{node(kOwn.name, std::string(10'000, 'n'), 1)}});
    flush();
    drain(*queue, follower);
    EXPECT_EQ(follower.snapshots, 1);
    EXPECT_EQ(follower.state, listed());
}

// Snapshots at any moment, also between a change of the tables and its flush.
TEST_F(ObserverTest, SnapshotAndChangesGiveTheStateWhateverHappens) {
    struct Reader {
        std::shared_ptr<Queue> queue;
        Follower follower;
        std::uint32_t objects;
    };
    std::vector<std::unique_ptr<Reader>> readers;
    std::uint64_t overflows = 0;
    for (int step = 0; step < 20'000; ++step) {
        change_something();
        if (rng_.below(3) == 0) flush();
        if (rng_.below(50) == 0 && readers.size() < 5) {
            auto reader = std::make_unique<Reader>();
            reader->objects = rng_.below(2) == 0 ? MESH_OBJECT_ALL
                                                 : 1 + static_cast<std::uint32_t>(rng_.below(31));
            reader->queue = subscribe(reader->objects, rng_.below(2) == 0 ? kPlenty : 3000);
            readers.push_back(std::move(reader));
        }
        if (!readers.empty() && rng_.below(10) == 0) {
            auto& reader = *readers[rng_.below(readers.size())];
            const auto batch = take(*reader.queue);
            ASSERT_TRUE(batch);
            reader.follower.take(*batch);
        }
        if (rng_.below(100) == 0) {
            flush();
            for (auto& reader : readers) {
                drain(*reader->queue, reader->follower);
                ASSERT_EQ(reader->follower.state, listed(reader->objects)) << "step " << step;
            }
        }
        if (!readers.empty() && rng_.below(400) == 0) {
            overflows += readers.back()->queue->overflows();
            readers.pop_back();
        }
    }
    EXPECT_GT(overflows, 10U) << "the test is to see some";
}

TEST_F(ObserverTest, AllIpsInRecords) {
    model::IpIdentityPair v6;
    v6.ip = *model::IpAddress::parse("fd00:1::");
    v6.prefix_length = 64;
    v6.id = model::IdentityId{2};
    v6.key = 3;
    apply(kRemote, {state::IpUpsert{ip(1, 300)}, state::IpUpsert{v6}});
    apply(kOwn, {state::IpUpsert{ip(2, 200)}, state::IpUpsert{ip(1, 100)}});
    EXPECT_EQ(observer_.read_ips([](std::size_t) { return nullptr; }), 4U);
    std::vector<IpRecord> records;
    EXPECT_EQ(observer_.read_ips([&](std::size_t count) {
        records.resize(count);
        return records.data();
    }),
              4U);
    sort_records(records.data(), records.size());
    EXPECT_EQ(records[0].identity, 100U);
    EXPECT_EQ(records[0].cluster_id, 1U);
    EXPECT_EQ(records[0].address, ip(1, 0).ip.bytes());
    EXPECT_EQ(records[0].host, model::IpAddress::v4(192, 168, 0, 1).bytes());
    EXPECT_EQ(records[0].prefix_length, 32);
    EXPECT_EQ(records[0].family, 4);
    EXPECT_EQ(records[1].identity, 300U);
    EXPECT_EQ(records[1].cluster_id, 2U);
    EXPECT_EQ(records[2].identity, 200U);
    EXPECT_EQ(records[3].address, v6.ip.bytes());
    EXPECT_EQ(records[3].host, model::IpAddress::Bytes{});
    EXPECT_EQ(records[3].prefix_length, 64);
    EXPECT_EQ(records[3].family, 6);
    EXPECT_EQ(records[3].encryption_key, 3);
}

TEST_F(ObserverTest, LooksUpTheLongestPrefixAndOneService) {
    model::IpIdentityPair block = ip(0, 2);
    block.prefix_length = 24;
    apply(kOwn, {state::IpUpsert{block}, state::IpUpsert{ip(5, 500)},
                 state::LocalServiceUpsert{local("echo", 1)}});
    flush();
    EXPECT_EQ(observer_.lookup(model::IpAddress::v4(10, 1, 0, 5))->events()[0]->ip->identity, 500U);
    EXPECT_EQ(observer_.lookup(model::IpAddress::v4(10, 1, 0, 6))->events()[0]->ip->identity, 2U);
    EXPECT_EQ(observer_.lookup(model::IpAddress::v4(10, 2, 0, 6)), nullptr);
    EXPECT_STREQ(observer_.service({"shop", "echo"})->events()[0]->service->name, "echo");
    EXPECT_EQ(observer_.service({"shop", "none"}), nullptr);
}

TEST_F(ObserverTest, ASubscriptionWithACallbackMayEndItself) {
    std::atomic<int> calls{0};
    std::optional<Subscription> subscription;
    std::atomic<bool> may_begin{false}, ended{false};
    const auto queue = subscribe();
    subscription.emplace(make_subscription(
        queue,
        [&](Queue& due) {
            observer_.resync(due);
            return true;
        },
        {},
        [&](const EventBatch&) {
            while (!may_begin) std::this_thread::yield();
            ++calls;
            subscription.reset();
            ended = true;
        }));
    EXPECT_EQ(subscription->next(0ms).error().code(), Errc::kInvalidArgument);
    may_begin = true;
    while (!ended) std::this_thread::yield();
    EXPECT_EQ(calls, 1);
    EXPECT_TRUE(queue->closed());
}

TEST_F(ObserverTest, ACallbackThatThrowsIsNotCalledAgain) {
    std::atomic<int> calls{0};
    const auto queue = subscribe();
    const Subscription subscription = make_subscription(
        queue,
        [&](Queue& due) {
            observer_.resync(due);
            return true;
        },
        {},
        [&](const EventBatch&) {
            ++calls;
            throw 7;
        });
    while (!subscription.closed()) std::this_thread::yield();
    EXPECT_EQ(calls, 1);
}

TEST_F(ObserverTest, ClosingWakesWhoeverWaits) {
    const auto queue = subscribe();
    auto subscription = make_subscription(queue,
                                          [&](Queue& due) {
                                              observer_.resync(due);
                                              return true;
                                          },
                                          {}, {});
    ASSERT_TRUE(subscription.next(0ms));
    std::thread reader([&] {
        // The rest of what there is, then the end.
        while (subscription.next(-1ms)) {
        }
    });
    subscription.close();
    reader.join();
    EXPECT_TRUE(subscription.closed());
}

}  // namespace
}  // namespace mesh::observe
