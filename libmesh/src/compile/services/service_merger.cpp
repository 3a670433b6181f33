#include "compile/services/service_merger.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <variant>

#include "compile/services/explanation.hpp"
#include "compile/services/frontend_compiler.hpp"
#include "compile/services/health_state.hpp"
#include "compile/services/traffic_state.hpp"
#include "model/annotations.hpp"
#include "model/traffic_annotations.hpp"

namespace mesh::compile {
namespace {

using state::ObjectName;

constexpr std::string_view kZoneLabel = "topology.kubernetes.io/zone";

/// A row as bytes that are equal exactly if the rows are; they are compared, never read.
std::string fingerprint(const FrontendRow& row) {
    std::string out;
    const auto number = [&](std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
        out.push_back(static_cast<char>(value));
    };
    const auto text = [&](std::string_view value) {
        number(value.size());
        out.append(value);
    };
    text(row.service.namespace_);
    text(row.service.name);
    text(row.port_name);
    number(row.affinity_seconds);
    number((row.outside ? 1U : 0U) | (row.outside_local ? 2U : 0U) | (row.node_port ? 4U : 0U));
    number(row.reset_connections ? 1 : 0);
    const state::ClusterKey* cluster = nullptr;
    for (const BackendRow& backend : row.backends) {
        const bool same_cluster = cluster != nullptr && *cluster == backend.cluster;
        number((static_cast<std::uint64_t>(backend.reason) << 6) |
               (static_cast<std::uint64_t>(backend.here) << 5) |
               (static_cast<std::uint64_t>(backend.state) << 3) |
               (static_cast<std::uint64_t>(backend.programmed) << 2) |
               (static_cast<std::uint64_t>(backend.selected) << 1) |
               static_cast<std::uint64_t>(same_cluster));
        if (!same_cluster) {
            cluster = &backend.cluster;
            number(model::number(cluster->id));
            text(cluster->name);
        }
        // All backends of a frontend are of the frontend's family.
        const auto& bytes = backend.address.bytes();
        const std::size_t skip = row.key.address.is_v4() ? 12 : 0;
        out.append(reinterpret_cast<const char*>(bytes.data()) + skip, bytes.size() - skip);
        number(backend.port);
        number(backend.weight);
    }
    out.shrink_to_fit();
    return out;
}

/// Where node ports are served; sorted, each once.
std::vector<model::IpAddress> internal_ips(const model::Node* node) {
    std::vector<model::IpAddress> found;
    if (node == nullptr || !node->addresses) return found;
    for (const auto& address : *node->addresses) {
        if (address.type != "InternalIP") continue;
        if (const auto ip = model::IpAddress::parse(address.ip)) found.push_back(*ip);
    }
    std::ranges::sort(found);
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

struct ByName {
    bool operator()(const ObjectName* a, const ObjectName* b) const { return *a < *b; }
};

/// A frontend that at least one own service has.
struct Frontend {
    std::vector<const ObjectName*> claimants;  ///< in order; the first is served
    std::string returned;                      ///< fingerprint of the last row returned, or empty
};

}  // namespace

struct ServiceMerger::State {
    State(const state::ClusterTables& its_tables, MergerOptions its_options)
        : tables(its_tables),
          options(std::move(its_options)),
          zone_by_default(options.zone),
          traffic(options.own.name) {
        if (options.health) health.emplace(tables, options.own.name, options.node);
    }

    const state::ClusterTables& tables;
    MergerOptions options;
    std::string zone_by_default;
    std::set<ObjectName> node_bound;   ///< those of `services` that some nodes only install
    std::set<ObjectName> node_ported;  ///< those of `services` that have node ports
    std::map<ObjectName, std::vector<FrontendKey>> services;  ///< of the own cluster, at last flush
    std::map<FrontendKey, Frontend> frontends;
    std::set<ObjectName> dirty;       ///< changed since their claims were settled
    std::set<ObjectName> to_compile;  ///< claims are settled, rows are not compiled
    TrafficState traffic;
    std::optional<HealthState> health;
    MergerWork work;

    [[nodiscard]] std::vector<RemoteService> remotes(const ObjectName& name) const;
    /// @param node the own node's record, or null
    void set_node(const model::Node* node);
    void update_claims(const ObjectName& name, std::set<ObjectName>& promoted,
                       std::set<FrontendKey>& abandoned);
    void unclaim(const ObjectName* name, const FrontendKey& key, std::set<ObjectName>& promoted,
                 std::set<FrontendKey>& abandoned);
    void claim(const ObjectName* name, const FrontendKey& key);
    void compile(const ObjectName& name, FrontendChanges& changes);
};

std::vector<RemoteService> ServiceMerger::State::remotes(const ObjectName& name) const {
    std::vector<RemoteService> found;
    tables.for_each_service_named(
        name, [&](const state::ClusterKey& cluster, const model::Service& service) {
            // The own cluster's record is what it tells others; its backends are in LocalService.
            if (cluster.name != options.own.name) found.push_back({cluster, service});
        });
    return found;
}

void ServiceMerger::State::unclaim(const ObjectName* name, const FrontendKey& key,
                                   std::set<ObjectName>& promoted,
                                   std::set<FrontendKey>& abandoned) {
    auto& claimants = frontends.at(key).claimants;
    const bool was_served = claimants.front() == name;
    std::erase(claimants, name);
    if (claimants.empty()) {
        abandoned.insert(key);
    } else if (was_served) {
        promoted.insert(*claimants.front());
    }
}

void ServiceMerger::State::claim(const ObjectName* name, const FrontendKey& key) {
    auto& claimants = frontends[key].claimants;
    claimants.insert(std::ranges::lower_bound(claimants, name, ByName{}), name);
}

void ServiceMerger::State::set_node(const model::Node* node) {
    model::StringMap labels;
    if (node != nullptr && node->labels) labels = *node->labels;
    std::string zone(labels.get(kZoneLabel).value_or(zone_by_default));
    if (labels != options.node_labels) dirty.insert(node_bound.begin(), node_bound.end());
    std::vector<model::IpAddress> addresses = internal_ips(node);
    if (addresses != options.node_addresses) dirty.insert(node_ported.begin(), node_ported.end());
    options.node_addresses = std::move(addresses);
    if (zone != options.zone && options.zone_hints) {
        for (const auto& [name, keys] : services) dirty.insert(name);
    }
    options.node_labels = std::move(labels);
    options.zone = std::move(zone);
}

void ServiceMerger::State::update_claims(const ObjectName& name, std::set<ObjectName>& promoted,
                                         std::set<FrontendKey>& abandoned) {
    const auto local = tables.find_local_service(name);
    auto held = services.find(name);
    if (held == services.end()) {
        if (!local) return;
        held = services.emplace(name, std::vector<FrontendKey>()).first;
    }
    std::vector<FrontendKey> wanted;
    if (local) wanted = frontend_keys(*local, options);
    if (local && model::parse_service_exposure(local->annotations).node_bound()) {
        node_bound.insert(name);
    } else {
        node_bound.erase(name);
    }
    if (local && has_node_ports(*local)) {
        node_ported.insert(name);
    } else {
        node_ported.erase(name);
    }
    wanted.shrink_to_fit();
    const std::vector<FrontendKey> had = std::exchange(held->second, std::move(wanted));
    for (const FrontendKey& key : had) {
        if (!std::ranges::binary_search(held->second, key)) {
            unclaim(&held->first, key, promoted, abandoned);
        }
    }
    for (const FrontendKey& key : held->second) {
        if (!std::ranges::binary_search(had, key)) claim(&held->first, key);
    }
    if (!local) services.erase(held);
}

void ServiceMerger::State::compile(const ObjectName& name, FrontendChanges& changes) {
    const auto local = tables.find_local_service(name);
    if (!local) {
        if (health) health->forget(name);
        return traffic.forget(name);
    }
    const std::vector<RemoteService> others = remotes(name);
    auto steering = traffic.traffic_of(*local, others);
    const auto health_of = ServiceHealth::of(health ? &*health : nullptr, *local);
    auto rows = compile_frontends(*local, others, options, steering ? &*steering : nullptr,
                                  health_of, work);
    if (health) health->settle(name, health_of.check_or_null(), rows);
    if (steering) {
        traffic.settle(name, *steering, rows);
    } else {
        traffic.forget(name);
    }
    for (FrontendRow& row : rows) {
        Frontend& frontend = frontends.at(row.key);
        if (*frontend.claimants.front() != name) continue;
        std::string bytes = fingerprint(row);
        if (bytes == frontend.returned) continue;
        frontend.returned = std::move(bytes);
        changes.upserts.push_back(std::move(row));
    }
}

ServiceMerger::ServiceMerger(const state::ClusterTables& tables, MergerOptions options)
    : state_(std::make_unique<State>(tables, std::move(options))) {
    tables.for_each_local_service([&](const model::LocalService& service) {
        state_->dirty.insert({service.namespace_, service.name});
    });
    const auto node = tables.find_node(state_->options.own.name, state_->options.node);
    state_->set_node(node ? &*node : nullptr);
}
ServiceMerger::~ServiceMerger() = default;
ServiceMerger::ServiceMerger(ServiceMerger&&) noexcept = default;
ServiceMerger& ServiceMerger::operator=(ServiceMerger&&) noexcept = default;

void ServiceMerger::note(const state::Effect& effect) {
    if (state_->health) state_->health->note(effect, state_->dirty);
    const auto mark = [this](const auto& change) {
        const auto& object = change.after != nullptr ? *change.after : *change.before;
        ObjectName name{object.namespace_, object.name};
        // A remote's record without a service of our own has no effect (services.md §2).
        if (state_->services.contains(name) || state_->tables.has_local_service(name)) {
            state_->dirty.insert(std::move(name));
        }
    };
    if (const auto* local = std::get_if<state::Changed<model::LocalService>>(&effect.change)) {
        mark(*local);
    } else if (const auto* remote = std::get_if<state::Changed<model::Service>>(&effect.change)) {
        if (effect.cluster.name != state_->options.own.name) mark(*remote);
    } else if (const auto* node = std::get_if<state::Changed<model::Node>>(&effect.change)) {
        const auto& name = node->after != nullptr ? node->after->name : node->before->name;
        const bool own = effect.cluster.name == state_->options.own.name;
        if (own && name == state_->options.node) state_->set_node(node->after);
    }
}

void ServiceMerger::advance(TimePoint now) {
    state_->traffic.advance(now, state_->dirty);
}
std::optional<TimePoint> ServiceMerger::next_due() const {
    return state_->traffic.next_due();
}
void ServiceMerger::note_freshness(const state::ClusterKey& cluster, bool connected,
                                   TimePoint last_proof_of_life) {
    state_->traffic.note_freshness(cluster.name, connected, last_proof_of_life, state_->dirty);
}
void ServiceMerger::forget_freshness(std::string_view cluster) {
    state_->traffic.forget_cluster(cluster, state_->dirty);
}
bool ServiceMerger::wants_freshness() const noexcept {
    return state_->traffic.wants_freshness();
}
bool ServiceMerger::any_closed() const {
    return state_->traffic.any_closed();
}
void ServiceMerger::note_synced(const state::ClusterKey& cluster) {
    state_->traffic.note_synced(cluster.name);
}
void ServiceMerger::note_all_synced() noexcept {
    state_->traffic.note_all_synced();
}

void ServiceMerger::note_host(const HostProbe& probe, const Finding& finding) {
    if (state_->health) state_->health->note_host(probe, finding, state_->dirty);
}
void ServiceMerger::note_backend(const BackendProbe& probe, const Finding& finding) {
    if (state_->health) state_->health->note_backend(probe, finding, state_->dirty);
}
ProbeChanges ServiceMerger::take_probe_changes() {
    return state_->health ? state_->health->take_changes() : ProbeChanges{};
}
bool ServiceMerger::is_node(const model::IpAddress& address) const {
    return state_->health && state_->health->is_node(address);
}

FrontendChanges ServiceMerger::flush(std::size_t most) {
    FrontendChanges changes;
    std::set<ObjectName> changed = std::exchange(state_->dirty, {});
    std::set<ObjectName> promoted;
    std::set<FrontendKey> abandoned;
    for (const ObjectName& name : changed) state_->update_claims(name, promoted, abandoned);
    // Claims are settled now: who is served is known before the first row is compiled.
    auto& to_compile = state_->to_compile;
    to_compile.merge(changed);
    to_compile.merge(promoted);
    for (; most > 0 && !to_compile.empty(); --most) {
        changes.services.push_back(std::move(to_compile.extract(to_compile.begin()).value()));
        state_->compile(changes.services.back(), changes);
    }
    for (const FrontendKey& key : abandoned) {
        const auto frontend = state_->frontends.find(key);
        if (!frontend->second.claimants.empty()) continue;  // claimed again in this flush
        if (!frontend->second.returned.empty()) changes.removed.push_back(key);
        state_->frontends.erase(frontend);
    }
    std::ranges::sort(changes.upserts, {}, &FrontendRow::key);
    return changes;
}

bool ServiceMerger::pending() const noexcept {
    return !state_->dirty.empty() || !state_->to_compile.empty();
}

ServiceExplanation ServiceMerger::explain(const ObjectName& name) const {
    const auto local = state_->tables.find_local_service(name);
    ServiceExplanation explanation =
        explain_service(name, local ? &*local : nullptr, state_->remotes(name), state_->options,
                        state_->traffic, state_->health ? &*state_->health : nullptr);
    for (const FrontendRow& row : explanation.frontends) {
        // Unflushed changes may not have claimed yet.
        const auto held = state_->frontends.find(row.key);
        if (held == state_->frontends.end() || held->second.claimants.empty()) continue;
        const ObjectName& served = *held->second.claimants.front();
        if (served < name) explanation.notes.push_back(note_other_service(row.key, served));
    }
    return explanation;
}

std::vector<ObjectName> ServiceMerger::services() const {
    std::vector<ObjectName> names;
    names.reserve(state_->services.size());
    for (const auto& [name, keys] : state_->services) names.push_back(name);
    return names;
}

MergerWork ServiceMerger::work() const noexcept {
    return state_->work;
}

std::size_t ServiceMerger::bytes() const noexcept {
    constexpr std::size_t kNode = 4 * sizeof(void*) + 2 * sizeof(void*);  // of a map, with malloc's
    const auto heap = [](const std::string& text) {
        return text.capacity() > 15 ? text.capacity() + 16 : 0;
    };
    std::size_t total = 0;
    for (const auto& [name, keys] : state_->services) {
        total += kNode + sizeof(name) + heap(name.namespace_) + heap(name.name) + sizeof(keys) +
                 keys.capacity() * sizeof(FrontendKey) + 16;
    }
    for (const auto& name : state_->node_bound) {
        total += kNode + sizeof(name) + heap(name.namespace_) + heap(name.name);
    }
    for (const auto& [key, frontend] : state_->frontends) {
        total += kNode + sizeof(key) + sizeof(frontend) + heap(frontend.returned) +
                 frontend.claimants.capacity() * sizeof(void*) + 16;
    }
    return total;
}

}  // namespace mesh::compile
