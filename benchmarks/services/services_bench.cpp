// Tables and service merger at the size of a large mesh: 10,000 global services of 10 backends in
// each of 3 clusters, and 100,000 ips. Time by Google Benchmark; memory as the process's resident
// set, in a child process of its own for each figure, so that none sees another's heap.
//
//   services_bench [Google Benchmark's flags]
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "state/tables/cluster_tables.hpp"

namespace {

using namespace mesh::compile;
using namespace mesh::state;
using mesh::model::ClusterId;
using mesh::model::IdentityId;
using mesh::model::IpAddress;
using mesh::model::IpIdentityPair;
using mesh::model::LocalService;
using mesh::model::Service;
using mesh::model::ServicePort;
using mesh::model::SharedList;
using mesh::model::StringMap;

constexpr std::uint32_t kServices = 10'000;
constexpr std::uint32_t kBackends = 10;
constexpr std::uint32_t kIps = 100'000;
constexpr std::uint32_t kBatch = 1'000;
const ClusterKey kOwn{"cluster1", ClusterId{1}};
const ClusterKey kRemotes[] = {{"cluster2", ClusterId{2}}, {"cluster3", ClusterId{3}}};
const SharedList<ServicePort> kHttp{{"http", "TCP", 8080}};
const MergerOptions kOptions{.own = kOwn, .node = "node-1", .zone = "", .zone_hints = false};

std::string service_name(std::uint32_t i) {
    return "service-" + std::to_string(i);
}
IpAddress backend_address(std::uint32_t cluster, std::uint32_t service, std::uint32_t backend) {
    return IpAddress::v4((10U << 24) + (cluster << 20) + service * kBackends + backend);
}

LocalService local_service(std::uint32_t i) {
    LocalService s;
    s.namespace_ = "namespace-" + std::to_string(i % 50);
    s.name = service_name(i);
    s.type = "ClusterIP";
    s.cluster_ips = {IpAddress::v4((10U << 24) + (96U << 16) + i)};
    s.ports = {{"http", "TCP", 80}};
    for (std::uint32_t b = 0; b < kBackends; ++b) {
        mesh::model::LocalBackend backend;
        backend.address = backend_address(1, i, b);
        backend.ports = kHttp;
        backend.node = "node-" + std::to_string(b);
        s.backends.push_back(std::move(backend));
    }
    s.global = s.shared = true;
    s.labels = StringMap{{"app", service_name(i)}};
    s.selector = s.labels;
    return s;
}

Service remote_service(const ClusterKey& cluster, std::uint32_t i,
                       std::uint32_t backends = kBackends) {
    Service s;
    s.cluster = cluster.name;
    s.cluster_id = cluster.id;
    s.namespace_ = "namespace-" + std::to_string(i % 50);
    s.name = service_name(i);
    s.frontends = {{IpAddress::v4((10U << 24) + (97U << 16) + i), {{"http", "TCP", 80}}, ""}};
    for (std::uint32_t b = 0; b < backends; ++b) {
        s.backends.push_back({backend_address(mesh::model::number(cluster.id), i, b), kHttp, ""});
    }
    s.include_external = s.shared = true;
    s.labels = StringMap{{"app", service_name(i)}};
    s.selector = s.labels;
    return s;
}

IpIdentityPair ip_pair(std::uint32_t i) {
    IpIdentityPair pair;
    pair.ip = IpAddress::v4((10U << 24) + (2U << 20) + i);
    pair.host_ip = IpAddress::v4((192U << 24) + (168U << 16) + i / 100);
    pair.id = IdentityId{131072 + i % 5000};
    pair.k8s_namespace = "namespace-" + std::to_string(i % 50);
    pair.k8s_pod_name =
        "service-" + std::to_string(i / 10) + "-76cf5d8b4d-x7k2" + std::to_string(i % 10);
    return pair;
}

/// Applies `count` changes in batches of a thousand, as a session of a remote does.
void apply_all(ClusterTables& tables, const ClusterKey& cluster, std::uint32_t count,
               const std::function<ClusterChange(std::uint32_t)>& change, const EffectSink& sink) {
    ClusterBatch batch{cluster, {}};
    for (std::uint32_t i = 0; i < count; ++i) {
        batch.changes.push_back(change(i));
        if (batch.changes.size() < kBatch && i + 1 < count) continue;
        tables.apply(batch, sink);
        batch.changes.clear();
    }
}

void fill_services(ClusterTables& tables, const EffectSink& sink) {
    apply_all(
        tables, kOwn, kServices, [](auto i) { return LocalServiceUpsert{local_service(i)}; }, sink);
    for (const ClusterKey& cluster : kRemotes) {
        apply_all(
            tables, cluster, kServices,
            [&](auto i) { return ServiceUpsert{remote_service(cluster, i)}; }, sink);
    }
}

const EffectSink kIgnore = [](const Effect&) {};

// ---- time ----

void MergeFromScratch(benchmark::State& state) {
    ClusterTables tables("cluster1", 1);
    fill_services(tables, kIgnore);
    for (auto _ : state) {
        ServiceMerger merger(tables, kOptions);
        benchmark::DoNotOptimize(merger.flush());
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * kServices);
    state.SetLabel("10,000 services x 10 backends x 3 clusters; items = services");
}
BENCHMARK(MergeFromScratch)->Unit(benchmark::kMillisecond);

void OneBackendChange(benchmark::State& state) {
    ClusterTables tables("cluster1", 1);
    ServiceMerger merger(tables, kOptions);
    const EffectSink sink = [&](const Effect& effect) { merger.note(effect); };
    fill_services(tables, sink);
    benchmark::DoNotOptimize(merger.flush());
    const ClusterBatch fewer{kRemotes[0], {ServiceUpsert{remote_service(kRemotes[0], 4711, 9)}}};
    const ClusterBatch all{kRemotes[0], {ServiceUpsert{remote_service(kRemotes[0], 4711)}}};
    std::size_t rows = 0;
    bool remove = true;
    for (auto _ : state) {
        tables.apply(remove ? fewer : all, sink);
        rows += merger.flush().upserts.size();
        remove = !remove;
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(rows));
    state.SetLabel("a remote's backend comes or goes, to the changed row; items = rows");
}
BENCHMARK(OneBackendChange)->Unit(benchmark::kMicrosecond);

void ApplyIps(benchmark::State& state) {
    std::vector<ClusterBatch> batches;
    for (std::uint32_t i = 0; i < kIps; ++i) {
        if (i % kBatch == 0) batches.push_back({kRemotes[0], {}});
        batches.back().changes.emplace_back(IpUpsert{ip_pair(i)});
    }
    for (auto _ : state) {
        ClusterTables tables("cluster1", 1);
        for (const ClusterBatch& batch : batches) tables.apply(batch, kIgnore);
        benchmark::DoNotOptimize(tables);
        state.PauseTiming();
        tables = ClusterTables("cluster1", 1);
        state.ResumeTiming();
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * kIps);
    state.SetLabel("100,000 new ips in batches of 1,000; items = ips");
}
BENCHMARK(ApplyIps)->Unit(benchmark::kMillisecond);

void Lookup(benchmark::State& state) {
    ClusterTables tables("cluster1", 1);
    for (std::uint32_t c = 1; c <= static_cast<std::uint32_t>(state.range(0)); ++c) {
        apply_all(
            tables, {"cluster" + std::to_string(c), ClusterId{c}}, 1000,
            [](auto i) { return IpUpsert{ip_pair(i)}; }, kIgnore);
    }
    std::uint32_t i = 0;
    for (auto _ : state) benchmark::DoNotOptimize(tables.lookup(ip_pair(i++ % 2000).ip));
    state.SetLabel("clusters; half of the addresses are known");
}
BENCHMARK(Lookup)->Arg(1)->Arg(10)->Arg(255);

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

/// How much the resident set of a fresh process grows by what `fill` makes and keeps.
template <class T>
std::size_t grown_bytes(const std::function<T()>& fill) {
    int ends[2];
    if (pipe(ends) != 0) return 0;
    const pid_t child = fork();
    if (child == 0) {
        const std::size_t before = resident_bytes();
        const T kept = fill();
        const std::size_t grown = resident_bytes() - before;
        const bool sent = write(ends[1], &grown, sizeof grown) == sizeof grown;
        _exit(sent ? 0 : 1);
    }
    close(ends[1]);
    std::size_t grown = 0;
    if (read(ends[0], &grown, sizeof grown) != sizeof grown) grown = 0;
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return grown;
}

void report(benchmark::State& state, std::size_t bytes, std::uint32_t rows) {
    for (auto _ : state) {
    }
    if (bytes == 0) {
        state.SkipWithError("the resident set could not be read");
        return;
    }
    state.counters["MiB"] = static_cast<double>(bytes) / (1 << 20);
    state.counters["bytes_per_row"] = static_cast<double>(bytes) / rows;
}

void MemoryOfIps(benchmark::State& state) {
    report(state, grown_bytes<ClusterTables>([] {
               ClusterTables tables("cluster1", 1);
               apply_all(
                   tables, kRemotes[0], kIps, [](auto i) { return IpUpsert{ip_pair(i)}; }, kIgnore);
               return tables;
           }),
           kIps);
}
BENCHMARK(MemoryOfIps)->Iterations(1);

void MemoryOfServices(benchmark::State& state) {
    report(state, grown_bytes<ClusterTables>([] {
               ClusterTables tables("cluster1", 1);
               apply_all(
                   tables, kRemotes[0], kServices,
                   [](auto i) { return ServiceUpsert{remote_service(kRemotes[0], i)}; }, kIgnore);
               return tables;
           }),
           kServices);
}
BENCHMARK(MemoryOfServices)->Iterations(1);

/// Tables and merger together; the rows returned are dropped, as they are when the datapath has
/// them.
struct Merged {
    std::unique_ptr<ClusterTables> tables;
    std::unique_ptr<ServiceMerger> merger;
};

void MemoryOfMergedServices(benchmark::State& state) {
    report(state, grown_bytes<Merged>([] {
               Merged merged{std::make_unique<ClusterTables>("cluster1", 1), nullptr};
               fill_services(*merged.tables, kIgnore);
               merged.merger = std::make_unique<ServiceMerger>(*merged.tables, kOptions);
               while (merged.merger->pending()) {
                   benchmark::DoNotOptimize(merged.merger->flush(kBatch / 2));
               }
               return merged;
           }),
           kServices);
    state.SetLabel("tables of 3 clusters and merger; rows = merged services");
}
BENCHMARK(MemoryOfMergedServices)->Iterations(1);

}  // namespace

BENCHMARK_MAIN();
