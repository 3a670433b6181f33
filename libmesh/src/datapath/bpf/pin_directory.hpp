// A node's directory in the BPF filesystem: <bpffs>/<pin directory>/{maps,links}, and next while
// maps of another layout or size take the place of the pinned ones (migration.hpp). Holding it open
// holds its lock: one writer per node. Internal to this folder.
#pragma once

#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/bpf/fd.hpp"

namespace mesh::datapath {

/// An Error of a system call: the code by errno, the detail with its text.
/// @param number errno, positive or negative
[[nodiscard]] Error system_error(std::string_view what, int number);

class PinDirectory {
  public:
    /// Mounts bpffs if needed, makes the directories, takes the lock, for which it waits up to 5 s.
    /// @errors kInvalidArgument: the name cannot be one of bpffs; kConflict: locked by another
    ///         process; kPermission; kInternal
    [[nodiscard]] static Result<PinDirectory> open(const std::string& bpffs,
                                                   const std::string& name);
    /// The same without making anything. @errors kNotFound, else as open
    [[nodiscard]] static Result<PinDirectory> open_existing(const std::string& bpffs,
                                                            const std::string& name);

    [[nodiscard]] std::string map_path(std::string_view name) const;
    [[nodiscard]] std::string link_path(std::string_view name) const;
    [[nodiscard]] std::vector<std::string> map_paths() const { return files_in("maps"); }
    [[nodiscard]] std::vector<std::string> link_paths() const { return files_in("links"); }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

    /// Maps beside those in use.
    [[nodiscard]] std::string next_path(std::string_view name) const;
    [[nodiscard]] bool has_next() const;
    [[nodiscard]] Result<void> make_next() const;
    /// Atomically swaps `maps` and `next`.
    [[nodiscard]] Result<void> exchange_next() const;
    /// Unpins what is there, `last` after all others; no error if it is not there.
    [[nodiscard]] Result<void> remove_next(std::string_view last) const;

    /// True if there was no map when it was opened: what is pinned since is this process's.
    [[nodiscard]] bool was_empty() const noexcept { return was_empty_; }

    /// Detaches what the pinned links hold and removes all pins. @errors kInternal
    [[nodiscard]] Result<void> remove_pins() const;
    /// Removes the (empty) directories, and parents below bpffs that are empty then.
    [[nodiscard]] Result<void> remove();

  private:
    PinDirectory(std::string bpffs, std::string path, Fd lock)
        : bpffs_(std::move(bpffs)),
          path_(std::move(path)),
          lock_(std::move(lock)),
          was_empty_(map_paths().empty()) {}
    [[nodiscard]] static Result<Fd> lock(const std::string& path);
    [[nodiscard]] std::vector<std::string> files_in(std::string_view folder) const;

    std::string bpffs_;
    std::string path_;
    Fd lock_;
    bool was_empty_;
};

}  // namespace mesh::datapath
