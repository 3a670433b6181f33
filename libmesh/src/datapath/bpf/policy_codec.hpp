// Between the rows of datapath/policy.hpp and the map entries of bpf/layout.h. Internal to this
// folder.
#pragma once

#include "bpf/layout.h"
#include "datapath/policy.hpp"

namespace mesh::datapath {

/// @errors kInvalidArgument: a length that there is not, or bits beyond it
[[nodiscard]] Result<mesh_policy_key> to_kernel(const PolicyKey& key);
[[nodiscard]] mesh_policy_row to_kernel(const PolicyVerdict& verdict);
[[nodiscard]] PolicyKey from_kernel(const mesh_policy_key& key);
[[nodiscard]] PolicyVerdict from_kernel(const mesh_policy_row& row);

/// The key of the element that is no row but tells of all.
[[nodiscard]] mesh_policy_key policy_header_key();
[[nodiscard]] bool is_policy_header(const mesh_policy_key& key);
/// Which of mesh_policy_header::lengths a row counts in, and its bit there.
[[nodiscard]] std::uint32_t lengths_index(const mesh_policy_key& key);
[[nodiscard]] std::uint32_t length_bit(const mesh_policy_key& key);

}  // namespace mesh::datapath
