// The property of the merger: after any sequence of changes, what its flushes add up to is what a
// merger compiles at once from tables filled in another order. Time passes, remotes get stale and
// come back; slow starts, which are about what was before, are compared once they are over. A
// failing sequence is shrunk and printed with its seed; MESH_TEST_SEED=<n> runs that one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "runtime/clock.hpp"
#include "state/tables/cluster_tables.hpp"

namespace {

using namespace mesh::compile;
using namespace mesh::state;
using namespace std::chrono_literals;
using mesh::Rng;
using mesh::TimePoint;
using mesh::model::Affinity;
using mesh::model::BackendState;
using mesh::model::ClusterId;
using mesh::model::IpAddress;
using mesh::model::LocalBackend;
using mesh::model::LocalService;
using mesh::model::Node;
using mesh::model::Service;
using mesh::model::ServicePort;
using mesh::model::StringMap;

const MergerOptions kOptions{
    .own = {"ape", ClusterId{1}}, .node = "n1", .zone = "z1", .zone_hints = true};

/// Few names, addresses and ports, so that clusters and services meet all the time.
IpAddress backend_address(Rng& rng) {
    const auto n = static_cast<std::uint8_t>(rng.below(6));
    if (rng.below(5) == 0) {
        IpAddress::Bytes bytes{0xfd};
        bytes[15] = n;
        return IpAddress(bytes);
    }
    return IpAddress::v4(10, 0, 0, n);
}
std::vector<ServicePort> ports(Rng& rng) {
    static constexpr const char* kNames[] = {"", "dns", "http"};
    std::vector<ServicePort> result;
    for (const char* name : kNames) {
        if (rng.below(3) == 0) continue;
        result.push_back({name, rng.below(3) == 0 ? "UDP" : "TCP",
                          static_cast<std::uint16_t>(rng.below(10) == 0 ? 0 : 80 + rng.below(2))});
    }
    return result;
}
std::string service_name(Rng& rng) {
    return "s" + std::to_string(rng.below(6));
}
std::vector<std::string> zones(Rng& rng) {
    if (rng.below(4) == 0) return {};
    return {rng.below(2) == 0 ? "z1" : "z2"};
}

/// Nearly always none of the five; now and then several, and values that are wrong.
StringMap annotations(Rng& rng) {
    static constexpr const char* kWeights[] = {"ape=10,bee=0", "cat=1000", "ape=0,bee=0,cat=0",
                                               "bee=1x"};
    static constexpr const char* kOrders[] = {"cat,ape,*", "*,bee", "bee,dog", "*"};
    static constexpr const char* kMinima[] = {"1", "2", "3", "many"};
    static constexpr const char* kSlowStarts[] = {"9s", "30s", "9s", "soon"};
    static constexpr const char* kStale[] = {"static", "close:10s", "close:30s", "closed"};
    StringMap result{{"app", "shop"}};
    if (rng.below(3) == 0) return result;
    const auto add = [&](const char* name, const auto& values) {
        if (rng.below(3) == 0) result.emplace(name, values[rng.below(std::size(values))]);
    };
    add("libmesh.io/cluster-weights", kWeights);
    add("libmesh.io/cluster-order", kOrders);
    add("libmesh.io/min-local-backends", kMinima);
    add("libmesh.io/slow-start", kSlowStarts);
    add("libmesh.io/stale-policy", kStale);
    return result;
}

/// Services whose clusters often have backends side by side, so that steering has much to do.
LocalService plain_local(Rng& rng) {
    LocalService s;
    s.namespace_ = "shop";
    s.name = service_name(rng);
    s.type = "ClusterIP";
    s.cluster_ips = {IpAddress::v4(10, 96, 1, static_cast<std::uint8_t>(s.name.view().back()))};
    s.ports = {{"http", "TCP", 80}};
    for (std::uint64_t left = rng.below(4); left > 0; --left) {
        LocalBackend b;
        b.address = IpAddress::v4(10, 1, 0, static_cast<std::uint8_t>(rng.below(6)));
        b.ports = s.ports;
        b.state = static_cast<BackendState>(rng.below(4) == 0 ? 1 : 0);
        b.weight = static_cast<std::uint16_t>(1 + rng.below(3));
        s.backends.push_back(b);
    }
    s.global = s.shared = true;
    s.affinity = static_cast<Affinity>(rng.below(2) == 0 ? 0 : rng.below(3));
    s.annotations = annotations(rng);
    return s;
}

LocalService random_local(Rng& rng, bool plain) {
    if (plain) return plain_local(rng);
    LocalService s;
    s.namespace_ = "shop";
    s.name = service_name(rng);
    s.type = rng.below(10) == 0 ? "ExternalName" : "ClusterIP";
    s.headless = rng.below(10) == 0;
    for (std::uint8_t i = 0; i < 4; ++i) {
        if (rng.below(3) == 0) s.cluster_ips.push_back(IpAddress::v4(10, 96, 0, i));
    }
    if (rng.below(3) == 0) s.cluster_ips.push_back(IpAddress(IpAddress::Bytes{0xfd, 0x96}));
    // Of other services' cluster IPs, too.
    if (rng.below(3) == 0) s.external_ips.push_back(IpAddress::v4(10, 96, 0, 3));
    if (rng.below(3) == 0) s.load_balancer_ips.push_back(IpAddress::v4(10, 96, 0, 4));
    s.annotations.emplace();
    if (rng.below(4) == 0) s.annotations->emplace("service.cilium.io/type", "LoadBalancer");
    if (rng.below(4) == 0) s.annotations->emplace("service.cilium.io/node", "big");
    if (rng.below(8) == 0) {
        s.annotations->emplace("service.cilium.io/node-selector",
                               "topology.kubernetes.io/zone in (z1)");
    }
    s.ports = ports(rng);
    for (std::uint64_t left = rng.below(5); left > 0; --left) {
        LocalBackend b;
        b.address = backend_address(rng);
        b.ports = ports(rng);
        b.state = static_cast<BackendState>(rng.below(2) == 0 ? 0 : rng.below(4));
        b.node = rng.below(2) == 0 ? "n1" : "n2";
        b.for_zones = zones(rng);
        b.weight = static_cast<std::uint16_t>(rng.below(6));
        s.backends.push_back(b);
    }
    s.global = rng.below(4) != 0;
    s.shared = s.global && rng.below(2) == 0;
    s.affinity = static_cast<Affinity>(rng.below(3));
    s.client_ip_affinity_seconds = rng.below(3) == 0 ? 60 : 0;
    s.internal_traffic_local = rng.below(5) == 0;
    s.external_traffic_local = rng.below(3) == 0;
    if (rng.below(3) == 0) s.type = rng.below(2) == 0 ? "NodePort" : "LoadBalancer";
    for (ServicePort& port : s.ports) {
        if (rng.below(2) == 0) port.node_port = static_cast<std::uint16_t>(30000 + rng.below(4));
    }
    s.annotations = annotations(rng);
    return s;
}

Service random_remote(Rng& rng, const ClusterKey& cluster, bool plain) {
    Service s;
    s.cluster = cluster.name;
    s.cluster_id = cluster.id;
    s.namespace_ = "shop";
    s.name = service_name(rng);
    if (plain) {
        for (std::uint64_t left = rng.below(3); left > 0; --left) {
            const auto net = static_cast<std::uint8_t>(number(cluster.id));
            s.backends.push_back({IpAddress::v4(10, net, 0, static_cast<std::uint8_t>(left)),
                                  std::vector<ServicePort>{{"http", "TCP", 80}}, ""});
        }
        s.include_external = s.shared = true;
        return s;
    }
    for (std::uint64_t left = rng.below(5); left > 0; --left) {
        s.backends.push_back({backend_address(rng), ports(rng), ""});
        std::vector<mesh::model::Text> hints;
        for (const std::string& zone : zones(rng)) hints.emplace_back(zone);
        s.zones[s.backends.back().text()] = {"z1", hints};
    }
    s.include_external = rng.below(8) != 0;
    s.shared = rng.below(8) != 0;
    return s;
}

Node random_node(Rng& rng) {
    Node node;
    node.name = rng.below(4) == 0 ? "n2" : "n1";
    node.labels.emplace();
    if (rng.below(3) != 0) {
        node.labels->emplace("topology.kubernetes.io/zone", rng.below(2) == 0 ? "z1" : "z2");
    }
    if (rng.below(2) == 0) {
        node.labels->emplace("service.cilium.io/node", rng.below(2) == 0 ? "big" : "small");
    }
    if (rng.below(2) == 0) {
        node.addresses.emplace();
        node.addresses->push_back({"InternalIP", rng.below(2) == 0 ? "192.0.2.1" : "192.0.2.2"});
    }
    return node;
}

/// One run of the machine: tables and merger that see each operation, and the plain maps of what
/// should be held. An operation is a number; all that it does follows from it.
class Machine {
  public:
    explicit Machine(bool plain) : plain_(plain) { merger_->advance(now_); }

    void operate(std::uint64_t operation) {
        Rng rng(operation);
        const std::string cluster = kClusters[rng.below(4)];
        const std::uint64_t kind = rng.below(29);
        if (kind >= 22) {
            pass_time(cluster, kind - 2, rng);
        } else if (kind < 6) {
            const LocalService s = random_local(rng, plain_);
            locals_[s.name.str()] = s;
            apply("ape", LocalServiceUpsert{s});
        } else if (kind < 8) {
            const std::string name = service_name(rng);
            locals_.erase(name);
            apply("ape", LocalServiceDelete{{"shop", name}});
        } else if (kind < 15) {
            const Service s = random_remote(rng, {cluster, ids_.at(cluster)}, plain_);
            remotes_[cluster][s.name.str()] = s;
            apply(cluster, ServiceUpsert{s});
        } else if (kind < 17) {
            const std::string name = service_name(rng);
            remotes_[cluster].erase(name);
            apply(cluster, ServiceDelete{{"shop", name}});
        } else if (kind < 18) {
            remotes_[cluster].clear();
            if (rng.below(2) == 0) {
                tables_.drain(cluster, sink(), {Kind::kService});
            } else {
                tables_.drain(cluster, sink());
                if (cluster == "ape") {
                    locals_.clear();
                    nodes_.clear();
                }
            }
        } else if (kind < 19 && cluster != "ape") {
            const ClusterId id{static_cast<std::uint32_t>(2 + rng.below(5))};
            if (id != ids_.at(cluster)) remotes_[cluster].clear();
            ids_.at(cluster) = id;
            tables_.apply({{cluster, id}, {}}, sink());
        } else if (kind == 20) {
            const Node node = random_node(rng);
            if (cluster == "ape") nodes_[node.name] = node;
            apply(cluster, NodeUpsert{node});
        } else if (kind == 21) {
            if (cluster == "ape") nodes_.erase("n1");
            apply(cluster, NodeDelete{"n1"});
        } else {
            flush(rng.below(4));
        }
    }

    void flush(std::size_t most) {
        const FrontendChanges changes = merger_->flush(most);
        const auto by_key = [](const FrontendRow& a, const FrontendRow& b) {
            return a.key < b.key;
        };
        expect(std::is_sorted(changes.upserts.begin(), changes.upserts.end(), by_key),
               "upserts are not in order");
        expect(std::is_sorted(changes.removed.begin(), changes.removed.end()),
               "removals are not in order");
        for (const FrontendKey& key : changes.removed) {
            expect(rows_.erase(key) == 1, "removal of a frontend that was not there");
        }
        for (const FrontendRow& row : changes.upserts) {
            const auto held = rows_.find(row.key);
            expect(held == rows_.end() || held->second != row, "upsert of an equal row");
            rows_.insert_or_assign(row.key, row);
        }
    }

    /// @param thorough passes a minute, too
    void check(bool thorough) {
        flush(1000);
        expect(!merger_->pending(), "something is left to flush");
        check_explanations();
        compare_with_scratch(false);
        if (!thorough) return;
        check_due();
        // Slow starts are over a minute later. Remotes are as fresh then as they are now.
        for (auto& [cluster, life] : lives_) {
            life += 1min;
            merger_->note_freshness({cluster, {}}, true, life);
        }
        advance(now_ + 1min);
        flush(1000);
        compare_with_scratch(true);
    }

    [[nodiscard]] const std::string& failure() const { return failure_; }

  private:
    static constexpr const char* kClusters[] = {"ape", "bee", "cat", "dog"};

    void pass_time(const std::string& cluster, std::uint64_t kind, Rng& rng) {
        if (kind < 23) {
            advance(now_ + rng.below(10) * 1s);
        } else if (kind < 25) {
            const TimePoint life = now_ - rng.below(40) * 1s;
            if (cluster != "ape") lives_[cluster] = life;
            merger_->note_freshness({cluster, {}}, rng.below(2) == 0, life);
        } else if (kind < 26) {
            merger_->note_synced({cluster, {}});
        } else {
            lives_.erase(cluster);
            merger_->forget_freshness(cluster);
        }
        if (rng.below(2) == 0) flush(1000);
    }

    void advance(TimePoint now) {
        now_ = now;
        merger_->advance(now_);
    }

    /// explain() works from the tables and the time alone: a row that a change or a time should
    /// have written anew differs.
    void check_explanations() {
        for (const auto& [key, row] : rows_) {
            const auto explanation = merger_->explain(row.service);
            const auto same = std::ranges::find(explanation.frontends, key, &FrontendRow::key);
            expect(same != explanation.frontends.end() && *same == row,
                   "a row is not what explain() tells");
        }
    }

    /// The time that is due is neither too late, which check_explanations() sees, nor too early.
    void check_due() {
        const auto due = merger_->next_due();
        if (!due) return;
        expect(*due > now_, "what is due is over");
        if (*due > now_ + 1ns) {
            advance(*due - 1ns);
            expect(!merger_->pending(), "something changed before it was due");
        }
        advance(*due);
        expect(merger_->pending(), "nothing was due");
        flush(1000);
        check_explanations();
    }

    /// Compares with a compile from scratch.
    /// @param weights false: slow starts make a difference to weights
    void compare_with_scratch(bool weights) {
        ClusterTables tables("ape", 4711);
        std::vector<ClusterBatch> batches;
        for (const auto& [cluster, services] : remotes_) {
            ClusterBatch batch{{cluster, ids_.at(cluster)}, {}};
            for (auto at = services.rbegin(); at != services.rend(); ++at) {
                batch.changes.emplace_back(ServiceUpsert{at->second});
            }
            batches.push_back(std::move(batch));
        }
        std::ranges::reverse(batches);
        for (const auto& batch : batches) tables.apply(batch, [](const Effect&) {});
        for (const auto& [name, service] : locals_) {
            tables.apply({{"ape", ClusterId{1}}, {LocalServiceUpsert{service}}},
                         [](const Effect&) {});
        }
        for (const auto& [name, node] : nodes_) {
            tables.apply({{"ape", ClusterId{1}}, {NodeUpsert{node}}}, [](const Effect&) {});
        }
        ServiceMerger scratch(tables, kOptions);
        for (const auto& [cluster, life] : lives_) {
            scratch.note_freshness({cluster, {}}, true, life);
        }
        scratch.advance(now_);
        const FrontendChanges all = scratch.flush();
        std::map<FrontendKey, FrontendRow> expected;
        for (const FrontendRow& row : all.upserts) expected.emplace(row.key, row);
        auto got = rows_;
        if (!weights) {
            for (auto* rows : {&expected, &got}) forget_weights_of_slow(*rows);
        }
        expect(got == expected, "differs from a compile from scratch");
        expect(merger_->services() == scratch.services(), "other services than from scratch");
    }

    void forget_weights_of_slow(std::map<FrontendKey, FrontendRow>& rows) const {
        for (auto& [key, row] : rows) {
            const auto service = locals_.find(row.service.name);
            if (service == locals_.end()) continue;
            if (!service->second.annotations->contains("libmesh.io/slow-start")) continue;
            for (BackendRow& backend : row.backends) backend.weight = 0;
        }
    }

    void expect(bool ok, const char* what) {
        if (!ok && failure_.empty()) failure_ = what;
    }
    EffectSink sink() {
        return [this](const Effect& effect) { merger_->note(effect); };
    }
    void apply(const std::string& cluster, ClusterChange change) {
        tables_.apply({{cluster, ids_.at(cluster)}, {std::move(change)}}, sink());
    }

    ClusterTables tables_{"ape", 1};
    std::unique_ptr<ServiceMerger> merger_ = std::make_unique<ServiceMerger>(tables_, kOptions);
    std::map<std::string, ClusterId> ids_{
        {"ape", ClusterId{1}}, {"bee", ClusterId{2}}, {"cat", ClusterId{3}}, {"dog", ClusterId{4}}};
    const bool plain_;
    TimePoint now_{1h};
    std::map<std::string, TimePoint> lives_;  ///< of remotes: the last proof of life noted
    std::map<std::string, LocalService> locals_;
    std::map<std::string, Node> nodes_;  ///< of the own cluster
    std::map<std::string, std::map<std::string, Service>> remotes_;
    std::map<FrontendKey, FrontendRow> rows_;
    std::string failure_;
};

/// @return what went wrong, or empty
std::string run(const std::vector<std::uint64_t>& operations, bool plain) {
    Machine machine(plain);
    for (std::size_t i = 0; i < operations.size(); ++i) {
        machine.operate(operations[i]);
        if (operations[i] % 16 == 0) machine.check(operations[i] % 64 == 0);
        if (!machine.failure().empty()) return machine.failure();
    }
    machine.check(true);
    return machine.failure();
}

/// Leaves out runs of operations, long ones first, as long as what is left still fails.
std::vector<std::uint64_t> shrink(std::vector<std::uint64_t> operations, bool plain) {
    for (std::size_t size = operations.size() / 2; size > 0;) {
        bool smaller = false;
        for (std::size_t at = 0; at + size <= operations.size();) {
            std::vector<std::uint64_t> fewer = operations;
            const auto first = fewer.begin() + static_cast<std::ptrdiff_t>(at);
            fewer.erase(first, first + static_cast<std::ptrdiff_t>(size));
            if (run(fewer, plain).empty()) {
                at += size;
            } else {
                operations = std::move(fewer);
                smaller = true;
            }
        }
        if (!smaller || size > operations.size()) size /= 2;
    }
    return operations;
}

void test_seeds(bool plain) {
    std::vector<std::uint64_t> seeds;
    if (const char* chosen = std::getenv("MESH_TEST_SEED")) {
        seeds = {std::strtoull(chosen, nullptr, 10)};
    } else {
        for (std::uint64_t seed = 1; seed <= 4; ++seed) seeds.push_back(seed);
    }
    for (const std::uint64_t seed : seeds) {
        Rng rng(seed);
        std::vector<std::uint64_t> operations(2000);
        for (auto& operation : operations) operation = rng.next();
        const std::string failure = run(operations, plain);
        if (failure.empty()) continue;
        const auto fewest = shrink(operations, plain);
        std::ostringstream text;
        for (const std::uint64_t operation : fewest) text << ' ' << operation;
        FAIL() << failure << "; seed " << seed << "; " << fewest.size()
               << " operations:" << text.str();
    }
}

TEST(IncrementalMerge, EqualsACompileFromScratch) {
    test_seeds(false);
}

TEST(IncrementalMerge, EqualsACompileFromScratchWithMuchToSteer) {
    test_seeds(true);
}

}  // namespace
