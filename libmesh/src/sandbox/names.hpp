// Every name that a sandbox puts on the machine, derived from the sandbox's name alone. A sandbox's
// name has no ".", so "mesh-<sandbox>." begins the names of one sandbox only, and all that it made
// can be found again without its state file.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "model/ip.hpp"

namespace mesh::sandbox {

/// The namespace with the bridge that all sandboxes' nodes are plugged into.
inline constexpr std::string_view kUnderlayNetns = "mesh-underlay";
inline constexpr std::string_view kUnderlayBridge = "mesh0";
/// Length of the block that all nodes of all sandboxes are on.
inline constexpr std::uint8_t kUnderlayLength4 = 15;
inline constexpr std::uint8_t kUnderlayLength6 = 64;
/// Bounds: a sandbox's place on the underlay, and a node's number in its sandbox.
inline constexpr std::uint32_t kMaxSlot = 511;
inline constexpr std::uint32_t kMaxNodes = 250;

/// Names of one sandbox. @thread any thread (a plain value)
class Names {
  public:
    /// @errors kInvalidArgument when it is no cluster name (wire.md §17)
    [[nodiscard]] static Result<Names> make(std::string_view sandbox);

    [[nodiscard]] const std::string& sandbox() const noexcept { return sandbox_; }
    /// What all of its namespaces and cgroups begin with: "mesh-c1.".
    [[nodiscard]] std::string prefix() const;
    /// Namespace and cgroup of a node: "mesh-c1.node1".
    [[nodiscard]] std::string node(std::string_view node) const;
    /// What the namespaces of a node's pods begin with: "mesh-c1.node1.".
    [[nodiscard]] std::string pods_of(std::string_view node) const;
    /// "mesh-c1.node1.<namespace>.<pod>".
    [[nodiscard]] std::string pod(std::string_view node, std::string_view namespace_,
                                  std::string_view pod) const;
    /// What all of its folders of BPF pins begin with: "mesh-c1_". (A BPF file system takes no
    /// dot.)
    [[nodiscard]] std::string pins_prefix() const;
    /// Folder of a node's BPF pins: "mesh-c1_node1".
    [[nodiscard]] std::string pins(std::string_view node) const;

  private:
    explicit Names(std::string sandbox) : sandbox_(std::move(sandbox)) {}
    std::string sandbox_;
};

/// "node1" for 1.
[[nodiscard]] std::string node_name(std::uint32_t number);
/// The sandbox of a name made by Names, or nullopt.
[[nodiscard]] std::optional<std::string> sandbox_of(std::string_view name);
/// The bridge's port of a node: "p12n3"; within IFNAMSIZ for every slot and node.
[[nodiscard]] std::string underlay_port(std::uint32_t slot, std::uint32_t node);
/// The slot of such a port, or nullopt.
[[nodiscard]] std::optional<std::uint32_t> slot_of_port(std::string_view port);
/// A node's addresses on the underlay: 172.18.0.0/15 and fd6d:6573:6800::/64.
[[nodiscard]] model::IpAddress node_address4(std::uint32_t slot, std::uint32_t node);
[[nodiscard]] model::IpAddress node_address6(std::uint32_t slot, std::uint32_t node);

/// Checks a Kubernetes object name: an RFC 1123 label of at most 63 bytes.
/// @param what for the error's text, e.g. "metadata.name"
/// @errors kInvalidArgument
[[nodiscard]] Result<void> check_label_name(std::string_view what, std::string_view name);

}  // namespace mesh::sandbox
