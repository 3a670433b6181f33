#include "proxy.hpp"

#include <boost/json/serialize.hpp>
#include <charconv>
#include <chrono>
#include <string>
#include <utility>

#include "listeners.hpp"
#include "model/validate.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "state/store/lmdb_backend.hpp"
#include "state/store/mirror_cache.hpp"

namespace mesh::proxy_daemon {

namespace asio = boost::asio;

namespace {
/// Changes that a client may have missed and still resume; beyond that it lists again.
constexpr std::size_t kHistory = 10'000;
constexpr std::size_t kMostWatches = 200'000;

/// client=NAME, limit=ROWS, sort=COLUMN. @errors kInvalidArgument names the parameter
Result<ReportQuery> report_query(const serve::StatusRequest& request) {
    ReportQuery query;
    query.client = request.parameter("client").value_or("");
    query.sort = request.parameter("sort").value_or("");
    const std::string limit = request.parameter("limit").value_or("");
    std::size_t rows = 0;
    const auto [end, ec] = std::from_chars(limit.data(), limit.data() + limit.size(), rows);
    if (!limit.empty()) {
        if (ec != std::errc{} || end != limit.data() + limit.size())
            return invalid_argument("limit: expected a number of rows, 0 = all");
        query.limit = rows;
    }
    if (!query.sort.empty() && !is_sort_column(query.sort)) {
        return invalid_argument(
            "sort: expected sent_events, sent_bytes, queued_bytes, watchers, streams or slow");
    }
    return query;
}
}  // namespace

Proxy::Proxy(daemon::Daemon& daemon, const Clock& clock, Flags flags)
    : daemon_(daemon), clock_(clock), flags_(std::move(flags)), log_(daemon.log()) {}
Proxy::~Proxy() = default;

asio::awaitable<Result<void>> Proxy::run() {
    MESH_CO_CHECK(open_store());
    MESH_CO_CHECK(open_mirror());
    MESH_CO_CHECK(open_access());
    MESH_CO_CHECK(co_await listen());
    MESH_CO_CHECK(open_kvstore_mesh());
    MESH_CO_CHECK(serve_status());
    if (mirror_) {
        mirror_->on_change([this] { on_mirror(); });
        mirror_->start();
    } else {
        daemon_.set_ready();
    }
    if (kvstore_mesh_) kvstore_mesh_->start();
    if (access_file_)
        access_file_->start([this](const Result<std::string>& text) { on_access_file(text); });
    // Certificates, the folder of remotes and the access file are looked at all the time; a reload
    // only looks at the last one at once, and has to be acknowledged.
    daemon_.on_reload([this] {
        if (access_file_) access_file_->poke();
        log_.info("certificates, remotes and the access file are looked at all the time");
    });
    co_await daemon_.stop_requested();
    co_await stop();
    co_return Result<void>{};
}

Result<void> Proxy::open_store() {
    if (auto ok = sources::config::check_cluster_name(flags_.cluster_name); !ok) {
        return ok.error().with_prefix("--cluster-name");
    }
    if (!flags_.embedded && flags_.etcd_config.empty()) {
        return invalid_argument(
            "expected --etcd-config FILE (mirror an etcd) or --embedded (be one)");
    }
    store::StoreOptions options;
    options.identity = {.cluster_id = rng_.next(), .member_id = rng_.next()};
    options.seed = rng_.next();
    if (!flags_.embedded && !flags_.data_dir.empty()) return open_mirror_cache(options);
    std::unique_ptr<store::Backend> backend;
    if (!flags_.data_dir.empty()) {
        auto opened = store::open_lmdb({.directory = flags_.data_dir});
        if (!opened) return opened.error().to_error();
        backend = *std::move(opened);
    } else {
        backend = std::make_unique<store::MemoryBackend>();
    }
    auto store = store::Store::open(std::move(backend), options, clock_.now());
    if (!store) return store.error().to_error();
    store_ = *std::move(store);
    return {};
}

Result<void> Proxy::open_mirror_cache(const store::StoreOptions& options) {
    auto cache = store::open_mirror_cache({.directory = flags_.data_dir}, options, clock_);
    if (!cache) return cache.error().to_error().with_prefix("--data-dir");
    if (!cache->set_aside.empty())
        log_.error("--data-dir: what was kept is damaged, and read anew from etcd: {}",
                   cache->set_aside);
    store_ = std::move(cache->store);
    if (store_->mirrors()) kept_since_ = cache->written;
    return {};
}

Result<void> Proxy::open_mirror() {
    if (flags_.embedded) return {};
    MESH_TRY(const auto config, sources::config::read_etcd_yaml(flags_.etcd_config));
    MESH_TRY(client_,
             etcd::Client::make(daemon_.executor(), sources::config::client_options(config), clock_,
                                Rng(rng_.next()), log_.named("upstream")));
    serve::MirrorOptions options;
    options.kept_since = kept_since_;
    mirror_ =
        std::make_unique<serve::Mirror>(daemon_.executor(), *client_, *store_, clock_,
                                        Rng(rng_.next()), std::move(options), log_.named("mirror"));
    return {};
}

Result<void> Proxy::open_access() {
    access_ =
        std::make_shared<serve::AccessControl>(flags_.cluster_name, clock_, log_.named("access"));
    if (flags_.access_file.empty()) return {};
    access_file_ = std::make_unique<sources::config::WatchedFile>(
        daemon_.executor(), flags_.access_file, sources::config::kMaxAccessFileBytes,
        log_.named("access"));
    MESH_TRY(const auto text, access_file_->read());
    MESH_CHECK(access_->load(text, flags_.access_file));
    log_.named("access").info("{}: {} users", flags_.access_file, access_->table()->users());
    return {};
}

void Proxy::on_access_file(const Result<std::string>& text) {
    const Logger log = log_.named("access");
    if (!text) {
        access_->note_failure(text.error().detail());
        return log.error("{}; what was read last holds on", text.error().detail());
    }
    if (const auto loaded = access_->load(*text, flags_.access_file); !loaded)
        return log.error("{}; what was read last holds on", loaded.error().detail());
    log.info("{}: {} users", flags_.access_file, access_->table()->users());
}

asio::awaitable<Result<void>> Proxy::listen() {
    MESH_CO_TRY(auto plans, plan_listeners(flags_));
    serve::EtcdServiceOptions options{.name = flags_.cluster_name,
                                      .history_to_keep = kHistory,
                                      .max_watches = kMostWatches,
                                      .access = access_};
    if (mirror_) {
        options.read_barrier = [this](serve::OnReadMark then) {
            if (!mirror_) return then({});  // a loop asked while the daemon stopped
            mirror_->read_barrier(std::move(then));
        };
    }
    loops_ =
        std::make_unique<ServingLoops>(daemon_.executor(), *store_, clock_, options,
                                       flags_.loops != 0 ? flags_.loops : usable_cores(), log_);
    if (mirror_) loops_->set_ready(false);
    for (ListenerPlan& plan : plans) {
        const std::string where = plan.address + ":" + std::to_string(plan.port);
        const std::string name = plan.name;
        const auto listening = co_await loops_->listen(std::move(plan));
        if (!listening) co_return listening.error();
        log_.info("{} listener on {}", name, where);
    }
    co_return Result<void>{};
}

Result<void> Proxy::open_kvstore_mesh() {
    if (!flags_.kvstoremesh) return {};
    const model::ClusterId id{flags_.cluster_id};
    MESH_CHECK(model::check_local_cluster(flags_.cluster_name, id, flags_.max_connected_clusters));
    const bool own = !flags_.kvstoremesh_etcd_config.empty();
    if (!own && flags_.embedded) {
        return invalid_argument(
            "--kvstoremesh with --embedded: expected --kvstoremesh-etcd-config FILE, which "
            "names --listen-local's address and the certificate admin-CLUSTER");
    }
    MESH_TRY(const auto config, sources::config::read_etcd_yaml(own ? flags_.kvstoremesh_etcd_config
                                                                    : flags_.etcd_config));
    MESH_TRY(auto client,
             etcd::Client::make(daemon_.executor(), sources::config::client_options(config), clock_,
                                Rng(rng_.next()), log_.named("cache")));
    reflect::KvstoreMeshOptions options;
    options.local_name = flags_.cluster_name;
    options.local_id = id;
    options.max_clusters = flags_.max_connected_clusters;
    options.remotes_directory = flags_.clustermesh_config;
    options.own.qps = flags_.kvstoremesh_qps;
    options.drain_grace = std::chrono::seconds(flags_.kvstoremesh_drain_grace);
    kvstore_mesh_ = std::make_unique<reflect::KvstoreMesh>(
        daemon_.executor(), std::move(client), std::move(options), clock_, Rng(rng_.next()),
        log_.named("kvstoremesh"));
    return {};
}

Result<void> Proxy::healthy() const {
    if (mirror_ && !mirror_->status().serving) {
        return unavailable("nothing to serve yet: " + mirror_->status().last_failure);
    }
    if (kvstore_mesh_ && !kvstore_mesh_->ready()) {
        return unavailable("the remotes are not in the cache yet; see /v1/status");
    }
    return {};
}

Result<void> Proxy::serve_status() {
    serve::StatusServerOptions options;
    options.unix_socket = flags_.status_socket;
    if (flags_.metrics_port >= 0) {
        options.tcp_port = static_cast<std::uint16_t>(flags_.metrics_port);
    }
    status_ = std::make_unique<serve::StatusServer>(daemon_.executor(), log_.named("status"),
                                                    std::move(options));
    using Answer = asio::awaitable<serve::StatusResponse>;
    status_->route_async("/v1/status", [this](serve::StatusRequest) -> Answer {
        const ProxyReport now = co_await report();
        serve::StatusResponse response;
        response.body = boost::json::serialize(to_json(now));
        co_return response;
    });
    status_->route_async("/metrics", [this](serve::StatusRequest) -> Answer {
        const ProxyReport now = co_await report();
        serve::StatusResponse response;
        response.content_type = "text/plain; version=0.0.4; charset=utf-8";
        response.body = to_metrics(now);
        co_return response;
    });
    const auto refusal = [](const Error& error) {
        serve::StatusResponse response{.status = 400};
        response.body = boost::json::serialize(boost::json::object{{"error", error.detail()}});
        return response;
    };
    const auto json = [](const boost::json::object& document) {
        serve::StatusResponse response;
        response.body = boost::json::serialize(document);
        return response;
    };
    status_->route_async(
        "/v1/clients", [this, json, refusal](serve::StatusRequest request) -> Answer {
            const auto query = report_query(request);
            if (!query) co_return refusal(query.error());
            std::vector<ConnectionReport> connections = co_await loops_->connections();
            co_return json(
                clients_document(std::move(connections), access_->clients().clients(), *query));
        });
    status_->route_async(
        "/v1/watchers", [this, json, refusal](serve::StatusRequest request) -> Answer {
            const auto query = report_query(request);
            if (!query) co_return refusal(query.error());
            if (query->client.empty()) {
                std::vector<RangeReport> ranges = co_await loops_->watched_ranges();
                co_return json(ranges_document(std::move(ranges), *query));
            }
            auto watches = co_await loops_->watches_of(query->client, query->limit);
            co_return json(watches_document(std::move(watches.first), watches.second));
        });
    status_->set_health([this] { return healthy(); });
    // A stale mirror still serves: it is ready, and says so in /v1/status and /metrics.
    status_->route("/readyz", [this](const serve::StatusRequest&) {
        serve::StatusResponse response{.content_type = "text/plain; charset=utf-8", .body = "ok\n"};
        if (const auto ready = healthy(); !ready) {
            response.status = 503;
            response.body = ready.error().message() + "\n";
        } else if (mirror_ && mirror_->status().stale) {
            response.body = "ok, stale\n";
        }
        return response;
    });
    return status_->start();
}

asio::awaitable<ProxyReport> Proxy::report() {
    ProxyReport out;
    out.cluster = flags_.cluster_name;
    out.id = flags_.cluster_id;
    out.embedded = flags_.embedded;
    out.revision = store_->revision();
    out.identity = store_->identity();
    out.now = clock_.wall_now();
    out.clients = access_->clients().clients();
    out.denials = access_->denials().counts();
    out.access_error = access_->error();
    out.loops = co_await loops_->report();
    if (mirror_) {
        out.mirror = mirror_->status();
        out.upstream_revision = client_->newest_header().revision;
        const Duration silence = clock_.now() - client_->last_heard();
        out.upstream_silence = std::chrono::duration<double>(silence).count();
        if (out.mirror->stale) {
            const Duration stale = clock_.now() - out.mirror->stale_since;
            out.stale_seconds = std::chrono::duration<double>(stale).count();
        }
    }
    if (kvstore_mesh_) out.kvstore_mesh = kvstore_mesh_->status();
    co_return out;
}

void Proxy::on_mirror() {
    loops_->tell_upstream(mirror_->status().position.raft_term);
    if (mirror_->status().serving && !announced_) {
        announced_ = true;
        loops_->set_ready(true);
        daemon_.set_ready();
    }
}

asio::awaitable<void> Proxy::stop() {
    daemon_.on_reload({});
    if (access_file_) co_await access_file_->stop();
    co_await status_->async_stop();
    if (kvstore_mesh_) co_await kvstore_mesh_->stop();
    co_await loops_->stop();
    if (mirror_) {
        co_await mirror_->async_stop();
        co_await client_->async_stop();
    }
    loops_.reset();
    mirror_.reset();
    client_.reset();
}

}  // namespace mesh::proxy_daemon
