// Security identities of a cluster's pods: which labels make one. Plain computation; ObjectCompiler
// uses it. KvstoreIdentityAllocator has the numbers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/kubernetes.hpp"
#include "model/types.hpp"
#include "publish/label_filter.hpp"

namespace mesh::publish {

/// The labels that make a pod's identity, sorted as the wire has them: of its own, its namespace,
/// cluster and service account, and its namespace's labels those that pass the filter.
/// @param space the pod's Namespace, or nullptr if it is not known
[[nodiscard]] std::vector<model::Label> identity_labels(const model::k8s::Pod& pod,
                                                        const model::k8s::Namespace* space,
                                                        std::string_view cluster,
                                                        const LabelFilter& filter);

}  // namespace mesh::publish
