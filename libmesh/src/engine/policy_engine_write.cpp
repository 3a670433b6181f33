// What PolicyEngine writes to the datapath: rows of what the compiler changed, and those of a
// former agent that are held.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/policy_engine.hpp"

namespace mesh::engine {

using datapath::EndpointEnforcement;
using model::policy::Direction;

namespace {

/// Identities below are the same in all clusters; above, only this node knows them.
constexpr std::uint32_t kFirstOfClusters = 256;
constexpr std::uint32_t kLastOfClusters = 0x00ffffff;

void keep_first(Result<void>& outcome, const Result<void>& next) {
    if (outcome && !next) outcome = next;
}

bool enforces(const compile::EndpointPolicy& policy) {
    return policy.direction(Direction::kIngress).enforced() ||
           policy.direction(Direction::kEgress).enforced();
}

/// Rules without default deny may deny or redirect something all the same.
bool restricts(const compile::EndpointPolicy& policy) {
    if (enforces(policy) || !policy.redirects().empty() || policy.conflict()) return true;
    for (const Direction direction : model::policy::kDirections) {
        const auto& part = policy.direction(direction);
        const auto denies = [](const std::vector<compile::EntryShape>& shapes) {
            return std::ranges::any_of(shapes, [](const auto& one) { return one.value.deny(); });
        };
        if (denies(part.wildcard())) return true;
        for (const auto& one : part.classes()) {
            if (denies(one.entries)) return true;
        }
    }
    return false;
}

}  // namespace

std::vector<compile::PolicyChange> PolicyEngine::compile() {
    const TimePoint begin = clock_.now();
    auto changes = compiler_.flush();
    if (changes.empty()) return changes;
    const Duration spent = clock_.now() - begin;
    ++counters_.compiles;
    counters_.compile_time += spent;
    counters_.longest_compile = std::max(counters_.longest_compile, spent);
    return changes;
}

/// What proxies have to know, before anything is led to them.
void PolicyEngine::note_l7(const std::vector<compile::PolicyChange>& changes) {
    for (const std::uint32_t id : peers_.take_touched()) l7_.note_identity(id);
    for (const compile::PolicyChange& one : changes) {
        if (!one.replaced) continue;
        for (const std::uint32_t number : one.endpoints) {
            const auto id = static_cast<datapath::EndpointId>(number);
            const auto at = endpoints_.find(id);
            if (at == endpoints_.end()) continue;
            if (one.policy->conflict()) {
                l7_.freeze(id);
            } else {
                l7_.set(id, at->second.pod.ips, one.policy);
            }
        }
    }
    l7_.flush(compiler_.selectors());
}

Result<void> PolicyEngine::write(const std::vector<compile::PolicyChange>& changes) {
    note_l7(changes);
    Result<void> outcome;
    for (const compile::PolicyChange& one : changes) {
        auto rows = std::make_shared<Rows>();
        std::vector<datapath::PolicyRowChange> row_changes;
        const bool conflict = one.policy->conflict().has_value();
        if (!one.replaced) {
            row_changes = to_row_changes(one, proxies_);
        } else if (!conflict && restricts(*one.policy)) {
            *rows = to_rows(*one.policy, compiler_.selectors(), proxies_);
        }
        for (const std::uint32_t number : one.endpoints) {
            const auto at = endpoints_.find(static_cast<datapath::EndpointId>(number));
            if (at == endpoints_.end()) continue;
            Endpoint& endpoint = at->second;
            endpoint.policy = one.policy;
            if (one.replaced) {
                keep_first(outcome, replace(endpoint, rows));
            } else {
                keep_first(outcome, change(endpoint, row_changes));
            }
        }
    }
    keep_first(outcome, write_replacements());
    return outcome;
}

Result<void> PolicyEngine::write_due() {
    Result<void> outcome;
    for (auto& [id, endpoint] : endpoints_) {
        if (!endpoint.due || !endpoint.policy) continue;
        auto rows = std::make_shared<Rows>();
        if (!endpoint.policy->conflict() && restricts(*endpoint.policy)) {
            *rows = to_rows(*endpoint.policy, compiler_.selectors(), proxies_);
        }
        keep_first(outcome, replace(endpoint, rows));
    }
    keep_first(outcome, write_replacements());
    return outcome;
}

/// All rows of an endpoint are `rows`, with the next write_replacements().
Result<void> PolicyEngine::replace(Endpoint& endpoint, std::shared_ptr<const Rows> rows) {
    const compile::EndpointPolicy& policy = *endpoint.policy;
    if (policy.conflict()) {
        const std::string why = policy.conflict()->detail();
        if (!endpoint.written) return lock(endpoint, PolicyState::kConflict, why);
        if (endpoint.why != why) log_.error("endpoint {}: {}", endpoint.pod.name, why);
        endpoint.state = PolicyState::kConflict;
        endpoint.why = why;
        endpoint.due = false;
        return {};
    }
    const auto enforcement = !restricts(policy) ? EndpointEnforcement::kNone
                             : audits(endpoint) ? EndpointEnforcement::kAudit
                                                : EndpointEnforcement::kRules;
    if (enforcement != EndpointEnforcement::kNone) hold_rows(endpoint, *rows);
    if (!endpoint.held.empty()) {
        auto with_held = std::make_shared<Rows>(*rows);
        for (const auto& [cluster, held] : endpoint.held) {
            with_held->insert(with_held->end(), held.begin(), held.end());
        }
        rows = std::move(with_held);
    }
    if (rows->size() > datapath_.max_rows()) {
        return lock(endpoint, PolicyState::kOverflow,
                    fmt::format("its policy has {} rows, and there is room for {}", rows->size(),
                                datapath_.max_rows()));
    }
    replacements_.push_back({&endpoint, enforcement, std::move(rows)});
    return {};
}

bool PolicyEngine::audits(const Endpoint& endpoint) const {
    auto labels = endpoint.labels;
    std::ranges::sort(labels);
    const auto* mode = compile::find_mode(options_.compile.endpoint_modes, labels);
    return mode != nullptr ? mode->audit : options_.audit;
}

/// Together, as each costs the kernel milliseconds by itself.
Result<void> PolicyEngine::write_replacements() {
    const auto all = std::exchange(replacements_, {});
    std::vector<datapath::PolicyReplacement> wanted;
    wanted.reserve(all.size());
    for (const Replacement& one : all) {
        wanted.push_back({one.endpoint->pod.id, one.enforcement, *one.rows});
    }
    const auto refused = datapath_.replace_all(wanted);
    Result<void> outcome;
    auto next = refused.begin();
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (next != refused.end() && next->index == i) {
            keep_first(outcome, fail(*all[i].endpoint, next->error));
            ++next;
        } else {
            note_replaced(all[i]);
        }
    }
    return outcome;
}

void PolicyEngine::note_replaced(const Replacement& done) {
    Endpoint& endpoint = *done.endpoint;
    ++counters_.replaced;
    if (endpoint.state == PolicyState::kOverflow) {
        log_.info("endpoint {}: its policy finds room again", endpoint.pod.name);
    }
    endpoint.state = PolicyState::kReady;
    endpoint.why.clear();
    endpoint.enforcement = done.enforcement;
    endpoint.rows = done.rows->size();
    endpoint.written = true;
    endpoint.due = false;
    to_remove_.erase(endpoint.pod.id);
}

Result<void> PolicyEngine::change(Endpoint& endpoint,
                                  std::span<const datapath::PolicyRowChange> changes) {
    if (endpoint.due || endpoint.state == PolicyState::kConflict) return {};
    const bool fits = endpoint.policy->entry_count() <= datapath_.max_rows();
    if (endpoint.state == PolicyState::kOverflow && !fits) return {};
    const bool restricting = restricts(*endpoint.policy);
    const bool was = endpoint.enforcement == EndpointEnforcement::kRules ||
                     endpoint.enforcement == EndpointEnforcement::kAudit;
    if (!restricting && endpoint.enforcement == EndpointEnforcement::kNone) return {};
    if (!was || !restricting || !fits) {
        endpoint.due = true;
        return {};
    }
    const auto done = datapath_.change(endpoint.pod.id, changes);
    if (!done) {
        if (done.error().code() != Errc::kCapacity) return fail(endpoint, done.error());
        endpoint.due = true;
        return {};
    }
    counters_.changed += changes.size();
    endpoint.rows = endpoint.policy->entry_count();
    for (const auto& [cluster, held] : endpoint.held) endpoint.rows += held.size();
    return {};
}

Result<void> PolicyEngine::lock(Endpoint& endpoint, PolicyState state, std::string why) {
    if (endpoint.why != why) log_.error("endpoint {}: locked: {}", endpoint.pod.name, why);
    endpoint.state = state;
    endpoint.why = std::move(why);
    endpoint.due = false;
    if (endpoint.written && endpoint.enforcement == EndpointEnforcement::kLocked) return {};
    const auto done = datapath_.replace(endpoint.pod.id, EndpointEnforcement::kLocked, {});
    if (!done) {
        endpoint.due = true;
        return done;
    }
    endpoint.enforcement = EndpointEnforcement::kLocked;
    endpoint.written = state != PolicyState::kConflict;
    endpoint.rows = 0;
    return {};
}

Result<void> PolicyEngine::fail(Endpoint& endpoint, const Error& error) {
    if (error.code() == Errc::kCapacity) {
        return lock(endpoint, PolicyState::kOverflow, error.detail());
    }
    endpoint.state = PolicyState::kFailed;
    endpoint.why = error.message();
    endpoint.due = true;
    return error.with_prefix("endpoint " + endpoint.pod.name);
}

// --- rows of a former agent -------------------------------------------------------------------

std::uint32_t PolicyEngine::cluster_of(std::uint32_t identity) const {
    if (identity < kFirstOfClusters || identity > kLastOfClusters) return 0;
    return identity >> options_.identity_shift;
}

/// Of an endpoint that gets its first rows of this run.
void PolicyEngine::hold_rows(Endpoint& endpoint, std::span<const datapath::PolicyRow> rows) {
    const bool first = endpoint.state == PolicyState::kWaiting;
    if (!first || !endpoint.written || adoption_done_) return;
    const auto former = datapath_.rows(endpoint.pod.id);
    if (!former) return;
    std::set<datapath::PolicyKey> now;
    for (const auto& row : rows) now.insert(row.key);
    for (const auto& row : *former) {
        const std::uint32_t cluster = cluster_of(row.key.identity);
        if (cluster == 0 || synced_clusters_.contains(cluster) || now.contains(row.key)) continue;
        endpoint.held[cluster].push_back(row);
    }
}

Result<void> PolicyEngine::release_rows(Endpoint& endpoint) {
    std::set<datapath::PolicyKey> gone;
    std::erase_if(endpoint.held, [&](const auto& held) {
        if (!adoption_done_ && !synced_clusters_.contains(held.first)) return false;
        for (const auto& row : held.second) gone.insert(row.key);
        return true;
    });
    if (gone.empty() || endpoint.due || endpoint.state != PolicyState::kReady) return {};
    endpoint.policy->each_entry(compiler_.selectors(),
                                [&](const auto& key, const auto&) { gone.erase(to_key(key)); });
    std::vector<datapath::PolicyRowChange> changes;
    for (const auto& key : gone) changes.push_back({key, std::nullopt});
    const auto done = datapath_.change(endpoint.pod.id, changes);
    if (!done) return fail(endpoint, done.error());
    endpoint.rows -= std::min(endpoint.rows, changes.size());
    return {};
}

}  // namespace mesh::engine
