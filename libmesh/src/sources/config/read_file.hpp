// Reads a small text file whole, with a bound and an error that names it.
#pragma once

#include <cstddef>
#include <mesh/error.hpp>
#include <string>

namespace mesh::sources::config {

/// The most that a configuration file may hold.
inline constexpr std::size_t kMaxConfigBytes = 256 * 1024;

/// The bytes of a regular file (links are followed).
/// @param limit bytes; a longer file is an error
/// @errors kNotFound (no such file), kInvalidArgument (no regular file, or too long),
///         kUnavailable (not readable), each with the path and the system's reason
[[nodiscard]] Result<std::string> read_file(const std::string& path, std::size_t limit);

}  // namespace mesh::sources::config
