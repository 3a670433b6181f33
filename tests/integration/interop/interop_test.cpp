// All recorded cases of Cilium's own client, replayed against a real etcd through our drivers: with
// the checks of 1.15 as recorded, and with ours (1.19's) as the field `later` says. Compared are
// the events that change something, the refused keys, and the status, phase by phase. What each put
// means to codecs and validators alone is tests/golden/model's matter.
//
// MESH_INTEROP_CASE=<name> replays one case.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "etcd_process.hpp"
#include "replay.hpp"

namespace mesh::interop {
namespace {

using Edits = std::map<std::string, Edit>;

/// Where we differ on purpose from 1.15 although its checks are on.
Edits edits_115() {
    Edits edits;
    edits["ip-no-ip-delete"] = {
        .why = "an ip entry without an address is nothing to count or delete",
        .other_counts = true};
    return edits;
}

bool none(std::size_t, const Event&) {
    return false;
}
std::function<bool(std::size_t, const Event&)> only_phase(std::size_t wanted) {
    return [wanted](std::size_t phase, const Event&) { return phase == wanted; };
}
std::function<bool(std::size_t, const Event&)> all_but(std::string word) {
    return [word = std::move(word)](std::size_t, const Event& event) {
        return event.kind != word && event.key != word;
    };
}
Event deleted(std::string kind, std::string key) {
    return {std::move(kind), std::move(key), true, {}};
}

/// Field `later` of the cases (and, where it is silent, the same rules of protocol.md §6).
Edits edits_119() {
    Edits edits = edits_115();
    for (const char* name :
         {"node-clusterid-other", "node-cluster-other-value", "node-name-mismatch",
          "node-name-missing", "svc-clusterid-local", "svc-cluster-value", "svc-cluster-empty",
          "svc-ns-mismatch", "svc-name-absent", "svc-not-json", "ip-id-other-cluster",
          "ip-id-scopes", "id-no-cluster-label", "id-two-cluster-labels", "id-huge", "cfg-id-other",
          "ip-key-mismatch", "ip-key-update-ip"}) {
        edits[name] = {.why = "all that 1.15 took of it is refused",
                       .keep = none,
                       .more_refused = true,
                       .other_counts = true};
    }
    for (const char* name : {"cfg-missing-legacy", "cfg-null"}) {
        edits[name] = {
            .why = "a cluster-config with an id is required", .keep = none, .config_refused = true};
    }
    edits["svc-zones"] = {.why = "zones are known", .zones = true};
    edits["cfg-max-511-both"] = {
        .why = "with 511, cluster 7 has other identities than those of the case",
        .keep = [](std::size_t, const Event& e) { return e.kind != "ip" && e.kind != "identity"; },
        .more_refused = true,
        .other_counts = true};
    edits["node-clusterid-300-max-511"] = {.why = "an id that is not the connection's",
                                           .keep = all_but("c1/n2"),
                                           .more_refused = true,
                                           .other_counts = true};
    edits["ip-unicode-fold"] = {.why = "the key is not the value's prefix",
                                .keep = all_but("10.7.30.2/24"),
                                .more_refused = true,
                                .other_counts = true};
    edits["dyn-rename-svc"] = {.why = "the second value is refused, the first one stays",
                               .keep = only_phase(0),
                               .also = {{2, deleted("service", "c1/default/s1")}},
                               .more_refused = true};
    edits["dyn-object-id-change"] = {
        .why = "id 9 is refused, the first values stay",
        .keep = [](std::size_t phase, const Event&) { return phase != 1; },
        .more_refused = true};
    edits["two-clusters-other-name-service"] = {
        .why = "c2's service is refused from c1",
        .keep =
            [](std::size_t phase, const Event& e) {
                return phase == 0 && e.object.at("clusterID").as_int64() == 9;
            },
        .also = {{2, deleted("service", "c2/default/s1")}},
        .more_refused = true,
        .other_counts = true};
    return edits;
}

void replay_all(model::Generation generation, const Edits& edits) {
    if (!test::have_etcd()) GTEST_SKIP() << "no etcd on this machine: NOTHING was replayed";
    auto cases = read_cases();
    ASSERT_EQ(cases.size(), 103U);
    if (const char* only = std::getenv("MESH_INTEROP_CASE")) {
        std::erase_if(cases, [&](const auto& c) { return text(c.at("name")) != only; });
    }
    // Most of the time is waiting: several at once, each with an etcd of its own.
    const std::size_t kWorkers = std::min<std::size_t>(4, cases.size());
    const test::TemporaryFolder folder;
    std::vector<std::unique_ptr<test::EtcdProcess>> etcds;
    for (std::size_t i = 0; i < kWorkers; ++i) {
        etcds.push_back(std::make_unique<test::EtcdProcess>(
            folder, test::EtcdOptions{.token = "interop-" + std::to_string(i)}));
    }
    std::atomic<std::size_t> next = 0;
    std::mutex mutex;  // guards failures
    std::vector<std::string> failures;
    std::vector<std::thread> workers;
    for (auto& etcd : etcds) {
        workers.emplace_back([&, &etcd = *etcd] {
            for (std::size_t i = next++; i < cases.size(); i = next++) {
                const std::string name = text(cases[i].at("name"));
                const auto edit = edits.find(name);
                const auto differences =
                    replay(cases[i], generation, edit == edits.end() ? Edit{} : edit->second,
                           etcd.endpoint());
                const std::lock_guard lock(mutex);
                for (const auto& line : differences) failures.push_back(name + ": " + line);
            }
        });
    }
    for (auto& worker : workers) worker.join();
    for (const auto& failure : failures) ADD_FAILURE() << failure;
}

TEST(Interop, AsCilium115) {
    replay_all(model::Generation::k115, edits_115());
}
TEST(Interop, AsCilium119) {
    replay_all(model::Generation::k119, edits_119());
}

}  // namespace
}  // namespace mesh::interop
