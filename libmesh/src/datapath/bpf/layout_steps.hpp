// What changed between the layouts of the pinned maps (bpf/layout.h), one step for each version:
// how an entry of a map becomes an entry of the next layout. README.md has the recipe. Internal to
// this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace mesh::datapath {

using ConstEntryBytes = std::span<const std::byte>;
using EntryBytes = std::span<std::byte>;

/// A map whose entries changed in a step.
struct MapChange {
    std::string_view map;
    std::uint32_t old_key_size, old_value_size;  ///< of an entry before the step, bytes
    std::uint32_t key_size, value_size;          ///< of an entry after it
    /// Fills the new entry, which is zeroed. False: the entry has no counterpart, it is left out.
    bool (*convert)(ConstEntryBytes old_key, ConstEntryBytes old_value, EntryBytes key,
                    EntryBytes value);
};

/// From layout `from` to layout `from + 1`. Maps that are not named keep their entries as they are;
/// a map that the older layout lacks is made empty, one that the newer lacks goes.
struct LayoutStep {
    std::uint32_t from;
    std::span<const MapChange> changes;
};

/// The layouts of one set of maps that this build can read.
struct Layout {
    std::string_view version_map;  ///< an array of one element, which begins with the version
    std::uint32_t version;
    std::span<const LayoutStep> steps;  ///< in order, without a gap, the last one from version - 1
};

/// Of bpf/socklb.bpf.c; MESH_LAYOUT_VERSION.
[[nodiscard]] Layout services_layout();
/// Of bpf/pods.bpf.c; MESH_PODS_LAYOUT_VERSION.
[[nodiscard]] Layout pods_layout();

namespace detail {

template <auto kConvert, class OldKey, class OldValue, class Key, class Value>
[[nodiscard]] constexpr MapChange change_of(std::string_view map,
                                            bool (*)(const OldKey&, const OldValue&, Key&,
                                                     Value&)) {
    return {
        map,
        sizeof(OldKey),
        sizeof(OldValue),
        sizeof(Key),
        sizeof(Value),
        [](ConstEntryBytes old_key, ConstEntryBytes old_value, EntryBytes key, EntryBytes value) {
            OldKey from_key;
            OldValue from;
            std::memcpy(&from_key, old_key.data(), sizeof from_key);
            std::memcpy(&from, old_value.data(), sizeof from);
            Key to_key{};
            Value to{};
            if (!kConvert(from_key, from, to_key, to)) return false;
            std::memcpy(key.data(), &to_key, sizeof to_key);
            std::memcpy(value.data(), &to, sizeof to);
            return true;
        }};
}

}  // namespace detail

/// A change by a function of structs: bool(const OldKey&, const OldValue&, Key&, Value&).
template <auto kConvert>
[[nodiscard]] constexpr MapChange map_change(std::string_view map) {
    return detail::change_of<kConvert>(map, kConvert);
}

}  // namespace mesh::datapath
