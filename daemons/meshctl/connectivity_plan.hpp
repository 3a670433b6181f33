// What the sandboxes of `meshctl connectivity test` are: names, ids, CIDRs, objects. Plain
// computation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "meshctl/connectivity_cases.hpp"
#include "sandbox/sandbox.hpp"

namespace mesh::ctl::connectivity {

/// Names and ids of a test's sandboxes.
struct Plan {
    std::array<std::string, kClusters> clusters;  ///< "conn-a", "conn-b"
    std::string outside;                          ///< "conn-out"
    std::array<std::uint32_t, kClusters> ids{};

    /// @param ids "201,202"
    /// @errors kInvalidArgument: not two different ids of 1 to 511
    [[nodiscard]] static Result<Plan> make(const std::string& prefix, const std::string& ids);
    [[nodiscard]] std::vector<std::string> names() const;
    /// What a sandbox is created with. CIDRs follow from its cluster's id.
    /// @param mode "tunnel", "native", or with WireGuard "encrypted", "encrypted-native"
    [[nodiscard]] sandbox::CreateOptions options(std::size_t cluster,
                                                 const std::string& mode) const;
    [[nodiscard]] sandbox::CreateOptions outside_options() const;
};

/// The objects of each cluster, YAML.
[[nodiscard]] std::string manifest();

}  // namespace mesh::ctl::connectivity
