// Network policies that somebody puts into a cluster's etcd by hand, without a lease: they stay
// until they are taken out, and mesh-operator leaves them alone. Those that it publishes from
// manifests are its own: they are not touched here. Users: meshctl.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "model/policy_record.hpp"

namespace mesh::etcd {
class Client;
}

namespace mesh::publish {

/// What became, or would become, of a policy.
struct PolicyImportChange {
    enum class What : std::uint8_t { kCreated, kConfigured, kUnchanged, kDeleted, kAbsent };
    model::policy::PolicyKey key;
    What what = What::kUnchanged;
};
[[nodiscard]] std::string_view to_string(PolicyImportChange::What what);

struct PolicyImport {
    std::vector<std::shared_ptr<const model::PolicyRecord>> puts;
    std::vector<model::policy::PolicyKey> deletes;
    bool dry_run = false;  ///< only find out what would change
};

/// Does all of it, or nothing if one of the policies is published from a manifest. Each key is
/// written only if it is still as it was found.
/// @param client started; outlives the call
/// @return in the order of puts, then of deletes
/// @errors kPermission: published by mesh-operator, which would put it back; kConflict: somebody
///   else changed it at the same time (those before it in the order are done); those of etcd
[[nodiscard]] boost::asio::awaitable<Result<std::vector<PolicyImportChange>>> import_policies(
    etcd::Client& client, PolicyImport what);

}  // namespace mesh::publish
