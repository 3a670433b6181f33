// A place for what readers of Cilium 1.12 to 1.15 write before they read: a session's lease and a
// lock below cilium/.initlock/ (protocol.md §3, §9). Nobody else looks at these keys, so each
// connection gets a small store of its own, which never reaches the etcd and goes with the
// connection. Internal to serve/etcd.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string_view>

#include "rpc/server.hpp"
#include "runtime/clock.hpp"
#include "state/store/store.hpp"

namespace mesh::serve {

inline constexpr std::string_view kInitLockPrefix = "cilium/.initlock/";

/// @thread the server's loop
class InitLockShadow {
  public:
    static constexpr std::size_t kMostKeys = 64, kMostLeases = 16;

    explicit InitLockShadow(const Clock& clock) : clock_(clock) {}

    /// Whether a range, or each part of a transaction that has any, lies below the prefix.
    [[nodiscard]] static bool covers(const store::KeyRange& range);
    [[nodiscard]] static bool covers(const store::TxnRequest& request);

    /// The store of the call's connection, made with its first call.
    [[nodiscard]] store::Store& store_of(const rpc::ServerCall& call);
    /// Whether a store takes no more keys and leases.
    [[nodiscard]] static bool full(const store::Store& shadow);
    /// Leases that a request names exist: with several proxies behind one name another of them may
    /// have granted it. @param shadow of store_of()
    void admit_leases(store::Store& shadow, const store::PutRequest& request);
    void admit_leases(store::Store& shadow, const store::TxnRequest& request);
    void peer_gone(const rpc::Peer& peer) { stores_.erase(&peer); }

  private:
    const Clock& clock_;
    Rng rng_;
    std::map<const rpc::Peer*, std::unique_ptr<store::Store>> stores_;
};

}  // namespace mesh::serve
