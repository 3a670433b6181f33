// The service tables: apply of 10,000 services of 10 backends, a change of one backend among them,
// adoption; in memory (the planner alone) and in the kernel. For comparison the bare system calls:
// a hash map's update one by one and in batches, an array by system calls and by its mapping. Needs
// root for the kernel part, which is skipped with a message otherwise. Leaves nothing behind.
//
//   datapath_bench [Google Benchmark's flags]
// The ipcache: 1,000,000 addresses, beside the bare batch system call on such a map.
#include <benchmark/benchmark.h>
#include <bpf/bpf.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bpf/layout.h"
#include "datapath/bpf/bpf_datapath.hpp"
#include "datapath/bpf/bpf_pods.hpp"
#include "datapath/memory_datapath.hpp"

namespace {

using namespace mesh::datapath;  // NOLINT: a benchmark of this namespace
using mesh::model::IpAddress;

constexpr std::uint32_t kServices = 10'000;
constexpr std::uint32_t kBackends = 10;
constexpr TableSizes kSizes{16384, 262144, 524288};

std::string scratch;  // bpffs and cgroup of this process; empty: no kernel part
std::string cgroup;

ServiceRow row(std::uint32_t n, std::uint32_t shift = 0) {
    ServiceRow r{{IpAddress::v4(0x0a0b0000U + n), 80, Protocol::kTcp}, "default/service", 0, {}};
    r.name += std::to_string(n);
    for (std::uint32_t b = 0; b < kBackends; ++b) {
        Backend backend;
        backend.address = IpAddress::v4(0x0a640000U + n * 16 + b + (b == 0 ? shift : 0));
        backend.port = 8080;
        backend.cluster_id = 1 + b % 2;
        r.backends.push_back(backend);
    }
    return r;
}

std::vector<ServiceChange> all_rows() {
    std::vector<ServiceChange> changes;
    for (std::uint32_t n = 0; n < kServices; ++n) changes.push_back(ServiceChange::upsert(row(n)));
    return changes;
}

BpfOptions options() {
    BpfOptions o;
    o.bpffs = scratch + "/bpf";
    o.pin_directory = "bench";
    o.cgroup = cgroup;
    o.sizes = kSizes;
    return o;
}

/// A fresh datapath: in memory, or in the kernel.
struct Fresh {
    explicit Fresh(bool kernel) : in_kernel(kernel) {
        if (!kernel) {
            datapath = std::make_unique<MemoryDatapath>(kSizes);
            return;
        }
        auto opened = BpfDatapath::open(options());
        if (opened) {
            datapath = *std::move(opened);
        } else {
            std::fprintf(stderr, "%s\n", opened.error().message().c_str());
            std::exit(1);
        }
    }
    ~Fresh() {
        datapath.reset();
        if (in_kernel) (void)BpfDatapath::teardown(options());
    }
    bool in_kernel;
    std::unique_ptr<Datapath> datapath;
};

void must_apply(Datapath& datapath, std::span<const ServiceChange> changes) {
    const auto stats = datapath.apply(changes);
    if (!stats || !stats->rejected.empty()) std::abort();
}

bool absent(benchmark::State& state, bool kernel) {
    if (!kernel || !scratch.empty()) return false;
    state.SkipWithError("skipped: needs root and a cgroup v2 hierarchy");
    return true;
}

void apply_all(benchmark::State& state, bool kernel) {
    if (absent(state, kernel)) return;
    const auto changes = all_rows();
    for (auto _ : state) {
        state.PauseTiming();
        auto fresh = std::make_unique<Fresh>(kernel);
        state.ResumeTiming();
        must_apply(*fresh->datapath, changes);
        state.PauseTiming();
        fresh.reset();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * kServices);
}

void apply_unchanged(benchmark::State& state, bool kernel) {
    if (absent(state, kernel)) return;
    const auto changes = all_rows();
    Fresh fresh(kernel);
    must_apply(*fresh.datapath, changes);
    for (auto _ : state) must_apply(*fresh.datapath, changes);
    state.SetItemsProcessed(state.iterations() * kServices);
}

void one_backend(benchmark::State& state, bool kernel) {
    if (absent(state, kernel)) return;
    Fresh fresh(kernel);
    must_apply(*fresh.datapath, all_rows());
    const std::vector<ServiceChange> there{ServiceChange::upsert(row(77, 5'000'000))};
    const std::vector<ServiceChange> back{ServiceChange::upsert(row(77))};
    for (bool forth = true; auto _ : state) {
        must_apply(*fresh.datapath, forth ? there : back);
        forth = !forth;
    }
}

void one_service(benchmark::State& state, bool kernel) {
    if (absent(state, kernel)) return;
    Fresh fresh(kernel);
    must_apply(*fresh.datapath, all_rows());
    const std::vector<ServiceChange> add{ServiceChange::upsert(row(kServices + 1))};
    const std::vector<ServiceChange> remove{ServiceChange::remove(add[0].row.frontend)};
    for (auto _ : state) {
        must_apply(*fresh.datapath, add);
        must_apply(*fresh.datapath, remove);
    }
}

/// Open, with all rows in the pinned maps, until they are known again.
void adopt(benchmark::State& state) {
    if (absent(state, true)) return;
    Fresh fresh(true);
    must_apply(*fresh.datapath, all_rows());
    for (auto _ : state) {
        state.PauseTiming();
        fresh.datapath.reset();
        state.ResumeTiming();
        auto opened = BpfDatapath::open(options());
        if (!opened || (*opened)->adopted().services != kServices) std::abort();
        fresh.datapath = *std::move(opened);
    }
}

struct Map {
    Map(bpf_map_type type, std::uint32_t key, std::uint32_t value, std::uint32_t flags) {
        bpf_map_create_opts create{};
        create.sz = sizeof create;
        create.map_flags = flags;
        fd = bpf_map_create(type, "mesh_bench", key, value, kServices * kBackends, &create);
    }
    ~Map() { ::close(fd); }
    int fd;
};

/// frontends of 10,000 services, as bare system calls. @param batch entries a call; 0 = single
/// calls
void bare_hash(benchmark::State& state) {
    const auto batch = static_cast<std::uint32_t>(state.range(0));
    const Map map(BPF_MAP_TYPE_HASH, sizeof(mesh_frontend_key), 4, 0);
    if (map.fd < 0) return state.SkipWithError("skipped: needs root");
    std::vector<mesh_frontend_key> keys(kServices);
    std::vector<std::uint32_t> values(kServices);
    for (std::uint32_t n = 0; n < kServices; ++n) {
        keys[n].address[3] = n * 2654435761U;
        keys[n].port = 80;
        values[n] = n;
    }
    bpf_map_batch_opts flags{};
    flags.sz = sizeof flags;
    for (auto _ : state) {
        for (std::uint32_t n = 0; n < kServices;) {
            if (batch == 0) {
                if (bpf_map_update_elem(map.fd, &keys[n], &values[n], BPF_ANY) != 0) std::abort();
                ++n;
                continue;
            }
            std::uint32_t count = std::min(batch, kServices - n);
            if (bpf_map_update_batch(map.fd, &keys[n], &values[n], &count, &flags) != 0)
                std::abort();
            n += count;
        }
    }
    state.SetItemsProcessed(state.iterations() * kServices);
}

/// Slots of 10,000 services of 10 backends: 0 = single calls, 1 = batches of 64, 2 = mapped stores.
void bare_array(benchmark::State& state) {
    const auto way = state.range(0);
    constexpr std::uint32_t kCount = kServices * kBackends;
    constexpr std::uint32_t kBatch = 64;
    const Map map(BPF_MAP_TYPE_ARRAY, 4, sizeof(mesh_slot), BPF_F_MMAPABLE);
    if (map.fd < 0) return state.SkipWithError("skipped: needs root");
    constexpr std::size_t kBytes = (kCount * sizeof(mesh_slot) + 4095) / 4096 * 4096;
    void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, map.fd, 0);
    if (memory == MAP_FAILED) std::abort();
    auto* mapped = static_cast<volatile mesh_slot*>(memory);
    std::vector<std::uint32_t> keys(kCount);
    std::vector<mesh_slot> slots(kCount);
    for (std::uint32_t n = 0; n < kCount; ++n) {
        keys[n] = n;
        slots[n] = {n, n, ~0U, 0};
    }
    bpf_map_batch_opts flags{};
    flags.sz = sizeof flags;
    for (auto _ : state) {
        for (std::uint32_t n = 0; n < kCount;) {
            if (way == 0) {
                if (bpf_map_update_elem(map.fd, &n, &slots[n], BPF_ANY) != 0) std::abort();
                ++n;
            } else if (way == 1) {
                std::uint32_t count = std::min(kBatch, kCount - n);
                if (bpf_map_update_batch(map.fd, &keys[n], &slots[n], &count, &flags) != 0) {
                    std::abort();
                }
                n += count;
            } else {
                mapped[n].backend = slots[n].backend;
                mapped[n].alias = slots[n].alias;
                mapped[n].threshold = slots[n].threshold;
                ++n;
            }
        }
    }
    ::munmap(memory, kBytes);
    state.SetItemsProcessed(state.iterations() * kCount);
}

constexpr std::uint32_t kIps = 1'000'000;

IpcacheEntry ip_entry(std::uint32_t n) {
    IpcacheEntry entry;
    entry.prefix = mesh::model::IpPrefix(IpAddress::v4(0x0a000000U + n), 32);
    entry.identity = 65536 + n % 1000;
    entry.cluster_id = 1;
    entry.tunnel = IpAddress::v4(0xac120000U + n / 250);
    return entry;
}

/// 1,000,000 addresses into the kernel's ipcache through BpfPods, as the engine hands them over.
void ipcache_ours(benchmark::State& state) {
    if (scratch.empty()) return state.SkipWithError("skipped: needs root");
    constexpr std::uint32_t kAtOnce = 4096;
    for (auto _ : state) {
        state.PauseTiming();
        BpfPodsOptions to;
        to.bpffs = scratch + "/bpf";
        to.pin_directory = "bench_pods";
        auto pods = BpfPods::open(to);
        if (!pods) return state.SkipWithError(pods.error().message().c_str());
        std::vector<PodsChanges> batches;
        for (std::uint32_t n = 0; n < kIps; ++n) {
            if (n % kAtOnce == 0) batches.emplace_back();
            batches.back().upserts.push_back(ip_entry(n));
        }
        state.ResumeTiming();
        for (const PodsChanges& batch : batches) {
            if (!(*pods)->apply(batch)) std::abort();
        }
        state.PauseTiming();
        pods->reset();
        if (!BpfPods::teardown(to)) std::abort();
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * kIps);
}

/// The same entries by the bare batch system call, keys and values made beforehand.
void ipcache_bare(benchmark::State& state) {
    if (scratch.empty()) return state.SkipWithError("skipped: needs root");
    constexpr std::uint32_t kBatch = 512;
    std::vector<mesh_ipcache_key> keys(kIps);
    std::vector<mesh_ipcache_entry> values(kIps);
    const auto address = [](const IpAddress& from) {
        mesh_address to{};
        std::memcpy(to.word, from.bytes().data(), sizeof to.word);
        return to;
    };
    for (std::uint32_t n = 0; n < kIps; ++n) {
        const IpcacheEntry entry = ip_entry(n);
        keys[n] = {128, address(entry.prefix.address())};
        values[n].identity = entry.identity;
        values[n].cluster_id = entry.cluster_id;
        values[n].tunnel = address(*entry.tunnel);
    }
    bpf_map_batch_opts flags{};
    flags.sz = sizeof flags;
    bpf_map_create_opts options{};
    options.sz = sizeof options;
    options.map_flags = BPF_F_NO_PREALLOC;
    for (auto _ : state) {
        state.PauseTiming();
        const int map = bpf_map_create(BPF_MAP_TYPE_LPM_TRIE, "bench_lpm", sizeof keys[0],
                                       sizeof values[0], kIps, &options);
        if (map < 0) std::abort();
        state.ResumeTiming();
        for (std::uint32_t n = 0; n < kIps;) {
            std::uint32_t count = std::min(kBatch, kIps - n);
            if (bpf_map_update_batch(map, &keys[n], &values[n], &count, &flags) != 0) std::abort();
            n += count;
        }
        state.PauseTiming();
        ::close(map);
        state.ResumeTiming();
    }
    state.SetItemsProcessed(state.iterations() * kIps);
}

BENCHMARK(ipcache_ours)->Name("ipcache/ours")->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(ipcache_bare)->Name("ipcache/bare")->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(apply_all, memory, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(apply_all, kernel, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(apply_unchanged, memory, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(apply_unchanged, kernel, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(one_backend, memory, false)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(one_backend, kernel, true)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(one_service, memory, false)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(one_service, kernel, true)->Unit(benchmark::kMicrosecond);
BENCHMARK(adopt)->Unit(benchmark::kMillisecond);
BENCHMARK(bare_hash)->ArgName("batch")->Arg(0)->Arg(64)->Arg(10'000)->Unit(benchmark::kMillisecond);
BENCHMARK(bare_array)->ArgName("way")->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond);

std::string cgroup2_mount() {
    std::ifstream mounts("/proc/self/mounts");
    for (std::string line; std::getline(mounts, line);) {
        std::istringstream words(line);
        std::string device, path, type;
        words >> device >> path >> type;
        if (type == "cgroup2") return path;
    }
    return {};
}

/// A mount namespace, so that the BPF filesystem and the pins in it go with this process.
void make_scratch() {
    const std::string mount = cgroup2_mount();
    if (::geteuid() != 0 || mount.empty() || ::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
        std::fprintf(stderr, "the kernel part is skipped: it needs root and cgroup v2\n");
        return;
    }
    std::string path = (std::filesystem::temp_directory_path() / "mesh-bench.XXXXXX").string();
    cgroup = mount + "/mesh-bench-" + std::to_string(::getpid());
    if (::mkdtemp(path.data()) != nullptr && ::mkdir(cgroup.c_str(), 0755) == 0) scratch = path;
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    make_scratch();
    benchmark::RunSpecifiedBenchmarks();
    if (!scratch.empty()) {
        (void)::umount2((scratch + "/bpf").c_str(), MNT_DETACH);
        std::filesystem::remove_all(scratch);
        (void)::rmdir(cgroup.c_str());
    }
    return 0;
}
