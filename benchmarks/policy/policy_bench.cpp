// Network policy at the size of a large node in a large mesh: 1,000 policies, 11,610 identities of
// four clusters, 250 endpoints, about 1.1 million entries. Time by Google Benchmark; memory as what
// the process's resident set grows by.
//
//   policy_bench [Google Benchmark's flags]
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "compile/policy/policy_compiler.hpp"
#include "sources/config/policy_documents.hpp"

namespace {

using namespace mesh::compile;
using mesh::model::Label;
using mesh::model::policy::PolicyPtr;
using mesh::sources::config::parse_policies;

constexpr std::uint32_t kClusters = 4;
constexpr std::uint32_t kNamespaces = 100;
constexpr std::uint32_t kApps = 29;  ///< of a namespace
constexpr std::uint32_t kReserved = 10;
constexpr std::uint32_t kIdentities = kReserved + kClusters * kNamespaces * kApps;
constexpr std::uint32_t kPolicies = 1'000;
constexpr std::uint32_t kEndpoints = 250;
static_assert(kIdentities == 11'610);

/// Identity of app `a` of namespace `n`; all clusters have the same apps.
PolicyIdentity pod(std::uint32_t cluster, std::uint32_t n, std::uint32_t a) {
    return {((cluster + 1) << 16) + 1'000 + n * kApps + a,
            {{"k8s", "app", fmt::format("app-{}", a)},
             {"k8s", "group", fmt::format("group-{}", a % 3)},
             {"k8s", "tier", fmt::format("tier-{}", (n + a) % 8)},
             {"k8s", "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
              fmt::format("namespace-{}", n)},
             {"k8s", "io.cilium.k8s.policy.cluster", fmt::format("cluster-{}", cluster + 1)},
             {"k8s", "io.cilium.k8s.policy.serviceaccount", "default"},
             {"k8s", "io.kubernetes.pod.namespace", fmt::format("namespace-{}", n)}},
            {}};
}

std::vector<PolicyIdentity> make_identities() {
    std::vector<PolicyIdentity> all;
    static constexpr const char* kNames[] = {
        "host",        "world",          "unmanaged", "health",     "init",
        "remote-node", "kube-apiserver", "ingress",   "world-ipv4", "world-ipv6"};
    for (std::uint32_t i = 0; i < kReserved; ++i) {
        all.push_back({i + 1, {{"reserved", kNames[i], ""}}, {}});
    }
    for (std::uint32_t cluster = 0; cluster < kClusters; ++cluster) {
        for (std::uint32_t n = 0; n < kNamespaces; ++n) {
            for (std::uint32_t a = 0; a < kApps; ++a) all.push_back(pod(cluster, n, a));
        }
    }
    return all;
}

/// Ten policies a namespace; each selects a third of its pods and lets an eighth of all pods of all
/// clusters in on one port, with HTTP rules on some and a deny rule on others.
std::string policy_text(std::uint32_t i, bool changed = false) {
    const std::uint32_t n = i % kNamespaces;
    const std::uint32_t j = i / kNamespaces;
    std::string text = fmt::format(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: policy-{}\n"
        "  namespace: namespace-{}\nspec:\n  endpointSelector:\n    matchLabels:\n"
        "      group: group-{}\n  ingress:\n  - fromEndpoints:\n    - matchLabels:\n"
        "        tier: tier-{}\n      matchExpressions:\n"
        "      - key: k8s:io.kubernetes.pod.namespace\n        operator: Exists\n"
        "    toPorts:\n    - ports:\n      - port: '{}'\n        protocol: TCP\n",
        i, n, j % 3, (i * 7) % 8, changed ? 9'000 : 8'000 + j);
    if (j == 0)
        text += "      rules:\n        http:\n        - method: GET\n          path: /v1/.*\n";
    if (j == 9) {
        text += fmt::format(
            "  ingressDeny:\n  - fromEndpoints:\n    - matchLabels:\n        app: app-{}\n",
            n % kApps);
    }
    return text;
}

std::string all_policies_text() {
    std::string text;
    for (std::uint32_t i = 0; i < kPolicies; ++i) text += policy_text(i) + "---\n";
    return text;
}

std::vector<PolicyPtr> parse(const std::string& text) {
    auto parsed = parse_policies(text, "policies");
    if (!parsed.errors.empty()) {
        std::fprintf(stderr, "%s\n", parsed.errors.front().c_str());
        std::abort();
    }
    return parsed.policies;
}

PolicyOptions options() {
    PolicyOptions all;
    all.cluster = "cluster-1";
    all.default_local_cluster = false;
    return all;
}

struct Input {
    std::vector<PolicyIdentity> identities = make_identities();
    std::vector<PolicyPtr> policies = parse(all_policies_text());
};
const Input& input() {
    static const Input kInput;
    return kInput;
}

void add_identities(PolicyCompiler& compiler) {
    for (const PolicyIdentity& one : input().identities) compiler.upsert_identity(one);
}
void add_policies(PolicyCompiler& compiler) {
    for (const PolicyPtr& policy : input().policies) compiler.upsert_policy(policy);
}
/// Of the first cluster, no two with the same labels.
void add_endpoints(PolicyCompiler& compiler) {
    for (std::uint32_t e = 0; e < kEndpoints; ++e) {
        const std::uint32_t n = e % kNamespaces;
        compiler.upsert_endpoint(e + 1, {pod(0, n, (e / kNamespaces * 7 + n) % kApps).labels, {}});
    }
}

std::size_t entries(const std::vector<PolicyChange>& changes) {
    std::size_t count = 0;
    for (const PolicyChange& change : changes) {
        count += (change.replaced ? change.policy->entry_count() : change.entries.size()) *
                 change.endpoints.size();
    }
    return count;
}

PolicyCompiler& running() {
    static PolicyCompiler* const kRunning = [] {
        auto* made = new PolicyCompiler(options());
        add_identities(*made);
        add_policies(*made);
        add_endpoints(*made);
        static_cast<void>(made->flush());
        return made;
    }();
    return *kRunning;
}

// ---- time ----

void CompileAll(benchmark::State& state) {
    static_cast<void>(input());
    const bool identities_too = state.range(0) != 0;
    std::size_t count = 0;
    for (auto _ : state) {
        state.PauseTiming();
        auto compiler = std::make_unique<PolicyCompiler>(options());
        if (!identities_too) add_identities(*compiler);
        state.ResumeTiming();
        if (identities_too) add_identities(*compiler);
        add_policies(*compiler);
        add_endpoints(*compiler);
        count = entries(compiler->flush());
        state.PauseTiming();
        compiler.reset();
        state.ResumeTiming();
    }
    state.counters["entries"] = static_cast<double>(count);
    state.SetLabel(identities_too ? "identities, policies and endpoints from nothing"
                                  : "policies and endpoints; identities are there");
}
BENCHMARK(CompileAll)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

/// Every entry of every endpoint given to its writer.
void ReadAllEntries(benchmark::State& state) {
    const PolicyCompiler& all = running();
    std::size_t count = 0;
    for (auto _ : state) {
        count = 0;
        std::uint64_t sum = 0;
        for (std::uint32_t e = 1; e <= kEndpoints; ++e) {
            all.find(e)->each_entry(all.selectors(),
                                    [&](const PolicyMapKey& key, const PolicyMapValue& value) {
                                        sum += key.identity ^ key.port ^ value.precedence;
                                        ++count;
                                    });
        }
        benchmark::DoNotOptimize(sum);
    }
    state.counters["entries"] = static_cast<double>(count);
}
BENCHMARK(ReadAllEntries)->Unit(benchmark::kMillisecond);

void OneIdentity(benchmark::State& state) {
    PolicyCompiler& all = running();
    PolicyIdentity one = pod(3, 42, 7);
    one.id = (4U << 16) + 60'000;
    one.labels.push_back({"k8s", "track", "canary"});
    std::size_t count = 0;
    bool add = true;
    for (auto _ : state) {
        if (add) {
            all.upsert_identity(one);
        } else {
            all.remove_identity(one.id);
        }
        count += entries(all.flush());
        add = !add;
    }
    all.remove_identity(one.id);
    static_cast<void>(all.flush());
    state.counters["entries"] =
        benchmark::Counter(static_cast<double>(count), benchmark::Counter::kAvgIterations);
    state.SetLabel("comes or goes, all endpoints told");
}
BENCHMARK(OneIdentity)->Unit(benchmark::kMicrosecond);

void OnePolicy(benchmark::State& state) {
    PolicyCompiler& all = running();
    const PolicyPtr before = parse(policy_text(342))[0];
    const PolicyPtr after = parse(policy_text(342, true))[0];
    std::size_t count = 0;
    bool changed = true;
    for (auto _ : state) {
        all.upsert_policy(changed ? after : before);
        count += all.flush().size();
        changed = !changed;
    }
    all.upsert_policy(before);
    static_cast<void>(all.flush());
    state.counters["policies_built"] =
        benchmark::Counter(static_cast<double>(count), benchmark::Counter::kAvgIterations);
    state.SetLabel("another port");
}
BENCHMARK(OnePolicy)->Unit(benchmark::kMicrosecond);

/// The same as JSON, as an API server gives it.
std::string policy_json(std::uint32_t i) {
    const std::uint32_t n = i % kNamespaces;
    const std::uint32_t j = i / kNamespaces;
    std::string text = fmt::format(
        R"({{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{{"name":)"
        R"("policy-{}","namespace":"namespace-{}"}},"spec":{{"endpointSelector":{{"matchLabels":)"
        R"({{"group":"group-{}"}}}},"ingress":[{{"fromEndpoints":[{{"matchLabels":{{"tier":)"
        R"("tier-{}"}},"matchExpressions":[{{"key":"k8s:io.kubernetes.pod.namespace","operator":)"
        R"("Exists"}}]}}],"toPorts":[{{"ports":[{{"port":"{}","protocol":"TCP"}}])",
        i, n, j % 3, (i * 7) % 8, 8'000 + j);
    if (j == 0) text += R"(,"rules":{"http":[{"method":"GET","path":"/v1/.*"}]})";
    text += "}]}]";
    if (j == 9) {
        text += fmt::format(
            R"(,"ingressDeny":[{{"fromEndpoints":[{{"matchLabels":{{"app":"app-{}"}}}}]}}])",
            n % kApps);
    }
    return text + "}}\n";
}

void Parse(benchmark::State& state) {
    const bool json = state.range(0) != 0;
    std::string text = json ? std::string() : all_policies_text();
    for (std::uint32_t i = 0; json && i < kPolicies; ++i) text += policy_json(i);
    for (auto _ : state) benchmark::DoNotOptimize(parse(text));
    state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
    state.SetLabel(json ? "1,000 policies of JSON" : "1,000 policies of YAML");
}
BENCHMARK(Parse)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

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

/// In a process of its own, so that no other heap is seen.
std::size_t grown_by_everything() {
    int ends[2];
    if (pipe(ends) != 0) return 0;
    const pid_t child = fork();
    if (child == 0) {
        const std::size_t before = resident_bytes();
        static_cast<void>(running());  // input included
        const std::size_t grown = resident_bytes() - before;
        _exit(write(ends[1], &grown, sizeof grown) == sizeof grown ? 0 : 1);
    }
    close(ends[1]);
    std::size_t grown = 0;
    if (read(ends[0], &grown, sizeof grown) != sizeof grown) grown = 0;
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return grown;
}

const std::size_t kGrown = grown_by_everything();  // before anything else is made

void Memory(benchmark::State& state) {
    for (auto _ : state) {
    }
    state.counters["MiB"] = static_cast<double>(kGrown) / (1 << 20);
    state.counters["told_MiB"] = static_cast<double>(running().bytes()) / (1 << 20);
    state.SetLabel("policies as parsed, identities, selectors, policies of all endpoints");
}
BENCHMARK(Memory)->Iterations(1);

}  // namespace

BENCHMARK_MAIN();
