// The property of the merger: after any sequence of changes, what its flushes add up to is what a
// merger compiles at once from tables filled in another order. A failing sequence is shrunk and
// printed with its seed; MESH_TEST_SEED=<n> runs that one.
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
using mesh::Rng;
using mesh::model::Affinity;
using mesh::model::BackendState;
using mesh::model::ClusterId;
using mesh::model::IpAddress;
using mesh::model::LocalBackend;
using mesh::model::LocalService;
using mesh::model::Node;
using mesh::model::Service;
using mesh::model::ServicePort;

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

LocalService random_local(Rng& rng) {
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
    return s;
}

Service random_remote(Rng& rng, const ClusterKey& cluster) {
    Service s;
    s.cluster = cluster.name;
    s.cluster_id = cluster.id;
    s.namespace_ = "shop";
    s.name = service_name(rng);
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
    return node;
}

/// One run of the machine: tables and merger that see each operation, and the plain maps of what
/// should be held. An operation is a number; all that it does follows from it.
class Machine {
  public:
    void operate(std::uint64_t operation) {
        Rng rng(operation);
        const std::string cluster = kClusters[rng.below(4)];
        const std::uint64_t kind = rng.below(22);
        if (kind < 6) {
            const LocalService s = random_local(rng);
            locals_[s.name.str()] = s;
            apply("ape", LocalServiceUpsert{s});
        } else if (kind < 8) {
            const std::string name = service_name(rng);
            locals_.erase(name);
            apply("ape", LocalServiceDelete{{"shop", name}});
        } else if (kind < 15) {
            const Service s = random_remote(rng, {cluster, ids_.at(cluster)});
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

    /// Compares with a compile from scratch.
    void check() {
        flush(1000);
        expect(!merger_->pending(), "something is left to flush");
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
        const FrontendChanges all = scratch.flush();
        std::map<FrontendKey, FrontendRow> expected;
        for (const FrontendRow& row : all.upserts) expected.emplace(row.key, row);
        expect(rows_ == expected, "differs from a compile from scratch");
        expect(merger_->services() == scratch.services(), "other services than from scratch");
    }

    [[nodiscard]] const std::string& failure() const { return failure_; }

  private:
    static constexpr const char* kClusters[] = {"ape", "bee", "cat", "dog"};

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
    std::map<std::string, LocalService> locals_;
    std::map<std::string, Node> nodes_;  ///< of the own cluster
    std::map<std::string, std::map<std::string, Service>> remotes_;
    std::map<FrontendKey, FrontendRow> rows_;
    std::string failure_;
};

/// @return what went wrong, or empty
std::string run(const std::vector<std::uint64_t>& operations) {
    Machine machine;
    for (std::size_t i = 0; i < operations.size(); ++i) {
        machine.operate(operations[i]);
        if (operations[i] % 16 == 0) machine.check();
        if (!machine.failure().empty()) return machine.failure();
    }
    machine.check();
    return machine.failure();
}

/// Leaves out runs of operations, long ones first, as long as what is left still fails.
std::vector<std::uint64_t> shrink(std::vector<std::uint64_t> operations) {
    for (std::size_t size = operations.size() / 2; size > 0;) {
        bool smaller = false;
        for (std::size_t at = 0; at + size <= operations.size();) {
            std::vector<std::uint64_t> fewer = operations;
            const auto first = fewer.begin() + static_cast<std::ptrdiff_t>(at);
            fewer.erase(first, first + static_cast<std::ptrdiff_t>(size));
            if (run(fewer).empty()) {
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

TEST(IncrementalMerge, EqualsACompileFromScratch) {
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
        const std::string failure = run(operations);
        if (failure.empty()) continue;
        const auto fewest = shrink(operations);
        std::ostringstream text;
        for (const std::uint64_t operation : fewest) text << ' ' << operation;
        FAIL() << failure << "; seed " << seed << "; " << fewest.size()
               << " operations:" << text.str();
    }
}

}  // namespace
