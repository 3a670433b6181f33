// The wire codecs at work: parse and encode of each kind, in bytes of value per second and in heap
// allocations per object, with Boost.JSON's parse of the same bytes as the peer; and the memory
// that 100,000 decoded ips and 10,000 services of 10 backends take, each in a child process of its
// own.
//
//   codec_bench [Google Benchmark's flags]
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "model/codec.hpp"

extern std::uint64_t allocations;  // allocations.cpp

namespace {

using namespace mesh::model;

constexpr std::uint32_t kObjects = 1'000;  // different ones, so that no branch is learned by heart

struct Value {
    std::string key, text;
};

Value ip_value(std::uint32_t i) {
    const IpAddress address = IpAddress::v4((10U << 24) + (8U << 16) + i);
    return {
        "cilium/state/ip/v1/default/" + address.to_string(),
        fmt::format(R"({{"IP":"{}","Mask":null,"HostIP":"172.17.{}.{}","ID":{},"Key":0,)"
                    R"("Metadata":"","K8sNamespace":"ns{}","K8sPodName":"deployment-{}-x7k2p"}})",
                    address.to_string(), i / 256 % 256, i % 256, 65792 + i % 5000, i % 50, i)};
}

Value service_value(std::uint32_t i) {
    std::string backends;
    for (std::uint32_t b = 0; b < 10; ++b) {
        const IpAddress address = IpAddress::v4((10U << 24) + (8U << 16) + i * 10 + b);
        backends += fmt::format(R"({}"{}":{{"http":{{"Protocol":"TCP","Port":8080}}}})",
                                b == 0 ? "" : ",", address.to_string());
    }
    return {
        fmt::format("cilium/state/services/v1/c1/ns{}/svc-{}", i % 50, i),
        fmt::format(R"({{"cluster":"c1","namespace":"ns{0}","name":"svc-{1}","frontends":)"
                    R"({{"10.96.{2}.{3}":{{"http":{{"Protocol":"TCP","Port":80}}}}}},)"
                    R"("backends":{{{4}}},"labels":{{"app":"app{1}"}},"selector":)"
                    R"({{"app":"app{1}"}},"includeExternal":true,"shared":true,"clusterID":1}})",
                    i % 50, i, i / 256, i % 256, backends)};
}

Value node_value(std::uint32_t i) {
    return {fmt::format("cilium/state/nodes/v1/c1/node-{}", i),
            fmt::format(
                R"({{"Name":"node-{0}","Cluster":"c1","IPAddresses":[{{"Type":"InternalIP","IP":)"
                R"("172.17.{1}.{2}"}},{{"Type":"CiliumInternalIP","IP":"10.{1}.{2}.1"}}],)"
                R"("IPv4AllocCIDR":{{"IP":"10.{1}.{2}.0","Mask":"////AA=="}},)"
                R"("IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":null,)"
                R"("IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"10.{1}.{2}.2","IPv6HealthIP":"",)"
                R"("IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"local",)"
                R"("EncryptionKey":0,"Labels":{{"kubernetes.io/hostname":"node-{0}",)"
                R"("kubernetes.io/os":"linux"}},"Annotations":null,"NodeIdentity":6,)"
                R"("WireguardPubKey":"","BootID":"6e0a3c9e-0000-4000-8000-000000000000"}})",
                i, i / 256, i % 256)};
}

Value identity_value(std::uint32_t i) {
    return {fmt::format("cilium/state/identities/v1/id/{}", 65792 + i),
            fmt::format("k8s:app=app{};k8s:io.cilium.k8s.policy.cluster=c1;"
                        "k8s:io.cilium.k8s.policy.serviceaccount=default;"
                        "k8s:io.kubernetes.pod.namespace=ns{};",
                        i, i % 50)};
}

Value config_value(std::uint32_t i) {
    return {"cilium/cluster-config/c1",
            fmt::format(R"({{"id":{},"capabilities":{{"syncedCanaries":true,)"
                        R"("maxConnectedClusters":255,"serviceExportsEnabled":true}}}})",
                        i % 255 + 1)};
}

Value export_value(std::uint32_t i) {
    return {fmt::format("cilium/state/serviceexports/v1/c1/ns{}/svc-{}", i % 50, i),
            fmt::format(R"({{"cluster":"c1","name":"svc-{}","namespace":"ns{}",)"
                        R"("exportCreationTimestamp":"2025-03-04T05:06:07Z","ports":[{{"name":)"
                        R"("http","protocol":"TCP","port":80}}],"type":"ClusterSetIP",)"
                        R"("sessionAffinity":"None","ipFamilies":["IPv4"]}})",
                        i, i % 50)};
}

using MakeValue = Value (*)(std::uint32_t);

struct Values {
    std::vector<Value> values;
    std::size_t bytes = 0;
};

Values make_values(MakeValue make) {
    Values out;
    for (std::uint32_t i = 0; i < kObjects; ++i) {
        out.values.push_back(make(i));
        out.bytes += out.values.back().text.size();
    }
    return out;
}

/// Runs `work` on each value; reports bytes per second and allocations per object.
template <class Work>
void measure(benchmark::State& state, const Values& in, Work&& work) {
    const std::uint64_t before = allocations;
    for (auto _ : state) {
        for (std::size_t i = 0; i < in.values.size(); ++i) work(i);
    }
    const auto rounds = static_cast<double>(state.iterations());
    state.SetBytesProcessed(static_cast<std::int64_t>(in.bytes) *
                            static_cast<std::int64_t>(state.iterations()));
    state.counters["allocations/object"] =
        static_cast<double>(allocations - before) / rounds / static_cast<double>(kObjects);
    state.counters["bytes/object"] = static_cast<double>(in.bytes) / static_cast<double>(kObjects);
}

template <class Parse>
void bench_parse(benchmark::State& state, MakeValue make, Parse parse) {
    const Values in = make_values(make);
    measure(state, in, [&](std::size_t i) {
        auto object = parse(in.values[i].key, in.values[i].text);
        if (!object) std::abort();
        benchmark::DoNotOptimize(object);
    });
}

template <class Parse>
void bench_encode(benchmark::State& state, MakeValue make, Parse parse) {
    const Values in = make_values(make);
    std::vector<std::decay_t<decltype(*parse("", ""))>> objects;
    for (const Value& value : in.values) objects.push_back(*parse(value.key, value.text));
    measure(state, in, [&](std::size_t i) {
        const std::string text = encode(objects[i]);
        if (text.size() != in.values[i].text.size()) std::abort();
        benchmark::DoNotOptimize(text.data());
    });
}

void bench_peer(benchmark::State& state, MakeValue make) {
    const Values in = make_values(make);
    measure(state, in, [&](std::size_t i) {
        auto tree = boost::json::parse(in.values[i].text);
        benchmark::DoNotOptimize(tree);
    });
}

template <class Parse>
void add(const std::string& kind, MakeValue make, Parse parse) {
    benchmark::RegisterBenchmark(("parse/" + kind).c_str(),
                                 [=](benchmark::State& state) { bench_parse(state, make, parse); });
    benchmark::RegisterBenchmark(("encode/" + kind).c_str(), [=](benchmark::State& state) {
        bench_encode(state, make, parse);
    });
    if (kind == "identity") return;  // no JSON
    benchmark::RegisterBenchmark(("parse_boost_json/" + kind).c_str(),
                                 [=](benchmark::State& state) { bench_peer(state, make); });
}

// ---- memory ----

std::size_t resident_bytes() {
    std::size_t pages = 0;
    std::size_t resident = 0;
    if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%zu %zu", &pages, &resident) != 2) resident = 0;
        std::fclose(file);
    }
    return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

/// The growth of the resident set while `count` decoded objects are held in a vector, in a child.
template <class Parse>
void report_memory(const char* what, MakeValue make, std::uint32_t count, Parse parse) {
    std::fflush(stdout);
    if (const pid_t child = fork(); child > 0) {
        int status = 0;
        waitpid(child, &status, 0);
        if (status != 0) std::exit(1);
        return;
    }
    std::vector<std::decay_t<decltype(*parse("", ""))>> held;
    held.reserve(count);
    malloc_trim(0);
    const std::size_t before = resident_bytes();
    for (std::uint32_t i = 0; i < count; ++i) {
        const Value value = make(i);
        held.push_back(*parse(value.key, value.text));
    }
    malloc_trim(0);
    const std::size_t grown = resident_bytes() - before;
    std::fprintf(stderr, "memory: %u %s: %.1f MiB, %.0f bytes each\n", count, what,
                 static_cast<double>(grown) / 1048576.0,
                 static_cast<double>(grown) / static_cast<double>(count));
    std::_Exit(0);
}

}  // namespace

int main(int argc, char** argv) {
    report_memory("ips", ip_value, 100'000, parse_ip);
    report_memory("services of 10 backends", service_value, 10'000, parse_service);
    report_memory("identities", identity_value, 10'000, parse_identity);
    report_memory("nodes", node_value, 5'000, parse_node);
    add("ip", ip_value, parse_ip);
    add("service", service_value, parse_service);
    add("node", node_value, parse_node);
    add("identity", identity_value, parse_identity);
    add("cluster_config", config_value, parse_cluster_config);
    add("service_export", export_value, parse_service_export);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
