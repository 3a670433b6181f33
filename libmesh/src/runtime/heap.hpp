// The heap of the process, which a library shares with its program.
#pragma once

#include <memory_resource>

namespace mesh {

/// Memory straight from the system for large pieces (64 KiB and more), which go back to it as soon
/// as they are freed; small ones are the heap's. For what is large and short-lived, so that it
/// leaves no holes.
/// @thread any
[[nodiscard]] std::pmr::memory_resource& large_pieces() noexcept;

/// Gives pages that are free back to the system, where the C library can (glibc). For rare moments
/// after which much less is needed than before: the first lists of large clusters are read.
/// @thread any
/// @complexity the heap's free blocks; other threads that allocate may wait for it meanwhile
void give_back_free_memory() noexcept;

}  // namespace mesh
