// What mesh-proxy tells of itself: the status document and metrics, from plain numbers.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reflect/kvstore_mesh.hpp"
#include "runtime/clock.hpp"
#include "serve/etcd/clients.hpp"
#include "serve/etcd/denial_log.hpp"
#include "serve/etcd/mirror.hpp"
#include "serving_loop.hpp"
#include "state/store/store.hpp"

namespace mesh::proxy_daemon {

struct ProxyReport {
    std::string cluster;
    std::uint32_t id = 0;
    bool embedded = false;
    store::Revision revision = 0;
    store::Identity identity;
    std::vector<LoopReport> loops;  ///< the main loop first
    std::optional<serve::MirrorStatus> mirror;
    double stale_seconds = 0;                  ///< of the mirror
    store::Revision upstream_revision = 0;     ///< the newest that the upstream was heard to have
    double upstream_silence = 0;               ///< seconds since it was heard
    WallTime now{};                            ///< for certificates
    std::vector<serve::ClientStatus> clients;  ///< as far as limits and denials are counted
    std::vector<serve::DenialCount> denials;
    std::string access_error;  ///< what is wrong with the access file
    std::optional<reflect::KvstoreMeshStatus> kvstore_mesh;
};

/// /v1/status.
[[nodiscard]] boost::json::object to_json(const ProxyReport& report);
/// /metrics: Prometheus text.
[[nodiscard]] std::string to_metrics(const ProxyReport& report);

/// Changes that the upstream has and this mirror does not serve yet, as far as is known.
[[nodiscard]] store::Revision lag_revisions(const ProxyReport& report);
/// How old what is served may be, in seconds: since the upstream was last heard to have no more.
[[nodiscard]] double lag_seconds(const ProxyReport& report);
/// When the listeners' certificates end; the loops have the same files.
[[nodiscard]] rpc::TlsExpiry tls_expiry(const ProxyReport& report);

}  // namespace mesh::proxy_daemon
