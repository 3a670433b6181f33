// Asks the CPU to load memory that is needed a moment later. Internal to rpc/.
#pragma once

#include <cstddef>

namespace mesh::rpc::detail {

/// Changes nothing, whatever the address. @param size bytes
inline void fetch_lines(const void* at, std::size_t size) noexcept {
    constexpr std::size_t kLine = 64;
    for (std::size_t i = 0; i < size; i += kLine)
        __builtin_prefetch(static_cast<const char*>(at) + i);
}

}  // namespace mesh::rpc::detail
