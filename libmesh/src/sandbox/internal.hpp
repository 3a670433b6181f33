// What the commands of a sandbox share. Internal to this folder.
#pragma once

#include <string>
#include <string_view>

#include "sandbox/names.hpp"
#include "sandbox/sandbox.hpp"
#include "sandbox/state.hpp"

namespace mesh::sandbox {

/// A sandbox with its lock held.
struct Opened {
    Names names;
    Paths paths;
    FileLock lock;
    State state;
};

/// Takes the lock, reads the state.
/// @errors kNotFound: no such sandbox; kUnavailable: half-created, delete it
[[nodiscard]] Result<Opened> open_locked(const Environment& environment, std::string_view name);

/// The same without the lock, for readers.
[[nodiscard]] Result<State> open_complete(const Environment& environment, std::string_view name);

/// @errors kPermission unless run by root
[[nodiscard]] Result<void> check_root();

/// Makes the manifests directory hold exactly what the state says; files that are right already are
/// not touched.
[[nodiscard]] Result<void> sync_manifests(const Paths& paths, const State& state);

}  // namespace mesh::sandbox
