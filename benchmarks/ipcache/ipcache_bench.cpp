// The ipcache compiler at the size of a large mesh: 4 clusters of 1,000 nodes with a /24 of 250
// pods each, 1,000,000 ips. Time by Google Benchmark; memory as the process's resident set, in a
// child process of its own for each figure, so that none sees another's heap.
//
//   ipcache_bench [Google Benchmark's flags]
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compile/ipcache/ipcache_compiler.hpp"
#include "compile/routes/route_table.hpp"
#include "state/tables/cluster_tables.hpp"

namespace {

using namespace mesh::compile;
using namespace mesh::state;
using mesh::model::ClusterId;
using mesh::model::IdentityId;
using mesh::model::IpAddress;
using mesh::model::IpIdentityPair;
using mesh::model::IpPrefix;
using mesh::model::Node;

constexpr std::uint32_t kClusters = 4;
constexpr std::uint32_t kNodes = 1'000;  ///< of a cluster
constexpr std::uint32_t kPods = 250;     ///< of a node
constexpr std::int64_t kIps = std::int64_t{kClusters} * kNodes * kPods;
constexpr std::size_t kPart = 10'000;  ///< rows in memory at once

ClusterKey cluster_key(std::uint32_t i) {
    return {"cluster" + std::to_string(i + 1), ClusterId{i + 1}};
}
/// Pods of cluster i are in the /12 that begins at 10.(16 i).0.0; its nodes in 172.(16 + i).0.0/16.
IpAddress pod_address(std::uint32_t cluster, std::uint32_t node, std::uint32_t pod) {
    return IpAddress::v4((10U << 24) + (cluster << 20) + (node << 8) + pod);
}
IpAddress node_address(std::uint32_t cluster, std::uint32_t node) {
    return IpAddress::v4((172U << 24) + ((16 + cluster) << 16) + node + 1);
}

Node make_node(std::uint32_t cluster, std::uint32_t i) {
    Node node;
    node.name = "node-" + std::to_string(i);
    node.cluster = cluster_key(cluster).name;
    node.cluster_id = cluster_key(cluster).id;
    node.addresses = {{"InternalIP", node_address(cluster, i).to_string()},
                      {"CiliumInternalIP", pod_address(cluster, i, 254).to_string()}};
    node.ipv4_alloc_cidr = IpPrefix(pod_address(cluster, i, 0), 24);
    node.ipv4_health_ip = pod_address(cluster, i, 253);
    return node;
}

IpIdentityPair make_pair(std::uint32_t cluster, std::uint32_t node, std::uint32_t pod,
                         std::uint32_t identity = 0) {
    IpIdentityPair pair;
    pair.ip = pod_address(cluster, node, pod);
    pair.host_ip = node_address(cluster, node);
    pair.id = IdentityId{((cluster + 1) << 16) + 1'000 + identity + (node * kPods + pod) % 5'000};
    pair.k8s_namespace = "namespace-" + std::to_string(pod % 50);
    pair.k8s_pod_name = "service-" + std::to_string(node) + "-76cf5d8b4d-x7k" + std::to_string(pod);
    return pair;
}

/// @return the rows that changed
std::size_t flush_all(IpcacheCompiler& compiler) {
    std::size_t rows = 0;
    while (compiler.pending()) {
        const IpcacheChanges part = compiler.flush(kPart);
        rows += part.upserts.size() + part.removed.size();
        benchmark::DoNotOptimize(part);
    }
    return rows;
}

/// Tables with all that compiles them, as the engine wires it.
struct Mesh {
    ClusterTables tables{"cluster1", 1};
    RouteTable routes{{.own_cluster = "cluster1", .own_node = "node-0"}};
    std::unique_ptr<IpcacheCompiler> ipcache;

    EffectSink sink() {
        return [this](const Effect& effect) {
            routes.note(effect);
            if (ipcache) ipcache->note(effect);
        };
    }
    void apply(std::uint32_t cluster, std::vector<ClusterChange> changes) {
        tables.apply({cluster_key(cluster), std::move(changes)}, sink());
    }
    void fill() {
        for (std::uint32_t cluster = 0; cluster < kClusters; ++cluster) {
            for (std::uint32_t node = 0; node < kNodes; ++node) {
                std::vector<ClusterChange> changes;
                changes.reserve(kPods + 1);
                changes.emplace_back(NodeUpsert{make_node(cluster, node)});
                for (std::uint32_t pod = 0; pod < kPods; ++pod) {
                    changes.emplace_back(IpUpsert{make_pair(cluster, node, pod)});
                }
                apply(cluster, std::move(changes));
            }
        }
    }
    /// A compiler that has marked all there is.
    [[nodiscard]] std::unique_ptr<IpcacheCompiler> make(const RouteChanges& all_routes) const {
        auto made = std::make_unique<IpcacheCompiler>(
            tables, routes, IpcacheOptions{.own_cluster = "cluster1", .own_node = "node-0"});
        made->note_routes(all_routes);
        return made;
    }
    std::size_t flush() {
        ipcache->note_routes(routes.flush());
        return flush_all(*ipcache);
    }
};

/// Filled once, all rows compiled, for all that does not change it for good.
struct Filled {
    Mesh mesh;
    RouteChanges routes;
};
Filled& running() {
    static Filled* const kRunning = [] {
        auto* made = new Filled;
        made->mesh.fill();
        made->routes = made->mesh.routes.flush();
        made->mesh.ipcache = made->mesh.make(made->routes);
        made->mesh.flush();
        return made;
    }();
    return *kRunning;
}

// ---- time ----

void CompileFromTables(benchmark::State& state) {
    const Filled& all = running();
    std::size_t rows = 0;
    for (auto _ : state) {
        auto compiler = all.mesh.make(all.routes);
        rows = flush_all(*compiler);
        state.PauseTiming();
        compiler.reset();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * kIps);
    state.counters["rows"] = static_cast<double>(rows);
    state.SetLabel("tables read and all rows compiled; items = ips");
}
BENCHMARK(CompileFromTables)->Unit(benchmark::kMillisecond);

void CompileMarked(benchmark::State& state) {
    const Filled& all = running();
    for (auto _ : state) {
        state.PauseTiming();
        auto compiler = all.mesh.make(all.routes);
        state.ResumeTiming();
        benchmark::DoNotOptimize(flush_all(*compiler));
        state.PauseTiming();
        compiler.reset();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * kIps);
    state.SetLabel("flushes only, as after a first sync; items = ips");
}
BENCHMARK(CompileMarked)->Unit(benchmark::kMillisecond);

void OneIpChanged(benchmark::State& state) {
    Filled& all = running();
    std::size_t rows = 0;
    std::uint32_t identity = 0;
    for (auto _ : state) {
        all.mesh.apply(2, {IpUpsert{make_pair(2, 471, 11, ++identity % 2)}});
        rows += all.mesh.flush();
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(rows));
    state.SetLabel("another identity, to the changed row; items = rows");
}
BENCHMARK(OneIpChanged)->Unit(benchmark::kMicrosecond);

void OneNodeFlaps(benchmark::State& state) {
    Filled& all = running();
    const auto cluster = static_cast<std::uint32_t>(state.range(0));
    std::size_t rows = 0;
    bool remove = true;
    for (auto _ : state) {
        if (remove) {
            all.mesh.apply(cluster, {NodeDelete{"node-471"}});
        } else {
            all.mesh.apply(cluster, {NodeUpsert{make_node(cluster, 471)}});
        }
        rows += all.mesh.flush();
        remove = !remove;
    }
    if (!remove) all.mesh.apply(cluster, {NodeUpsert{make_node(cluster, 471)}});
    all.mesh.flush();
    state.SetItemsProcessed(static_cast<std::int64_t>(rows));
    state.SetLabel("of cluster n+1 comes or goes, its 250 ips stay; items = rows");
}
BENCHMARK(OneNodeFlaps)->Arg(0)->Arg(2)->Unit(benchmark::kMicrosecond);

/// The own cluster announces the CIDR in which another has 250 pods: all of them yield.
void OneCidrTaken(benchmark::State& state) {
    Filled& all = running();
    Node taker = make_node(0, 471);
    taker.ipv4_secondary_alloc_cidrs = {IpPrefix(pod_address(2, 471, 0), 24)};
    std::size_t rows = 0;
    bool take = true;
    for (auto _ : state) {
        all.mesh.apply(0, {NodeUpsert{take ? taker : make_node(0, 471)}});
        rows += all.mesh.flush();
        take = !take;
    }
    all.mesh.apply(0, {NodeUpsert{make_node(0, 471)}});
    all.mesh.flush();
    state.SetItemsProcessed(static_cast<std::int64_t>(rows));
    state.SetLabel("250 ips of another cluster lose and regain their rows; items = rows");
}
BENCHMARK(OneCidrTaken)->Unit(benchmark::kMicrosecond);

// ---- memory ----

std::size_t resident_bytes() {
    malloc_trim(0);
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr) return 0;
    unsigned long total = 0;
    unsigned long resident = 0;
    const int read = std::fscanf(file, "%lu %lu", &total, &resident);
    std::fclose(file);
    return read == 2 ? resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) : 0;
}

struct Grown {
    std::size_t resident = 0;
    std::size_t told = 0;  ///< by bytes()
};

/// What the compiler adds to a process that holds the tables and routes.
Grown grown_by_compiler() {
    int ends[2];
    if (pipe(ends) != 0) return {};
    const pid_t child = fork();
    if (child == 0) {
        Filled all;
        all.mesh.fill();
        all.routes = all.mesh.routes.flush();
        const std::size_t before = resident_bytes();
        all.mesh.ipcache = all.mesh.make(all.routes);
        all.mesh.flush();
        const Grown grown{resident_bytes() - before, all.mesh.ipcache->bytes()};
        const bool sent = write(ends[1], &grown, sizeof grown) == sizeof grown;
        _exit(sent ? 0 : 1);
    }
    close(ends[1]);
    Grown grown;
    if (read(ends[0], &grown, sizeof grown) != sizeof grown) grown = {};
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return grown;
}

void MemoryOfCompiler(benchmark::State& state) {
    const Grown grown = grown_by_compiler();
    for (auto _ : state) {
    }
    if (grown.resident == 0) {
        state.SkipWithError("the resident set could not be read");
        return;
    }
    state.counters["MiB"] = static_cast<double>(grown.resident) / (1 << 20);
    state.counters["told_MiB"] = static_cast<double>(grown.told) / (1 << 20);
    state.counters["bytes_per_ip"] = static_cast<double>(grown.resident) / kIps;
    state.SetLabel("beside tables and routes, all rows returned");
}
BENCHMARK(MemoryOfCompiler)->Iterations(1);

}  // namespace

BENCHMARK_MAIN();
