// One request to a userspace WireGuard over its Unix socket, and its answer. Internal to this
// folder.
#pragma once

#include <mesh/error.hpp>
#include <string>
#include <string_view>

#include "datapath/bpf/fd.hpp"

namespace mesh::datapath::uapi {

/// @param path of the socket
/// @param request ends with an empty line
/// @return the answer up to its empty line; may hold a private key: wipe it
/// @errors kNotFound when nobody listens, kTimeout after 5 s, kPermission, kUnavailable
[[nodiscard]] Result<std::string> exchange(const std::string& path, std::string_view request);

/// A pidfd of who listens. The kernel tells who called listen(2), which is the process itself as
/// long as it did not fork afterwards.
/// @errors as exchange(); kNotFound, too, if that process is gone or in a hidden namespace
[[nodiscard]] Result<Fd> listener(const std::string& path);

/// Overwrites the text.
void wipe(std::string& text);

}  // namespace mesh::datapath::uapi
