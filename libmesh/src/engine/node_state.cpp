#include "engine/node_state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace mesh::engine {

namespace {

constexpr std::size_t kServicesAtOnce = 500;
constexpr std::size_t kPrefixesAtOnce = 4096;
constexpr std::size_t kLeavingAtOnce = 65'536;
constexpr std::size_t kRetriesAtOnce = 8;

datapath::ServiceFrontend to_frontend(const compile::FrontendKey& key) {
    return {key.address, key.port,
            static_cast<datapath::Protocol>(static_cast<std::uint8_t>(key.protocol))};
}

datapath::ServiceRow to_row(const compile::FrontendRow& from) {
    datapath::ServiceRow row;
    row.frontend = to_frontend(from.key);
    row.name = from.service.namespace_ + "/" + from.service.name;
    row.affinity_seconds = from.affinity_seconds;
    row.outside = from.outside;
    row.outside_local = from.outside_local;
    row.backends.reserve(from.backends.size());
    for (const auto& backend : from.backends) {
        if (!backend.programmed) continue;
        // A programmed backend that is not selected finishes the flows that it has.
        row.backends.push_back({.address = backend.address,
                                .port = backend.port,
                                .proto = row.frontend.proto,
                                .cluster_id = model::number(backend.cluster.id),
                                .weight = backend.selected ? backend.weight : std::uint16_t{0},
                                .terminating = false,
                                .here = backend.here});
    }
    return row;
}

datapath::IpcacheEntry to_entry(const compile::IpcacheRow& row) {
    return {.prefix = row.prefix,
            .identity = model::number(row.identity),
            .cluster_id = model::number(row.cluster),
            .tunnel = row.tunnel,
            .encryption_key = row.encryption_key,
            .is_node = row.is_node,
            .is_cidr = row.is_cidr};
}

datapath::PodsChanges to_changes(const compile::IpcacheChanges& from) {
    datapath::PodsChanges changes;
    changes.upserts.reserve(from.upserts.size());
    for (const auto& row : from.upserts) changes.upserts.push_back(to_entry(row));
    changes.removed = from.removed;
    for (const auto& node : from.nodes_upserts) {
        changes.nodes.push_back({node.address, model::number(node.cluster)});
    }
    changes.removed_nodes = from.nodes_removed;
    return changes;
}

std::string_view to_text(model::BackendState state) {
    switch (state) {
        case model::BackendState::kActive:
            return "active";
        case model::BackendState::kTerminating:
            return "terminating";
        case model::BackendState::kQuarantined:
            return "quarantined";
        case model::BackendState::kMaintenance:
            return "maintenance";
    }
    return "unknown";
}

ServiceView to_view(const compile::ServiceExplanation& from) {
    ServiceView view;
    view.namespace_ = from.service.namespace_;
    view.name = from.service.name;
    view.global = from.global;
    view.shared = from.shared;
    view.affinity = to_string(from.affinity);
    view.notes = from.notes;
    view.frontends.reserve(from.frontends.size());
    for (const auto& frontend : from.frontends) {
        FrontendView& to = view.frontends.emplace_back();
        to.address = frontend.key.address.to_string();
        to.port = frontend.key.port;
        to.protocol = compile::to_string(frontend.key.protocol);
        to.port_name = frontend.port_name;
        to.node_port = frontend.node_port;
        to.backends.reserve(frontend.backends.size());
        for (const auto& backend : frontend.backends) {
            to.backends.push_back({.address = backend.address.to_string(),
                                   .port = backend.port,
                                   .cluster = backend.cluster.name,
                                   .state = std::string(to_text(backend.state)),
                                   .weight = backend.weight,
                                   .selected = backend.selected,
                                   .reason = std::string(compile::to_string(backend.reason))});
        }
    }
    return view;
}

}  // namespace

NodeState::NodeState(state::ClusterKey own, std::string node, std::uint64_t hash_seed,
                     datapath::Datapath& datapath, Logger log, NodeStateOptions options)
    : own_(std::move(own)),
      datapath_(datapath),
      pods_(options.pods),
      log_(std::move(log)),
      on_effect_(std::move(options.on_effect)),
      on_services_(std::move(options.on_services)),
      tables_(own_.name, hash_seed),
      merger_(tables_, {.own = own_,
                        .node = node,
                        .zone = {},
                        .zone_hints = options.service_topology,
                        .health = options.health}),
      routes_({.own_cluster = own_.name, .own_node = node, .any_underlay = options.tunnel}),
      resets_(options.resets) {
    datapath_.set_own_cluster(model::number(own_.id));
    if (pods_ != nullptr) {
        ipcache_.emplace(
            tables_, routes_,
            compile::IpcacheOptions{.own_cluster = own_.name, .own_node = std::move(node)});
    }
}

void NodeState::note(const state::Effect& effect) {
    merger_.note(effect);
    routes_.note(effect);
    if (ipcache_) ipcache_->note(effect);
    if (const auto* ip = std::get_if<state::Changed<model::IpIdentityPair>>(&effect.change)) {
        if (ip->after == nullptr) resets_.note_pod_gone(ip->before->ip);
    }
    if (on_effect_) on_effect_(effect);
    dirty_ = true;
}

void NodeState::apply(const state::ClusterBatch& batch) {
    const auto counts = tables_.apply(batch, [this](const state::Effect& e) { note(e); });
    if (counts.refused > 0) {
        log_.warn("cluster {}: {} changes refused: only the own cluster has local services",
                  batch.cluster.name, counts.refused);
    }
}

void NodeState::drain(std::string_view cluster, state::KindSet kinds) {
    const std::size_t count = tables_.drain(
        cluster, [this](const state::Effect& e) { note(e); }, kinds);
    std::erase_if(synced_, [&](const state::ClusterKey& key) { return key.name == cluster; });
    if (kinds == state::KindSet::all()) merger_.forget_freshness(cluster);
    log_.info("cluster {}: drained, {} objects removed", cluster, count);
}

void NodeState::note_local(const model::IpPrefix& prefix, std::optional<std::uint32_t> identity) {
    if (!ipcache_) return;
    std::optional<model::IdentityId> id;
    if (identity) id = model::IdentityId{*identity};
    ipcache_->note_local(prefix, id);
    dirty_ = true;
}

void NodeState::note_freshness(const state::ClusterKey& cluster, bool connected,
                               TimePoint last_proof_of_life) {
    merger_.note_freshness(cluster, connected, last_proof_of_life);
    dirty_ = dirty_ || merger_.pending();
}

void NodeState::advance(TimePoint now) {
    now_ = now;
    merger_.advance(now);
    dirty_ = dirty_ || merger_.pending();
}

void NodeState::note_host(const compile::HostProbe& probe, const compile::Finding& finding) {
    merger_.note_host(probe, finding);
    dirty_ = dirty_ || merger_.pending();
}

void NodeState::note_backend(const compile::BackendProbe& probe, const compile::Finding& finding) {
    merger_.note_backend(probe, finding);
    dirty_ = dirty_ || merger_.pending();
}

std::optional<TimePoint> NodeState::next_due() const {
    const auto traffic = merger_.next_due();
    const auto resets = resets_.next_due();
    if (!traffic || !resets) return traffic ? traffic : resets;
    return std::min(*traffic, *resets);
}

Result<datapath::ApplyStats> NodeState::write_pending() {
    std::vector<datapath::ServiceChange> changes;
    changes.reserve(pending_.size());
    // Removals first: what they free may be what an upsert needs.
    for (const auto& [frontend, change] : pending_) {
        if (change.kind == datapath::ServiceChange::Kind::kRemove) changes.push_back(change);
    }
    for (const auto& [frontend, change] : pending_) {
        if (change.kind == datapath::ServiceChange::Kind::kUpsert) changes.push_back(change);
    }
    MESH_TRY(auto stats, datapath_.apply(changes));
    std::set<datapath::ServiceFrontend> known;
    for (const auto& [frontend, change] : pending_) {
        if (unfit_.erase(frontend) > 0) known.insert(frontend);
        rejected_.erase(frontend);
        truncated_.erase(frontend);
    }
    const auto keep = [&](const auto& row, auto& rows, const std::string& what) {
        rows.insert_or_assign(row.frontend, row);
        unfit_.insert_or_assign(row.frontend, pending_.at(row.frontend));
        if (known.contains(row.frontend)) return;
        log_.warn("service {}: {}:{}/{} {}", row.name, row.frontend.address.to_string(),
                  row.frontend.port, datapath::to_string(row.frontend.proto), what);
    };
    for (const auto& row : stats.rejected) {
        keep(row, rejected_, "was refused by the datapath: " + row.error.message());
    }
    for (const auto& row : stats.truncated) {
        keep(row, truncated_,
             fmt::format("is without {} backends of remote clusters, which found no room",
                         row.left_out));
    }
    pending_.clear();
    return stats;
}

Result<datapath::ApplyStats> NodeState::write(const compile::FrontendChanges& changes) {
    if (!datapath_.programs()) return datapath::ApplyStats{};
    for (const auto& key : changes.removed) {
        const auto frontend = to_frontend(key);
        resets_.note_removed(frontend);
        pending_.insert_or_assign(frontend, datapath::ServiceChange::remove(frontend));
    }
    for (const auto& row : changes.upserts) {
        auto change = datapath::ServiceChange::upsert(to_row(row));
        const auto frontend = change.row.frontend;
        resets_.note_row(frontend, row, now_);
        pending_.insert_or_assign(frontend, std::move(change));
    }
    if (pending_.empty()) return datapath::ApplyStats{};
    return write_pending();
}

/// Room has become free: tries again what did not fit, as long as it does now.
Result<void> NodeState::retry_unfit() {
    for (;;) {
        std::vector<datapath::ServiceFrontend> tried;
        auto at = unfit_.upper_bound(last_retried_);
        while (tried.size() < std::min(kRetriesAtOnce, unfit_.size())) {
            if (at == unfit_.end()) at = unfit_.begin();
            pending_.insert(*at);
            tried.push_back(at->first);
            ++at;
        }
        if (tried.empty()) return {};
        // In turn, so that one that never fits keeps no other off.
        last_retried_ = tried.back();
        MESH_TRY(const auto stats, write_pending());
        note_removed(stats);
        const bool all_fit = std::ranges::none_of(
            tried, [this](const auto& frontend) { return unfit_.contains(frontend); });
        if (!all_fit) return {};
    }
}

Result<FlushResult> NodeState::flush(const std::function<void()>& on_routes) {
    FlushResult result;
    const compile::RouteChanges route_changes = routes_.flush();
    for (const auto& prefix : route_changes.removed) leaving_routes_.insert(prefix);
    new_routes_ = new_routes_ || !route_changes.upserts.empty();
    for (const auto& route : route_changes.upserts) {
        leaving_routes_.erase(route.prefix);
        desired_routes_[route.prefix] = {.via = route.gateway, .device = {}, .onlink = false};
    }
    // The way to a backend is there before the backend is used, and until it no longer is.
    if (ipcache_) {
        ipcache_->note_routes(route_changes);
        MESH_CHECK(write_ipcache());
    }
    if (on_routes && new_routes_) on_routes();
    MESH_CHECK(write_services());
    for (const auto& prefix : leaving_routes_) desired_routes_.erase(prefix);
    result.routes_changed = !leaving_routes_.empty() || (new_routes_ && !on_routes);
    MESH_CHECK(remove_from_ipcache());
    if (refusal_told_ && ipcache_refused_.empty() && nodes_refused_.empty()) {
        refusal_told_ = false;
        log_.info("ipcache and nodes: all rows have found room");
    }
    leaving_routes_.clear();
    new_routes_ = false;
    dirty_ = false;
    return result;
}

Result<void> NodeState::write_services() {
    bool room_freed = false;
    // In parts: the rows of a first sync need not all be in memory at once.
    do {
        const auto changes = merger_.flush(kServicesAtOnce);
        if (on_services_) on_services_(changes);
        MESH_TRY(const auto stats, write(changes));
        note_removed(stats);
        room_freed |= stats.backends_removed > 0 || stats.services_removed > 0;
    } while (merger_.pending());
    if (room_freed) MESH_CHECK(retry_unfit());
    return {};
}

Result<void> NodeState::write_ipcache() {
    do {
        // What an earlier call could not write comes first: rows of the same prefix are in order.
        if (pending_ipcache_.empty()) {
            pending_ipcache_ = to_changes(ipcache_->flush(kPrefixesAtOnce));
            for (const auto& entry : pending_ipcache_.upserts) {
                ipcache_refused_.erase(entry.prefix);
                leaving_prefixes_.erase(entry.prefix);
            }
            for (const auto& node : pending_ipcache_.nodes) {
                nodes_refused_.erase(node.address);
                leaving_nodes_.erase(node.address);
            }
            for (const auto& prefix : pending_ipcache_.removed) {
                ipcache_refused_.erase(prefix);
                leaving_prefixes_.insert(prefix);
            }
            for (const auto& address : pending_ipcache_.removed_nodes) {
                nodes_refused_.erase(address);
            }
            leaving_nodes_.insert(pending_ipcache_.removed_nodes.begin(),
                                  pending_ipcache_.removed_nodes.end());
            pending_ipcache_.removed.clear();
            pending_ipcache_.removed_nodes.clear();
        }
        MESH_CHECK(apply_to_ipcache());
        // A remote with a million addresses went: they need not all be in memory at once.
        if (leaving_prefixes_.size() >= kLeavingAtOnce) {
            MESH_CHECK(write_services());
            MESH_CHECK(remove_from_ipcache());
        }
    } while (ipcache_->pending());
    return {};
}

Result<void> NodeState::remove_from_ipcache() {
    if (leaving_prefixes_.empty() && leaving_nodes_.empty()) return {};
    pending_ipcache_.removed.assign(leaving_prefixes_.begin(), leaving_prefixes_.end());
    pending_ipcache_.removed_nodes.assign(leaving_nodes_.begin(), leaving_nodes_.end());
    leaving_prefixes_.clear();
    leaving_nodes_.clear();
    // Room becomes free: tries again what was refused for want of it.
    auto again = ipcache_refused_.begin();
    for (std::size_t i = 0; i < pending_ipcache_.removed.size() && again != ipcache_refused_.end();
         ++i) {
        pending_ipcache_.upserts.push_back(again->second);
        again = ipcache_refused_.erase(again);
    }
    auto node = nodes_refused_.begin();
    for (std::size_t i = 0;
         i < pending_ipcache_.removed_nodes.size() && node != nodes_refused_.end(); ++i) {
        pending_ipcache_.nodes.push_back(node->second);
        node = nodes_refused_.erase(node);
    }
    return apply_to_ipcache();
}

Result<void> NodeState::apply_to_ipcache() {
    if (pending_ipcache_.empty()) return {};
    MESH_TRY(const auto stats, pods_->apply(pending_ipcache_));
    keep_refused(stats);
    pending_ipcache_ = {};
    return {};
}

void NodeState::keep_refused(const datapath::PodsStats& stats) {
    if (!stats.refused.empty() && !std::exchange(refusal_told_, true)) {
        log_.error("{}", stats.refusal);
    }
    for (const std::size_t index : stats.refused) {
        if (index < pending_ipcache_.upserts.size()) {
            const auto& entry = pending_ipcache_.upserts[index];
            ipcache_refused_.emplace(entry.prefix, entry);
        } else {
            const auto& node = pending_ipcache_.nodes[index - pending_ipcache_.upserts.size()];
            nodes_refused_.emplace(node.address, node);
        }
    }
}

Result<void> NodeState::cluster_synced(const state::ClusterKey& cluster) {
    if (!synced_.insert(cluster).second) return {};
    merger_.note_synced(cluster);
    if (!synced_.contains(own_)) return {};
    if (cluster != own_) return finish_adopt_cluster(cluster);
    for (const auto& key : synced_) MESH_CHECK(finish_adopt_cluster(key));
    return {};
}

Result<void> NodeState::finish_adopt_cluster(const state::ClusterKey& cluster) {
    MESH_TRY(const auto stats, datapath_.finish_adopt_cluster(model::number(cluster.id)));
    note_removed(stats);
    if (pods_ != nullptr) MESH_CHECK(pods_->finish_adopt_cluster(model::number(cluster.id)));
    return {};
}

Result<void> NodeState::finish_adopt() {
    MESH_TRY(const auto stats, datapath_.finish_adopt());
    note_removed(stats);
    if (pods_ != nullptr) MESH_CHECK(pods_->finish_adopt());
    merger_.note_all_synced();
    return {};
}

void NodeState::note_removed(const datapath::ApplyStats& stats) noexcept {
    backends_removed_ |= stats.backends_removed > 0 || stats.services_removed > 0;
}

bool NodeState::take_backends_removed() noexcept {
    return std::exchange(backends_removed_, false);
}

std::vector<ServiceView> NodeState::services() const {
    std::vector<ServiceView> views;
    for (const auto& name : merger_.services()) views.push_back(to_view(merger_.explain(name)));
    return views;
}

std::optional<ServiceView> NodeState::service(const state::ObjectName& name) const {
    const auto explanation = merger_.explain(name);
    if (!explanation.local && explanation.notes.empty()) return std::nullopt;
    return to_view(explanation);
}

}  // namespace mesh::engine
