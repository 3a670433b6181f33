// How packets come to the WireGuard device: a rule that gives them a routing table of their own,
// and in that table a route to each prefix that is encrypted to. In strict mode each has a black
// hole behind it, so that a device that goes away, and its routes with it, leaves no way in plain.
// What is in the table and the rules that name it are ours. Internal to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <set>
#include <string>

#include "datapath/netlink/rtnetlink.hpp"
#include "model/ip.hpp"

namespace mesh::engine {

/// The table, and the place of its rules before those of the main table.
inline constexpr std::uint32_t kEncryptionTable = 201;
inline constexpr std::uint32_t kEncryptionRulePriority = 109;

/// @errors of every call as Rtnetlink; calling again mends what is missing
/// @thread same object not concurrently
class EncryptionRoutes {
  public:
    struct Settings {
        std::string device;
        /// UDP port of the overlay: only its packets look into the table; 0 = all packets do.
        std::uint16_t tunnel_port = 0;
        bool strict = false;
        std::optional<model::IpAddress> source4, source6;  ///< of packets of the node itself
        friend bool operator==(const Settings&, const Settings&) = default;
    };

    EncryptionRoutes(datapath::Rtnetlink netlink, Settings settings)
        : netlink_(std::move(netlink)), settings_(std::move(settings)) {}

    /// Makes rules and routes exist; what is right is not touched.
    /// @param prune removes routes to other prefixes
    /// @return how many routes and rules there were to add
    /// @complexity all routes of the table
    [[nodiscard]] Result<std::size_t> sync(const std::set<model::IpPrefix>& wanted, bool prune);
    [[nodiscard]] Result<void> add(const model::IpPrefix& prefix);
    [[nodiscard]] Result<void> remove(const model::IpPrefix& prefix);

    /// Removes rules and routes.
    [[nodiscard]] static Result<void> clear(datapath::Rtnetlink& netlink);

  private:
    [[nodiscard]] datapath::Route route_to(const model::IpPrefix& prefix) const;
    [[nodiscard]] datapath::Route black_hole_of(const model::IpPrefix& prefix) const;
    [[nodiscard]] Result<std::size_t> set_rules();

    datapath::Rtnetlink netlink_;
    Settings settings_;
};

}  // namespace mesh::engine
