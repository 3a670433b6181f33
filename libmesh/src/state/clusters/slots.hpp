// What a session watches in one etcd: the prefixes of the mesh, each in a slot of its own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "model/keys.hpp"

namespace mesh::state {

enum class Slot : std::uint8_t {
    kNodes,
    kServices,
    kIps,
    kIdentities,
    kServiceExports,
    kLocalServices,  ///< own cluster only: mesh/local/
    kLocalPolicies,  ///< likewise
    kLocalIps,       ///< likewise
    kHeartbeat,
    kCanaries,
};
inline constexpr std::size_t kSlots = 10;
/// The slots that hold objects, in the order in which they are drained.
inline constexpr std::size_t kObjectSlots = 8;

[[nodiscard]] constexpr std::size_t index(Slot slot) noexcept {
    return static_cast<std::size_t>(slot);
}
[[nodiscard]] constexpr Slot object_slot(std::size_t i) noexcept {
    return static_cast<Slot>(i);
}

[[nodiscard]] constexpr std::string_view to_string(Slot slot) noexcept {
    constexpr std::array<std::string_view, kSlots> kNames{
        "nodes",          "services", "ips",       "identities", "serviceexports",
        "local-services", "policies", "local-ips", "heartbeat",  "canaries"};
    return kNames[index(slot)];
}

/// A set of slots.
class SlotSet {
  public:
    constexpr SlotSet() = default;
    constexpr SlotSet(std::initializer_list<Slot> slots) {
        for (const Slot slot : slots) insert(slot);
    }
    constexpr void insert(Slot slot) noexcept { bits_ |= bit(slot); }
    constexpr void erase(Slot slot) noexcept { bits_ &= static_cast<std::uint16_t>(~bit(slot)); }
    [[nodiscard]] constexpr bool contains(Slot slot) const noexcept {
        return (bits_ & bit(slot)) != 0;
    }
    [[nodiscard]] constexpr bool contains_all(SlotSet other) const noexcept {
        return (bits_ & other.bits_) == other.bits_;
    }
    [[nodiscard]] constexpr bool empty() const noexcept { return bits_ == 0; }
    constexpr void clear() noexcept { bits_ = 0; }
    friend constexpr bool operator==(SlotSet, SlotSet) = default;

  private:
    static constexpr std::uint16_t bit(Slot slot) noexcept {
        return static_cast<std::uint16_t>(1U << index(slot));
    }
    std::uint16_t bits_ = 0;
};

/// What an agent needs of a remote.
inline constexpr SlotSet kAgentSlots{Slot::kNodes, Slot::kServices, Slot::kIps, Slot::kIdentities};
/// Agent's and operator's: all that a remote publishes.
inline constexpr SlotSet kRemoteSlots{Slot::kNodes, Slot::kServices, Slot::kIps, Slot::kIdentities,
                                      Slot::kServiceExports};
/// What an agent reads of its own cluster.
inline constexpr SlotSet kOwnSlots{Slot::kNodes,      Slot::kServices,      Slot::kIps,
                                   Slot::kIdentities, Slot::kLocalServices, Slot::kLocalPolicies,
                                   Slot::kLocalIps};

/// The prefix to watch for a slot of one cluster.
[[nodiscard]] std::string slot_prefix(Slot slot, std::string_view cluster, model::Layout layout);
/// The slot that a canary opens.
[[nodiscard]] Slot slot_of(model::Resource resource) noexcept;

}  // namespace mesh::state
