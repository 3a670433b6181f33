// The typed changes that flow from sources to state: what state/clusters emits for a remote, what a
// reader of the own cluster emits for it, and what ClusterTables takes. A batch is ordered and
// belongs to one cluster; nothing in it names another cluster's objects. The emitter has decoded
// and validated every object (spec wire.md §4-§8, protocol.md §6) before it gets here.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "model/ip.hpp"
#include "model/policy_record.hpp"
#include "model/types.hpp"

namespace mesh::state {

/// Namespace and name of a namespaced object.
struct ObjectName {
    std::string namespace_;
    std::string name;
    friend auto operator<=>(const ObjectName&, const ObjectName&) = default;
};

struct NodeUpsert {
    model::Node node;
};
struct NodeDelete {
    std::string name;
};
struct ServiceUpsert {
    model::Service service;
};
struct ServiceDelete {
    ObjectName name;
};
struct IpUpsert {
    model::IpIdentityPair pair;
};
/// The key's prefix; a host entry has the full length of its family.
struct IpDelete {
    model::IpPrefix prefix;
};
struct IdentityUpsert {
    model::Identity identity;
};
struct IdentityDelete {
    model::IdentityId id{};
};
struct ExportUpsert {
    model::ServiceExport service_export;
};
struct ExportDelete {
    ObjectName name;
};
/// Own cluster only: prefix mesh/local/.
struct LocalServiceUpsert {
    model::LocalService service;
};
struct LocalServiceDelete {
    ObjectName name;
};
/// Likewise.
struct PolicyUpsert {
    model::PolicyRecord record;
};
struct PolicyDelete {
    model::policy::PolicyKey key;
};
/// Likewise.
struct LocalIpUpsert {
    model::LocalIp ip;
};
struct LocalIpDelete {
    model::IpAddress address;
};

using ClusterChange =
    std::variant<NodeUpsert, NodeDelete, ServiceUpsert, ServiceDelete, IpUpsert, IpDelete,
                 IdentityUpsert, IdentityDelete, ExportUpsert, ExportDelete, LocalServiceUpsert,
                 LocalServiceDelete, PolicyUpsert, PolicyDelete, LocalIpUpsert, LocalIpDelete>;

/// Who a batch belongs to. The name is the key everywhere; the id is what that cluster's own config
/// says. A cluster whose id changed is drained first and then filled anew (protocol.md §8).
struct ClusterKey {
    std::string name;
    model::ClusterId id{};
    friend auto operator<=>(const ClusterKey&, const ClusterKey&) = default;
};

/// An ordered batch of one cluster's changes. Emitters bound its size (a thousand or so changes),
/// so that the copies made while it is applied stay small beside the tables.
struct ClusterBatch {
    ClusterKey cluster;
    std::vector<ClusterChange> changes;
};

}  // namespace mesh::state
