#include "runtime/entropy.hpp"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace mesh {

void fill_unpredictable(std::span<std::uint8_t> out) noexcept {
    while (!out.empty()) {
        const auto got = ::getrandom(out.data(), out.size(), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) std::abort();
        out = out.subspan(static_cast<std::size_t>(got));
    }
}

}  // namespace mesh
