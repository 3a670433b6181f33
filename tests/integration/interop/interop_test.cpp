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
    return edits;
}

Edits edits_119() {
    Edits edits;
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
