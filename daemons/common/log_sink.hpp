// The LogSink of the programs: spdlog to stderr, one line a message.
#pragma once

#include <string>

#include "base/log.hpp"
#include "common/flags.hpp"

namespace mesh::daemon {

/// A Logger that writes lines to stderr.
/// Text: "2026-11-23T14:05:06.123Z warning [clusters] text". JSON:
/// {"time":..,"level":..,"subsystem":.., "message":..} and the line's LogFields as further members,
/// with everything escaped as JSON demands.
/// @thread any thread
[[nodiscard]] Logger make_logger(std::string subsystem, const CommonFlags& flags);

}  // namespace mesh::daemon
