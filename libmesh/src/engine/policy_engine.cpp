#include "engine/policy_engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "sources/config/policy_documents.hpp"

namespace mesh::engine {

using datapath::EndpointEnforcement;
using model::policy::Direction;

namespace {

void keep_first(Result<void>& outcome, const Result<void>& next) {
    if (outcome && !next) outcome = next;
}

}  // namespace

bool PolicyEngineOptions::enabled() const noexcept {
    return compile.enforcement != compile::Enforcement::kNever ||
           std::ranges::any_of(compile.endpoint_modes, [](const compile::EndpointMode& mode) {
               return mode.enforcement != compile::Enforcement::kNever;
           });
}

std::string_view to_string(PolicyState state) noexcept {
    switch (state) {
        case PolicyState::kWaiting:
            return "waiting";
        case PolicyState::kReady:
            return "ready";
        case PolicyState::kConflict:
            return "conflict";
        case PolicyState::kOverflow:
            return "overflow";
        case PolicyState::kFailed:
            return "failed";
    }
    return "?";
}

PolicyEngine::PolicyEngine(PolicyEngineOptions options, state::ClusterKey own,
                           datapath::PolicyDatapath& datapath, const Clock& clock, Rng rng,
                           Logger log)
    : options_(std::move(options)),
      own_(std::move(own)),
      datapath_(datapath),
      clock_(clock),
      log_(std::move(log)),
      compiler_(options_.compile),
      peers_(compiler_, options_.local, rng),
      l7_(options_.identity_of) {}
PolicyEngine::~PolicyEngine() = default;

Result<void> PolicyEngine::start(bool open_until_synced) {
    const bool enabled = options_.enabled();
    if (!enabled) {
        for (const auto& former : datapath_.endpoints()) {
            MESH_CHECK(datapath_.remove(former.endpoint));
        }
    }
    enable_due_ = enabled && open_until_synced;
    return datapath_.configure({.enabled = enabled && !open_until_synced,
                                .verdict_events = options_.verdict_events,
                                .proxy_mark = options_.proxy_mark});
}

// --- what happens -----------------------------------------------------------------------------

void PolicyEngine::note(const state::Effect& effect) {
    peers_.note(effect);
    if (const auto* policy = std::get_if<state::Changed<model::PolicyRecord>>(&effect.change)) {
        note_policy(*policy);
    } else if (effect.cluster.name != own_.name) {
        return;
    } else if (const auto* ip =
                   std::get_if<state::Changed<model::IpIdentityPair>>(&effect.change)) {
        mark(ip->after != nullptr ? *ip->after : *ip->before);
    } else if (const auto* local = std::get_if<state::Changed<model::LocalIp>>(&effect.change)) {
        mark((local->after != nullptr ? local->after : local->before)->pair);
    } else if (const auto* identity =
                   std::get_if<state::Changed<model::Identity>>(&effect.change)) {
        if (identity->after == nullptr) return;
        const auto users = by_identity_.find(model::number(identity->after->id));
        if (users == by_identity_.end()) return;
        to_evaluate_.insert(users->second.begin(), users->second.end());
    }
}

void PolicyEngine::note_policy(const state::Changed<model::PolicyRecord>& change) {
    const bool none = policies_.empty();
    take_policy(change);
    if (none == policies_.empty()) return;
    for (const auto& [id, endpoint] : endpoints_) {
        if (endpoint.identity == 0) to_evaluate_.insert(id);
    }
}

void PolicyEngine::take_policy(const state::Changed<model::PolicyRecord>& change) {
    const auto& key = (change.after != nullptr ? change.after : change.before)->key;
    const auto held = policies_.find(key);
    const model::policy::PolicyPtr before = held == policies_.end() ? nullptr : held->second.policy;
    if (change.after == nullptr) {
        if (before == nullptr) return;
        ++counters_.revision;
        peers_.note_policy(before.get(), nullptr);
        if (on_policy_) on_policy_(before.get(), nullptr);
        compiler_.remove_policy(key);
        policies_.erase(held);
        return;
    }
    const auto read =
        sources::config::read_policy(*change.after, sources::config::PolicyFeatures::enforced());
    if (!read) {
        // Whoever put it into the tables has read it.
        ++counters_.refused_policies;
        log_.error("{}", read.error().message());
        return;
    }
    ++counters_.revision;
    peers_.note_policy(before.get(), read->get());
    if (on_policy_) on_policy_(before.get(), read->get());
    compiler_.upsert_policy(*read);
    policies_[key] = {*read, change.after->file, change.after->document, counters_.revision};
}

void PolicyEngine::mark(const model::IpIdentityPair& pair) {
    if (by_address_.empty()) return;
    const auto found = by_address_.find(pair.ip);
    if (found != by_address_.end()) to_evaluate_.insert(found->second);
}

void PolicyEngine::set_pods(const std::vector<PolicyPod>& pods, bool complete) {
    std::set<datapath::EndpointId> present;
    for (const PolicyPod& pod : pods) {
        if (pod.id == 0) continue;
        present.insert(pod.id);
        const auto held = endpoints_.find(pod.id);
        if (held != endpoints_.end() && held->second.pod == pod) continue;
        if (held != endpoints_.end()) forget(held);
        Endpoint& made = endpoints_[pod.id];
        made.pod = pod;
        for (const model::IpAddress& ip : pod.ips) by_address_[ip] = pod.id;
        to_evaluate_.insert(pod.id);
    }
    for (auto at = endpoints_.begin(); at != endpoints_.end();) {
        const auto next = std::next(at);
        if (!present.contains(at->first)) forget(at);
        at = next;
    }
    adopt(complete);
}

/// What a former agent left: of pods that are there, and of others.
void PolicyEngine::adopt(bool complete) {
    for (const auto& occupancy : datapath_.endpoints()) {
        const auto held = endpoints_.find(occupancy.endpoint);
        if (held == endpoints_.end()) {
            if (complete) to_remove_.insert(occupancy.endpoint);
        } else if (held->second.pod.adopted && !held->second.written) {
            held->second.written = true;
            held->second.enforcement = occupancy.enforcement;
            held->second.rows = occupancy.rows;
        }
    }
}

void PolicyEngine::forget(Endpoints::iterator at) {
    const auto& [id, endpoint] = *at;
    for (const model::IpAddress& ip : endpoint.pod.ips) by_address_.erase(ip);
    if (const auto users = by_identity_.find(endpoint.identity); users != by_identity_.end()) {
        users->second.erase(id);
        if (users->second.empty()) by_identity_.erase(users);
    }
    compiler_.remove_endpoint(id);
    l7_.set(id, {}, nullptr);
    if (on_endpoint_gone_) on_endpoint_gone_(id);
    to_evaluate_.erase(id);
    to_remove_.insert(id);
    endpoints_.erase(at);
    // There may be room now.
    for (auto& [other, waiting] : endpoints_) {
        if (waiting.state == PolicyState::kOverflow) waiting.due = true;
    }
}

void PolicyEngine::note_synced(const state::ClusterKey& cluster) {
    if (!synced_clusters_.insert(model::number(cluster.id)).second) return;
    release_due_ = true;
    if (cluster.name != own_.name || std::exchange(synced_, true)) return;
    for (const auto& [id, endpoint] : endpoints_) to_evaluate_.insert(id);
}

void PolicyEngine::finish_adoption() {
    adoption_done_ = true;
    release_due_ = true;
}

void PolicyEngine::set_proxy(const std::string& parser, Direction direction, std::uint16_t port) {
    if (!proxies_.set(parser, direction, port)) return;
    for (auto& [id, endpoint] : endpoints_) {
        if (endpoint.policy && !endpoint.policy->redirects().empty()) endpoint.due = true;
    }
}

// --- flush ------------------------------------------------------------------------------------

Result<void> PolicyEngine::flush(const state::ClusterTables& tables) {
    // First, since a number may be another pod's by now.
    Result<void> outcome = remove_gone();
    peers_.flush(tables, synced_);
    if (synced_) {
        for (const datapath::EndpointId id : std::exchange(to_evaluate_, {})) {
            if (const auto at = endpoints_.find(id); at != endpoints_.end()) {
                evaluate(at->second, tables);
            }
        }
    }
    keep_first(outcome, write(compile()));
    keep_first(outcome, write_due());
    if (std::exchange(release_due_, false)) {
        for (auto& [id, endpoint] : endpoints_) {
            if (!endpoint.held.empty()) keep_first(outcome, release_rows(endpoint));
        }
    }
    if (synced_ && enable_due_ && outcome) {
        // All that there are have got their rows.
        outcome = datapath_.configure({.enabled = true,
                                       .verdict_events = options_.verdict_events,
                                       .proxy_mark = options_.proxy_mark});
        enable_due_ = !outcome;
    }
    return outcome;
}

Result<void> PolicyEngine::remove_gone() {
    Result<void> outcome;
    for (auto at = to_remove_.begin(); at != to_remove_.end();) {
        const auto removed = datapath_.remove(*at);
        keep_first(outcome, removed);
        at = removed ? to_remove_.erase(at) : std::next(at);
    }
    return outcome;
}

Result<void> PolicyEngine::flush_removed() {
    if (!peers_.flush_removed()) return {};
    return write(compile());
}

/// Finds out who the endpoint is.
void PolicyEngine::evaluate(Endpoint& endpoint, const state::ClusterTables& tables) {
    const datapath::EndpointId id = endpoint.pod.id;
    std::uint32_t identity = 0;
    compile::PolicyEndpoint what;
    for (const model::IpAddress& ip : endpoint.pod.ips) {
        auto pair = tables.find_ip(own_.name, {ip, 128});
        if (!pair) {
            if (const auto local = tables.find_local_ip(ip)) pair = local->pair;
        }
        if (!pair) continue;
        if (identity == 0) identity = model::number(pair->id);
        what.ports.merge(named_ports(*pair));
    }
    // What it was stays when its record goes before it does.
    if (identity == 0 && endpoint.identity != 0) return;
    if (identity != endpoint.identity) {
        if (const auto users = by_identity_.find(endpoint.identity); users != by_identity_.end()) {
            users->second.erase(id);
            if (users->second.empty()) by_identity_.erase(users);
        }
        endpoint.identity = identity;
        if (identity != 0) by_identity_[identity].insert(id);
    }
    if (identity == 0) {
        // Where there are no policies, none could hold for it, whoever it is.
        const bool none =
            policies_.empty() && options_.compile.enforcement != compile::Enforcement::kAlways;
        if (!none) what.labels = {{model::policy::kSourceReserved, "init", ""}};
    } else if (const auto known = tables.find_identity(own_.name, model::IdentityId{identity})) {
        what.labels = known->labels;
    } else {
        // Its labels are about to come; until then what it has been holds.
        endpoint.why = fmt::format("identity {} is not known yet", identity);
        return;
    }
    endpoint.labels = what.labels;
    endpoint.compiled = true;
    endpoint.why.clear();
    compiler_.upsert_endpoint(id, std::move(what));
}

// --- status -----------------------------------------------------------------------------------

PolicyEndpointStatus PolicyEngine::to_status(const Endpoint& endpoint) const {
    PolicyEndpointStatus status;
    status.pod = endpoint.pod;
    status.state = endpoint.state;
    status.why = endpoint.why;
    if (endpoint.state == PolicyState::kWaiting && status.why.empty()) {
        status.why = endpoint.written ? "the own cluster is not known yet: what held before holds"
                                      : "the own cluster is not known yet: locked";
    }
    status.identity = endpoint.identity;
    status.labels = endpoint.labels;
    if (endpoint.policy) {
        status.ingress = endpoint.policy->direction(Direction::kIngress).enforced();
        status.egress = endpoint.policy->direction(Direction::kEgress).enforced();
    }
    status.enforcement = endpoint.enforcement;
    status.rows = endpoint.rows;
    for (const auto& [cluster, rows] : endpoint.held) status.held_rows += rows.size();
    return status;
}

std::vector<PolicyEndpointStatus> PolicyEngine::endpoints() const {
    std::vector<PolicyEndpointStatus> all;
    for (const auto& [id, endpoint] : endpoints_) all.push_back(to_status(endpoint));
    return all;
}

std::optional<PolicyEndpointStatus> PolicyEngine::endpoint(datapath::EndpointId id) const {
    const auto found = endpoints_.find(id);
    if (found == endpoints_.end()) return std::nullopt;
    return to_status(found->second);
}

PolicyCounts PolicyEngine::counts() const {
    PolicyCounts counts = counters_;
    counts.policies = policies_.size();
    counts.identities = compiler_.selectors().identities();
    counts.local_identities = peers_.local().size();
    counts.selectors = compiler_.selectors().selectors();
    counts.bytes = compiler_.bytes();
    counts.endpoints = endpoints_.size();
    for (const auto& [id, endpoint] : endpoints_) {
        counts.rows += endpoint.rows;
        if (endpoint.enforcement == EndpointEnforcement::kLocked) ++counts.locked;
        if (endpoint.state == PolicyState::kWaiting) ++counts.waiting;
        if (endpoint.state == PolicyState::kConflict) ++counts.conflicts;
        if (endpoint.state == PolicyState::kOverflow) ++counts.overflows;
        if (endpoint.state == PolicyState::kFailed) ++counts.failed;
    }
    return counts;
}

}  // namespace mesh::engine
