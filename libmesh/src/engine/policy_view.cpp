#include "engine/policy_view.hpp"

#include <fmt/format.h>

#include <utility>

#include "engine/policy_peers.hpp"

namespace mesh::engine {

PolicyView::PolicyView(PolicyEngineOptions options, state::ClusterKey own,
                       const state::ClusterTables& tables, const Clock& clock, Rng rng, Logger log)
    : options_(std::move(options)),
      own_(std::move(own)),
      tables_(tables),
      clock_(clock),
      rng_(rng),
      log_(std::move(log)) {}
PolicyView::~PolicyView() = default;

void PolicyView::note(const state::Effect& effect) {
    if (!engine_) return;
    if (clock_.now() - asked_ > kKept) {
        engine_.reset();
        return;
    }
    engine_->note(effect);
}

PolicyEngine& PolicyView::engine() {
    asked_ = clock_.now();
    if (!engine_) build();
    // It writes to memory, and has no endpoints: nothing fails.
    (void)engine_->flush(tables_);
    (void)engine_->flush_removed();
    return *engine_;
}

void PolicyView::build() {
    engine_ =
        std::make_unique<PolicyEngine>(options_, own_, datapath_, clock_, Rng(rng_.next()), log_);
    (void)engine_->start(false);
    for (const auto& cluster : tables_.clusters()) {
        const auto note = [&](const auto& object) {
            using T = std::remove_cvref_t<decltype(object)>;
            engine_->note({cluster, state::Changed<T>{nullptr, &object}});
        };
        tables_.for_each_identity(cluster.name, note);
        tables_.for_each_ip(cluster.name, note);
        if (cluster.name != own_.name) continue;
        tables_.for_each_local_service(note);
        tables_.for_each_policy(note);
    }
    for (const auto& cluster : tables_.clusters()) engine_->note_synced(cluster);
    engine_->note_synced(own_);
    engine_->finish_adoption();
}

PolicyView::Pods::Pods(PolicyView& view) : view_(view) {
    auto& compiler = view.engine().compiler();
    std::uint32_t number = 0;
    view.tables_.for_each_ip(view.own_.name, [&](const model::IpIdentityPair& pair) {
        if (pair.k8s_pod_name.empty()) return;
        const auto known = view.tables_.find_identity(view.own_.name, pair.id);
        if (!known) return;
        compile::PolicyEndpoint what;
        what.labels = known->labels;
        what.ports = named_ports(pair);
        compiler.upsert_endpoint(++number, std::move(what));
        names_[number] = fmt::format("{}/{}", pair.k8s_namespace.view(), pair.k8s_pod_name.view());
    });
    (void)compiler.flush();
}

PolicyView::Pods::~Pods() {
    auto& compiler = view_.engine_->compiler();
    for (const auto& [number, name] : names_) compiler.remove_endpoint(number);
    (void)compiler.flush();
}

}  // namespace mesh::engine
