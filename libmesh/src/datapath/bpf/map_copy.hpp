// Pinned maps as bytes, and the copying of their entries into maps of another layout or size.
// Internal to this folder.
#pragma once

#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <vector>

#include "datapath/bpf/fd.hpp"
#include "datapath/bpf/layout_steps.hpp"

namespace mesh::datapath {

/// What a map was made with.
struct MapShape {
    std::uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0, flags = 0;
    friend bool operator==(const MapShape&, const MapShape&) = default;
};

struct OpenMap {
    std::string name;
    Fd fd;
    MapShape shape;
};

/// The map pinned at `path`; nullopt: nothing is. @errors kPermission, kInternal
[[nodiscard]] Result<std::optional<OpenMap>> open_pinned_map(const std::string& path);
/// @param fd is borrowed only
[[nodiscard]] Result<MapShape> shape_of(int fd, std::string_view name);

/// Of a map that is indexed: all elements exist, those that are all zero hold nothing.
[[nodiscard]] bool is_array(const MapShape& shape) noexcept;

/// Calls on(key, value) for each entry; of an array for those that are not all zero. Of a map per
/// CPU the value is a row of each, 8-byte aligned. Entries that programs write or delete meanwhile
/// may or may not be seen.
[[nodiscard]] Result<void> for_each_entry(
    const OpenMap& map,
    const std::function<Result<void>(ConstEntryBytes key, ConstEntryBytes value)>& on);

/// The size with which a map holds all that it holds now: entries, or the highest index in use + 1.
/// @complexity reads the whole map
[[nodiscard]] Result<std::uint32_t> entries_to_keep(const OpenMap& map);

/// The changes of one map, oldest first. Empty: the bytes stay as they are.
using MapChanges = std::vector<const MapChange*>;

/// What to do with an entry that the new map has already.
enum class OnExisting : std::uint8_t { kReplace, kKeep };

/// Writes every entry of `from`, as `changes` make it, to `to`.
/// @errors kCapacity: no room; kInternal
[[nodiscard]] Result<std::uint64_t> copy_entries(const OpenMap& from, const OpenMap& to,
                                                 const MapChanges& changes, OnExisting existing);

/// One entry through the changes; nullopt: it has no counterpart.
/// @param rows 1, or of a map per CPU their number
struct ConvertedEntry {
    std::vector<std::byte> key, value;
};
[[nodiscard]] std::optional<ConvertedEntry> convert_entry(ConstEntryBytes key,
                                                          ConstEntryBytes value,
                                                          const MapChanges& changes,
                                                          std::uint32_t rows);

}  // namespace mesh::datapath
