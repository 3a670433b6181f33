#include "datapath/maglev_table.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace mesh::datapath {
namespace {

constexpr std::uint32_t kFree = std::numeric_limits<std::uint32_t>::max();

/// SplitMix64's finalizer.
constexpr std::uint64_t mixed(std::uint64_t x) noexcept {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/// Of the backend's address, port and protocol alone, on any machine.
std::uint64_t hash_of(const Backend& backend, std::uint64_t seed) {
    std::uint64_t h = mixed(seed);
    std::uint64_t word = 0;
    int filled = 0;
    for (const std::uint8_t byte : backend.address.bytes()) {
        word = word << 8 | byte;
        if (++filled % 8 == 0) h = mixed(h ^ word);
    }
    return mixed(h ^ (std::uint64_t{backend.port} << 8 | static_cast<std::uint8_t>(backend.proto)));
}

/// The order in which a backend prefers the table's places: every `skip`th from `next` on.
struct Preference {
    std::uint32_t next, skip;
    std::uint32_t turns;  ///< in units of 1/largest weight
};

}  // namespace

bool is_maglev_size(std::uint32_t size) noexcept {
    static constexpr std::array<std::uint32_t, 10> kSizes{251,  509,   1021,  2039,  4093,
                                                          8191, 16381, 32749, 65521, 131071};
    return std::ranges::find(kSizes, size) != kSizes.end();
}

std::vector<std::uint32_t> make_maglev_table(std::span<const Backend> backends,
                                             std::uint32_t size) {
    std::uint32_t largest = 0;
    for (const Backend& backend : backends) {
        largest = std::max<std::uint32_t>(largest, backend.weight);
    }
    if (largest == 0 || size < 2) return {};
    std::vector<Preference> preferences;
    preferences.reserve(backends.size());
    for (const Backend& backend : backends) {
        preferences.push_back({static_cast<std::uint32_t>(hash_of(backend, 1) % size),
                               static_cast<std::uint32_t>(hash_of(backend, 2) % (size - 1)) + 1,
                               0});
    }
    std::vector<std::uint32_t> table(size, kFree);
    for (std::uint32_t filled = 0; filled < size;) {
        for (std::uint32_t i = 0; i < backends.size() && filled < size; ++i) {
            Preference& mine = preferences[i];
            mine.turns += backends[i].weight;
            if (mine.turns < largest) continue;
            mine.turns -= largest;
            while (table[mine.next] != kFree) mine.next = (mine.next + mine.skip) % size;
            table[mine.next] = i;
            ++filled;
        }
    }
    return table;
}

}  // namespace mesh::datapath
