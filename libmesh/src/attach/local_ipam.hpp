// Addresses of pods out of the node's own blocks, kept in a directory: one file per address that
// is given, named as the address, holding its owner. The directory is locked while it is changed,
// so that calls do not meet, and the lock goes with its process: what a killed one left half done
// is seen and taken back by the next.
//
//   <directory>/10.10.1.2             "<container id>\n<device>\n"
//   <directory>/last-10.10.1.0_24     the last address given of that block
// Our own format.
#pragma once

#include <mesh/error.hpp>
#include <span>
#include <string>
#include <vector>

#include "model/ip.hpp"

namespace mesh::attach {

/// Who holds an address.
struct AddressOwner {
    std::string container_id;
    std::string device;  ///< of the pod
    friend bool operator==(const AddressOwner&, const AddressOwner&) = default;
};

/// Gives one address of each family that has a block here: the next free one after the last that
/// was given, so that an address comes back as late as possible. The first two addresses of a block
/// (its own and the router's) and IPv4's broadcast are never given. Blocks of the same family are
/// used in their order.
/// @return IPv4 first
/// @errors kCapacity when a family has none left, and then none is given; kUnavailable
/// @complexity one open() for each address between the last given and the next free one
[[nodiscard]] Result<std::vector<model::IpAddress>> allocate_addresses(
    const std::string& directory, std::span<const model::IpPrefix> blocks,
    const AddressOwner& owner);

/// Takes back all that the owner holds, and what killed calls left half done; nothing happens when
/// that is nothing.
/// @complexity reads each address's file
[[nodiscard]] Result<void> release_addresses(const std::string& directory,
                                             const AddressOwner& owner);

/// Whether the owner holds the address. @errors kNotFound when not
[[nodiscard]] Result<void> check_address(const std::string& directory,
                                         const model::IpAddress& address,
                                         const AddressOwner& owner);

}  // namespace mesh::attach
