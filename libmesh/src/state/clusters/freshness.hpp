// How far behind its etcd a session is: each slot's watch has told all up to a revision of its own,
// and the last probe says how far the etcd had come. A watch that is stuck is not hidden by others
// that move, and writes outside the mesh's prefixes (heartbeats) count as told once the server says
// so. Revisions are of one etcd: begin() forgets them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "runtime/clock.hpp"
#include "state/clusters/slots.hpp"

namespace mesh::state {

/// @thread one thread
class Freshness {
  public:
    /// Another etcd, or everything is read anew. @param wanted the slots that are followed
    void begin(SlotSet wanted);
    /// The slot is not followed after all.
    void drop(TimePoint now, Slot slot);
    /// All changes of the slot up to the revision were told.
    void reached(TimePoint now, Slot slot, std::int64_t revision);
    /// The etcd was at this revision; nothing of it may be missing from now on.
    void probed(TimePoint now, std::int64_t revision);

    /// Up to which all slots are known; 0 before each has been listed.
    [[nodiscard]] std::int64_t revision() const;
    /// Revisions of the last probe that not every slot has told.
    [[nodiscard]] std::int64_t lag_revisions() const;
    /// Since when there are such.
    [[nodiscard]] const std::optional<TimePoint>& behind_since() const { return behind_since_; }

  private:
    void update(TimePoint now);

    SlotSet wanted_;
    std::array<std::int64_t, kObjectSlots> reached_{};
    std::int64_t probed_ = 0;
    std::optional<TimePoint> behind_since_;
};

}  // namespace mesh::state
