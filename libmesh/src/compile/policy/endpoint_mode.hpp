// How the policies of some endpoints are enforced, where that differs from the node's mode.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <string_view>
#include <vector>

#include "model/policy.hpp"

namespace mesh::compile {

/// Of endpoints. kDefault: a direction is enforced once a policy with default deny selects the
/// endpoint; kAlways: always; kNever: never. @source policy.md §4
enum class Enforcement : std::uint8_t { kDefault, kAlways, kNever };

/// "default", "always", "never".
[[nodiscard]] std::string_view to_string(Enforcement enforcement) noexcept;

struct EndpointMode {
    std::vector<model::Label> labels;  ///< an endpoint must have all of them; sorted
    Enforcement enforcement = Enforcement::kDefault;
    bool audit = false;  ///< what rules deny passes, and is told
    friend bool operator==(const EndpointMode&, const EndpointMode&) = default;
};

/// "MODE:LABEL,..." with MODE one of default, always, never and audit; labels as in
/// "app=web,k8s:io.kubernetes.pod.namespace=shop".
/// @errors kInvalidArgument names the text and what was expected
[[nodiscard]] Result<EndpointMode> parse_endpoint_mode(std::string_view text);

/// The first of them whose labels are all there; nullptr: none.
/// @param labels of the endpoint, sorted
[[nodiscard]] const EndpointMode* find_mode(const std::vector<EndpointMode>& modes,
                                            model::policy::LabelArray labels);

}  // namespace mesh::compile
