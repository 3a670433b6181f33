// Who may do what at a cluster's proxy, by the listener and the client certificate's common name
// (spec protocol.md §10). Deny is the default.
#pragma once

#include <memory>
#include <string>

#include "serve/etcd/access.hpp"

namespace mesh::serve {

/// For the listener that remote clusters reach: `remote` and `remote-<peer cluster>` may Range and
/// Watch what role "remote" may read in Cilium 1.17 and later: prefix cilium/.heartbeat, prefix
/// cilium/state/, the key cilium/cluster-config/<own>, prefix cilium/synced/<own>/; and the key
/// cilium/.has-cluster-config, which readers of 1.14 to 1.16 ask for. Everything else is refused,
/// whoever asks.
class RemoteAccess final : public AccessPolicy {
  public:
    /// @param init_locks calls that write are admitted, since EtcdService::attach() was told to
    ///   answer those of init locks by itself; all others are refused by allows()
    explicit RemoteAccess(const std::string& own_cluster, bool init_locks = false);
    [[nodiscard]] bool allows(const AccessRequest& request) const override;
    [[nodiscard]] bool admits(const AccessRequest& request) const override;

  private:
    ReadOnly readable_;
    bool init_locks_;
};

/// For the listener of the own cluster's programs: `local-<own>` may read everything,
/// `admin-<own>` may also write where `writable` (a proxy's own store; never a mirrored etcd, whose
/// writers go to it directly).
class LocalAccess final : public AccessPolicy {
  public:
    LocalAccess(std::string own_cluster, bool writable);
    [[nodiscard]] bool allows(const AccessRequest& request) const override;
    [[nodiscard]] bool admits(const AccessRequest& request) const override;
    [[nodiscard]] std::string_view advice(const AccessRequest& request) const override;

  private:
    [[nodiscard]] bool has_role(const rpc::Peer& peer) const;

    std::string reader_;
    std::string writer_;
    bool writable_;
};

}  // namespace mesh::serve
