// What an agent knew of names, kept for the next one: connections to names that were allowed go on
// after a restart, and new ones need no new question. A text file, one address a line:
//
//   libmesh-fqdn-cache 1
//   <endpoint> <name, "." = the root> <address> <learnt> <expires> <zombie since | ->
//
// Times are milliseconds since 1970. Lines that make no sense are passed over; a file of another
// version is not read. Replaced as a whole, so that the last good one stays when writing fails.
#pragma once

#include <cstddef>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

#include "runtime/clock.hpp"
#include "serve/dns/fqdn_cache.hpp"

namespace mesh::serve::dns {

inline constexpr std::size_t kMaxCacheFileBytes = std::size_t{256} << 20;

[[nodiscard]] std::string encode_cache(const FqdnCache& cache, const Clock& clock);

struct RestoredCache {
    std::size_t addresses = 0;
    std::size_t bad_lines = 0;
    std::string first_error;  ///< of the first bad line, with its number
};

/// Adds a file's entries to a cache. A cache that has selectors already tells of no change: read it
/// before selectors are added, or ask addresses() afterwards.
/// @errors kCorrupt: not such a file, or of another version; nothing was added
[[nodiscard]] Result<RestoredCache> decode_cache(std::string_view text, FqdnCache& cache,
                                                 const Clock& clock);

/// @errors kUnavailable; the old file is untouched
[[nodiscard]] Result<void> save_cache(const std::string& path, const FqdnCache& cache,
                                      const Clock& clock);
/// A file that is not such a file is moved to `<path>.bad`, so that it is not lost by the next
/// save. @errors kNotFound, kUnavailable, kCapacity, kCorrupt
[[nodiscard]] Result<RestoredCache> load_cache(const std::string& path, FqdnCache& cache,
                                               const Clock& clock);

}  // namespace mesh::serve::dns
