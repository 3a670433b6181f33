#include "state/clusters/clusters.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <set>
#include <utility>

#include "runtime/task_group.hpp"
#include "sources/config/remotes_directory.hpp"

namespace mesh::state {

namespace asio = boost::asio;
using sources::config::RemoteEvent;

class Clusters::Impl : public std::enable_shared_from_this<Clusters::Impl> {
  public:
    Impl(asio::any_io_executor executor, ClustersOptions options, const Clock& clock, Rng rng,
         Logger log, ClusterEvents events)
        : executor_(executor),
          options_(std::move(options)),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          events_(std::move(events)),
          tasks_(executor) {}

    void start();
    asio::awaitable<void> stop();
    void set_remotes(std::vector<sources::config::RemoteConfig> remotes);
    [[nodiscard]] std::vector<SessionStatus> status() const;
    [[nodiscard]] bool synced() const;
    [[nodiscard]] std::vector<std::string> unread_files() const;
    [[nodiscard]] std::map<std::string, std::string> config_errors() const {
        return directory_ ? directory_->errors() : std::map<std::string, std::string>{};
    }

  private:
    struct Remote {
        std::unique_ptr<RemoteCluster> cluster;
        bool removed = false;
        /// The file came back while the last of its entries were being drained.
        std::optional<sources::config::RemoteConfig> again;
    };

    std::unique_ptr<RemoteCluster> make(const std::string& name, bool own);
    void on_file(RemoteEvent event);
    void follow(const RemoteEvent& event);
    void on_finished(const std::string& name);
    asio::awaitable<void> retire(std::unique_ptr<RemoteCluster> cluster);

    asio::any_io_executor executor_;
    ClustersOptions options_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    ClusterEvents events_;
    IdRegistry ids_;
    std::unique_ptr<RemoteCluster> own_;
    std::map<std::string, Remote> remotes_;
    std::map<std::string, sources::config::RemoteConfig> in_memory_;
    std::set<std::string> in_directory_;
    std::optional<sources::config::RemotesDirectory> directory_;
    bool stopping_ = false;
    TaskGroup tasks_;
};

std::unique_ptr<RemoteCluster> Clusters::Impl::make(const std::string& name, bool own) {
    SessionOptions session;
    session.cluster = name;
    session.own = own;
    session.local_id = options_.local_id;
    session.max_clusters = options_.max_clusters;
    session.generation = options_.generation;
    session.slots = own ? options_.own_slots : options_.remote_slots;
    session.times = options_.times;
    session.max_stale_age = options_.max_stale_age;
    if (options_.on_refused) {
        session.on_refused = [see = options_.on_refused, name](std::string_view key, Refusal reason,
                                                               std::string_view detail) {
            see(name, key, reason, detail);
        };
    }
    ClusterEvents events = events_;
    events.on_finished = [weak = weak_from_this()](const std::string& cluster) {
        if (const auto self = weak.lock()) self->on_finished(cluster);
    };
    return std::make_unique<RemoteCluster>(executor_, std::move(session), ids_, clock_,
                                           Rng(rng_.next()), log_, std::move(events));
}

void Clusters::Impl::start() {
    if (options_.own) {
        own_ = make(options_.local_name, true);
        sources::config::RemoteConfig config;
        config.cluster = options_.local_name;
        config.etcd = *options_.own;
        own_->configure(std::move(config));
    }
    set_remotes(std::move(options_.remotes));
    if (options_.remotes_directory.empty()) return;
    sources::config::RemotesDirectory::Options directory;
    directory.directory = options_.remotes_directory;
    directory.local_cluster = options_.local_name;
    directory_.emplace(
        executor_, std::move(directory), clock_, log_,
        [this](const RemoteEvent& event) { on_file(event); },
        [this] {
            if (events_.on_config_errors) events_.on_config_errors();
        });
    directory_->start();
}

void Clusters::Impl::set_remotes(std::vector<sources::config::RemoteConfig> remotes) {
    std::map<std::string, sources::config::RemoteConfig> now;
    for (auto& remote : remotes) now.emplace(remote.cluster, std::move(remote));
    const auto before = std::exchange(in_memory_, std::move(now));
    for (const auto& [name, remote] : in_memory_) {
        const auto held = before.find(name);
        if (in_directory_.contains(name) || (held != before.end() && held->second == remote)) {
            continue;
        }
        follow({RemoteEvent::Kind::kChanged, name, remote});
    }
    for (const auto& [name, remote] : before) {
        if (in_directory_.contains(name) || in_memory_.contains(name)) continue;
        follow({RemoteEvent::Kind::kRemoved, name, {}});
    }
}

/// Of the directory, which goes before what is in memory.
void Clusters::Impl::on_file(RemoteEvent event) {
    if (event.kind != RemoteEvent::Kind::kRemoved) {
        in_directory_.insert(event.cluster);
    } else {
        in_directory_.erase(event.cluster);
        if (const auto held = in_memory_.find(event.cluster); held != in_memory_.end()) {
            event.kind = RemoteEvent::Kind::kChanged;
            event.config = held->second;
        }
    }
    follow(event);
}

void Clusters::Impl::follow(const RemoteEvent& event) {
    if (stopping_) return;
    if (event.kind == RemoteEvent::Kind::kRemoved) {
        const auto at = remotes_.find(event.cluster);
        if (at == remotes_.end()) return;
        at->second.again.reset();
        if (!std::exchange(at->second.removed, true)) at->second.cluster->remove();
        return;
    }
    Remote& remote = remotes_[event.cluster];
    if (remote.removed) {
        remote.again = event.config;
        return;
    }
    if (!remote.cluster) remote.cluster = make(event.cluster, false);
    remote.cluster->configure(event.config);
}

void Clusters::Impl::on_finished(const std::string& name) {
    const auto at = remotes_.find(name);
    if (at == remotes_.end()) return;
    Remote gone = std::move(at->second);
    remotes_.erase(at);
    // It is calling us: it can only be destroyed after this returns.
    tasks_.spawn(retire(std::move(gone.cluster)));
    if (events_.on_finished) events_.on_finished(name);
    if (gone.again) follow({RemoteEvent::Kind::kAdded, name, *std::move(gone.again)});
}

asio::awaitable<void> Clusters::Impl::retire(std::unique_ptr<RemoteCluster> cluster) {
    co_await asio::post(executor_, asio::use_awaitable);
    co_await cluster->stop();
}

asio::awaitable<void> Clusters::Impl::stop() {
    const auto self = shared_from_this();
    stopping_ = true;
    if (directory_) co_await directory_->stop();
    if (own_) tasks_.spawn(retire(std::move(own_)));
    for (auto& [name, remote] : remotes_) tasks_.spawn(retire(std::move(remote.cluster)));
    remotes_.clear();
    co_await tasks_.join();
}

std::vector<SessionStatus> Clusters::Impl::status() const {
    std::vector<SessionStatus> out;
    if (own_) out.push_back(own_->status());
    for (const auto& [name, remote] : remotes_) out.push_back(remote.cluster->status());
    return out;
}

bool Clusters::Impl::synced() const {
    const auto listed = [](const SessionStatus& status) {
        for (std::size_t i = 0; i < kObjectSlots; ++i) {
            if (status.slots[i].wanted && !status.slots[i].synced) return false;
        }
        return status.state != SessionState::kDisabled && status.state != SessionState::kConnecting;
    };
    if (!unread_files().empty()) return false;
    if (own_ && !listed(own_->status())) return false;
    for (const auto& [name, remote] : remotes_) {
        if (!remote.removed && !listed(remote.cluster->status())) return false;
    }
    return true;
}

std::vector<std::string> Clusters::Impl::unread_files() const {
    std::vector<std::string> names;
    for (const auto& [name, error] : config_errors()) {
        // A file whose name is no cluster's never was one.
        const bool possible = name.empty() || sources::config::check_cluster_name(name);
        if (possible && !remotes_.contains(name)) names.push_back(name);
    }
    return names;
}

Clusters::Clusters(asio::any_io_executor executor, ClustersOptions options, const Clock& clock,
                   Rng rng, Logger log, ClusterEvents events)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(options), clock, rng,
                                   std::move(log), std::move(events))) {}
Clusters::~Clusters() = default;
void Clusters::start() {
    impl_->start();
}
asio::awaitable<void> Clusters::stop() {
    return impl_->stop();
}
void Clusters::set_remotes(std::vector<sources::config::RemoteConfig> remotes) {
    impl_->set_remotes(std::move(remotes));
}
std::vector<SessionStatus> Clusters::status() const {
    return impl_->status();
}
bool Clusters::synced() const {
    return impl_->synced();
}
std::vector<std::string> Clusters::unread_files() const {
    return impl_->unread_files();
}
std::map<std::string, std::string> Clusters::config_errors() const {
    return impl_->config_errors();
}

}  // namespace mesh::state
