#include "sources/etcd/types.hpp"

namespace mesh::etcd {

KeyRange prefix_range(std::string_view prefix) {
    KeyRange range{std::string(prefix), std::string(prefix)};
    // The smallest text behind all that begin with the prefix: its last byte below 0xff, plus one.
    while (!range.end.empty() && static_cast<unsigned char>(range.end.back()) == 0xff)
        range.end.pop_back();
    if (range.end.empty()) {
        range.end.assign(1, '\0');
        if (range.key.empty()) range.key.assign(1, '\0');
    } else {
        range.end.back() = static_cast<char>(range.end.back() + 1);
    }
    return range;
}

}  // namespace mesh::etcd
