#include "model/usable.hpp"

#include <algorithm>
#include <vector>

namespace mesh::model {
namespace {

/// What is never the destination of a route to a node, nor a gateway.
const std::vector<IpPrefix>& never_routed() {
    static const auto* const kPrefixes = new std::vector<IpPrefix>{
        IpPrefix(IpAddress::v4(0, 0, 0, 0), 8),
        IpPrefix(IpAddress::v4(127, 0, 0, 0), 8),
        IpPrefix(IpAddress::v4(169, 254, 0, 0), 16),
        IpPrefix(IpAddress::v4(224, 0, 0, 0), 3),      // multicast, reserved, broadcast
        IpPrefix(IpAddress(IpAddress::Bytes{}), 127),  // :: and ::1
        IpPrefix(IpAddress(IpAddress::Bytes{0xfe, 0x80}), 10),
        IpPrefix(IpAddress(IpAddress::Bytes{0xff}), 8),
    };
    return *kPrefixes;
}

}  // namespace

bool is_usable(const IpAddress& address) {
    return std::ranges::none_of(never_routed(),
                                [&](const IpPrefix& p) { return p.contains(address); });
}

std::optional<IpPrefix> unusable_part(const IpPrefix& prefix) {
    for (const IpPrefix& never : never_routed()) {
        if (prefix.contains(never) || never.contains(prefix)) return never;
    }
    return std::nullopt;
}

}  // namespace mesh::model
