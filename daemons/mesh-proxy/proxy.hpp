// The whole of mesh-proxy: a store, what feeds it (an upstream etcd, or nobody but its clients),
// who reads from it, KVStoreMesh.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <mesh/error.hpp>
#include <optional>

#include "base/log.hpp"
#include "common/daemon.hpp"
#include "flags.hpp"
#include "reflect/kvstore_mesh.hpp"
#include "report.hpp"
#include "runtime/clock.hpp"
#include "runtime/entropy.hpp"
#include "serve/etcd/access_control.hpp"
#include "serve/etcd/mirror.hpp"
#include "serve/status/status_server.hpp"
#include "serving_loops.hpp"
#include "sources/config/watched_file.hpp"
#include "sources/etcd/client.hpp"
#include "state/store/store.hpp"

namespace mesh::proxy_daemon {

/// @thread the daemon's
class Proxy {
  public:
    Proxy(daemon::Daemon& daemon, const Clock& clock, Flags flags);
    ~Proxy();

    /// Until the daemon is asked to stop. @errors kInvalidArgument names the flag or file
    [[nodiscard]] boost::asio::awaitable<Result<void>> run();

  private:
    Result<void> open_store();
    Result<void> open_mirror_cache(const store::StoreOptions& options);
    Result<void> open_mirror();
    Result<void> open_access();
    void on_access_file(const Result<std::string>& text);
    boost::asio::awaitable<Result<void>> listen();
    Result<void> open_kvstore_mesh();
    Result<void> serve_status();
    [[nodiscard]] Result<void> healthy() const;
    [[nodiscard]] boost::asio::awaitable<ProxyReport> report();
    void on_mirror();
    boost::asio::awaitable<void> stop();

    daemon::Daemon& daemon_;
    const Clock& clock_;
    Flags flags_;
    Logger log_;
    Rng rng_;
    std::unique_ptr<store::Store> store_;
    std::optional<TimePoint> kept_since_;           // when what a restart found was written
    std::shared_ptr<serve::AccessControl> access_;  // of all loops
    std::unique_ptr<sources::config::WatchedFile> access_file_;
    std::unique_ptr<ServingLoops> loops_;
    std::unique_ptr<etcd::Client> client_;
    std::unique_ptr<serve::Mirror> mirror_;
    std::unique_ptr<serve::StatusServer> status_;
    std::unique_ptr<reflect::KvstoreMesh> kvstore_mesh_;
    bool announced_ = false;
};

}  // namespace mesh::proxy_daemon
