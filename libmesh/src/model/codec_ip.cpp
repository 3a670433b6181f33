// ip → identity pairs (wire.md §6).
#include <fmt/format.h>

#include <bit>

#include "model/base64.hpp"
#include "model/codec.hpp"
#include "model/json_reader.hpp"
#include "model/json_writer.hpp"

namespace mesh::model {
namespace {

constexpr std::array<std::string_view, 10> kFields{
    "IP",           "Mask",       "HostIP",
    "ID",           "Key",        "Metadata",
    "K8sNamespace", "K8sPodName", "K8sServiceAccount",
    "NamedPorts"};
constexpr std::array<std::string_view, 3> kPortFields{"Name", "Port", "Protocol"};

constexpr std::size_t kMaxMask = 16;  ///< of IPv6

/// The leading ones of a mask as Go counts them: 0 unless only zeros follow.
/// @param mask of at most kMaxMask bytes
std::uint8_t prefix_length(std::string_view mask) {
    unsigned ones = 0;
    bool ended = false;
    for (const char c : mask) {
        const auto byte = static_cast<std::uint8_t>(c);
        if (ended && byte != 0) return 0;
        if (ended) continue;
        const int leading = std::countl_one(byte);
        if (static_cast<std::uint8_t>(byte << leading) != 0 && leading != 8) return 0;
        ones += static_cast<unsigned>(leading);
        ended = leading != 8;
    }
    return static_cast<std::uint8_t>(ones);
}

bool read_mask(JsonReader& in, std::optional<std::uint8_t>& out) {
    std::optional<std::string> mask;
    if (!in.read_bytes(mask)) return false;
    if (mask && mask->size() > kMaxMask) {
        return in.refuse(fmt::format("a mask of at most {} bytes", kMaxMask),
                         fmt::format("{} bytes", mask->size()));
    }
    if (mask) {
        out = prefix_length(*mask);
    } else {
        out.reset();
    }
    return true;
}

bool read_ports(JsonReader& in, SharedList<NamedPort>& out) {
    if (in.take_null()) {
        out = {};
        return true;
    }
    std::vector<NamedPort> ports;
    const bool ok = in.elements([&] {
        NamedPort& port = ports.emplace_back();
        return in.fields(kPortFields, [&](int field) {
            switch (field) {
                case 0:
                    return in.read(port.name);
                case 1:
                    return in.read(port.port);
                default:
                    return in.read(port.protocol);
            }
        });
    });
    out = ports;
    return ok;
}

bool read_field(JsonReader& in, int field, IpIdentityPair& pair, std::optional<IpAddress>& ip) {
    switch (field) {
        case 0:
            return in.read(ip);
        case 1:
            return read_mask(in, pair.prefix_length);
        case 2:
            return in.read(pair.host_ip);
        case 3:
            return in.read(pair.id);
        case 4:
            return in.read(pair.key);
        case 5:
            return in.read(pair.metadata);
        case 6:
            return in.read(pair.k8s_namespace);
        case 7:
            return in.read(pair.k8s_pod_name);
        case 8:
            return in.read(pair.k8s_service_account);
        default:
            return read_ports(in, pair.named_ports);
    }
}

void write_mask(JsonWriter& out, const IpIdentityPair& pair) {
    if (!pair.prefix_length) {
        out.raw("null");
        return;
    }
    const unsigned length = *pair.prefix_length;
    std::string mask(pair.ip.is_v4() && length <= 32 ? 4 : 16, '\0');
    for (std::size_t bit = 0; bit < length && bit < mask.size() * 8; ++bit) {
        mask[bit / 8] =
            static_cast<char>(static_cast<unsigned char>(mask[bit / 8]) | (0x80U >> (bit % 8)));
    }
    out.bytes(mask);
}

void write_optional(JsonWriter& out, std::string_view name, const Text& value) {
    if (value.empty()) return;
    out.raw(name);
    out.string(value);
}

}  // namespace

Result<IpIdentityPair> parse_ip(std::string_view key, std::string_view value) {
    IpIdentityPair pair;
    std::optional<IpAddress> ip;
    JsonReader in(key, value);
    const bool ok = in.fields(kFields, [&](int field) { return read_field(in, field, pair, ip); });
    if (!ok || !in.finish()) return in.error();
    if (!ip) {
        in.refuse("an address in field IP", "none");
        return in.error();
    }
    pair.ip = *ip;
    return pair;
}

void encode_to(const IpIdentityPair& pair, std::string& text) {
    JsonWriter out(text);
    out.raw("{\"IP\":");
    out.address(pair.ip);
    out.raw(",\"Mask\":");
    write_mask(out, pair);
    out.raw(",\"HostIP\":");
    out.address(pair.host_ip);
    out.raw(",\"ID\":");
    out.number(number(pair.id));
    out.raw(",\"Key\":");
    out.number(pair.key);
    out.raw(",\"Metadata\":");
    out.string(pair.metadata);
    write_optional(out, ",\"K8sNamespace\":", pair.k8s_namespace);
    write_optional(out, ",\"K8sPodName\":", pair.k8s_pod_name);
    write_optional(out, ",\"K8sServiceAccount\":", pair.k8s_service_account);
    if (!pair.named_ports.empty()) {
        out.raw(",\"NamedPorts\":[");
        for (std::size_t i = 0; i < pair.named_ports.size(); ++i) {
            const NamedPort& port = pair.named_ports[i];
            out.raw(i == 0 ? "{\"Name\":" : ",{\"Name\":");
            out.string(port.name);
            out.raw(",\"Port\":");
            out.number(port.port);
            out.raw(",\"Protocol\":");
            out.string(port.protocol);
            out.raw("}");
        }
        out.raw("]");
    }
    out.raw("}");
}

std::string encode(const IpIdentityPair& pair) {
    std::string text;
    text.reserve(192);
    encode_to(pair, text);
    return text;
}

}  // namespace mesh::model
