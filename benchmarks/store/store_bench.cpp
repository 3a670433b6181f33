// The store at the size of a large mesh: 100,000 keys of about 40 bytes with values of 250. Its
// peer is a std::map of the same strings: no revisions, no history, no watches. Memory is the
// growth of the process's resident set, in a child process for each figure, so that none sees
// another's heap.
//
//   store_bench [Google Benchmark's flags]
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "state/store/lmdb_backend.hpp"
#include "state/store/store.hpp"

namespace {

using namespace mesh;
using namespace mesh::store;

constexpr int kKeys = 100'000;
const std::string kValue(250, 'v');
const std::string kZero(1, '\0');

const std::vector<std::string>& keys() {
    static const std::vector<std::string> all = [] {
        std::vector<std::string> made;
        for (int i = 0; i < kKeys; ++i)
            made.push_back(fmt::format("cilium/state/ip/v1/default/10.{}.{}.{}", i / 65536,
                                       i / 256 % 256, i % 256));
        std::sort(made.begin(), made.end());
        return made;
    }();
    return all;
}

/// The i-th key of a walk over all keys in no order.
const std::string& scattered(int i) {
    return keys()[static_cast<std::size_t>(std::int64_t{i} * 7919 % kKeys)];
}

std::unique_ptr<Store> memory_store() {
    return *Store::open(std::make_unique<MemoryBackend>(), {}, TimePoint{});
}

/// A mirror that has listed all keys in pages, as a proxy does.
std::unique_ptr<Store> listed_mirror() {
    auto store = memory_store();
    store->begin_snapshot(kKeys + 1, false);
    std::vector<KeyValue> page;
    for (int i = 0; i < kKeys; ++i) {
        page.push_back(KeyValue::make(keys()[static_cast<std::size_t>(i)], kValue,
                                      {.create_revision = i + 2,
                                       .mod_revision = i + 2 > kKeys + 1 ? kKeys + 1 : i + 2,
                                       .version = 1}));
        if (page.size() < 10'000 && i + 1 < kKeys) continue;
        if (!store->add_snapshot_page(page)) std::abort();
        page.clear();
    }
    if (!store->commit_snapshot()) std::abort();
    return store;
}

void must(bool done) {
    if (!done) std::abort();
}

// --- Time
// ---------------------------------------------------------------------------------------------

void put_store(benchmark::State& state) {
    auto store = memory_store();
    int i = 0;
    for (auto _ : state) {
        must(store->put({.key = scattered(i), .value = kValue}).has_value());
        if (++i % 10'000 != 0) continue;
        state.PauseTiming();
        if (const Revision at = store->revision_keeping(10'000); at > store->compact_revision())
            must(store->compact(at).has_value());
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(put_store)->Name("put/store");

void put_map(benchmark::State& state) {
    std::map<std::string, std::string> map;
    int i = 0;
    for (auto _ : state) map.insert_or_assign(scattered(i++), kValue);
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(put_map)->Name("put/std::map");

class CountingSink final : public WatchSink {
  public:
    bool on_events(WatchId, const Delivery& delivery) override {
        benchmark::DoNotOptimize(delivery.batch.get());
        return true;
    }
    void on_progress(WatchId, Revision) override {}
    void on_cancelled(WatchId, CancelReason, Revision) override {}
};

/// @param range(0) watchers of other ranges; range(1) watchers of the key that changes
void put_watched(benchmark::State& state) {
    auto store = memory_store();
    CountingSink sink;
    for (int i = 0; i < state.range(0); ++i) {
        const std::string prefix = fmt::format("other/{:06}/", i);
        must(store->watch({.range = {prefix, prefix_end(prefix)}}, sink).has_value());
    }
    const std::string end = prefix_end("cilium/");
    for (int i = 0; i < state.range(1); ++i)
        must(store->watch({.range = {"cilium/", end}}, sink).has_value());
    int i = 0;
    for (auto _ : state) {
        must(store->put({.key = scattered(i), .value = kValue}).has_value());
        if (++i % 10'000 != 0) continue;
        state.PauseTiming();
        if (const Revision at = store->revision_keeping(10'000); at > store->compact_revision())
            must(store->compact(at).has_value());
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(put_watched)
    ->Name("put/store, watchers (other, matching)")
    ->Args({1'000, 1})
    ->Args({10'000, 1})
    ->Args({0, 1})
    ->Args({0, 1'000});

/// @param range(0) puts that share a commit; range(1) whether the disk is waited for
void put_lmdb(benchmark::State& state) {
    std::string directory =
        (std::filesystem::temp_directory_path() / "store_bench.XXXXXX").string();
    must(::mkdtemp(directory.data()) != nullptr);
    {
        auto backend = open_lmdb({.directory = directory + "/db", .sync = state.range(1) != 0});
        must(backend.has_value());
        auto store = *Store::open(*std::move(backend), {}, TimePoint{});
        int i = 0;
        for (auto _ : state) {
            store->hold();
            for (int n = 0; n < state.range(0); ++n)
                must(store->put({.key = scattered(i++), .value = kValue}).has_value());
            must(store->flush().has_value());
        }
        state.SetItemsProcessed(state.iterations() * state.range(0));
    }
    std::filesystem::remove_all(directory);
}
BENCHMARK(put_lmdb)
    ->Name("put/store on LMDB (group, sync)")
    ->ArgsProduct({{1, 64, 1024}, {0, 1}})
    ->UseRealTime();

void range_store(benchmark::State& state) {
    const auto store = listed_mirror();
    for (auto _ : state) {
        const auto answer = store->range({.range = {kZero, kZero}});
        benchmark::DoNotOptimize(answer->kvs.data());
    }
    state.SetItemsProcessed(state.iterations() * kKeys);
}
BENCHMARK(range_store)->Name("range all/store")->Unit(benchmark::kMillisecond);

void range_map(benchmark::State& state) {
    std::map<std::string, std::string> map;
    for (const std::string& key : keys()) map.emplace(key, kValue);
    for (auto _ : state) {
        const std::vector<std::pair<std::string, std::string>> copy(map.begin(), map.end());
        benchmark::DoNotOptimize(copy.data());
    }
    state.SetItemsProcessed(state.iterations() * kKeys);
}
BENCHMARK(range_map)->Name("range all/std::map, copied")->Unit(benchmark::kMillisecond);

/// @param range(0) keys of the prefix that is read, one of many
void range_prefix(benchmark::State& state) {
    const auto store = memory_store();
    std::vector<std::string> prefixes;
    for (int i = 0; i < kKeys; ++i) {
        const std::string prefix =
            fmt::format("cilium/state/services/v1/c{:02}/ns-{:03}/", i / 10'000, i / 100);
        const std::string key = fmt::format("{}svc-{:06}", prefix, i);
        must(store->put({.key = key, .value = kValue}).has_value());
        if (state.range(0) == 1) prefixes.push_back(key);
        if (state.range(0) == 100 && i % 100 == 0) prefixes.push_back(prefix);
        if (state.range(0) == 10'000 && i % 10'000 == 0)
            prefixes.push_back(prefix.substr(0, prefix.find("ns-")));
    }
    std::size_t at = 0;
    for (auto _ : state) {
        at = (at + 7919) % prefixes.size();
        const std::string end = state.range(0) == 1 ? "" : prefix_end(prefixes[at]);
        const auto answer = store->range({.range = {prefixes[at], end}});
        must(static_cast<std::int64_t>(answer->kvs.size()) == state.range(0));
        benchmark::DoNotOptimize(answer->kvs.data());
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(range_prefix)->Name("range of 100,000/store")->Arg(1)->Arg(100)->Arg(10'000);

void range_pages(benchmark::State& state) {
    const auto store = listed_mirror();
    for (auto _ : state) {
        std::string from = kZero;
        for (bool more = true; more;) {
            const auto answer = store->range({.range = {from, kZero}, .limit = state.range(0)});
            more = answer->more;
            from = std::string(answer->kvs.back().key()) + '\0';
        }
    }
    state.SetItemsProcessed(state.iterations() * kKeys);
}
BENCHMARK(range_pages)
    ->Name("range all by pages/store")
    ->Arg(256)
    ->Arg(10'000)
    ->Unit(benchmark::kMillisecond);

void relist(benchmark::State& state) {
    const auto source = listed_mirror();
    const auto all = source->range({.range = {kZero, kZero}});
    const auto mirror = listed_mirror();
    Revision revision = mirror->revision();
    for (auto _ : state) must(mirror->reset_from_snapshot(++revision, all->kvs, true).has_value());
    state.SetItemsProcessed(state.iterations() * kKeys);
}
BENCHMARK(relist)->Name("re-list without a change/store")->Unit(benchmark::kMillisecond);

// --- Memory
// -------------------------------------------------------------------------------------------

std::int64_t resident_bytes() {
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    std::int64_t total = 0, resident = 0;
    if (file == nullptr || std::fscanf(file, "%ld %ld", &total, &resident) != 2) std::abort();
    std::fclose(file);
    return resident * ::sysconf(_SC_PAGESIZE);
}

/// How much the resident set of a process grows by what make() returns.
std::int64_t growth_of(const std::function<std::shared_ptr<void>()>& make) {
    int ends[2];
    must(::pipe(ends) == 0);
    const pid_t child = ::fork();
    must(child >= 0);
    if (child == 0) {
        ::malloc_trim(0);  // what other benchmarks left behind
        const std::int64_t before = resident_bytes();
        const auto made = make();
        ::malloc_trim(0);
        const std::int64_t grown = resident_bytes() - before;
        must(::write(ends[1], &grown, sizeof grown) == sizeof grown);
        ::_exit(0);
    }
    std::int64_t grown = 0;
    must(::read(ends[0], &grown, sizeof grown) == sizeof grown);
    ::waitpid(child, nullptr, 0);
    ::close(ends[0]);
    ::close(ends[1]);
    return grown;
}

void memory(benchmark::State& state, const std::function<std::shared_ptr<void>()>& make) {
    std::int64_t raw = 0;
    for (const std::string& key : keys())
        raw += static_cast<std::int64_t>(key.size() + kValue.size());
    std::int64_t grown = 0;
    for (auto _ : state) grown = growth_of(make);
    state.counters["rss_bytes"] = static_cast<double>(grown);
    state.counters["raw_bytes"] = static_cast<double>(raw);
    state.counters["rss/raw"] = static_cast<double>(grown) / static_cast<double>(raw);
}
BENCHMARK_CAPTURE(memory, mirror, [] { return std::shared_ptr<void>(listed_mirror()); })
    ->Name("memory/mirror")
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(memory, map,
                  []() -> std::shared_ptr<void> {
                      auto map = std::make_shared<std::map<std::string, std::string>>();
                      for (const std::string& key : keys()) map->emplace(key, kValue);
                      return map;
                  })
    ->Name("memory/std::map")
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
