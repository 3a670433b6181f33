// The store of a mirror that survives: where it is kept, what becomes of one that is damaged, how
// old it is.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "runtime/clock.hpp"
#include "state/store/background_backend.hpp"
#include "state/store/store.hpp"

namespace mesh::store {

struct MirrorCacheOptions {
    std::string directory;  ///< made if absent (its parent must exist)
    /// Wait for the disk; without it the loss of power may damage what is kept.
    bool sync = true;
    BackgroundOptions background{};
};

struct MirrorCache {
    std::unique_ptr<Store> store;  ///< with what is kept, or empty; see Store::mirrors()
    /// When what is kept was written last, counted back from the clock's now; only if there is any.
    TimePoint written{};
    /// Not empty: what was there is damaged and lies aside now, as this says.
    std::string set_aside;
};

/// Opens or makes the cache. A damaged one is renamed (over an older one): a cache can be rebuilt.
/// @errors kBackend cannot be opened, in use, or the directory is that of an own store; each names
/// the directory or file
[[nodiscard]] Outcome<MirrorCache> open_mirror_cache(const MirrorCacheOptions& options,
                                                     const StoreOptions& store, const Clock& clock);

}  // namespace mesh::store
