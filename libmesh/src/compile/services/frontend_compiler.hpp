// Compiles one service: the own cluster's, joined with the records of the same name that other
// clusters share, to the rows of its frontends (spec services.md §2, §3). Pure; all state is the
// caller's. Used by service_merger.cpp and explanation.cpp.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "model/health_check.hpp"
#include "model/types.hpp"
#include "state/tables/changes.hpp"

namespace mesh::compile {

/// "TCP", "UDP", "SCTP" in capitals, as the wire has them.
[[nodiscard]] std::optional<Protocol> parse_protocol(std::string_view text) noexcept;

struct ServiceTraffic;
class HealthState;

/// What is known of the health of one service's backends.
struct ServiceHealth {
    const HealthState* state = nullptr;       ///< null: nothing is probed
    std::optional<model::HealthCheck> check;  ///< of its annotation
    bool reset_connections = true;            ///< likewise

    [[nodiscard]] static ServiceHealth of(const HealthState* state,
                                          const model::LocalService& local);
    [[nodiscard]] const model::HealthCheck* check_or_null() const noexcept {
        return check ? &*check : nullptr;
    }
};

/// A remote's record of the service.
struct RemoteService {
    state::ClusterKey cluster;
    model::Service service;
};

/// Whether the own service has frontends at all: not if headless or of type ExternalName.
[[nodiscard]] bool has_frontends(const model::LocalService& local) noexcept;
/// Whether it has frontends and is to be installed on this node (services.md §1).
[[nodiscard]] bool is_installed(const model::LocalService& local, const MergerOptions& options);
/// Whether the record offers backends: both flags are read, as old writers publish every service
/// with its real ones (wire.md §5).
[[nodiscard]] bool offers_backends(const model::Service& remote) noexcept;

/// Whether it is of a type that has node ports, and one of its ports has.
[[nodiscard]] bool has_node_ports(const model::LocalService& local) noexcept;

/// The frontends of the own service that are to be installed on this node, in order, each once:
/// cluster IPs, external IPs and addresses of load balancers, and its node ports at this node's
/// addresses.
[[nodiscard]] std::vector<FrontendKey> frontend_keys(const model::LocalService& local,
                                                     const MergerOptions& options);

/// The rows of all frontends, in the order of keys.
/// @param remotes of other clusters only, in the order of preference; those that do not offer
///        backends are passed over, as are all if the own service is not global
/// @param traffic what the service's traffic annotations ask for now; null if nothing. Weights are
///        those of the backends: spread_weights() is the next step.
/// @param work is added to
[[nodiscard]] std::vector<FrontendRow> compile_frontends(const model::LocalService& local,
                                                         const std::vector<RemoteService>& remotes,
                                                         const MergerOptions& options,
                                                         const ServiceTraffic* traffic,
                                                         const ServiceHealth& health,
                                                         MergerWork& work);

/// Whether some frontend of the own service takes one of these ports at this address.
[[nodiscard]] bool is_taken(const model::LocalService& local, const MergerOptions& options,
                            const model::IpAddress& address,
                            const model::SharedList<model::ServicePort>& ports);

}  // namespace mesh::compile
