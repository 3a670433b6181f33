#include "compile/policy/policy_diff.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace mesh::compile {

using namespace model::policy;
using model::Label;

namespace {

constexpr std::uint32_t kLastPort = 65'535;
/// That policies can name: what PortChange::kOthers is not.
constexpr std::array<std::uint8_t, 5> kProtocols{1, 6, 17, 58, 132};

/// An endpoint's policy on one side of the comparison, as one peer meets it.
class Side {
  public:
    Side(const PolicyCompiler& compiler, const EndpointPolicy& policy, Direction direction,
         std::uint32_t peer)
        : compiler_(compiler),
          policy_(policy),
          direction_(direction),
          peer_(peer),
          slot_(compiler.selectors().find(peer)) {}

    /// Adds each port at which something may begin, by protocol.
    void add_edges(std::map<std::uint8_t, std::set<std::uint32_t>>& edges) const {
        const DirectionPolicy& part = policy_.direction(direction_);
        const auto add = [&](const std::vector<EntryShape>& list) {
            for (const EntryShape& one : list) {
                if (one.length == 0) continue;
                auto& of = edges[one.protocol];
                const std::uint32_t size = 1U << (24U - one.length);
                of.insert({0U, one.port});
                if (one.port + size <= kLastPort) of.insert(one.port + size);
            }
        };
        add(part.wildcard());
        if (const auto* own = slot_ ? part.find(*slot_) : nullptr; own != nullptr) add(*own);
    }

    [[nodiscard]] PolicyOutcome outcome(std::uint8_t protocol, std::uint16_t port) {
        const auto entry =
            find_entry(policy_, compiler_.selectors(), direction_, slot_, protocol, port);
        if (!entry || entry->second.deny()) return {};
        if (entry->second.redirect == 0) return {.answer = PolicyAnswer::kAllowed};
        const auto [at, added] = redirects_.try_emplace(entry->second.redirect);
        if (added) at->second = redirected(policy_.redirects()[entry->second.redirect - 1U]);
        return at->second;
    }

  private:
    [[nodiscard]] PolicyOutcome redirected(const PolicyRedirect& redirect) const {
        PolicyOutcome out{.answer = PolicyAnswer::kRedirected, .parser = redirect.parser};
        for (const L7Rules* rules : compiler_.l7_rules(redirect, peer_)) {
            if (rules == nullptr) {
                out.l7 = {"everything"};
                return out;
            }
            for (const HttpRule& one : rules->http) out.l7.push_back(to_string(one));
            for (const FqdnSelector& one : rules->dns) out.l7.push_back(one.text());
            for (const KafkaRule& one : rules->kafka) {
                out.l7.push_back(fmt::format("{} {} {} {} {}", one.role, one.api_key,
                                             one.api_version, one.client_id, one.topic));
            }
            for (const GenericRule& one : rules->l7) {
                out.l7.push_back(fmt::format("{} {}", rules->l7proto, one));
            }
            out.l7.insert(out.l7.end(), rules->server_names.begin(), rules->server_names.end());
        }
        std::ranges::sort(out.l7);
        out.l7.erase(std::unique(out.l7.begin(), out.l7.end()), out.l7.end());
        return out;
    }

    const PolicyCompiler& compiler_;
    const EndpointPolicy& policy_;
    Direction direction_;
    std::uint32_t peer_;
    std::optional<IdentitySlot> slot_;
    std::map<std::uint16_t, PolicyOutcome> redirects_;
};

std::vector<PortChange> compare(Side before, Side after) {
    std::map<std::uint8_t, std::set<std::uint32_t>> edges;
    for (const std::uint8_t protocol : kProtocols) edges[protocol].insert(0U);
    before.add_edges(edges);
    after.add_edges(edges);
    std::vector<PortChange> changes;
    const auto add = [&](std::uint8_t protocol, std::uint8_t probe, std::uint32_t first,
                         std::uint32_t last) {
        PortChange one{protocol, static_cast<std::uint16_t>(first),
                       static_cast<std::uint16_t>(last),
                       before.outcome(probe, static_cast<std::uint16_t>(first)),
                       after.outcome(probe, static_cast<std::uint16_t>(first))};
        if (one.before == one.after) return;
        if (!changes.empty()) {
            PortChange& previous = changes.back();
            if (previous.protocol == protocol && previous.last + 1U == first &&
                previous.before == one.before && previous.after == one.after) {
                previous.last = one.last;
                return;
            }
        }
        changes.push_back(std::move(one));
    };
    for (const auto& [protocol, starts] : edges) {
        for (auto it = starts.begin(); it != starts.end(); ++it) {
            const auto next = std::next(it);
            add(protocol, protocol, *it, next == starts.end() ? kLastPort : *next - 1);
        }
    }
    // No entry has protocol 255, which stands for all that none has.
    add(PortChange::kOthers, PortChange::kOthers, 0, kLastPort);
    const bool alike = std::ranges::all_of(changes, [&](const PortChange& one) {
        return one.first == 0 && one.last == kLastPort && one.before == changes[0].before &&
               one.after == changes[0].after;
    });
    if (alike && changes.size() == edges.size() + 1) {
        changes.resize(1);
        changes[0].protocol = PortChange::kAll;
    }
    return changes;
}

/// Identities in classes whose members all the selectors of both policies select alike.
class Classes {
  public:
    struct Class {
        std::vector<std::uint32_t> members;
    };
    /// Splits what is there by all selectors of a direction.
    void split(const PolicyCompiler& compiler, const DirectionPolicy& part) {
        for (const SelectorId selector : part.selectors()) {
            std::unordered_map<std::uint32_t, std::uint32_t> moved;
            for (const IdentitySlot slot : compiler.selectors().members(selector)) {
                std::uint32_t& of = class_of_[compiler.selectors().identity(slot).id];
                const auto [at, added] = moved.try_emplace(of, next_);
                if (added) ++next_;
                of = at->second;
            }
        }
    }
    /// By class: 0 is of those that no selector selects, whose members are not listed.
    [[nodiscard]] std::map<std::uint32_t, std::vector<std::uint32_t>> members() const {
        std::map<std::uint32_t, std::vector<std::uint32_t>> out;
        for (const auto& [identity, number] : class_of_) out[number].push_back(identity);
        for (auto& [number, list] : out) std::ranges::sort(list);
        return out;
    }
    [[nodiscard]] bool has(std::uint32_t identity) const { return class_of_.contains(identity); }

  private:
    std::unordered_map<std::uint32_t, std::uint32_t> class_of_;  ///< absent: 0
    std::uint32_t next_ = 1;
};

/// Peers for whom the same changes.
struct PeerGroup {
    std::vector<std::uint32_t> known;
    bool others = false;
    friend auto operator<=>(const PeerGroup&, const PeerGroup&) = default;
};

class Differ {
  public:
    Differ(const PolicyCompiler& before, const PolicyCompiler& after)
        : before_(before), after_(after) {}

    [[nodiscard]] PolicyDiff run() {
        after_.each_subject([&](const std::vector<Label>& labels, const NamedPorts&,
                                const std::set<std::uint32_t>& endpoints) {
            const std::uint32_t one = *endpoints.begin();
            const EndpointPolicy* const old = before_.find(one);
            const EndpointPolicy* const now = after_.find(one);
            if (old == nullptr || now == nullptr) return;
            if (now->conflict()) note_conflict(labels, *now->conflict());
            for (const Direction direction : kDirections) {
                add(labels, endpoints, direction, *old, *now);
            }
        });
        for (auto& [key, subjects] : groups_) {
            auto& [direction, ports, peers] = key;
            std::ranges::sort(subjects);
            out_.differences.push_back(
                {std::move(subjects), direction, peers.known, peers.others, ports});
        }
        return std::move(out_);
    }

  private:
    using Group = std::tuple<Direction, std::vector<PortChange>, PeerGroup>;

    void note_conflict(const std::vector<Label>& labels, const Error& conflict) {
        std::vector<std::string> texts;
        for (const Label& label : labels) {
            texts.push_back(
                fmt::format("{}:{}={}", label.source.view(), label.key.view(), label.value.view()));
        }
        out_.conflicts.push_back(
            fmt::format("endpoints with {}: {}", fmt::join(texts, ","), conflict.detail()));
    }

    void add(const std::vector<Label>& labels, const std::set<std::uint32_t>& endpoints,
             Direction direction, const EndpointPolicy& old, const EndpointPolicy& now) {
        Classes classes;
        classes.split(before_, old.direction(direction));
        classes.split(after_, now.direction(direction));
        std::map<std::vector<PortChange>, PeerGroup> changes;
        const auto compare_for = [&](std::uint32_t peer) {
            return compare({before_, old, direction, peer}, {after_, now, direction, peer});
        };
        for (const auto& [number, members] : classes.members()) {
            auto ports = compare_for(members.front());
            if (ports.empty()) continue;
            auto& known = changes[std::move(ports)].known;
            known.insert(known.end(), members.begin(), members.end());
        }
        if (auto ports = compare_for(0); !ports.empty()) {
            PeerGroup& peers = changes[std::move(ports)];
            peers.others = true;
            const SelectorCache& cache = after_.selectors();
            for (IdentitySlot slot = 0; slot < cache.slots(); ++slot) {
                const std::uint32_t id = cache.identity(slot).id;
                if (id != 0 && !classes.has(id)) peers.known.push_back(id);
            }
        }
        for (auto& [ports, peers] : changes) {
            std::ranges::sort(peers.known);
            groups_[{direction, ports, std::move(peers)}].push_back(
                {labels, {endpoints.begin(), endpoints.end()}});
        }
    }

    const PolicyCompiler& before_;
    const PolicyCompiler& after_;
    std::map<Group, std::vector<PolicyDifference::Subject>> groups_;
    PolicyDiff out_;
};

}  // namespace

PolicyDiff diff(const PolicyCompiler& before, const PolicyCompiler& after) {
    return Differ(before, after).run();
}

namespace {

using Subjects = std::vector<std::pair<std::vector<Label>, NamedPorts>>;

/// Blocks of addresses and DNS names of some policies, as identities where nobody has them.
class Outsiders {
  public:
    explicit Outsiders(const SelectorCache& known) {
        for (IdentitySlot slot = 0; slot < known.slots(); ++slot) {
            const PolicyIdentity& one = known.identity(slot);
            ids_.insert(one.id);
            if (one.cidr) blocks_.insert(*one.cidr);
            for (const Label& label : one.labels) {
                if (label.source == kSourceFqdn) names_.insert(label.key.str());
            }
        }
    }
    void add(const Policy& policy) {
        for (const Rule& rule : policy.rules) {
            for (const auto* lists : {&rule.allow, &rule.deny}) {
                for (const auto& elements : *lists) {
                    for (const RuleElement& element : elements) add(element.peers);
                }
            }
        }
    }
    [[nodiscard]] std::vector<PolicyIdentity> take() { return std::move(made_); }

  private:
    void add(const Peers& peers) {
        if (peers.cidrs) {
            for (const CidrRule& rule : *peers.cidrs) {
                add(rule.cidr);
                for (const model::IpPrefix& except : rule.except) add(except);
            }
        }
        if (!peers.fqdns) return;
        for (const FqdnSelector& name : *peers.fqdns) {
            if (names_.insert(name.text()).second) make(kSourceFqdn, name.text(), {});
        }
    }
    void add(const model::IpPrefix& block) {
        // The world, which is known.
        if (block.length() == 0) return;
        if (blocks_.insert(block).second) make(kSourceCidr, block.to_string(), block);
    }
    void make(std::string_view source, const std::string& key,
              std::optional<model::IpPrefix> block) {
        while (ids_.contains(next_)) --next_;
        made_.push_back({next_--, {{source, key, ""}, {kSourceReserved, "world", ""}}, block});
    }

    std::set<std::uint32_t> ids_;
    std::set<model::IpPrefix> blocks_;
    std::set<std::string> names_;
    std::uint32_t next_ = 0x01ffffff;  ///< the last of those that are local to a node
    std::vector<PolicyIdentity> made_;
};

/// One side of a comparison: the compiler's world, some policies and endpoints.
void fill(PolicyCompiler& to, const PolicyCompiler& from, const Subjects& subjects,
          const std::vector<PolicyPtr>& policies, const std::vector<PolicyIdentity>& more) {
    const SelectorCache& cache = from.selectors();
    for (IdentitySlot slot = 0; slot < cache.slots(); ++slot) {
        to.upsert_identity(cache.identity(slot));
    }
    for (const PolicyIdentity& one : more) to.upsert_identity(one);
    for (const auto& [key, service] : cache.services()) to.upsert_service(service);
    to.set_peer_ports(from.peer_ports());
    for (const PolicyPtr& policy : policies) to.upsert_policy(policy);
    std::set<std::vector<Label>> wanted;
    for (const auto& [labels, ports] : subjects) wanted.insert(labels);
    from.each_subject([&](const std::vector<Label>& labels, const NamedPorts& ports,
                          const std::set<std::uint32_t>& endpoints) {
        if (!wanted.contains(labels)) return;
        for (const std::uint32_t endpoint : endpoints) {
            to.upsert_endpoint(endpoint, {labels, ports});
        }
    });
    static_cast<void>(to.flush());
}

/// The sorts of endpoints that a policy of these names selects, in either version.
Subjects touched_subjects(const PolicyCompiler& compiler, const PolicyUpdate& update,
                          const std::set<PolicyKey>& touched) {
    PolicyCompiler scratch(compiler.options());
    for (const PolicyPtr& policy : update.upserts) scratch.upsert_policy(policy);
    Subjects subjects;
    compiler.each_subject([&](const std::vector<Label>& labels, const NamedPorts& ports,
                              const std::set<std::uint32_t>&) {
        const bool selected = std::ranges::any_of(touched, [&](const PolicyKey& key) {
            return compiler.selects(key, labels) || scratch.selects(key, labels);
        });
        if (selected) subjects.emplace_back(labels, ports);
    });
    return subjects;
}

}  // namespace

PolicyDiff diff(const PolicyCompiler& compiler, const PolicyUpdate& update) {
    std::set<PolicyKey> touched(update.removals.begin(), update.removals.end());
    for (const PolicyPtr& policy : update.upserts) touched.insert(policy->key);
    const Subjects subjects = touched_subjects(compiler, update, touched);

    std::vector<PolicyPtr> old, now = update.upserts;
    Outsiders outsiders(compiler.selectors());
    for (const PolicyPtr& policy : compiler.policies()) {
        const bool selects = std::ranges::any_of(subjects, [&](const auto& subject) {
            return compiler.selects(policy->key, subject.first);
        });
        if (!selects) continue;
        old.push_back(policy);
        if (!touched.contains(policy->key)) now.push_back(policy);
        outsiders.add(*policy);
    }
    for (const PolicyPtr& policy : update.upserts) outsiders.add(*policy);
    std::vector<PolicyIdentity> made_up = outsiders.take();

    PolicyCompiler before(compiler.options()), after(compiler.options());
    fill(before, compiler, subjects, old, made_up);
    fill(after, compiler, subjects, now, made_up);
    PolicyDiff out = diff(before, after);
    out.made_up = std::move(made_up);
    return out;
}

}  // namespace mesh::compile
