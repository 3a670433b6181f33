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

}  // namespace

RemoteAccess::RemoteAccess(const std::string& own_cluster)
    : readable_(remote_prefixes(own_cluster)) {}

bool RemoteAccess::allows(const AccessRequest& request) const {
    if (!request.peer.verified) return false;
    const std::string_view name = request.peer.common_name;
    if (name != "remote" && !name.starts_with("remote-")) return false;
    return readable_.allows(request);
}

LocalAccess::LocalAccess(std::string own_cluster, bool writable)
    : reader_("local-" + own_cluster), writer_("admin-" + own_cluster), writable_(writable) {}

bool LocalAccess::allows(const AccessRequest& request) const {
    if (!request.peer.verified) return false;
    const std::string_view name = request.peer.common_name;
    if (name != reader_ && name != writer_) return false;
    switch (request.action) {
        case EtcdAction::kRange:
        case EtcdAction::kWatch:
        case EtcdAction::kStatus:
        case EtcdAction::kMembers:
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
