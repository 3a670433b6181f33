// Nodes (wire.md §4). The struct of upstream has no field names of its own and omits nothing.
#include <algorithm>
#include <bit>
#include <span>

#include "model/base64.hpp"
#include "model/codec.hpp"
#include "model/json_reader.hpp"
#include "model/json_writer.hpp"

namespace mesh::model {
namespace {

constexpr std::array<std::string_view, 19> kFields{"Name",
                                                   "Cluster",
                                                   "IPAddresses",
                                                   "IPv4AllocCIDR",
                                                   "IPv4SecondaryAllocCIDRs",
                                                   "IPv6AllocCIDR",
                                                   "IPv6SecondaryAllocCIDRs",
                                                   "IPv4HealthIP",
                                                   "IPv6HealthIP",
                                                   "IPv4IngressIP",
                                                   "IPv6IngressIP",
                                                   "ClusterID",
                                                   "Source",
                                                   "EncryptionKey",
                                                   "Labels",
                                                   "Annotations",
                                                   "NodeIdentity",
                                                   "WireguardPubKey",
                                                   "BootID"};
constexpr std::array<std::string_view, 2> kAddressFields{"Type", "IP"};
constexpr std::array<std::string_view, 2> kCidrFields{"IP", "Mask"};

/// A CIDR as upstream holds it: a pointer to a struct whose one member is a pointer, too.
struct RawCidr {
    bool is_empty = true;  ///< neither field was there
    std::optional<IpAddress> ip;
    std::optional<std::string> mask;
};
using RawCidrs = std::optional<std::vector<std::optional<RawCidr>>>;

struct RawNode {
    Node node;
    std::optional<RawCidr> ipv4_cidr, ipv6_cidr;
    RawCidrs ipv4_secondary, ipv6_secondary;
};

/// The number of leading ones if nothing but zeros follows.
std::optional<unsigned> leading_ones(std::string_view mask) {
    unsigned ones = 0;
    std::size_t i = 0;
    while (i < mask.size() && static_cast<unsigned char>(mask[i]) == 0xff) {
        ones += 8;
        ++i;
    }
    if (i == mask.size()) return ones;
    const auto byte = static_cast<std::uint8_t>(mask[i]);
    const int partial = std::countl_one(byte);
    if (static_cast<std::uint8_t>(byte << partial) != 0) return std::nullopt;
    for (const char rest : mask.substr(i + 1)) {
        if (rest != 0) return std::nullopt;
    }
    return ones + static_cast<unsigned>(partial);
}

std::string mask_bytes(const IpPrefix& prefix) {
    std::string mask(prefix.is_v4() ? 4 : 16, '\0');
    for (std::size_t bit = 0; bit < prefix.length(); ++bit) {
        mask[bit / 8] =
            static_cast<char>(static_cast<unsigned char>(mask[bit / 8]) | (0x80U >> (bit % 8)));
    }
    return mask;
}

/// The prefix that a CIDR means, if it means one.
std::optional<IpPrefix> usable_prefix(const RawCidr& cidr) {
    if (!cidr.ip || !cidr.mask) return std::nullopt;
    std::string_view mask = *cidr.mask;
    // Go takes an IPv6 mask on an IPv4 address by its last four bytes.
    if (cidr.ip->is_v4() && mask.size() == 16) mask.remove_prefix(12);
    if (mask.size() != (cidr.ip->is_v4() ? 4 : 16)) return std::nullopt;
    const auto ones = leading_ones(mask);
    if (!ones) return std::nullopt;
    return IpPrefix(*cidr.ip, static_cast<std::uint8_t>(*ones));
}

/// True if the prefix alone encodes to what was published.
bool is_usual(const RawCidr& cidr, const IpPrefix& prefix) {
    return cidr.ip == prefix.address() && cidr.mask == mask_bytes(prefix);
}

/// The usable prefix; what is unusual about the published form goes to the node's list.
std::optional<IpPrefix> take_cidr(NodeCidrField field, std::size_t index,
                                  const std::optional<RawCidr>& cidr, Node& node) {
    UnusualCidr unusual;
    unusual.field = field;
    unusual.index = static_cast<std::uint32_t>(index);
    if (!cidr) {
        unusual.is_null = true;
        node.unusual_cidrs.push_back(std::move(unusual));
        return std::nullopt;
    }
    const auto prefix = usable_prefix(*cidr);
    if (prefix && is_usual(*cidr, *prefix)) return prefix;
    unusual.usable = prefix.has_value();
    unusual.is_empty = cidr->is_empty;
    unusual.ip = cidr->ip;
    unusual.mask = cidr->mask;
    node.unusual_cidrs.push_back(std::move(unusual));
    return prefix;
}

std::optional<std::vector<IpPrefix>> take_cidrs(NodeCidrField field, const RawCidrs& cidrs,
                                                Node& node) {
    if (!cidrs) return std::nullopt;
    std::vector<IpPrefix> prefixes;
    for (std::size_t i = 0; i < cidrs->size(); ++i) {
        if (const auto prefix = take_cidr(field, i, (*cidrs)[i], node)) prefixes.push_back(*prefix);
    }
    return prefixes;
}

bool read_cidr(JsonReader& in, std::optional<RawCidr>& cidr) {
    if (in.take_null()) {
        cidr.reset();
        return true;
    }
    if (!cidr) cidr.emplace();
    return in.fields(kCidrFields, [&](int field) {
        cidr->is_empty = false;
        return field == 0 ? in.read(cidr->ip) : in.read_bytes(cidr->mask);
    });
}

bool read_cidrs(JsonReader& in, RawCidrs& cidrs) {
    if (in.take_null()) {
        cidrs.reset();
        return true;
    }
    cidrs.emplace();
    return in.elements([&] { return read_cidr(in, cidrs->emplace_back()); });
}

bool read_addresses(JsonReader& in, std::optional<std::vector<NodeAddress>>& addresses) {
    if (in.take_null()) {
        addresses.reset();
        return true;
    }
    addresses.emplace();
    return in.elements([&] {
        NodeAddress& address = addresses->emplace_back();
        return in.fields(kAddressFields, [&](int field) {
            if (field == 0) return in.read(address.type);
            std::optional<IpAddress> ip;
            if (!in.read(ip)) return false;
            address.ip = ip ? ip->to_string() : std::string();
            return true;
        });
    });
}

bool read_field(JsonReader& in, int field, RawNode& raw) {
    Node& node = raw.node;
    switch (field) {
        case 0:
            return in.read(node.name);
        case 1:
            return in.read(node.cluster);
        case 2:
            return read_addresses(in, node.addresses);
        case 3:
            return read_cidr(in, raw.ipv4_cidr);
        case 4:
            return read_cidrs(in, raw.ipv4_secondary);
        case 5:
            return read_cidr(in, raw.ipv6_cidr);
        case 6:
            return read_cidrs(in, raw.ipv6_secondary);
        case 7:
            return in.read(node.ipv4_health_ip);
        case 8:
            return in.read(node.ipv6_health_ip);
        case 9:
            return in.read(node.ipv4_ingress_ip);
        case 10:
            return in.read(node.ipv6_ingress_ip);
        case 11:
            return in.read(node.cluster_id);
        case 12:
            return in.read(node.source);
        case 13:
            return in.read(node.encryption_key);
        case 14:
            return in.read(node.labels);
        case 15:
            return in.read(node.annotations);
        case 16:
            return in.read(node.node_identity);
        case 17:
            return in.read(node.wireguard_public_key);
        default:
            return in.read(node.boot_id);
    }
}

void write_unusual(JsonWriter& out, const UnusualCidr& cidr) {
    if (cidr.is_null) {
        out.raw("null");
    } else if (cidr.is_empty) {
        out.raw("{}");
    } else {
        out.raw("{\"IP\":");
        out.address(cidr.ip);
        out.raw(",\"Mask\":");
        out.bytes(cidr.mask);
        out.raw("}");
    }
}

void write_prefix(JsonWriter& out, const IpPrefix& prefix) {
    out.raw("{\"IP\":");
    out.address(prefix.address());
    out.raw(",\"Mask\":");
    out.bytes(mask_bytes(prefix));
    out.raw("}");
}

/// The first unusual CIDR of a field, and those behind it. They stand by field and index.
std::span<const UnusualCidr> unusual_of(const Node& node, NodeCidrField field) {
    const std::span<const UnusualCidr> all(node.unusual_cidrs);
    const auto first = std::ranges::find(all, field, &UnusualCidr::field);
    const auto end = std::find_if(first, all.end(),
                                  [&](const UnusualCidr& cidr) { return cidr.field != field; });
    return {first, end};
}

void write_cidr(JsonWriter& out, const Node& node, NodeCidrField field,
                const std::optional<IpPrefix>& prefix) {
    if (const auto unusual = unusual_of(node, field); !unusual.empty()) {
        write_unusual(out, unusual.front());
    } else if (prefix) {
        write_prefix(out, *prefix);
    } else {
        out.raw("null");
    }
}

void write_cidrs(JsonWriter& out, const Node& node, NodeCidrField field,
                 const std::optional<std::vector<IpPrefix>>& prefixes) {
    if (!prefixes) {
        out.raw("null");
        return;
    }
    out.raw("[");
    std::span<const UnusualCidr> unusual = unusual_of(node, field);
    std::size_t next = 0;  // of the usable ones
    for (std::size_t i = 0; next < prefixes->size() || !unusual.empty(); ++i) {
        const bool take_unusual =
            !unusual.empty() && (unusual.front().index <= i || next == prefixes->size());
        if (i != 0) out.raw(",");
        if (take_unusual) {
            write_unusual(out, unusual.front());
            if (unusual.front().usable && next < prefixes->size()) ++next;
            unusual = unusual.subspan(1);
        } else {
            write_prefix(out, (*prefixes)[next++]);
        }
    }
    out.raw("]");
}

void write_addresses(JsonWriter& out, const std::optional<std::vector<NodeAddress>>& addresses) {
    if (!addresses) {
        out.raw("null");
        return;
    }
    out.raw("[");
    bool first = true;
    for (const NodeAddress& address : *addresses) {
        out.raw(first ? "{\"Type\":" : ",{\"Type\":");
        first = false;
        out.string(address.type);
        out.raw(",\"IP\":");
        out.string(address.ip);
        out.raw("}");
    }
    out.raw("]");
}

}  // namespace

Result<Node> parse_node(std::string_view key, std::string_view value) {
    RawNode raw;
    JsonReader in(key, value);
    const bool ok = in.fields(kFields, [&](int field) { return read_field(in, field, raw); });
    if (!ok || !in.finish()) return in.error();
    Node& node = raw.node;
    using enum NodeCidrField;
    if (raw.ipv4_cidr) node.ipv4_alloc_cidr = take_cidr(kIpv4, 0, raw.ipv4_cidr, node);
    if (raw.ipv6_cidr) node.ipv6_alloc_cidr = take_cidr(kIpv6, 0, raw.ipv6_cidr, node);
    node.ipv4_secondary_alloc_cidrs = take_cidrs(kIpv4Secondary, raw.ipv4_secondary, node);
    node.ipv6_secondary_alloc_cidrs = take_cidrs(kIpv6Secondary, raw.ipv6_secondary, node);
    return std::move(node);
}

void encode_to(const Node& node, std::string& text) {
    using enum NodeCidrField;
    JsonWriter out(text);
    out.raw("{\"Name\":");
    out.string(node.name);
    out.raw(",\"Cluster\":");
    out.string(node.cluster);
    out.raw(",\"IPAddresses\":");
    write_addresses(out, node.addresses);
    out.raw(",\"IPv4AllocCIDR\":");
    write_cidr(out, node, kIpv4, node.ipv4_alloc_cidr);
    out.raw(",\"IPv4SecondaryAllocCIDRs\":");
    write_cidrs(out, node, kIpv4Secondary, node.ipv4_secondary_alloc_cidrs);
    out.raw(",\"IPv6AllocCIDR\":");
    write_cidr(out, node, kIpv6, node.ipv6_alloc_cidr);
    out.raw(",\"IPv6SecondaryAllocCIDRs\":");
    write_cidrs(out, node, kIpv6Secondary, node.ipv6_secondary_alloc_cidrs);
    out.raw(",\"IPv4HealthIP\":");
    out.address(node.ipv4_health_ip);
    out.raw(",\"IPv6HealthIP\":");
    out.address(node.ipv6_health_ip);
    out.raw(",\"IPv4IngressIP\":");
    out.address(node.ipv4_ingress_ip);
    out.raw(",\"IPv6IngressIP\":");
    out.address(node.ipv6_ingress_ip);
    out.raw(",\"ClusterID\":");
    out.number(number(node.cluster_id));
    out.raw(",\"Source\":");
    out.string(node.source);
    out.raw(",\"EncryptionKey\":");
    out.number(node.encryption_key);
    out.raw(",\"Labels\":");
    out.map(node.labels);
    out.raw(",\"Annotations\":");
    out.map(node.annotations);
    out.raw(",\"NodeIdentity\":");
    out.number(number(node.node_identity));
    out.raw(",\"WireguardPubKey\":");
    out.string(node.wireguard_public_key);
    out.raw(",\"BootID\":");
    out.string(node.boot_id);
    out.raw("}");
}

std::string encode(const Node& node) {
    std::string text;
    text.reserve(768);
    encode_to(node, text);
    return text;
}

}  // namespace mesh::model
