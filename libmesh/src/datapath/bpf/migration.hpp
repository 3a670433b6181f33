// Pinned maps that this build cannot use as they are, because their layout is older or another size
// is wanted, give way to new ones without loss (README.md): these are made beside the old ones in
// `next`, filled, swapped with them, and when the programs were replaced the old ones go. A process
// that dies anywhere in between leaves either set whole, and its successor finishes.
// A map that did not change is the same in both sets. Internal to this folder.
#pragma once

#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <vector>

#include "base/log.hpp"
#include "datapath/bpf/layout_steps.hpp"
#include "datapath/bpf/map_copy.hpp"
#include "datapath/bpf/pin_directory.hpp"

struct bpf_map;

namespace mesh::datapath {

/// What is in a map, for a migration.
enum class Contents : std::uint8_t {
    kWriter,    ///< only the agent writes it
    kPrograms,  ///< programs write it too: what they add while it is copied is copied afterwards
    kSockets,   ///< bound to sockets: it cannot be copied, so its value must never change
    kPassing,   ///< nothing worth keeping: a ring buffer
    kMaps,      ///< maps, which are not copied by their bytes: its shape must never change
};

struct WantedMap {
    bpf_map* map;
    std::uint32_t entries = 0;  ///< 0: as the object says
    Contents contents = Contents::kWriter;
};

/// Order of use: prepare, load of the BPF object, fill, replacement of the programs, finish;
/// abandon where one fails. Until fill() has returned, the old maps and programs are as they were.
class Migration {
  public:
    /// Looks at what is pinned; sets sizes and pin paths of the maps of an object that is opened
    /// and not loaded. A size below what a map holds is not taken; the log tells.
    /// @errors kConflict: a layout that this build does not know; kPermission, kInternal
    [[nodiscard]] static Result<Migration> prepare(const PinDirectory& pins,
                                                   std::span<const WantedMap> wanted,
                                                   const Layout& layout, const Logger& logger);

    /// Fills the new maps and makes them the pinned ones. Nothing if no migration is needed.
    /// @param edit the element of the version map as it shall be; the version is set already
    /// @errors kCapacity, kInternal
    [[nodiscard]] Result<void> fill(const PinDirectory& pins,
                                    const std::function<void(EntryBytes)>& edit = {});

    /// True: programs may be attached that use other maps than the pinned ones. Once all of them
    /// were replaced, finish() is due.
    [[nodiscard]] bool replaces_programs() const noexcept { return beside_ || resumed_; }

    /// Copies what programs added to the old maps since, and lets these go.
    [[nodiscard]] Result<void> finish(const PinDirectory& pins);

    /// Removes what fill() did not finish.
    void abandon(const PinDirectory& pins) const;

  private:
    struct Move {
        OpenMap from;
        bpf_map* to;
        MapChanges changes;
        Contents contents;
        OnExisting existing;
    };

    Migration(const Layout& layout, const Logger& logger) : layout_(layout), logger_(logger) {}
    [[nodiscard]] Result<void> look(const PinDirectory& pins, std::span<const WantedMap> wanted);
    [[nodiscard]] Result<bool> plan(const PinDirectory& pins, std::span<const WantedMap> wanted);
    [[nodiscard]] Result<bool> plan_map(const WantedMap& wanted, OpenMap& pinned,
                                        const PinDirectory& pins);
    [[nodiscard]] Result<void> check_version(const PinDirectory& pins) const;
    [[nodiscard]] Result<void> make_beside(const PinDirectory& pins,
                                           std::span<const WantedMap> wanted);
    [[nodiscard]] Result<void> resume(const PinDirectory& pins, std::span<const WantedMap> wanted);
    [[nodiscard]] Result<void> copy_version(const Move& move,
                                            const std::function<void(EntryBytes)>& edit) const;

    Layout layout_;
    Logger logger_;
    std::uint32_t version_ = 0;    // of the pinned maps; 0: there are none
    std::vector<OpenMap> shared_;  // the same in both sets
    std::vector<Move> moves_;      // from the old maps
    bool beside_ = false;          // new maps are being made in `next`
    bool resumed_ = false;         // a predecessor swapped them and did not finish
    bool swapped_ = false;
};

/// The size that a pinned map gets where `wanted` is asked for: that, or its own if it holds more;
/// the log tells. Not pinned: `wanted`. @complexity reads the map if it would shrink
[[nodiscard]] Result<std::uint32_t> fitting_size(const PinDirectory& pins, std::string_view map,
                                                 std::uint32_t wanted, const Logger& logger);

}  // namespace mesh::datapath
