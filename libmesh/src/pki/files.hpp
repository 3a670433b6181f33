// Files that appear whole or not at all. Used for certificates and private keys, and by whoever
// writes a file that another process watches.
#pragma once

#include <cstddef>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

namespace mesh::pki {

/// Permission bits of a file: what is not secret, and what is.
enum class FileMode : unsigned { kPublic = 0644, kPrivate = 0600 };

/// Writes a file so that a reader sees the old content or the new, never a part: a new file beside
/// it (O_EXCL, with the final permissions before the first byte), fsync, rename.
/// @param path     target; an existing file is replaced, its directory must exist
/// @param mode     permissions of the file, whatever the umask
/// @param staging  directory of the temporary file, on the same file system; "" = that of `path`.
///                 Give one when `path`'s directory is watched and every name in it means
///                 something.
/// @errors kUnavailable with the path and the system's words; the old file is then untouched
/// @thread any thread
[[nodiscard]] Result<void> write_file(const std::string& path, std::string_view content,
                                      FileMode mode, const std::string& staging = "");

/// Reads a whole file.
/// @param max_bytes a larger file is an error rather than a large string
/// @errors kNotFound when there is none, kUnavailable when it cannot be read, kCapacity when larger
/// @thread any thread
[[nodiscard]] Result<std::string> read_file(const std::string& path,
                                            std::size_t max_bytes = std::size_t{1} << 20);

}  // namespace mesh::pki
