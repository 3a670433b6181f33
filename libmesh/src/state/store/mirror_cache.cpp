#include "state/store/mirror_cache.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

#include "state/store/lmdb_backend.hpp"

namespace mesh::store {
namespace {

Outcome<std::unique_ptr<Store>> open_once(const MirrorCacheOptions& options,
                                          const StoreOptions& store, TimePoint now) {
    MESH_TRY(auto backend,
             open_lmdb({.directory = options.directory, .sync = options.sync, .mirror = true}));
    return Store::open(in_background(std::move(backend), options.background), store, now);
}

TimePoint written_at(const std::string& file, const Clock& clock) {
    struct stat info {};
    if (::stat(file.c_str(), &info) != 0) return clock.now();
    const WallTime written{std::chrono::seconds(info.st_mtim.tv_sec) +
                           std::chrono::nanoseconds(info.st_mtim.tv_nsec)};
    return clock.now() - std::max(clock.wall_now() - written, Duration::zero());
}

}  // namespace

Outcome<MirrorCache> open_mirror_cache(const MirrorCacheOptions& options, const StoreOptions& store,
                                       const Clock& clock) {
    const std::string file = options.directory + "/data.mdb";
    MirrorCache cache;
    // Opening writes to it.
    cache.written = written_at(file, clock);
    auto opened = open_once(options, store, clock.now());
    if (!opened && opened.error().fault() == Fault::kCorrupt) {
        const std::string aside = file + ".damaged";
        if (std::rename(file.c_str(), aside.c_str()) != 0)
            return StoreError(Fault::kBackend, fmt::format("{}: damaged, and cannot be renamed: {}",
                                                           file, std::strerror(errno)));
        cache.set_aside =
            fmt::format("{}; it is kept as {}", opened.error().to_error().message(), aside);
        cache.written = clock.now();
        opened = open_once(options, store, clock.now());
    }
    if (!opened) return opened.error();
    cache.store = *std::move(opened);
    return cache;
}

}  // namespace mesh::store
