#include "datapath/bpf/migration.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace mesh::datapath {
namespace {

/// The version that a version map holds; 0: none.
Result<std::uint32_t> version_in(const std::string& path) {
    MESH_TRY(const auto map, open_pinned_map(path));
    std::uint32_t version = 0;
    if (!map || map->shape.value_size < sizeof version) return 0U;
    std::vector<std::byte> value(map->shape.value_size);
    const std::uint32_t zero = 0;
    if (bpf_map_lookup_elem(map->fd.get(), &zero, value.data()) != 0) {
        return system_error(path, errno);
    }
    std::memcpy(&version, value.data(), sizeof version);
    return version;
}

Result<OpenMap> loaded_map(const bpf_map* map) {
    // Its own descriptor: the object closes its.
    OpenMap open{bpf_map__name(map), Fd(::fcntl(bpf_map__fd(map), F_DUPFD_CLOEXEC, 3)), {}};
    if (!open.fd) return system_error(open.name, errno);
    MESH_TRY(open.shape, shape_of(open.fd.get(), open.name));
    return open;
}

MapShape wanted_shape(const bpf_map* map) {
    return {static_cast<std::uint32_t>(bpf_map__type(map)), bpf_map__key_size(map),
            bpf_map__value_size(map), bpf_map__max_entries(map), bpf_map__map_flags(map)};
}

Result<std::uint32_t> fitting(const PinDirectory& pins, const OpenMap& pinned, std::uint32_t wanted,
                              const Logger& logger) {
    const std::uint32_t size = pinned.shape.max_entries;
    if (wanted >= size) return wanted;
    MESH_TRY(const std::uint32_t kept, entries_to_keep(pinned));
    if (kept <= wanted) return wanted;
    logger.warn("{}: map {} keeps its {} entries: it holds more than {}", pins.path(), pinned.name,
                size, wanted);
    return size;
}

MapChanges changes_of(const Layout& layout, std::string_view map, std::uint32_t version) {
    MapChanges changes;
    for (const LayoutStep& step : layout.steps) {
        if (step.from < version) continue;
        for (const MapChange& change : step.changes) {
            if (change.map == map) changes.push_back(&change);
        }
    }
    return changes;
}

/// The sizes of entries go on from one step to the next and end with those of the new map.
Result<void> check_sizes(const OpenMap& pinned, const MapShape& wanted, const MapChanges& changes,
                         std::uint32_t version) {
    std::uint32_t key = pinned.shape.key_size, value = pinned.shape.value_size;
    bool fits = true;
    for (const MapChange* change : changes) {
        fits = fits && key == change->old_key_size && value == change->old_value_size;
        key = change->key_size;
        value = change->value_size;
    }
    if (fits && key == wanted.key_size && value == wanted.value_size) return {};
    return Error(Errc::kConflict,
                 fmt::format("map {} of layout {}: entries of {} + {} bytes, expected such that "
                             "become {} + {}; was the layout changed without its version?",
                             pinned.name, version, pinned.shape.key_size, pinned.shape.value_size,
                             wanted.key_size, wanted.value_size));
}

Result<void> set_path(bpf_map* map, const std::string& path) {
    if (const int error = bpf_map__set_pin_path(map, path.c_str()); error != 0) {
        return system_error(path, error);
    }
    return {};
}

std::uint32_t map_id(int fd) {
    bpf_map_info info{};
    __u32 length = sizeof info;
    return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 ? info.id : 0U;
}

}  // namespace

Result<std::uint32_t> fitting_size(const PinDirectory& pins, std::string_view map,
                                   std::uint32_t wanted, const Logger& logger) {
    MESH_TRY(const auto pinned, open_pinned_map(pins.map_path(map)));
    if (!pinned) return wanted;
    return fitting(pins, *pinned, wanted, logger);
}

Result<Migration> Migration::prepare(const PinDirectory& pins, std::span<const WantedMap> wanted,
                                     const Layout& layout, const Logger& logger) {
    Migration migration(layout, logger);
    const auto looked = migration.look(pins, wanted);
    if (looked) return migration;
    migration.abandon(pins);
    return looked.error();
}

Result<void> Migration::look(const PinDirectory& pins, std::span<const WantedMap> wanted) {
    for (const WantedMap& want : wanted) {
        if (want.entries == 0) continue;
        if (const int error = bpf_map__set_max_entries(want.map, want.entries); error != 0) {
            return system_error(bpf_map__name(want.map), error);
        }
    }
    MESH_TRY(version_, version_in(pins.map_path(layout_.version_map)));
    bool needed = false;
    if (version_ != 0 || !pins.link_paths().empty()) {
        MESH_CHECK(check_version(pins));
        MESH_TRY(needed, plan(pins, wanted));
    } else {
        // A process died while it made the first ones; nothing uses them yet.
        for (const std::string& path : pins.map_paths()) {
            if (::unlink(path.c_str()) != 0) return system_error(path, errno);
        }
        MESH_CHECK(pins.remove_next(layout_.version_map));
    }
    MESH_CHECK(resume(pins, wanted));
    if (needed) return make_beside(pins, wanted);
    for (const WantedMap& want : wanted) {
        MESH_CHECK(set_path(want.map, pins.map_path(bpf_map__name(want.map))));
    }
    return {};
}

Result<void> Migration::check_version(const PinDirectory& pins) const {
    const std::uint32_t oldest =
        layout_.steps.empty() ? layout_.version : layout_.steps.front().from;
    if (version_ >= oldest && version_ <= layout_.version) return {};
    const bool newer = version_ > layout_.version;
    return Error(
        Errc::kConflict,
        fmt::format("{}: pinned maps of layout {}, expected {}{}; what is there goes on serving. "
                    "{}, or remove that directory to begin anew, which breaks what goes through it",
                    pins.path(), version_, layout_.version,
                    newer || oldest == layout_.version ? std::string()
                                                       : fmt::format(" or from {} on", oldest),
                    newer ? "Start the newer version again" : "Start a version between first"));
}

Result<bool> Migration::plan(const PinDirectory& pins, std::span<const WantedMap> wanted) {
    bool needed = version_ != layout_.version;
    for (const WantedMap& want : wanted) {
        MESH_TRY(auto pinned, open_pinned_map(pins.map_path(bpf_map__name(want.map))));
        if (!pinned) continue;  // made empty
        MESH_TRY(const bool moves, plan_map(want, *pinned, pins));
        needed = needed || moves;
    }
    if (!needed) moves_.clear();  // the version map's, which is as it is to be
    return needed;
}

/// @return whether another map has to take its place
Result<bool> Migration::plan_map(const WantedMap& wanted, OpenMap& pinned,
                                 const PinDirectory& pins) {
    const MapChanges changes = changes_of(layout_, pinned.name, version_);
    MapShape shape = wanted_shape(wanted.map);
    if (wanted.contents != Contents::kPassing) {
        MESH_CHECK(check_sizes(pinned, shape, changes, version_));
    }
    if (wanted.contents == Contents::kWriter || wanted.contents == Contents::kPrograms) {
        MESH_TRY(shape.max_entries, fitting(pins, pinned, shape.max_entries, logger_));
        if (const int error = bpf_map__set_max_entries(wanted.map, shape.max_entries); error != 0) {
            return system_error(pinned.name, error);
        }
    }
    const bool same = changes.empty() && shape == pinned.shape;
    if (same && pinned.name != layout_.version_map) {
        shared_.push_back(std::move(pinned));
        return false;
    }
    if (wanted.contents == Contents::kSockets || wanted.contents == Contents::kMaps) {
        return Error(Errc::kConflict,
                     fmt::format("map {}: storage of sockets and maps of maps cannot be converted, "
                                 "expected it as layout {} has it",
                                 pinned.name, version_));
    }
    if (wanted.contents != Contents::kPassing) {
        moves_.push_back(
            {std::move(pinned), wanted.map, changes, wanted.contents, OnExisting::kReplace});
    }
    return !same;
}

Result<void> Migration::make_beside(const PinDirectory& pins, std::span<const WantedMap> wanted) {
    // What is there was not finished, or resume() has opened what it needs of it.
    MESH_CHECK(pins.remove_next(layout_.version_map));
    MESH_CHECK(pins.make_next());
    beside_ = true;
    for (const OpenMap& map : shared_) {
        const std::string path = pins.next_path(map.name);
        if (bpf_obj_pin(map.fd.get(), path.c_str()) != 0) return system_error(path, errno);
    }
    for (const WantedMap& want : wanted) {
        MESH_CHECK(set_path(want.map, pins.next_path(bpf_map__name(want.map))));
    }
    return {};
}

/// After a swap `next` has the old maps, whole, with their version.
Result<void> Migration::resume(const PinDirectory& pins, std::span<const WantedMap> wanted) {
    if (!pins.has_next()) return {};
    MESH_TRY(const std::uint32_t old, version_in(pins.next_path(layout_.version_map)));
    if (old == 0 || old > layout_.version) return pins.remove_next(layout_.version_map);
    resumed_ = true;
    for (const WantedMap& want : wanted) {
        if (want.contents != Contents::kPrograms) continue;
        const std::string name = bpf_map__name(want.map);
        MESH_TRY(auto left, open_pinned_map(pins.next_path(name)));
        if (!left) continue;
        MESH_TRY(const auto pinned, open_pinned_map(pins.map_path(name)));
        if (pinned && map_id(pinned->fd.get()) == map_id(left->fd.get())) continue;
        const MapChanges changes = changes_of(layout_, name, old);
        if (!check_sizes(*left, wanted_shape(want.map), changes, old)) continue;
        moves_.push_back({std::move(*left), want.map, changes, want.contents, OnExisting::kKeep});
    }
    return {};
}

Result<void> Migration::fill(const PinDirectory& pins,
                             const std::function<void(EntryBytes)>& edit) {
    if (!beside_) return {};
    std::string copied;
    for (const Move& move : moves_) {
        if (move.from.name == layout_.version_map) continue;
        MESH_TRY(const OpenMap to, loaded_map(move.to));
        MESH_TRY(const std::uint64_t entries,
                 copy_entries(move.from, to, move.changes, move.existing));
        copied += fmt::format("{}{} {}", copied.empty() ? "" : ", ", move.from.name, entries);
    }
    // Last: a set of maps without a version is not whole.
    for (const Move& move : moves_) {
        if (move.from.name == layout_.version_map) MESH_CHECK(copy_version(move, edit));
    }
    MESH_CHECK(pins.exchange_next());
    swapped_ = true;
    logger_.info("{}: maps of layout {} become layout {}; entries copied: {}", pins.path(),
                 version_, layout_.version, copied.empty() ? "none" : copied);
    return {};
}

Result<void> Migration::copy_version(const Move& move,
                                     const std::function<void(EntryBytes)>& edit) const {
    const std::uint32_t zero = 0;
    std::vector<std::byte> value(move.from.shape.value_size);
    if (bpf_map_lookup_elem(move.from.fd.get(), &zero, value.data()) != 0) {
        return system_error(fmt::format("cannot read {}", move.from.name), errno);
    }
    auto entry = convert_entry(std::as_bytes(std::span(&zero, 1)), value, move.changes, /*rows=*/1);
    if (!entry) return internal(fmt::format("{}: its element went", move.from.name));
    std::memcpy(entry->value.data(), &layout_.version, sizeof layout_.version);
    if (edit) edit(entry->value);
    if (bpf_map_update_elem(bpf_map__fd(move.to), &zero, entry->value.data(), BPF_ANY) != 0) {
        return system_error(fmt::format("cannot write {}", move.from.name), errno);
    }
    return {};
}

Result<void> Migration::finish(const PinDirectory& pins) {
    if (!replaces_programs()) return {};
    for (const Move& move : moves_) {
        // Elements of an array are all there: those that were added cannot be told.
        if (move.contents != Contents::kPrograms || is_array(move.from.shape)) continue;
        MESH_TRY(const OpenMap to, loaded_map(move.to));
        MESH_CHECK(copy_entries(move.from, to, move.changes, OnExisting::kKeep));
    }
    MESH_CHECK(pins.remove_next(layout_.version_map));
    moves_.clear();
    beside_ = resumed_ = false;
    return {};
}

void Migration::abandon(const PinDirectory& pins) const {
    if (beside_ && !swapped_) (void)pins.remove_next(layout_.version_map);
}

}  // namespace mesh::datapath
