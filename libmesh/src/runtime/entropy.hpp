// Random numbers that nobody may be able to guess, from the kernel.
#pragma once

#include <cstdint>
#include <span>

namespace mesh {

/// Fills with random bytes. Never fails: a kernel without them is no place to go on (aborts).
/// @thread any thread
void fill_unpredictable(std::span<std::uint8_t> out) noexcept;

}  // namespace mesh
