#include "serve/etcd/cluster_access.hpp"

#include <utility>

#include "model/keys.hpp"

namespace mesh::serve {

namespace {

std::vector<ReadOnly::Prefix> remote_prefixes(const std::string& own) {
    return {{.prefix = std::string(model::kHeartbeatKey)},
            {.prefix = std::string(model::kStatePrefix)},
            {.prefix = model::cluster_config_key(own), .exact = true},
            {.prefix = std::string(model::kHasClusterConfigKey), .exact = true},
            {.prefix = model::synced_prefix(own)}};
}

bool is_remote(const rpc::Peer& peer) {
    return peer.verified &&
           (peer.common_name == "remote" || peer.common_name.starts_with("remote-"));
}

}  // namespace

RemoteAccess::RemoteAccess(const std::string& own_cluster, bool init_locks)
    : readable_(remote_prefixes(own_cluster)), init_locks_(init_locks) {}

bool RemoteAccess::allows(const AccessRequest& request) const {
    return is_remote(request.peer) && readable_.allows(request);
}

bool RemoteAccess::admits(const AccessRequest& request) const {
    if (!is_remote(request.peer)) return false;
    switch (request.action) {
        case EtcdAction::kPut:
        case EtcdAction::kDelete:
        case EtcdAction::kTxn:
        case EtcdAction::kLease:
            return init_locks_;
        default:
            return readable_.admits(request);
    }
}

LocalAccess::LocalAccess(std::string own_cluster, bool writable)
    : reader_("local-" + own_cluster), writer_("admin-" + own_cluster), writable_(writable) {}

bool LocalAccess::has_role(const rpc::Peer& peer) const {
    return peer.verified && (peer.common_name == reader_ || peer.common_name == writer_);
}

// Which calls a role may make is told by allows(), with advice for writers.
bool LocalAccess::admits(const AccessRequest& request) const {
    return has_role(request.peer);
}

bool LocalAccess::allows(const AccessRequest& request) const {
    if (!has_role(request.peer)) return false;
    const std::string_view name = request.peer.common_name;
    switch (request.action) {
        case EtcdAction::kRange:
        case EtcdAction::kWatch:
        case EtcdAction::kStatus:
        case EtcdAction::kMembers:
        case EtcdAction::kTxn:  // its parts are asked about
            return true;
        case EtcdAction::kPut:
        case EtcdAction::kDelete:
        case EtcdAction::kLease:
        case EtcdAction::kCompact:
        case EtcdAction::kMaintenance:
            return writable_ && name == writer_;
        case EtcdAction::kOther:
            return false;
    }
    return false;
}

std::string_view LocalAccess::advice(const AccessRequest& request) const {
    if (writable_ || request.peer.common_name != writer_) return {};
    return "this proxy mirrors an etcd; write to that etcd directly";
}

}  // namespace mesh::serve
