#include "datapath/bpf/policy_codec.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

namespace mesh::datapath {
namespace {

constexpr std::uint32_t kProtocolBits = 8;
constexpr std::uint32_t kAllBits = 24;

/// The bits of a port that a row of that length compares.
std::uint16_t port_mask(std::uint32_t length) {
    return length <= kProtocolBits ? std::uint16_t{0}
                                   : static_cast<std::uint16_t>(0xffffU << (kAllBits - length));
}

}  // namespace

Result<mesh_policy_key> to_kernel(const PolicyKey& key) {
    const bool known = key.length == 0 || (key.length >= kProtocolBits && key.length <= kAllBits);
    const bool masked = (key.port & ~port_mask(key.length)) == 0;
    if (!known || !masked || (key.length == 0 && key.protocol != 0)) {
        return invalid_argument(
            fmt::format("policy row: protocol {} port {} of {} bits: expected 0, 8 or 9 to 24 "
                        "bits, and zeros beyond them",
                        key.protocol, key.port, key.length));
    }
    mesh_policy_key result{};
    result.identity = key.identity;
    result.port = htons(key.port);
    result.proto = key.protocol;
    result.scope = static_cast<std::uint8_t>(key.length | (key.egress ? MESH_POLICY_EGRESS : 0U));
    return result;
}

mesh_policy_row to_kernel(const PolicyVerdict& verdict) {
    mesh_policy_row result{};
    result.precedence = verdict.precedence;
    result.cookie = verdict.cookie;
    result.proxy_port = htons(verdict.proxy_port);
    result.flags = verdict.deny ? MESH_POLICY_DENY : 0;
    return result;
}

PolicyKey from_kernel(const mesh_policy_key& key) {
    return {.identity = key.identity,
            .egress = (key.scope & MESH_POLICY_EGRESS) != 0,
            .protocol = key.proto,
            .length = static_cast<std::uint8_t>(key.scope & ~MESH_POLICY_EGRESS),
            .port = ntohs(key.port)};
}

PolicyVerdict from_kernel(const mesh_policy_row& row) {
    return {.precedence = row.precedence,
            .deny = (row.flags & MESH_POLICY_DENY) != 0,
            .proxy_port = ntohs(row.proxy_port),
            .cookie = row.cookie};
}

mesh_policy_key policy_header_key() {
    mesh_policy_key key{};
    key.scope = MESH_POLICY_HEADER;
    return key;
}

bool is_policy_header(const mesh_policy_key& key) {
    return (key.scope & MESH_POLICY_HEADER) != 0;
}

std::uint32_t lengths_index(const mesh_policy_key& key) {
    return MESH_POLICY_LENGTHS((key.scope & MESH_POLICY_EGRESS) != 0, key.identity == 0);
}

std::uint32_t length_bit(const mesh_policy_key& key) {
    return 1U << (key.scope & ~MESH_POLICY_EGRESS);
}

}  // namespace mesh::datapath
