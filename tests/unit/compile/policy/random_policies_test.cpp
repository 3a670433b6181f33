// The compiler against the reference evaluator on random policy sets: every packet is decided
// alike, whatever the order in which things came, and changes are told exactly.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "support/policy/compiled.hpp"
#include "support/policy/random_world.hpp"

namespace mesh::test {
namespace {

using model::policy::Direction;
using model::policy::L7Rules;

constexpr std::array<std::uint8_t, 4> kProtocols{6, 17, 132, 1};
constexpr std::array<std::uint16_t, 14> kPorts{0,  3,  8,   78, 80,   81,   82,
                                               83, 88, 443, 95, 5353, 8081, 8082};

std::string text_of(const RefIdentity& subject, const RefPacket& packet) {
    return fmt::format("subject {} {} protocol {} port {} peer {}", subject.id,
                       packet.direction == Direction::kIngress ? "ingress" : "egress",
                       packet.protocol, packet.port, packet.peer->id);
}

/// The L7 rules for a redirected packet, or what differs.
std::optional<std::string> compare_l7(const RefIdentity& subject, const RefPacket& packet,
                                      const Reference& reference,
                                      const compile::PolicyCompiler& compiler,
                                      const compile::PolicyMapValue& value) {
    const auto* policy = compiler.find(subject.id);
    const auto& redirect = policy->redirects().at(value.redirect - 1U);
    const auto ours = compiler.l7_rules(redirect, packet.peer->id);
    const auto theirs = reference.l7_rules(subject, packet, redirect.port, redirect.end_port);
    if (std::set(ours.begin(), ours.end()) == std::set(theirs.begin(), theirs.end())) return {};
    return fmt::format("{}: {} L7 rules, reference has {}", text_of(subject, packet), ours.size(),
                       theirs.size());
}

/// What the compiler decides otherwise than the reference, of all packets or some.
std::optional<std::string> compare(const RefWorld& world, const compile::PolicyCompiler& compiler,
                                   std::size_t every, std::size_t offset) {
    const Reference reference(world);
    std::size_t count = offset;
    for (const RefIdentity& subject : world.identities) {
        if (compiler.find(subject.id) == nullptr) continue;
        const auto entries = entries_of(compiler, subject.id);
        const MapLookup lookup(entries);
        for (const RefIdentity& peer : world.identities) {
            for (const Direction direction : model::policy::kDirections) {
                for (const std::uint8_t protocol : kProtocols) {
                    for (const std::uint16_t port : kPorts) {
                        if (++count % every != 0) continue;
                        const RefPacket packet{direction, protocol, port, &peer};
                        const auto value = lookup.find(direction, peer.id, protocol, port);
                        const auto ours = to_verdict(value);
                        const auto theirs = reference.verdict(subject, packet);
                        if (ours != theirs) {
                            return fmt::format("{}: {}, reference says {}",
                                               text_of(subject, packet), static_cast<char>(ours),
                                               static_cast<char>(theirs));
                        }
                        if (ours != RefVerdict::kRedirect) continue;
                        if (auto l7 = compare_l7(subject, packet, reference, compiler, *value)) {
                            return l7;
                        }
                    }
                }
            }
        }
    }
    return std::nullopt;
}

bool is_subject(const RefIdentity& identity) {
    return identity.id == 1 || (identity.id >> 16 == 1 && identity.id % 65536 <= 2);
}

void add_endpoints(compile::PolicyCompiler& compiler, const RefWorld& world) {
    for (const RefIdentity& one : world.identities) {
        if (is_subject(one)) {
            compiler.upsert_endpoint(one.id, {one.labels, world.subject_ports});
        }
    }
}

std::optional<std::string> compile_and_compare(const RefWorld& world, std::size_t every,
                                               std::size_t offset) {
    compile::PolicyCompiler compiler(world.options);
    fill(compiler, world);
    add_endpoints(compiler, world);
    static_cast<void>(compiler.flush());
    return compare(world, compiler, every, offset);
}

TEST(RandomPolicies, AreDecidedAsTheReferenceSays) {
    constexpr std::uint64_t kSets = 20'000;
    for (std::uint64_t seed = 1; seed <= kSets; ++seed) {
        const RefWorld world = RandomWorld(seed).make();
        // Of most sets some packets, of some sets all.
        if (!compile_and_compare(world, seed % 100 == 0 ? 1 : 97, seed)) continue;
        const auto fails = [](const RefWorld& less) {
            return compile_and_compare(less, 1, 0).has_value();
        };
        const RefWorld least = shrink(world, fails);
        FAIL() << "seed " << seed << ": " << *compile_and_compare(least, 1, 0) << "\n"
               << describe(least);
    }
}

/// The entries that a reader of the changes has.
using Told = std::map<std::uint32_t, MapLookup::Entries>;

void take(const compile::PolicyCompiler& compiler,
          const std::vector<compile::PolicyChange>& changes, Told& told) {
    for (const auto& change : changes) {
        for (const std::uint32_t endpoint : change.endpoints) {
            auto& entries = told[endpoint];
            if (change.replaced) entries = entries_of(compiler, endpoint);
            for (const auto& [key, value] : change.entries) {
                if (value) {
                    entries.insert_or_assign(key, *value);
                } else {
                    entries.erase(key);
                }
            }
        }
    }
}

/// One random change to the world and the compiler.
void change(RandomWorld& random, RefWorld& world, compile::PolicyCompiler& compiler) {
    switch (random.below(6)) {
        case 0:
        case 1: {
            const auto number = static_cast<std::uint32_t>(100 + random.below(4));
            const RefIdentity one = random.pod(static_cast<std::uint32_t>(random.below(3)), number);
            std::erase_if(world.identities, [&](const auto& i) { return i.id == one.id; });
            world.identities.push_back(one);
            compiler.upsert_identity(to_policy_identity(one));
            return;
        }
        case 2: {
            const std::size_t at = random.below(world.identities.size());
            if (is_subject(world.identities[at])) return;
            compiler.remove_identity(world.identities[at].id);
            world.identities.erase(world.identities.begin() + static_cast<std::ptrdiff_t>(at));
            return;
        }
        case 3: {
            const auto policy = random.policy(random.below(4));
            std::erase_if(world.policies, [&](const auto& p) { return p->key == policy->key; });
            world.policies.push_back(policy);
            compiler.upsert_policy(policy);
            return;
        }
        case 4: {
            if (world.policies.empty()) return;
            const std::size_t at = random.below(world.policies.size());
            compiler.remove_policy(world.policies[at]->key);
            world.policies.erase(world.policies.begin() + static_cast<std::ptrdiff_t>(at));
            return;
        }
        default:
            if (random.one_in(2)) {
                world.peer_ports[{"named", 6}] = random.one_in(2) ? 8081 : 80;
                compiler.set_peer_ports(world.peer_ports);
                return;
            }
            RefService& service = world.services[0];
            service.backends = {
                *model::IpAddress::parse(random.one_in(2) ? "10.9.9.9" : "10.9.9.8")};
            compiler.upsert_service(to_policy_service(service));
    }
}

TEST(RandomPolicies, ChangesLeadWhereAFreshCompileDoes) {
    for (std::uint64_t seed = 1; seed <= 1'000; ++seed) {
        RandomWorld random(seed);
        RefWorld world = random.make();
        compile::PolicyCompiler compiler(world.options);
        Told told;
        fill(compiler, world);
        add_endpoints(compiler, world);
        for (int step = 0; step < 12; ++step) {
            take(compiler, compiler.flush(), told);
            compile::PolicyCompiler fresh(world.options);
            fill(fresh, world);
            add_endpoints(fresh, world);
            static_cast<void>(fresh.flush());
            for (const RefIdentity& one : world.identities) {
                if (!is_subject(one)) continue;
                const auto expected = entries_of(fresh, one.id);
                ASSERT_EQ(entries_of(compiler, one.id), expected)
                    << "seed " << seed << " step " << step << " subject " << one.id << "\n"
                    << describe(world);
                ASSERT_EQ(told[one.id], expected)
                    << "seed " << seed << " step " << step << " subject " << one.id << "\n"
                    << describe(world);
            }
            for (std::size_t n = 1 + random.below(3); n != 0; --n) change(random, world, compiler);
        }
    }
}

}  // namespace
}  // namespace mesh::test
