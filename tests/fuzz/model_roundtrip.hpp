// What every codec must hold for any bytes: parse does not crash, and what it took encodes to text
// that parses to an equal object and encodes to the same text.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace mesh::fuzz {

/// @param parse takes (key, value), gives a Result of an object that model::encode takes
template <class Parse, class Encode>
void round_trip(std::string_view key, std::string_view value, Parse&& parse, Encode&& encode) {
    const auto first = parse(key, value);
    if (!first) return;
    const std::string text = encode(*first);
    const auto second = parse(key, text);
    if (!second) {
        std::fprintf(stderr, "our own text is refused: %s\n%s\n", second.error().detail().c_str(),
                     text.c_str());
        std::abort();
    }
    const std::string again = encode(*second);
    if (again != text || !(*first == *second)) {
        std::fprintf(stderr, "not stable:\n%s\n%s\n", text.c_str(), again.c_str());
        std::abort();
    }
}

}  // namespace mesh::fuzz
