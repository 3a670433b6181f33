#include "sandbox/ipam.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace mesh::sandbox {
namespace {

// Offsets 0 and 1: the network's own address and the customary gateway's.
constexpr std::uint64_t kFirst = 2;

unsigned host_bits(const model::IpPrefix& block) {
    return (block.is_v4() ? 32U : 128U) - block.length();
}

// One past the last offset that may be taken; large IPv6 blocks are used up to 2^16.
std::uint64_t end_offset(const model::IpPrefix& block) {
    const std::uint64_t size = std::uint64_t{1} << std::min(host_bits(block), 16U);
    return block.is_v4() && host_bits(block) <= 16 ? size - 1 : size;
}

}  // namespace

Result<model::IpPrefix> node_block(const model::IpPrefix& pod_cidr, std::uint32_t number,
                                   std::uint32_t nodes) {
    const auto bits = static_cast<unsigned>(std::bit_width(nodes == 0 ? 0U : nodes - 1U));
    const unsigned usual = pod_cidr.is_v4() ? 24 : 64;
    const unsigned length = std::max<unsigned>(usual, pod_cidr.length() + bits);
    const unsigned whole = pod_cidr.is_v4() ? 32 : 128;
    if (number == 0 || number > nodes || length + 3 > whole) {
        return invalid_argument(fmt::format("pod CIDR {}: expected room for {} nodes' blocks",
                                            pod_cidr.to_string(), nodes));
    }
    model::IpAddress::Bytes bytes = pod_cidr.address().bytes();
    // The node's number, added at the block's lowest bit.
    const unsigned shift = whole - length;
    std::uint64_t carry = std::uint64_t{number - 1} << (shift % 8);
    for (std::size_t i = 16 - shift / 8; i-- > 0 && carry != 0;) {
        carry += bytes[i];
        bytes[i] = static_cast<std::uint8_t>(carry);
        carry >>= 8;
    }
    return model::IpPrefix(model::IpAddress(bytes), static_cast<std::uint8_t>(length));
}

Result<std::vector<model::IpPrefix>> parse_cidrs(std::string_view what, std::string_view text) {
    std::vector<model::IpPrefix> cidrs;
    std::string_view rest = text;
    while (true) {
        const std::size_t comma = std::min(rest.find(','), rest.size());
        const std::string_view part = rest.substr(0, comma);
        auto cidr = model::IpPrefix::parse(part);
        if (!cidr) return std::move(cidr).error().with_prefix(what);
        if (part.find('/') == std::string_view::npos) {
            return invalid_argument(fmt::format("{}: \"{}\": expected address/length", what, part));
        }
        const auto host = model::IpAddress::parse(part.substr(0, part.find('/')));
        if (host && *host != cidr->address()) {
            return invalid_argument(fmt::format("{}: {} has host bits set: expected {}", what, part,
                                                cidr->to_string()));
        }
        cidrs.push_back(*cidr);
        if (comma == rest.size()) break;
        rest.remove_prefix(comma + 1);
    }
    if (cidrs.size() > 2 || !cidrs.front().is_v4() || (cidrs.size() == 2 && cidrs[1].is_v4())) {
        return invalid_argument(fmt::format(
            "{}: \"{}\": expected one IPv4 CIDR, and at most one IPv6 CIDR after it", what, text));
    }
    return cidrs;
}

model::IpAddress address_at(const model::IpPrefix& block, std::uint64_t offset) {
    model::IpAddress::Bytes bytes = block.address().bytes();
    for (std::size_t i = bytes.size(); i-- > 0 && offset != 0;) {
        offset += bytes[i];
        bytes[i] = static_cast<std::uint8_t>(offset);
        offset >>= 8;
    }
    return model::IpAddress(bytes);
}

Result<model::IpAddress> take_address(const model::IpPrefix& block, std::uint64_t& cursor,
                                      const std::function<bool(const model::IpAddress&)>& in_use) {
    const std::uint64_t end = end_offset(block);
    std::uint64_t offset = cursor;
    for (std::uint64_t tries = kFirst; tries < end; ++tries) {
        ++offset;
        if (offset < kFirst || offset >= end) offset = kFirst;
        const model::IpAddress address = address_at(block, offset);
        if (in_use(address)) continue;
        cursor = offset;
        return address;
    }
    return Error(Errc::kCapacity,
                 fmt::format("{}: all of its addresses are in use", block.to_string()));
}

}  // namespace mesh::sandbox
