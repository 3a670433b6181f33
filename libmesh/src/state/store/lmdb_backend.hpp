// The store's backend on LMDB: one directory, one owner. What commit() acknowledged survives kill
// -9 and, with sync on, the loss of power.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "state/store/backend.hpp"

namespace mesh::store {

struct LmdbOptions {
    std::string directory;  ///< made if absent (its parent must exist)
    /// Wait for the disk at each commit. Without it, kill -9 still loses nothing; power loss may.
    bool sync = true;
    std::uint64_t initial_map_bytes = std::uint64_t{16} << 20;
    /// The map grows up to this; beyond it commits fail with kNoSpace. Those that add keys or
    /// leases do so an eighth (at most 64 MiB) before it, so that deletes and compaction have room.
    std::uint64_t max_map_bytes = std::uint64_t{8} << 30;
    /// Keep a mirror's history (Backend::keeps_mirror()). The directory of the one is none of the
    /// other's.
    bool mirror = false;
};

/// Opens or makes the database.
/// @errors kCorrupt not a database of ours or of an unknown format (names the file and the format),
/// kBackend cannot be opened, or another process has it open (names the directory). Only load()
/// finds that it is of the other kind (LmdbOptions::mirror): kBackend
[[nodiscard]] Outcome<std::unique_ptr<Backend>> open_lmdb(const LmdbOptions& options);

}  // namespace mesh::store
