#include "reflect/kvstore_mesh.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <utility>

#include "model/keys.hpp"
#include "reflect/reflected_cluster.hpp"
#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"
#include "runtime/waker.hpp"
#include "sources/config/remotes_directory.hpp"

namespace mesh::reflect {

namespace asio = boost::asio;
using sources::config::RemoteConfig;
using sources::config::RemoteEvent;

class KvstoreMesh::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor executor, std::unique_ptr<etcd::Client> own,
         KvstoreMeshOptions options, const Clock& clock, Rng rng, Logger log)
        : executor_(executor),
          client_(std::move(own)),
          options_(std::move(options)),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          began_(clock.now()),
          own_(executor, *client_, options_.own, clock, Rng(rng_.next()), log_,
               [this] { on_own(); }),
          tasks_(executor) {}

    void start() {
        sources::config::RemotesDirectory::Options directory;
        directory.directory = options_.remotes_directory;
        directory.local_cluster = options_.local_name;
        directory_.emplace(executor_, std::move(directory), clock_, log_,
                           [this](const RemoteEvent& event) { on_file(event); });
        directory_->start();
        own_.start();
        client_->start();
    }

    asio::awaitable<void> stop() {
        const auto self = shared_from_this();
        stopping_ = true;
        if (directory_) co_await directory_->stop();
        for (auto& [name, drain] : drains_) drain->waker.stop();
        for (auto& [name, cluster] : clusters_) tasks_.spawn(end(std::move(cluster)));
        clusters_.clear();
        co_await own_.stop();
        co_await tasks_.join();
    }

    [[nodiscard]] bool ready() const {
        if (clock_.now() - began_ > options_.sync_timeout) return true;
        // Whoever has the lock writes; nothing is to be expected of us.
        if (!own_.leader()) {
            return client_->connected() && clock_.now() - began_ > std::chrono::seconds(10);
        }
        return std::ranges::all_of(clusters_,
                                   [](const auto& named) { return named.second->settled(); });
    }

    [[nodiscard]] KvstoreMeshStatus status() const {
        KvstoreMeshStatus status;
        status.leader = own_.leader();
        status.lease = own_.lease();
        status.leases_lost = own_.leases_lost();
        status.last_failure = own_.last_failure();
        std::map<std::string, ReflectedStatus> remotes;
        for (const auto& [name, cluster] : clusters_) remotes[name] = cluster->status();
        for (const auto& [name, drain] : drains_) {
            ReflectedStatus& remote = remotes[name];
            remote.cluster = name;
            remote.draining = true;
        }
        for (auto& [name, remote] : remotes) status.remotes.push_back(std::move(remote));
        if (directory_) status.config_errors = directory_->errors();
        return status;
    }

  private:
    struct Drain {
        Drain(const asio::any_io_executor& loop, const Clock& clock) : waker(loop, clock) {}
        Waker waker;
        std::optional<RemoteConfig> again;  ///< its configuration came back meanwhile
    };

    void on_file(const RemoteEvent& event) {
        if (stopping_) return;
        const auto at = clusters_.find(event.cluster);
        if (event.kind == RemoteEvent::Kind::kRemoved) {
            const auto drain = drains_.find(event.cluster);
            if (drain != drains_.end()) drain->second->again.reset();
            if (at == clusters_.end()) return;
            auto gone = std::move(at->second);
            clusters_.erase(at);
            start_drain(event.cluster, std::move(gone));
            return;
        }
        if (at != clusters_.end()) return at->second->configure(event.config);
        if (const auto drain = drains_.find(event.cluster); drain != drains_.end()) {
            // What is left of its cache is what it begins with.
            drain->second->again = event.config;
            drain->second->waker.wake();
            return;
        }
        add(event.config);
    }

    void add(const RemoteConfig& config) {
        auto cluster = std::make_unique<ReflectedCluster>(executor_, config.cluster, own_, options_,
                                                          clock_, Rng(rng_.next()), log_);
        cluster->configure(config);
        clusters_.insert_or_assign(config.cluster, std::move(cluster));
    }

    void on_own() {
        for (auto& [name, cluster] : clusters_) cluster->own_changed();
        if (own_.lease() == 0 || std::exchange(looked_for_strays_, true)) return;
        // Remotes whose configuration was removed while nobody looked. A file that cannot be read
        // is no removal.
        const auto& errors = directory_->errors();
        if (errors.contains("")) {
            looked_for_strays_ = false;
            return;
        }
        for (const std::string& name : own_.found_remotes()) {
            const bool known = clusters_.contains(name) || drains_.contains(name) ||
                               errors.contains(name) || name == options_.local_name;
            if (!known) start_drain(name, nullptr);
        }
    }

    void start_drain(const std::string& name, std::unique_ptr<ReflectedCluster> cluster) {
        log_.info("remote cluster {}: its configuration is gone; its cache is drained in {} s",
                  name, options_.drain_grace.count());
        const auto drain = std::make_shared<Drain>(executor_, clock_);
        drains_.insert_or_assign(name, drain);
        tasks_.spawn(run_drain(shared_from_this(), name, drain, std::move(cluster)));
    }

    static asio::awaitable<void> run_drain(std::shared_ptr<Impl> self, std::string name,
                                           std::shared_ptr<Drain> drain,
                                           std::unique_ptr<ReflectedCluster> cluster) {
        if (cluster) co_await cluster->stop();
        cluster.reset();
        co_await self->drain(name, *drain);
        self->drains_.erase(name);
        if (drain->again && !self->stopping_) self->add(*drain->again);
    }

    asio::awaitable<void> drain(const std::string& name, Drain& drain) {
        bool gone = co_await persist(drain, [this, &name] {
            std::vector<etcd::Op> ops;
            ops.emplace_back(etcd::DeleteOp{{model::cluster_config_key(name), {}}});
            return own_.async_write(std::move(ops), false);
        });
        const TimePoint until = clock_.now() + options_.drain_grace;
        while (gone && !over(drain) && clock_.now() < until) co_await drain.waker.sleep(until);
        if (!gone || over(drain)) co_return;
        gone = co_await persist(drain, [this, &name] { return async_remove_cache(own_, name); });
        if (gone) log_.info("remote cluster {}: its cache is drained", name);
    }

    [[nodiscard]] static bool over(const Drain& drain) {
        return drain.waker.stopped() || drain.again.has_value();
    }

    /// Until it is done. @return false: not to be done any more
    template <class Write>
    asio::awaitable<bool> persist(Drain& drain, Write write) {
        Backoff backoff(std::chrono::seconds(1), std::chrono::seconds(30));
        while (!over(drain)) {
            const Result<void> done = co_await write();
            if (done) co_return true;
            if (over(drain)) break;
            co_await drain.waker.sleep(clock_.now() + backoff.next(rng_));
        }
        co_return false;
    }

    static asio::awaitable<void> end(std::unique_ptr<ReflectedCluster> cluster) {
        co_await cluster->stop();
    }

    asio::any_io_executor executor_;
    std::unique_ptr<etcd::Client> client_;
    KvstoreMeshOptions options_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    TimePoint began_;
    OwnEtcd own_;
    std::map<std::string, std::unique_ptr<ReflectedCluster>> clusters_;
    std::map<std::string, std::shared_ptr<Drain>> drains_;
    std::optional<sources::config::RemotesDirectory> directory_;
    bool looked_for_strays_ = false;
    bool stopping_ = false;
    TaskGroup tasks_;
};

KvstoreMesh::KvstoreMesh(asio::any_io_executor executor, std::unique_ptr<etcd::Client> own,
                         KvstoreMeshOptions options, const Clock& clock, Rng rng, Logger log)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(own), std::move(options), clock,
                                   rng, std::move(log))) {}
KvstoreMesh::~KvstoreMesh() = default;
void KvstoreMesh::start() {
    impl_->start();
}
asio::awaitable<void> KvstoreMesh::stop() {
    return impl_->stop();
}
bool KvstoreMesh::ready() const {
    return impl_->ready();
}
KvstoreMeshStatus KvstoreMesh::status() const {
    return impl_->status();
}

}  // namespace mesh::reflect
