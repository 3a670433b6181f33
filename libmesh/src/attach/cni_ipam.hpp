// A pod's addresses from whom the network config names: our own allocation or a delegated plugin.
#pragma once

#include "attach/cni_config.hpp"
#include "attach/cni_result.hpp"
#include "runtime/clock.hpp"

namespace mesh::attach {

/// @return addresses, IPv4 first, at least one; a delegated plugin's routes and DNS beside them
/// @errors kIpam, kIo, kBadEnvironment, or the delegated plugin's own
[[nodiscard]] CniResult<CniAddResult> give_addresses(const NetworkConfig& config,
                                                     const CniCall& call, const Clock& clock);
/// Takes back what the container holds; nothing happens when that is nothing. @errors as above
[[nodiscard]] CniResult<void> take_addresses_back(const NetworkConfig& config, const CniCall& call,
                                                  const Clock& clock);
/// Whether the container holds the addresses still. @errors kCheck, or the delegated plugin's own
[[nodiscard]] CniResult<void> check_addresses(const NetworkConfig& config, const CniCall& call,
                                              const std::vector<model::IpAddress>& addresses,
                                              const Clock& clock);

}  // namespace mesh::attach
