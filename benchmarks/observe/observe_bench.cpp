// What it costs to follow and to read a mesh, from memory: changes of ips to a subscriber's
// callback (in C structs, and as C++ values), the snapshot of 100,000 ips, and 1,000,000 ips in
// records.
//
//   observe_bench [Google Benchmark's flags]
#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "observe/observer.hpp"
#include "observe/subscription.hpp"

namespace {

using namespace mesh;

const state::ClusterKey kOwn{"cluster1", model::ClusterId{1}};
constexpr std::uint32_t kBatch = 1'000;  ///< changes, as a session's batches have

model::IpIdentityPair make_ip(std::uint32_t i, std::uint32_t identity) {
    model::IpIdentityPair pair;
    pair.ip = model::IpAddress::v4((10U << 24) + i);
    pair.host_ip = model::IpAddress::v4((172U << 24) + (16U << 16) + i / 250);
    pair.id = model::IdentityId{identity};
    pair.k8s_namespace = "namespace-" + std::to_string(i % 50);
    pair.k8s_pod_name = "service-" + std::to_string(i) + "-76cf5d8b4d-x7k2p";
    return pair;
}

/// Tables, merger and observer, as the engine wires them.
struct Mesh {
    state::ClusterTables tables{kOwn.name, 1};
    compile::ServiceMerger merger{tables, {.own = kOwn, .node = "node1"}};
    observe::Observer observer{{.tables = tables, .merger = merger, .own = kOwn, .clusters = [] {
                                    return std::vector<state::SessionStatus>();
                                }}};

    void apply(const state::ClusterBatch& batch) {
        tables.apply(batch, [this](const state::Effect& effect) { observer.note(effect); });
        observer.publish();
    }
    void fill(std::uint32_t ips) {
        state::ClusterBatch batch{kOwn, {}};
        for (std::uint32_t i = 0; i < ips; ++i) {
            batch.changes.emplace_back(state::IpUpsert{make_ip(i, 100)});
            if (batch.changes.size() == kBatch || i + 1 == ips) {
                apply(batch);
                batch.changes.clear();
            }
        }
    }
};

std::vector<state::ClusterBatch> make_changes(std::uint32_t identity) {
    std::vector<state::ClusterBatch> batches;
    for (std::uint32_t i = 0; i < 100; ++i) {
        auto& batch = batches.emplace_back(state::ClusterBatch{kOwn, {}});
        for (std::uint32_t j = 0; j < kBatch; ++j) {
            batch.changes.emplace_back(state::IpUpsert{make_ip(i * kBatch + j, identity)});
        }
    }
    return batches;
}

/// 100,000 changes, from the tables to a callback on its own thread.
/// @param values as C++ values; else the C structs
void changes_to_callback(benchmark::State& state, bool values) {
    Mesh mesh;
    mesh.fill(100'000);
    const auto odd = make_changes(101), even = make_changes(102);
    auto queue = *observe::Queue::make(MESH_OBJECT_IP, std::size_t{1} << 30);
    mesh.observer.subscribe(queue);
    mesh.observer.resync(*queue);
    std::atomic<std::uint64_t> seen{0};
    std::uint64_t sum = 0;
    const auto subscription = observe::make_subscription(
        queue, [](observe::Queue&) { return false; }, {},
        [&](const EventBatch& batch) {
            if (values) {
                for (const auto& event : batch.events()) {
                    if (const auto* ip = std::get_if<IpView>(&event.object)) sum += ip->identity;
                }
            } else {
                for (const mesh_event* event : batch.raw()) {
                    if (event->ip != nullptr) sum += event->ip->identity;
                }
            }
            seen += batch.size();
        });
    std::uint64_t expected = 100'002;
    bool flip = false;
    for (auto _ : state) {
        for (const auto& batch : flip ? odd : even) mesh.apply(batch);
        flip = !flip;
        expected += 100'000;
        while (seen < expected) std::this_thread::yield();
    }
    benchmark::DoNotOptimize(sum);
    state.SetItemsProcessed(state.iterations() * 100'000);
}
void BM_ChangesToCallback(benchmark::State& state) {
    changes_to_callback(state, false);
}
void BM_ChangesToCallbackAsValues(benchmark::State& state) {
    changes_to_callback(state, true);
}
/// The same changes with nobody who listens: what the tables alone cost.
void BM_ChangesUnheard(benchmark::State& state) {
    Mesh mesh;
    mesh.fill(100'000);
    const auto odd = make_changes(101), even = make_changes(102);
    bool flip = false;
    for (auto _ : state) {
        for (const auto& batch : flip ? odd : even) mesh.apply(batch);
        flip = !flip;
    }
    state.SetItemsProcessed(state.iterations() * 100'000);
}

/// Delivery alone: blocks that are there already, from the queue to a callback's hands.
void BM_QueuedToReader(benchmark::State& state) {
    Mesh mesh;
    mesh.fill(100'000);
    const auto blocks = mesh.observer.list(MESH_OBJECT_IP);
    auto queue = *observe::Queue::make(MESH_OBJECT_IP, std::size_t{1} << 30);
    queue->set_snapshot({});
    std::uint64_t sum = 0;
    for (auto _ : state) {
        for (const auto& block : blocks) queue->put(block);
        for (;;) {
            const auto batch = observe::next(
                *queue, [](observe::Queue&) { return false; }, std::chrono::milliseconds(0));
            if (!batch || batch->empty()) break;
            for (const mesh_event* event : batch->raw()) sum += event->ip->identity;
        }
    }
    benchmark::DoNotOptimize(sum);
    state.SetItemsProcessed(state.iterations() * 100'000);
}

void BM_SnapshotOf100kIps(benchmark::State& state) {
    Mesh mesh;
    mesh.fill(100'000);
    std::size_t bytes = 0;
    for (auto _ : state) {
        const auto blocks = mesh.observer.list(MESH_OBJECT_IP);
        bytes = 0;
        for (const auto& block : blocks) bytes += block->bytes();
        benchmark::DoNotOptimize(blocks);
    }
    state.counters["bytes_each"] = static_cast<double>(bytes) / 100'000;
    state.SetItemsProcessed(state.iterations() * 100'000);
}

void BM_MillionIpsInRecords(benchmark::State& state) {
    Mesh mesh;
    mesh.fill(1'000'000);
    std::vector<IpRecord> records(1'000'000);
    for (auto _ : state) {
        mesh.observer.read_ips([&](std::size_t) { return records.data(); });
        observe::sort_records(records.data(), records.size());
        benchmark::DoNotOptimize(records.data());
    }
    state.SetItemsProcessed(state.iterations() * 1'000'000);
}

BENCHMARK(BM_ChangesUnheard)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_ChangesToCallback)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_ChangesToCallbackAsValues)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_QueuedToReader)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_SnapshotOf100kIps)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_MillionIpsInRecords)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
