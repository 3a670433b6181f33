// A document's tree as JSON text.
#pragma once

#include <string>
#include <string_view>

#include "sources/config/document.hpp"

namespace mesh::sources::config {

/// A Kubernetes object in one line, without what a server adds to it (status,
/// metadata.managedFields). Numbers stay as they were written; those that JSON does not know are
/// strings.
/// @param root a map
/// @param api_version, kind come first, whatever the object says of itself
[[nodiscard]] std::string kubernetes_json(const DocumentValue& root, std::string_view api_version,
                                          std::string_view kind);

}  // namespace mesh::sources::config
