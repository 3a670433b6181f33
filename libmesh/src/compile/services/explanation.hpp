// Why a service is served as it is, for `meshctl service get`. Used by service_merger.cpp.
#pragma once

#include <string>
#include <vector>

#include "compile/services/frontend_compiler.hpp"
#include "compile/services/service_merger.hpp"
#include "compile/services/traffic_state.hpp"

namespace mesh::compile {

/// @param local null if the own cluster has no such service
/// @param health null if nothing is probed
[[nodiscard]] ServiceExplanation explain_service(const state::ObjectName& name,
                                                 const model::LocalService* local,
                                                 const std::vector<RemoteService>& remotes,
                                                 const MergerOptions& options,
                                                 const TrafficState& traffic_state,
                                                 const HealthState* health);

/// The note for a frontend that is served for another service.
[[nodiscard]] std::string note_other_service(const FrontendKey& key,
                                             const state::ObjectName& served);

}  // namespace mesh::compile
