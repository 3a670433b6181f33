// Who may have which name and address, and what comes of an accepted workload.
#include "publish/workload_table.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "publish/object_compiler.hpp"
#include "sources/config/manifests.hpp"

namespace mesh::publish {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class WorkloadTableTest : public testing::Test {
  protected:
    static std::string value(const std::string& ips, const std::string& more = {}) {
        return fmt::format(R"({{"version":1,"namespace":"shop","ips":[{}]{}}})", ips, more);
    }
    WorkloadRecord record(const std::string& name, std::string text) {
        const auto created = created_.try_emplace(name, revision_ + 1).first->second;
        judged_[name] = ++revision_;
        return {name, std::move(text), created, revision_};
    }
    void put(const std::string& name, const std::string& text) {
        take(table.apply({record(name, text)}, {}));
    }
    void remove(const std::string& name) {
        created_.erase(name);
        take(table.apply({}, {name}));
    }
    void manifest(const std::string& file, const std::string& text) {
        const auto update = set.apply(file, text);
        EXPECT_THAT(update.errors, IsEmpty());
        take_with(update.changes, table.note(update.changes));
    }
    void remove_manifest(const std::string& file) {
        const auto update = set.remove(file);
        take_with(update.changes, table.note(update.changes));
    }
    void take(WorkloadChanges of_workloads) { take_with({}, std::move(of_workloads)); }
    /// As EtcdPublisher does.
    void take_with(std::vector<model::k8s::ObjectChange> manifests, WorkloadChanges of_workloads) {
        changes = std::move(of_workloads);
        for (const auto& [name, answer] : changes.answers) {
            if (answer) {
                answers[name] = *answer;
            } else {
                EXPECT_EQ(answers.erase(name), 1U) << name;
            }
        }
        manifests.insert(manifests.end(), changes.objects.begin(), changes.objects.end());
        compiled_warnings.clear();
        const auto compiled = compiler.apply(manifests);
        note(compiled);
        for (const auto& labels : compiled.identities_wanted) {
            note(compiler.number_identity(labels, model::IdentityId{7 * 65536 + ++number_}));
        }
    }
    void note(const Compiled& compiled) {
        for (const auto& change : compiled.changes) {
            if (change.value) {
                keys[change.key] = *change.value;
            } else {
                keys.erase(change.key);
            }
        }
        compiled_warnings.insert(compiled_warnings.end(), compiled.warnings.begin(),
                                 compiled.warnings.end());
    }
    [[nodiscard]] std::string state(const std::string& name) const {
        const auto found = answers.find(name);
        if (found == answers.end()) return "none";
        if (found->second.revision != judged_.at(name)) return "of another revision";
        return (found->second.accepted ? "accepted: " : "refused: ") + found->second.reason;
    }
    [[nodiscard]] std::string at(const std::string& key) const {
        const auto found = keys.find(key);
        return found == keys.end() ? "absent" : found->second;
    }
    [[nodiscard]] std::string ip(const std::string& address) const {
        return at("cilium/state/ip/v1/default/" + address);
    }

    sources::config::ManifestSet set;
    WorkloadTable table;
    ObjectCompiler compiler{ClusterInfo{"c1", model::ClusterId{7}, 255}};
    WorkloadChanges changes;
    std::map<std::string, model::WorkloadStatus> answers;
    std::map<std::string, std::string> keys;
    std::vector<std::string> compiled_warnings;
    std::map<std::string, std::int64_t> created_;
    std::map<std::string, std::int64_t> judged_;  ///< the newest revision of each
    std::int64_t revision_ = 100;
    std::uint32_t number_ = 0;
};

constexpr const char* kService = R"(
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.7.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints: [{addresses: [10.7.1.20]}]
)";
constexpr const char* kPod = R"(
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop}
spec: {nodeName: n1}
status: {podIP: 10.7.1.20, phase: Running}
)";
constexpr const char* kBackend =
    R"(,"labels":{"app":"web"},"backends":[{"service":"shop/web","portName":"http","port":8080,)"
    R"("protocol":"TCP"}],"zone":"z1")";

TEST_F(WorkloadTableTest, BecomesWhatAPodBecomes) {
    manifest("web", kService);
    put("vm1", value(R"("192.0.2.7","2001:db8::7")", kBackend));
    EXPECT_EQ(state("vm1"), "accepted: ");
    EXPECT_THAT(ip("192.0.2.7"), HasSubstr(R"("HostIP":"","ID":458753)"));
    EXPECT_THAT(ip("192.0.2.7"), HasSubstr(R"("K8sNamespace":"shop","K8sPodName":"vm1")"));
    EXPECT_THAT(ip("2001:db8::7"), HasSubstr(R"("ID":458753)"));
    const auto service = model::parse_service("k", at("cilium/state/services/v1/c1/shop/web"));
    ASSERT_TRUE(service);
    ASSERT_THAT(service->backends, SizeIs(3)) << "those of the manifests stay";
    EXPECT_EQ(service->backends[1].address.to_string(), "192.0.2.7");
    EXPECT_EQ(service->backends[1].ports.to_vector().at(0).port, 8080);
    EXPECT_EQ(service->zones.at(model::Text("192.0.2.7")).zone, "z1");
    EXPECT_EQ(at("cilium/state/nodes/v1/c1/vm1"), "absent");

    remove("vm1");
    EXPECT_EQ(state("vm1"), "none");
    EXPECT_EQ(ip("192.0.2.7"), "absent");
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/web"), testing::Not(HasSubstr("192.0.2.7")));
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/web"), HasSubstr("10.7.1.20"));
}

TEST_F(WorkloadTableTest, ANodeHasItsAddress) {
    put("vm1", value(R"("192.0.2.7")", R"(,"node":true,"zone":"z1")"));
    EXPECT_EQ(state("vm1"), "accepted: ");
    EXPECT_THAT(at("cilium/state/nodes/v1/c1/vm1"),
                HasSubstr(R"("IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.7"}])"));
    EXPECT_THAT(at("cilium/state/nodes/v1/c1/vm1"), HasSubstr("topology.kubernetes.io/zone"));
    EXPECT_THAT(ip("192.0.2.7"), HasSubstr(R"("HostIP":"192.0.2.7")"));
    put("vm1", value(R"("192.0.2.7")"));
    EXPECT_EQ(at("cilium/state/nodes/v1/c1/vm1"), "absent");
    EXPECT_THAT(ip("192.0.2.7"), HasSubstr(R"("HostIP":"")"));
}

TEST_F(WorkloadTableTest, AnUpdateLeavesWhatStays) {
    manifest("web", kService);
    put("vm1", value(R"("192.0.2.7")", kBackend));
    put("vm1", value(R"("192.0.2.7")",
                     R"(,"labels":{"app":"api"},"backends":[{"service":"shop/web","portName":)"
                     R"("http","port":9090,"protocol":"TCP"}])"));
    EXPECT_EQ(state("vm1"), "accepted: ");
    for (const auto& change : changes.objects) EXPECT_TRUE(change.object) << "nothing ends";
    EXPECT_THAT(changes.objects, SizeIs(2)) << "the pod and the slice";
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/web"), HasSubstr("9090"));
    put("vm1", value(R"("192.0.2.8")"));
    EXPECT_EQ(ip("192.0.2.7"), "absent");
    EXPECT_THAT(ip("192.0.2.8"), HasSubstr("vm1"));
}

TEST_F(WorkloadTableTest, ManifestsComeFirst) {
    manifest("pod", kPod);
    put("vm1", value(R"("10.7.1.20")"));
    EXPECT_THAT(state("vm1"), HasSubstr("refused: mesh/local/workloads/v1/vm1: ips: expected"));
    EXPECT_THAT(state("vm1"), HasSubstr("10.7.1.20 is that of Pod shop/web-0"));
    EXPECT_THAT(changes.warnings, SizeIs(1));
    EXPECT_THAT(ip("10.7.1.20"), HasSubstr("web-0"));
    remove_manifest("pod");
    EXPECT_EQ(state("vm1"), "accepted: ");
    EXPECT_THAT(ip("10.7.1.20"), HasSubstr("vm1"));
    EXPECT_THAT(compiled_warnings, IsEmpty());
    manifest("pod", kPod);
    EXPECT_THAT(state("vm1"), HasSubstr("refused"));
    EXPECT_THAT(ip("10.7.1.20"), HasSubstr("web-0"));
    EXPECT_THAT(compiled_warnings, IsEmpty()) << "nobody's twice";

    manifest("node", R"(
apiVersion: v1
kind: Node
metadata: {name: vm2}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
)");
    put("vm2", value(R"("192.0.2.12")", R"(,"node":true)"));
    EXPECT_THAT(state("vm2"), HasSubstr("the manifests have Node vm2"));
    EXPECT_THAT(at("cilium/state/nodes/v1/c1/vm2"), HasSubstr("192.0.2.11"));
    put("vm2", value(R"("192.0.2.11")"));
    EXPECT_THAT(state("vm2"), HasSubstr("is that of Node vm2"));
    put("web-0", value(R"("192.0.2.13")"));
    EXPECT_THAT(state("web-0"), HasSubstr("the manifests have Pod shop/web-0"));
    manifest("web", kService);
    put("vm3", value(R"("10.7.0.10")"));
    EXPECT_THAT(state("vm3"), HasSubstr("is that of Service shop/web"));
    EXPECT_THAT(table.accepted(), 0U);
    EXPECT_THAT(table.report(), SizeIs(4));
}

TEST_F(WorkloadTableTest, TheFirstHasAnAddress) {
    put("a", value(R"("192.0.2.1")"));
    put("b", value(R"("192.0.2.1","192.0.2.2")"));
    put("c", value(R"("192.0.2.2")"));
    EXPECT_EQ(state("a"), "accepted: ");
    EXPECT_THAT(state("b"), HasSubstr("192.0.2.1 is that of workload a"));
    EXPECT_EQ(state("c"), "accepted: ") << "b has nothing in part";
    put("a", value(R"("192.0.2.2")"));
    EXPECT_THAT(state("a"), HasSubstr("is that of workload c"));
    EXPECT_EQ(ip("192.0.2.1"), "absent");
    remove("c");
    EXPECT_EQ(state("a"), "accepted: ") << "its key is older than b's";
    EXPECT_THAT(state("b"), HasSubstr("192.0.2.2 is that of workload a"));
    remove("a");
    EXPECT_EQ(state("b"), "accepted: ");
    EXPECT_THAT(ip("192.0.2.1"), HasSubstr(R"("K8sPodName":"b")"));
}

TEST_F(WorkloadTableTest, WhatAnEarlierRunAcceptedComesFirst) {
    const WorkloadRecord older{"a", value(R"("192.0.2.1")"), 5, 9};
    const WorkloadRecord newer{"b", value(R"("192.0.2.1")"), 6, 6};
    table.remember("b", {6, true, {}});
    table.remember("a", {9, false, "taken"});
    take(table.apply({older, newer}, {}));
    EXPECT_THAT(answers.at("a").reason, HasSubstr("workload b"));
    EXPECT_TRUE(answers.at("b").accepted);

    WorkloadTable other;
    const auto fresh = other.apply({older, newer}, {});
    EXPECT_TRUE(fresh.answers.at("a")->accepted);
    EXPECT_FALSE(fresh.answers.at("b")->accepted);
}

TEST_F(WorkloadTableTest, ABadOneIsRefusedAlone) {
    put("vm1", value(R"("192.0.2.1")"));
    put("vm2", value(R"("127.0.0.1")"));
    EXPECT_THAT(state("vm2"), HasSubstr("mesh/local/workloads/v1/vm2: ips: expected"));
    EXPECT_THAT(changes.warnings, SizeIs(1));
    put("vm2", "{}");
    put("vm1", "nonsense");
    EXPECT_THAT(state("vm1"), HasSubstr("refused"));
    EXPECT_EQ(ip("192.0.2.1"), "absent");
    put("vm1", value(R"("192.0.2.1")"));
    EXPECT_EQ(state("vm1"), "accepted: ");
    take(table.apply({{"a/b", value(R"("192.0.2.3")"), 3, 3}}, {}));
    EXPECT_THAT(changes.answers, IsEmpty()) << "no such key can be answered to";
    EXPECT_EQ(table.report().front().name, "a/b");
    EXPECT_FALSE(table.report().front().accepted);
}

TEST_F(WorkloadTableTest, SaysWhichServiceIsMissing) {
    put("vm1", value(R"("192.0.2.7")", kBackend));
    EXPECT_EQ(state("vm1"),
              "accepted: waits for Service shop/web, which the cluster does not have");
    EXPECT_THAT(changes.warnings, SizeIs(1));
    manifest("web", kService);
    EXPECT_EQ(state("vm1"), "accepted: ");
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/web"), HasSubstr("192.0.2.7"));
    remove_manifest("web");
    EXPECT_THAT(state("vm1"), HasSubstr("waits for"));
}

/// Whatever order things come in, who is refused is so for a reason that stands.
TEST_F(WorkloadTableTest, NobodyHasAnAddressTwice) {
    std::uint64_t seed = 42;
    const auto next = [&](std::uint64_t below) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        return (seed >> 33) % below;
    };
    for (int step = 0; step < 2000; ++step) {
        const std::string name = fmt::format("vm{}", next(6));
        if (next(4) == 0) {
            if (created_.contains(name)) remove(name);
        } else {
            const auto first = next(5);
            put(name, value(fmt::format(R"("192.0.2.{}","192.0.2.{}")", first + 1, first + 2)));
        }
        std::map<std::string, std::string> owner;
        const auto all = table.report();
        for (const auto& one : all) {
            for (const auto& address : one.ips) {
                if (!one.accepted) continue;
                EXPECT_TRUE(owner.emplace(address.to_string(), one.name).second);
                EXPECT_THAT(ip(address.to_string()), HasSubstr(one.name));
            }
        }
        for (const auto& one : all) {
            const bool stands = std::ranges::any_of(
                one.ips, [&](const auto& address) { return owner.contains(address.to_string()); });
            EXPECT_EQ(stands, true) << one.name << " " << step << ": waits for nothing";
        }
        EXPECT_THAT(compiled_warnings, IsEmpty());
    }
}

}  // namespace
}  // namespace mesh::publish
