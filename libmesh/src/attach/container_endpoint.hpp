// The endpoint files of containers, as mesh-cni keeps them. Kubernetes makes a pod's next container
// before the last one's is removed: both have the pod's name, so that a file is only removed for
// the container that it is of. Calls take the directory's lock.
#pragma once

#include <mesh/error.hpp>
#include <string>
#include <string_view>

#include "sources/config/endpoint_files.hpp"

namespace mesh::attach {

/// Writes the endpoint's file; replaces that of an earlier container of the same id.
/// @param id as write_endpoint_file()
/// @errors kInvalidArgument, kUnavailable
[[nodiscard]] Result<void> write_container_endpoint(const std::string& directory,
                                                    std::string_view id,
                                                    const sources::config::EndpointFile& endpoint);

/// Removes the file of that container's device, and what killed writers left.
/// @param id where it should be; when it is not, all files are looked through
/// @errors kInvalidArgument, kUnavailable
[[nodiscard]] Result<void> remove_container_endpoint(const std::string& directory,
                                                     std::string_view id,
                                                     std::string_view container_id,
                                                     std::string_view pod_device);

/// @errors kNotFound when the file is absent or another container's
[[nodiscard]] Result<sources::config::EndpointFile> read_container_endpoint(
    const std::string& directory, std::string_view id, std::string_view container_id,
    std::string_view pod_device);

}  // namespace mesh::attach
