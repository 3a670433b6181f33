// What `meshctl service get` tells of a service's traffic annotations. Used by explanation.cpp.
#pragma once

#include <string>
#include <vector>

#include "compile/services/traffic_state.hpp"

namespace mesh::compile {

/// Notes on what the annotations do now: shares, slow starts, stale remotes; and on what they do
/// not: values that are not of their form, names that no cluster has, what affinity rules out.
/// @param traffic null if they ask for nothing
/// @param rows with their weights spread
[[nodiscard]] std::vector<std::string> traffic_notes(const model::LocalService& local,
                                                     const ServiceTraffic* traffic,
                                                     const TrafficState& state,
                                                     const std::vector<FrontendRow>& rows);

}  // namespace mesh::compile
