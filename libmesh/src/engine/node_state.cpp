#include "engine/node_state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace mesh::engine {

namespace {

constexpr std::size_t kServicesAtOnce = 500;
constexpr std::size_t kPrefixesAtOnce = 4096;
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
      tables_(own_.name, hash_seed),
      merger_(tables_,
              {.own = own_, .node = node, .zone = {}, .zone_hints = options.service_topology}),
      routes_({.own_cluster = own_.name, .own_node = node, .any_underlay = options.tunnel}) {
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

void NodeState::note_freshness(const state::ClusterKey& cluster, bool connected,
                               TimePoint last_proof_of_life) {
    merger_.note_freshness(cluster, connected, last_proof_of_life);
    dirty_ = dirty_ || merger_.pending();
}

void NodeState::advance(TimePoint now) {
    merger_.advance(now);
    dirty_ = dirty_ || merger_.pending();
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
    for (const auto& key : changes.removed) {
        const auto frontend = to_frontend(key);
        pending_.insert_or_assign(frontend, datapath::ServiceChange::remove(frontend));
    }
    for (const auto& row : changes.upserts) {
        auto change = datapath::ServiceChange::upsert(to_row(row));
        const auto frontend = change.row.frontend;
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

Result<FlushResult> NodeState::flush() {
    FlushResult result;
    bool room_freed = false;
    // In parts: the rows of a first sync need not all be in memory at once.
    do {
        MESH_TRY(const auto stats, write(merger_.flush(kServicesAtOnce)));
        note_removed(stats);
        room_freed |= stats.backends_removed > 0 || stats.services_removed > 0;
    } while (merger_.pending());
    if (room_freed) MESH_CHECK(retry_unfit());
    const compile::RouteChanges route_changes = routes_.flush();
    for (const auto& prefix : route_changes.removed) desired_routes_.erase(prefix);
    for (const auto& route : route_changes.upserts) {
        desired_routes_[route.prefix] = {.via = route.gateway, .device = {}, .onlink = false};
    }
    result.routes_changed = !route_changes.empty();
    if (ipcache_) {
        ipcache_->note_routes(route_changes);
        MESH_CHECK(write_ipcache());
    }
    dirty_ = false;
    return result;
}

Result<void> NodeState::write_ipcache() {
    do {
        // What an earlier call could not write comes first: rows of the same prefix are in order.
        if (pending_ipcache_.empty()) {
            pending_ipcache_ = to_changes(ipcache_->flush(kPrefixesAtOnce));
            for (const auto& entry : pending_ipcache_.upserts) ipcache_refused_.erase(entry.prefix);
            for (const auto& prefix : pending_ipcache_.removed) ipcache_refused_.erase(prefix);
            // Room may have become free: try again what was refused for want of it.
            auto again = ipcache_refused_.begin();
            for (std::size_t i = 0;
                 i < pending_ipcache_.removed.size() && again != ipcache_refused_.end(); ++i) {
                pending_ipcache_.upserts.push_back(again->second);
                again = ipcache_refused_.erase(again);
            }
        }
        MESH_TRY(const auto stats, pods_->apply(pending_ipcache_));
        if (!stats.refused.empty() && ipcache_refused_.empty()) log_.error("{}", stats.refusal);
        for (const std::size_t index : stats.refused) {
            if (index >= pending_ipcache_.upserts.size()) continue;
            const auto& entry = pending_ipcache_.upserts[index];
            ipcache_refused_.emplace(entry.prefix, entry);
        }
        pending_ipcache_ = {};
    } while (ipcache_->pending());
    return {};
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
