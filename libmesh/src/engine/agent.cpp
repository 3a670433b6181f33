#include "engine/agent.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <set>
#include <utility>

#include "datapath/netlink/proxy_routes.hpp"
#include "datapath/netlink/route_table.hpp"
#include "engine/datapaths.hpp"
#include "engine/documents.hpp"
#include "engine/encryption.hpp"
#include "engine/event_log.hpp"
#include "engine/explanation.hpp"
#include "engine/flow_collector.hpp"
#include "engine/health_watch.hpp"
#include "engine/options_check.hpp"
#include "engine/policy_document.hpp"
#include "engine/policy_proxies.hpp"
#include "engine/policy_trace.hpp"
#include "engine/policy_view.hpp"
#include "runtime/backoff.hpp"
#include "runtime/heap.hpp"
#include "sources/config/endpoint_files.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "sources/config/memory_files.hpp"
#include "state/clusters/clusters.hpp"

namespace mesh::engine {

namespace asio = boost::asio;

namespace {

/// A remote that is stale for some service is looked at this often: its session tells of a
/// connection, but not of an answer after a silence.
constexpr std::chrono::seconds kStaleRecheck{1};
/// From a flush that set routes to the next one. Routes are compared with all that the kernel has:
/// nodes that flap share a comparison.
constexpr std::chrono::milliseconds kRoutesPace{50};
/// Between two times that what lists left free is given back.
constexpr std::chrono::seconds kGiveBackPace{10};
constexpr std::size_t kAccessLines = 1000;
/// Of packets for the node's own proxies.
constexpr std::uint32_t kProxyMark = 0x4d502000;

/// Without the kernel's datapath nothing would follow from a probe.
bool probes(const MeshOptions& options) {
    return options.health.port != 0 && options.datapath.kind == DatapathOptions::Kind::kBpf;
}

Result<sources::config::EtcdClientConfig> own_etcd(const MeshOptions& options) {
    if (options.etcd_config.empty()) {
        const auto& etcd = options.etcd;
        return sources::config::etcd_in_memory(etcd.endpoints, etcd.ca_pem, etcd.cert_pem,
                                               etcd.key_pem);
    }
    auto own = sources::config::read_etcd_yaml(options.etcd_config);
    if (!own) return own.error().with_prefix("etcd_config");
    return own;
}

PolicyEngineOptions policy_options(const MeshOptions& options) {
    using compile::Enforcement;
    PolicyEngineOptions out;
    const std::string& mode = options.policy.enforcement;
    out.compile.enforcement = mode == "always"  ? Enforcement::kAlways
                              : mode == "never" ? Enforcement::kNever
                                                : Enforcement::kDefault;
    out.compile.cluster = options.cluster_name;
    out.compile.allow_localhost = options.policy.allow_localhost;
    out.compile.default_local_cluster = options.policy.default_local_cluster;
    out.audit = options.policy.audit;
    for (const std::string& text : options.policy.endpoint_modes) {
        // Checked before.
        if (auto one = compile::parse_endpoint_mode(text)) {
            out.compile.endpoint_modes.push_back(*std::move(one));
        }
    }
    out.verdict_events = options.policy.verdict_events;
    out.proxy_mark = kProxyMark;
    // As the datapath looks rows up: 0.0.0.0/0 is no IPv6 address's.
    out.local.dual_stack = true;
    out.identity_shift = options.max_connected_clusters == 511 ? 15 : 16;
    return out;
}

Error no_policy() {
    return not_found("this node enforces no policies: it has no pod network");
}

/// Its pods were there before it had policies: none has a number.
bool pods_without_policy(const datapath::PodDatapath& pods) {
    const auto endpoints = pods.endpoints();
    return !endpoints.empty() &&
           std::ranges::all_of(endpoints, [](const auto& one) { return one.id == 0; });
}

}  // namespace

class Agent::Impl : public std::enable_shared_from_this<Agent::Impl> {
  public:
    Impl(asio::any_io_executor executor, MeshOptions options, const Clock& clock, Logger log,
         Datapaths datapaths, sources::config::EtcdClientConfig own,
         std::vector<sources::config::RemoteConfig> remotes)
        : executor_(executor),
          options_(std::move(options)),
          clock_(clock),
          log_(std::move(log)),
          datapath_(std::move(datapaths.services)),
          bpf_(datapaths.bpf),
          pods_(std::move(datapaths.pods)),
          own_{options_.cluster_name, model::ClusterId{options_.cluster_id}},
          node_(own_, options_.node_name, rng_.next(), *datapath_, log_.named("node"),
                {.pods = pods_.get(),
                 .tunnel = options_.datapath.routing == DatapathOptions::Routing::kTunnel,
                 .service_topology = options_.enable_service_topology,
                 .health = probes(options_),
                 .resets = options_.resets,
                 .on_effect =
                     [this](const state::Effect& effect) {
                         if (encryption_) encryption_->note(effect);
                         if (policy_) policy_->note(effect);
                         policy_view_.note(effect);
                         observer_.note(effect);
                     },
                 .on_services = [this](const auto& changes) { observer_.note(changes); }}),
          policy_view_(policy_options(options_), own_, node_.tables(), clock_, Rng(rng_.next()),
                       log_.named("policy")),
          observer_({.tables = node_.tables(),
                     .merger = node_.merger(),
                     .own = own_,
                     .clusters = [this] { return clusters_->status(); }}),
          publications_(executor, clock_, Rng(rng_.next()), log_.named("publish"),
                        [this, own] {
                            return etcd::Client::make(executor_,
                                                      sources::config::client_options(own), clock_,
                                                      Rng(rng_.next()), log_.named("publish"));
                        }),
          retry_(executor),
          sync_timeout_(executor),
          traffic_due_(executor),
          pace_(executor) {
        if (datapaths.routes) routes_.emplace(std::move(*datapaths.routes));
        if (pods_ && datapaths.devices) {
            network_.emplace(options_.datapath, own_, options_.node_name,
                             options_.max_connected_clusters, std::move(*datapaths.devices), *pods_,
                             log_.named("pods"));
        }
        if (network_) {
            auto policy = policy_options(options_);
            policy.identity_of = [pods = pods_.get()](const model::IpAddress& address) {
                const auto entry = pods->lookup(address);
                return entry ? entry->identity : 0U;
            };
            const bool enabled = policy.enabled();
            policy_.emplace(std::move(policy), own_, pods_->policy(), clock_, Rng(rng_.next()),
                            log_.named("policy"));
            if (enabled) make_proxies();
        }
        if (pods_) flow_collector_.emplace(executor, *pods_, clock_, log_.named("pods"));
        if (network_ && datapaths.bpf_pods != nullptr) {
            events_.emplace(executor, *datapaths.bpf_pods, [this](bool on) {
                if (auto done = network_->set_trace(on); !done) {
                    log_.warn("trace: {}", done.error().message());
                }
            });
        }
        if (network_ && !options_.datapath.endpoints_directory.empty()) {
            endpoints_ = std::make_unique<sources::config::EndpointsDirectory>(
                executor, options_.datapath.endpoints_directory, clock, log_.named("endpoints"),
                [this] {
                    take_endpoints();
                    schedule_flush();
                });
        }
        if (probes(options_)) {
            health_.emplace(executor, clock, Rng(rng_.next()), options_.health, own_,
                            options_.node_name, node_, log_.named("health"),
                            [this] { schedule_flush(); });
        }
        state::ClustersOptions to;
        to.local_name = own_.name;
        to.local_id = own_.id;
        to.max_clusters = options_.max_connected_clusters;
        to.own = std::move(own);
        to.remotes_directory = options_.clustermesh_config;
        to.remotes = std::move(remotes);
        if (options_.remote_max_stale_age > std::chrono::seconds::zero()) {
            to.max_stale_age = options_.remote_max_stale_age;
        }
        state::ClusterEvents events;
        events.on_batch = [this](state::ClusterBatch&& batch) {
            node_.apply(batch);
            schedule_flush();
        };
        events.on_state = [this](const std::string&, state::SessionState state) {
            lists_read_ = lists_read_ || state == state::SessionState::kReady;
            schedule_flush();
        };
        events.on_reset = [this](const std::string& cluster) {
            node_.drain(cluster);
            schedule_flush();
        };
        events.on_config_errors = [this] {
            // A remote whose file has become good is waited for as long as the others were.
            if (!adoption_done_) wait_for_sync();
            schedule_flush();
        };
        events.on_finished = [this](const std::string& cluster) {
            node_.drain(cluster);
            schedule_flush();
        };
        clusters_ =
            std::make_unique<state::Clusters>(executor, std::move(to), clock, Rng(rng_.next()),
                                              log_.named("clusters"), std::move(events));
    }

    /// Once, before start().
    [[nodiscard]] Result<void> open_encryption() {
        if (!network_) return {};
        const auto context = encryption_context(options_, own_);
        if (context.options.kind == "none") {
            if (auto done = Encryption::disable(context, *pods_); !done) {
                log_.warn("encryption of a former run: {}", done.error().message());
            }
            return {};
        }
        MESH_TRY(encryption_, Encryption::make(executor_, context, *pods_, log_.named("encryption"),
                                               [this] { schedule_flush(); }));
        return {};
    }

    void make_proxies() {
        PolicyProxiesOptions proxies;
        proxies.proxy_mark = kProxyMark;
        proxies.access_log = options_.policy.access_log;
        proxies.fqdn_file = options_.policy.fqdn_cache;
        proxies.prepare = []() -> Result<void> {
            MESH_TRY(const auto here, datapath::Netns::current());
            MESH_TRY(auto netlink, datapath::Rtnetlink::open(here));
            return datapath::set_proxy_routes(netlink, kProxyMark);
        };
        proxies.on_change = [this] { schedule_flush(); };
        proxies_ = std::make_unique<PolicyProxies>(executor_, std::move(proxies), *policy_, clock_,
                                                   log_.named("proxy"));
    }

    /// Once, before start().
    [[nodiscard]] Result<void> start_policy() {
        if (!policy_) return {};
        for (const auto& entry : pods_->adopted_local()) {
            policy_->adopt_local(entry.prefix, entry.identity);
        }
        return policy_->start(pods_without_policy(*pods_));
    }

    [[nodiscard]] Result<void> reload() {
        return encryption_ ? encryption_->reload_key() : Result<void>();
    }

    void start() {
        if (events_) events_->start();
        if (flow_collector_) flow_collector_->start();
        if (endpoints_) {
            endpoints_->start();
            take_endpoints();
            schedule_flush();
        }
        if (proxies_) proxies_->start();
        if (routes_) {
            // Routes of a former run stay until the nodes that they belong to had time to sync.
            adopted_routes_ = routes_of_a_former_run();
        }
        clusters_->start();
        wait_for_sync();
    }

    asio::awaitable<void> stop() {
        auto self = shared_from_this();
        stopped_ = true;
        retry_.cancel();
        sync_timeout_.cancel();
        if (events_) events_->stop();
        if (flow_collector_) flow_collector_->stop();
        if (encryption_) encryption_->stop();
        traffic_due_.cancel();
        pace_.cancel();
        co_await publications_.async_stop();
        co_await clusters_->stop();
        if (endpoints_) co_await endpoints_->stop();
        if (proxies_) co_await proxies_->async_stop();
        if (health_) co_await health_->async_stop();
    }

    void set_on_change(std::function<void()> callback) { on_change_ = std::move(callback); }

    [[nodiscard]] bool serving() const {
        return last_error_.empty() && (own_written_ || adoption_done_);
    }
    [[nodiscard]] bool ready() const {
        const auto status = clusters_->status();
        return last_error_.empty() && route_failures_.empty() && !node_.dirty() &&
               clusters_->config_errors().empty() &&
               std::ranges::all_of(status, [](const auto& c) { return c.ready; });
    }

    [[nodiscard]] const NodeState& node() const noexcept { return node_; }
    [[nodiscard]] observe::Observer& observer() noexcept { return observer_; }
    [[nodiscard]] Publications& publications() noexcept { return publications_; }
    [[nodiscard]] const PodNetwork* pod_network() const noexcept {
        return network_ ? &*network_ : nullptr;
    }

    [[nodiscard]] const PolicyEngine* policy() const noexcept {
        return policy_ ? &*policy_ : nullptr;
    }

    [[nodiscard]] std::optional<std::string> policy_json() const {
        if (!policy_) return std::nullopt;
        auto document = policy_document(*policy_);
        if (proxies_) document["proxies"] = proxies_->status();
        return boost::json::serialize(document);
    }
    [[nodiscard]] std::optional<std::string> policy_json(std::string_view path) const {
        if (!policy_) return std::nullopt;
        const auto document = one_policy_document(*policy_, node_.tables(), path);
        if (!document) return std::nullopt;
        return boost::json::serialize(*document);
    }
    [[nodiscard]] Result<std::string> policy_trace_json(const PolicyTraceQuery& query) {
        MESH_TRY(auto* const policy, policy_to_ask());
        const auto clusters = clusters_->status();
        MESH_TRY(const auto document,
                 trace_document({*policy, node_.tables(), clusters, options_.node_name}, query));
        return boost::json::serialize(document);
    }
    [[nodiscard]] Result<Explanation> explain(const PolicyTraceQuery& query) {
        MESH_TRY(auto* const policy, policy_to_ask());
        const auto clusters = clusters_->status();
        MESH_TRY(const auto trace,
                 trace_packet({*policy, node_.tables(), clusters, options_.node_name}, query));
        return to_view(trace);
    }
    [[nodiscard]] Result<std::string> policy_diff_json(std::string_view request) {
        if (!policy_) return no_policy();
        MESH_TRY(const auto document, diff_document(*policy_, request));
        return boost::json::serialize(document);
    }
    [[nodiscard]] Result<std::string> policy_diff_json(std::string_view documents, bool prune) {
        MESH_TRY(const auto policies, read_policy_text(documents));
        MESH_TRY(auto* const policy, policy_to_ask());
        const auto diff = [&](PolicyEngine& of, const EndpointNames& names) {
            return boost::json::serialize(diff_document(of, names, policies, prune));
        };
        return policy_ ? diff(*policy, endpoint_names(*policy)) : policy_view_.with_pods(diff);
    }
    [[nodiscard]] std::optional<std::string> identities_json() const {
        if (!policy_) return std::nullopt;
        return boost::json::serialize(
            identities_document(*policy_, node_.tables(), clusters_->status()));
    }
    [[nodiscard]] std::optional<std::string> access_log_json() const {
        if (!proxies_) return std::nullopt;
        const auto lines = proxies_->recent(kAccessLines);
        return boost::json::serialize(
            boost::json::object{{"lines", boost::json::array(lines.begin(), lines.end())}});
    }
    [[nodiscard]] std::string endpoints_json() const {
        boost::json::array all;
        if (network_) {
            for (const auto& endpoint : network_->endpoints()) {
                all.push_back(endpoint_document(endpoint, *policy_));
            }
        }
        return boost::json::serialize(all);
    }
    [[nodiscard]] std::optional<std::string> endpoint_json(std::string_view id) const {
        if (!network_) return std::nullopt;
        for (const auto& endpoint : network_->endpoints()) {
            if (endpoint.id != id && std::to_string(endpoint.number) != id) continue;
            auto document = endpoint_document(endpoint, *policy_);
            document["rows_now"] = rows_document(*policy_, node_.tables(), endpoint.number);
            return boost::json::serialize(document);
        }
        return std::nullopt;
    }

    [[nodiscard]] std::optional<std::string> events_json(std::uint64_t since, bool trace) {
        if (!events_) return std::nullopt;
        return boost::json::serialize(events_->since(since, trace, node_.tables()));
    }

    [[nodiscard]] std::string encryption_json() {
        return boost::json::serialize(encryption_ ? encryption_->document()
                                                  : boost::json::object{{"kind", "none"}});
    }

    [[nodiscard]] std::string status_json() const {
        return with_sources([](const StatusSources& sources) {
            return boost::json::serialize(status_document(sources));
        });
    }
    [[nodiscard]] std::string metrics_text() const {
        return with_sources([](const StatusSources& sources) { return metrics_document(sources); });
    }

    [[nodiscard]] Result<void> set_remote_files(const std::map<std::string, std::string>& files) {
        auto remotes = sources::config::remotes_in_memory(files, options_.cluster_name);
        if (!remotes) return remotes.error().with_prefix("remote_files");
        clusters_->set_remotes(*std::move(remotes));
        // One that is new is waited for as long as the others were.
        if (!adoption_done_) wait_for_sync();
        schedule_flush();
        return {};
    }

  private:
    /// The node's own, or what it would be made of.
    [[nodiscard]] Result<PolicyEngine*> policy_to_ask() {
        if (policy_) return &*policy_;
        if (!own_written_ && !adoption_done_) {
            return Error(Errc::kUnavailable, "the own cluster is not known yet");
        }
        return &policy_view_.engine();
    }

    template <class Make>
    [[nodiscard]] std::string with_sources(Make make) const {
        const auto status = clusters_->status();
        const auto errors = clusters_->config_errors();
        return make(StatusSources{.options = options_,
                                  .ready = ready(),
                                  .serving = serving(),
                                  .synced = adoption_done_,
                                  .clusters = status,
                                  .config_errors = errors,
                                  .node = node_,
                                  .datapath = *datapath_,
                                  .pods = pods_.get(),
                                  .network = pod_network(),
                                  .policy = policy(),
                                  .health = health_ ? &*health_ : nullptr,
                                  .sockets_ended = sockets_ended_,
                                  .encryption = encryption_.get(),
                                  .route_failures = route_failures_,
                                  .flushes = flushes_,
                                  .route_comparisons = route_comparisons_,
                                  .last_error = last_error_});
    }

    /// One flush for all batches of this turn of the loop, and of a moment where routes change.
    void schedule_flush() {
        if (flush_scheduled_ || stopped_) return;
        flush_scheduled_ = true;
        const auto run = [weak = weak_from_this()](boost::system::error_code = {}) {
            if (auto self = weak.lock()) {
                self->flush_scheduled_ = false;
                if (!self->stopped_) self->flush();
            }
        };
        const TimePoint now = clock_.now();
        if (now >= not_before_) {
            asio::post(executor_, [run] { run(); });
            return;
        }
        pace_.expires_after(not_before_ - now);
        pace_.async_wait(run);
    }

    void flush() {
        ++flushes_;
        const bool freshness_known = node_.merger().wants_freshness();
        if (freshness_known) note_freshness();
        node_.advance(clock_.now());
        const bool own_is_ready = is_own_ready();
        // Before the ipcache: what goes to a new node is encrypted from the first packet.
        const auto encrypted = encryption_ ? encryption_->flush(node_.tables()) : Result<void>();
        if (!encrypted) fail(encrypted.error());
        // Policies know an identity before the ipcache gives it to anybody.
        const auto policies = policy_ ? policy_->flush(node_.tables()) : Result<void>();
        if (!policies) fail(policies.error());
        if (policy_) {
            for (const auto& [prefix, id] : policy_->take_local_rows()) {
                node_.note_local(prefix, id);
            }
        }
        // A pod is attached before a service leads to it.
        bool failed = std::exchange(endpoints_due_, false) && !refresh_network();
        failed = failed || !encrypted || !policies;
        const auto result = node_.flush([&] {
            failed = !refresh_network() || failed;
            reconcile_routes();
        });
        observer_.publish();
        // The first service that asks for freshness was compiled without it.
        if (!freshness_known && node_.merger().wants_freshness()) schedule_flush();
        wait_for_traffic();
        if (!result) {
            fail(result.error());
            return;
        }
        own_written_ = own_written_ || own_is_ready;
        if (auto done = policy_ ? policy_->flush_removed() : Result<void>(); !done) {
            fail(done.error());
            failed = true;
        }
        if (health_) health_->refresh();
        if (auto confirmed = confirm_synced(); !confirmed) {
            fail(confirmed.error());
            failed = true;
        }
        failed = !refresh_network() || failed;
        routes_due_ = routes_due_ || result->routes_changed;
        if (routes_due_) reconcile_routes();
        sweep_due_ = node_.take_backends_removed() || sweep_due_;
        sweep_due_ = node_.resets().take_due(clock_.now()) || sweep_due_;
        if (std::exchange(sweep_due_, false)) {
            end_stale_sockets();
            // It may have found some that are to be ended later.
            wait_for_traffic();
        }
        if (!failed) {
            if (policy_) policy_->note_realised();
            if (proxies_) proxies_->flushed();
            last_error_.clear();
            // A route that fails takes nothing from the services.
            if (routes_due_) {
                retry_later();
            } else {
                backoff_.reset();
            }
        }
        give_back();
        if (on_change_) on_change_();
    }

    /// A cluster's lists were read: pages of answers, and what was made of them, are free now.
    void give_back() {
        if (!lists_read_ || !adoption_done_) return;
        const TimePoint now = clock_.now();
        if (given_back_ && now - *given_back_ < kGiveBackPace) return;
        lists_read_ = false;
        given_back_ = now;
        give_back_free_memory();
    }

    [[nodiscard]] bool refresh_network() {
        if (!network_) return true;
        const auto refreshed = network_->refresh(node_.tables());
        if (!refreshed) fail(refreshed.error());
        routes_due_ = network_->take_routes_changed() || routes_due_;
        return refreshed.has_value();
    }

    void take_endpoints() {
        const auto& scan = endpoints_->scan();
        network_->set_endpoints(scan.endpoints(), scan.errors().empty());
        policy_->set_pods(network_->policy_pods(), network_->complete());
        endpoints_due_ = true;
    }

    void note_freshness() {
        const TimePoint now = clock_.now();
        for (const auto& cluster : clusters_->status()) {
            if (cluster.cluster == own_.name || !cluster.last_proof_of_life) continue;
            node_.note_freshness({cluster.cluster, cluster.config.id}, cluster.connected,
                                 now - *cluster.last_proof_of_life);
        }
    }

    /// Flushes again when slow starts and stale remotes want it.
    void wait_for_traffic() {
        std::optional<TimePoint> due = node_.next_due();
        const TimePoint now = clock_.now();
        if (node_.merger().any_closed()) {
            due = std::min(due.value_or(now + kStaleRecheck), now + kStaleRecheck);
        }
        if (!due) {
            traffic_due_.cancel();
            return;
        }
        traffic_due_.expires_after(std::max(*due - now, Duration::zero()));
        traffic_due_.async_wait([weak = weak_from_this()](boost::system::error_code ec) {
            if (auto self = weak.lock(); self && !ec) self->schedule_flush();
        });
    }

    /// Tells the node which clusters are complete, so that it can let go of what a former run left.
    [[nodiscard]] Result<void> confirm_synced() {
        if (adoption_done_) return {};
        for (const auto& cluster : clusters_->status()) {
            if (!cluster.ready) continue;
            const bool own = cluster.cluster == own_.name;
            const auto key = own ? own_ : state::ClusterKey{cluster.cluster, cluster.config.id};
            if (policy_) policy_->note_synced(key);
            MESH_CHECK(node_.cluster_synced(key));
        }
        if (clusters_->synced()) return finish_adoption();
        return {};
    }

    [[nodiscard]] Result<void> finish_adoption() {
        MESH_CHECK(node_.finish_adopt());
        adoption_done_ = true;
        if (policy_) {
            network_->finish_adoption();
            policy_->finish_adoption();
            schedule_flush();
        }
        if (encryption_) {
            encryption_->finish_adoption();
            schedule_flush();
        }
        // A former run may have ended between a removal and its sweep.
        sweep_due_ = true;
        adopted_routes_.clear();
        routes_due_ = true;
        sync_timeout_.cancel();
        return {};
    }

    void wait_for_sync() {
        sync_timeout_.expires_after(options_.sync_timeout);
        sync_timeout_.async_wait([weak = weak_from_this()](boost::system::error_code ec) {
            if (auto self = weak.lock(); self && !ec) self->sync_timed_out();
        });
    }

    void sync_timed_out() {
        if (adoption_done_ || stopped_) return;
        if (!is_own_ready()) {
            // Without the own cluster's services there is nothing to compare with: what the kernel
            // has goes on serving.
            log_.warn("own cluster not synced after {} s; what a former run left stays",
                      options_.sync_timeout.count());
            return wait_for_sync();
        }
        if (const auto unread = clusters_->unread_files(); !unread.empty()) {
            // Which entries are that cluster's is not known: its id is told by its etcd.
            const std::string& first = unread.front();
            log_.warn("{}{} cannot be used; what a former run left stays until it can or is gone",
                      options_.clustermesh_config, first.empty() ? "" : "/" + first);
            return wait_for_sync();
        }
        std::string missing;
        for (const auto& cluster : clusters_->status()) {
            if (!cluster.ready) missing += (missing.empty() ? "" : ", ") + cluster.cluster;
        }
        log_.warn("not synced after {} s: {}; going on without", options_.sync_timeout.count(),
                  missing);
        if (auto finished = finish_adoption(); !finished) return fail(finished.error());
        schedule_flush();
    }

    void fail(const Error& error) {
        if (last_error_ != error.message()) log_.error("datapath: {}", error.message());
        last_error_ = error.message();
        retry_later();
        if (on_change_) on_change_();
    }

    void retry_later() {
        retry_.expires_after(
            std::chrono::duration_cast<asio::steady_timer::duration>(backoff_.next(rng_)));
        retry_.async_wait([weak = weak_from_this()](boost::system::error_code ec) {
            if (auto self = weak.lock(); self && !ec) self->schedule_flush();
        });
    }

    [[nodiscard]] bool is_own_ready() const {
        return std::ranges::any_of(clusters_->status(), [this](const auto& cluster) {
            return cluster.cluster == own_.name && cluster.ready;
        });
    }

    [[nodiscard]] datapath::DesiredRoutes routes_of_a_former_run() {
        datapath::DesiredRoutes routes;
        const auto here = datapath::Netns::current();
        if (!here) return routes;
        auto netlink = datapath::Rtnetlink::open(*here);
        if (!netlink) return routes;
        auto found = netlink->routes();
        if (!found) return routes;
        for (const auto& route : *found) {
            if (route.protocol != datapath::kRouteProtocol) continue;
            routes[route.destination] = {route.via, route.via ? std::string() : route.device,
                                         route.onlink, route.source};
        }
        return routes;
    }

    /// What fails is in route_failures_, and tried again.
    void reconcile_routes() {
        routes_due_ = false;
        if (!routes_) return;
        not_before_ = clock_.now() + kRoutesPace;
        ++route_comparisons_;
        datapath::DesiredRoutes desired =
            network_ ? network_->routes(node_.desired_routes()) : node_.desired_routes();
        // What was there and is not wanted stays until everything had its say.
        for (const auto& [prefix, hop] : adopted_routes_) desired.try_emplace(prefix, hop);
        auto outcome = routes_->reconcile(desired);
        const auto before = std::exchange(route_failures_, {});
        if (!outcome) {
            route_failures_.push_back(outcome.error().message());
        } else {
            for (const auto& failure : outcome->failures) {
                route_failures_.push_back(failure.message());
            }
        }
        routes_due_ = !route_failures_.empty();
        if (routes_due_ && route_failures_ != before) {
            log_.warn("routes: {}, and {} more", route_failures_.front(),
                      route_failures_.size() - 1);
        }
    }

    void end_stale_sockets() {
        const auto kinds = node_.resets().kinds();
        if (bpf_ == nullptr || (!kinds.tcp && !kinds.udp)) return;
        std::vector<std::string> paths{"/proc/self/ns/net"};
        if (!options_.datapath.netns_directory.empty()) {
            std::error_code ec;
            for (const auto& entry :
                 std::filesystem::directory_iterator(options_.datapath.netns_directory, ec)) {
                if (entry.path().filename().string().starts_with(options_.datapath.netns_prefix)) {
                    paths.push_back(entry.path().string());
                }
            }
        }
        std::set<std::string> drained;
        for (const auto& cluster : clusters_->status()) {
            if (cluster.drained_as_stale) drained.insert(cluster.cluster);
        }
        const auto is_pod = [&](const model::IpAddress& address) {
            if (node_.merger().is_node(address)) return true;
            const auto match = node_.tables().lookup(address);
            return match && match->prefix.is_host() && !drained.contains(match->cluster.name);
        };
        node_.resets().begin_sweep();
        const TimePoint now = clock_.now();
        const auto swept = bpf_->end_sockets(paths, kinds, [&](const auto& socket) {
            return node_.resets().ends(socket, now, is_pod);
        });
        if (swept) sockets_ended_ += swept->sockets_ended;
        if (!swept) {
            log_.warn("sockets to backends that went: {}", swept.error().message());
        } else if (swept->sockets_ended > 0) {
            log_.info("{} sockets to backends that went ended", swept->sockets_ended);
        }
    }

    asio::any_io_executor executor_;
    MeshOptions options_;
    const Clock& clock_;
    Logger log_;
    Rng rng_;
    std::unique_ptr<datapath::Datapath> datapath_;
    datapath::BpfDatapath* bpf_;  ///< the same object, if it is one
    std::unique_ptr<datapath::PodDatapath> pods_;
    state::ClusterKey own_;
    NodeState node_;
    PolicyView policy_view_;  ///< asked on a node without a policy engine
    observe::Observer observer_;
    Publications publications_;
    std::optional<HealthWatch> health_;
    std::optional<PodNetwork> network_;
    std::optional<PolicyEngine> policy_;      ///< of a node with a pod network
    std::unique_ptr<PolicyProxies> proxies_;  ///< null = there is none
    std::unique_ptr<Encryption> encryption_;  ///< null = there is none
    bool endpoints_due_ = false;              ///< they changed since the last flush
    std::optional<EventLog> events_;
    std::optional<FlowCollector> flow_collector_;
    std::unique_ptr<sources::config::EndpointsDirectory> endpoints_;
    std::optional<datapath::RouteTable> routes_;
    datapath::DesiredRoutes adopted_routes_;
    std::unique_ptr<state::Clusters> clusters_;
    asio::steady_timer retry_;
    asio::steady_timer sync_timeout_;
    asio::steady_timer traffic_due_;
    asio::steady_timer pace_;
    TimePoint not_before_{};  ///< no flush before
    std::uint64_t flushes_ = 0, route_comparisons_ = 0;
    Backoff backoff_{std::chrono::milliseconds(100), std::chrono::seconds(5)};
    std::vector<std::string> route_failures_;
    std::string last_error_;
    std::function<void()> on_change_;
    bool flush_scheduled_ = false;
    bool routes_due_ = false;
    bool adoption_done_ = false;
    bool own_written_ = false;  ///< the own cluster's services are in the datapath
    bool sweep_due_ = false;    ///< sockets to removed backends are to be looked for
    bool stopped_ = false;
    bool lists_read_ = false;  ///< of some cluster, since the last give_back()
    std::optional<TimePoint> given_back_;
    std::uint64_t sockets_ended_ = 0;
};

Result<std::unique_ptr<Agent>> Agent::make(asio::any_io_executor executor, MeshOptions options,
                                           const Clock& clock, Logger log) {
    MESH_CHECK(check_options(options));
    MESH_TRY(auto own, own_etcd(options));
    auto remotes = sources::config::remotes_in_memory(options.remote_files, options.cluster_name);
    if (!remotes) return remotes.error().with_prefix("remote_files");
    const state::ClusterKey self{options.cluster_name, model::ClusterId{options.cluster_id}};
    MESH_CHECK(Encryption::prepare(encryption_context(options, self)));
    MESH_TRY(auto datapaths, open_datapaths(options.datapath, log.named("datapath")));
    auto impl =
        std::make_shared<Impl>(std::move(executor), std::move(options), clock, std::move(log),
                               std::move(datapaths), std::move(own), *std::move(remotes));
    MESH_CHECK(impl->start_policy());
    MESH_CHECK(impl->open_encryption());
    return std::unique_ptr<Agent>(new Agent(std::move(impl)));
}

Agent::Agent(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Agent::~Agent() = default;
void Agent::start() {
    impl_->start();
}
asio::awaitable<void> Agent::stop() {
    return impl_->stop();
}
void Agent::on_change(std::function<void()> callback) {
    impl_->set_on_change(std::move(callback));
}
bool Agent::serving() const {
    return impl_->serving();
}
bool Agent::ready() const {
    return impl_->ready();
}
const NodeState& Agent::node() const noexcept {
    return impl_->node();
}
observe::Observer& Agent::observer() noexcept {
    return impl_->observer();
}
Publications& Agent::publications() noexcept {
    return impl_->publications();
}
const PodNetwork* Agent::pod_network() const noexcept {
    return impl_->pod_network();
}
const PolicyEngine* Agent::policy() const noexcept {
    return impl_->policy();
}
std::optional<std::string> Agent::policy_json() const {
    return impl_->policy_json();
}
std::optional<std::string> Agent::policy_json(std::string_view path) const {
    return impl_->policy_json(path);
}
Result<std::string> Agent::policy_trace_json(const PolicyTraceQuery& query) {
    return impl_->policy_trace_json(query);
}
Result<Explanation> Agent::explain(const PolicyTraceQuery& query) {
    return impl_->explain(query);
}
Result<std::string> Agent::policy_diff_json(std::string_view request) {
    return impl_->policy_diff_json(request);
}
Result<std::string> Agent::policy_diff_json(std::string_view documents, bool prune) {
    return impl_->policy_diff_json(documents, prune);
}
std::optional<std::string> Agent::identities_json() const {
    return impl_->identities_json();
}
std::optional<std::string> Agent::access_log_json() const {
    return impl_->access_log_json();
}
std::string Agent::endpoints_json() const {
    return impl_->endpoints_json();
}
std::optional<std::string> Agent::endpoint_json(std::string_view id) const {
    return impl_->endpoint_json(id);
}
std::optional<std::string> Agent::events_json(std::uint64_t since, bool trace) {
    return impl_->events_json(since, trace);
}
std::string Agent::encryption_json() {
    return impl_->encryption_json();
}
Result<void> Agent::reload() {
    return impl_->reload();
}
Result<void> Agent::set_remote_files(const std::map<std::string, std::string>& files) {
    return impl_->set_remote_files(files);
}
std::string Agent::status_json() const {
    return impl_->status_json();
}
std::string Agent::metrics_text() const {
    return impl_->metrics_text();
}

}  // namespace mesh::engine
