// Waits until the node's agent forwards a pod's packets, so that the pod's first one is not lost.
#pragma once

#include <chrono>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

#include "runtime/clock.hpp"

namespace mesh::attach {

/// Whether an agent's GET /v1/endpoints has the endpoint attached, by the same device: the file may
/// be known from an earlier container.
/// @errors kUnavailable saying how far it is; kCorrupt when the answer is no list
[[nodiscard]] Result<void> check_attached(std::string_view endpoints_json, std::string_view id,
                                          std::string_view device);

/// Asks until the answer is yes, in short intervals; an agent that is absent may be restarting.
/// @errors kTimeout with what was last seen
/// @thread any thread; blocks it
[[nodiscard]] Result<void> wait_until_attached(const std::string& agent_socket, std::string_view id,
                                               std::string_view device,
                                               std::chrono::seconds timeout, const Clock& clock);

}  // namespace mesh::attach
