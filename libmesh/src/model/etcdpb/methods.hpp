// Full method paths of etcd's v3 gRPC API, as they stand in the :path of a request.
// @source etcd API reference v3 (package names etcdserverpb)
#pragma once

#include <array>
#include <string_view>

namespace mesh::etcdpb {

inline constexpr std::string_view kRange = "/etcdserverpb.KV/Range";
inline constexpr std::string_view kPut = "/etcdserverpb.KV/Put";
inline constexpr std::string_view kDeleteRange = "/etcdserverpb.KV/DeleteRange";
inline constexpr std::string_view kTxn = "/etcdserverpb.KV/Txn";
inline constexpr std::string_view kCompact = "/etcdserverpb.KV/Compact";

inline constexpr std::string_view kWatch = "/etcdserverpb.Watch/Watch";

inline constexpr std::string_view kLeaseGrant = "/etcdserverpb.Lease/LeaseGrant";
inline constexpr std::string_view kLeaseRevoke = "/etcdserverpb.Lease/LeaseRevoke";
inline constexpr std::string_view kLeaseKeepAlive = "/etcdserverpb.Lease/LeaseKeepAlive";
inline constexpr std::string_view kLeaseTimeToLive = "/etcdserverpb.Lease/LeaseTimeToLive";
inline constexpr std::string_view kLeaseLeases = "/etcdserverpb.Lease/LeaseLeases";

inline constexpr std::string_view kMemberAdd = "/etcdserverpb.Cluster/MemberAdd";
inline constexpr std::string_view kMemberRemove = "/etcdserverpb.Cluster/MemberRemove";
inline constexpr std::string_view kMemberUpdate = "/etcdserverpb.Cluster/MemberUpdate";
inline constexpr std::string_view kMemberList = "/etcdserverpb.Cluster/MemberList";
inline constexpr std::string_view kMemberPromote = "/etcdserverpb.Cluster/MemberPromote";

inline constexpr std::string_view kAlarm = "/etcdserverpb.Maintenance/Alarm";
inline constexpr std::string_view kStatus = "/etcdserverpb.Maintenance/Status";
inline constexpr std::string_view kDefragment = "/etcdserverpb.Maintenance/Defragment";
inline constexpr std::string_view kHash = "/etcdserverpb.Maintenance/Hash";
inline constexpr std::string_view kHashKV = "/etcdserverpb.Maintenance/HashKV";
inline constexpr std::string_view kSnapshot = "/etcdserverpb.Maintenance/Snapshot";
inline constexpr std::string_view kMoveLeader = "/etcdserverpb.Maintenance/MoveLeader";
inline constexpr std::string_view kDowngrade = "/etcdserverpb.Maintenance/Downgrade";

inline constexpr std::string_view kAuthenticate = "/etcdserverpb.Auth/Authenticate";
inline constexpr std::string_view kAuthStatus = "/etcdserverpb.Auth/AuthStatus";

/// The other methods of the Auth service, for servers that refuse them by name.
inline constexpr std::array<std::string_view, 15> kAuthAdministration = {
    "/etcdserverpb.Auth/AuthEnable",
    "/etcdserverpb.Auth/AuthDisable",
    "/etcdserverpb.Auth/UserAdd",
    "/etcdserverpb.Auth/UserGet",
    "/etcdserverpb.Auth/UserList",
    "/etcdserverpb.Auth/UserDelete",
    "/etcdserverpb.Auth/UserChangePassword",
    "/etcdserverpb.Auth/UserGrantRole",
    "/etcdserverpb.Auth/UserRevokeRole",
    "/etcdserverpb.Auth/RoleAdd",
    "/etcdserverpb.Auth/RoleGet",
    "/etcdserverpb.Auth/RoleList",
    "/etcdserverpb.Auth/RoleDelete",
    "/etcdserverpb.Auth/RoleGrantPermission",
    "/etcdserverpb.Auth/RoleRevokePermission"};

}  // namespace mesh::etcdpb
