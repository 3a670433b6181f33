#include "datapath/wireguard/uapi.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <iterator>
#include <system_error>
#include <utility>

namespace mesh::datapath::uapi {
namespace {

using model::IpAddress;
using model::IpPrefix;
using model::WireguardPublicKey;

void append_hex(std::string& out, std::span<const std::uint8_t> bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    for (const std::uint8_t byte : bytes) {
        out += kDigits[byte >> 4];
        out += kDigits[byte & 15];
    }
}

template <class Bytes>
bool parse_hex(std::string_view text, Bytes& out) {
    if (text.size() != 2 * out.size()) return false;
    for (std::size_t i = 0; i < out.size(); ++i) {
        const char* begin = text.data() + 2 * i;
        const auto [end, error] = std::from_chars(begin, begin + 2, out[i], 16);
        if (error != std::errc() || end != begin + 2) return false;
    }
    return true;
}

template <class Number>
bool parse_number(std::string_view text, Number& out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

std::optional<WireguardEndpoint> parse_endpoint(std::string_view text) {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    std::string_view host = text.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    WireguardEndpoint endpoint;
    if (!IpAddress::parse_into(host, endpoint.address) ||
        !parse_number(text.substr(colon + 1), endpoint.port)) {
        return std::nullopt;
    }
    return endpoint;
}

void append_change(std::string& out, const WireguardPeerChange& change) {
    auto to = std::back_inserter(out);
    const auto peer = [&] {
        out += "public_key=";
        append_hex(out, change.public_key.bytes());
        out += '\n';
    };
    peer();
    if (change.remove) {
        out += "remove=true\n";
        return;
    }
    if (change.endpoint) {
        const auto& [address, port] = *change.endpoint;
        fmt::format_to(to,
                       fmt::runtime(address.is_v4() ? "endpoint={}:{}\n" : "endpoint=[{}]:{}\n"),
                       address.to_string(), port);
    }
    if (change.replace_allowed_ips) out += "replace_allowed_ips=true\n";
    for (const IpPrefix& prefix : change.allowed_ips) {
        fmt::format_to(to, "allowed_ip={}\n", prefix.to_string());
    }
    if (change.start_session) {
        // A keepalive that was off and comes on is sent at once, and so is a handshake before it.
        // It must be a step of its own: a peer's section acts when the next one begins.
        out += "persistent_keepalive_interval=25\n";
        peer();
    }
    if (change.keepalive || change.start_session) {
        fmt::format_to(to, "persistent_keepalive_interval={}\n",
                       change.keepalive.value_or(std::chrono::seconds(0)).count());
    }
}

// Calls on(key, value) for each line; stops at false.
template <class On>
void for_each_line(std::string_view text, On&& on) {
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        const std::size_t equals = line.find('=');
        if (equals == std::string_view::npos) continue;
        if (!on(line.substr(0, equals), line.substr(equals + 1))) return;
    }
}

// One value of a peer. @return false if it makes no sense
bool read_peer_value(WireguardPeerState& peer, std::string_view key, std::string_view value) {
    if (key == "endpoint") {
        // With a zone (link-local) it is none of ours, and none that we could compare.
        peer.endpoint = parse_endpoint(value);
        return true;
    }
    if (key == "allowed_ip") {
        const auto prefix = IpPrefix::parse(value);
        if (prefix) peer.allowed_ips.push_back(*prefix);
        return prefix.has_value();
    }
    std::int64_t number = 0;
    if (key == "rx_bytes") return parse_number(value, peer.received_bytes);
    if (key == "tx_bytes") return parse_number(value, peer.sent_bytes);
    if (key == "persistent_keepalive_interval") {
        if (!parse_number(value, number)) return false;
        peer.keepalive = std::chrono::seconds(number);
    } else if (key == "last_handshake_time_sec") {
        if (!parse_number(value, number)) return false;
        peer.last_handshake += std::chrono::seconds(number);
    } else if (key == "last_handshake_time_nsec") {
        if (!parse_number(value, number)) return false;
        peer.last_handshake += std::chrono::nanoseconds(number);
    }
    return true;
}

bool read_device_value(WireguardState& state, std::string_view key, std::string_view value) {
    if (key == "listen_port") return parse_number(value, state.port);
    if (key == "fwmark") return parse_number(value, state.mark);
    if (key == "private_key") {
        WireguardPrivateKey::Bytes bytes{};
        if (!parse_hex(value, bytes)) return false;
        state.private_key.emplace(bytes);
        bytes.fill(0);
    }
    return true;
}

}  // namespace

std::string encode(const WireguardSettings& settings) {
    std::string out;
    out.reserve(256);  // no copy of the key is left behind by growing
    out += "set=1\n";
    if (settings.private_key) {
        out += "private_key=";
        append_hex(out, settings.private_key->bytes());
        out += '\n';
    }
    auto to = std::back_inserter(out);
    if (settings.port) fmt::format_to(to, "listen_port={}\n", *settings.port);
    if (settings.mark) fmt::format_to(to, "fwmark={}\n", *settings.mark);
    out += '\n';
    return out;
}

std::vector<std::string> encode(std::span<const WireguardPeerChange> changes, std::size_t most) {
    std::vector<std::string> requests;
    while (!changes.empty()) {
        const std::size_t count = std::min(most, changes.size());
        std::string& out = requests.emplace_back("set=1\n");
        for (const WireguardPeerChange& change : changes.first(count)) append_change(out, change);
        out += '\n';
        changes = changes.subspan(count);
    }
    return requests;
}

Result<void> parse_outcome(std::string_view answer) {
    int error = 0;
    bool told = false;
    for_each_line(answer, [&](std::string_view key, std::string_view value) {
        if (key == "errno") told = parse_number(value, error);
        return true;
    });
    if (!told) return Error(Errc::kCorrupt, "expected an answer with errno=");
    if (error == 0) return {};
    const int positive = error < 0 ? -error : error;
    return Error(
        positive == EINVAL || positive == EPROTO ? Errc::kInvalidArgument : Errc::kUnavailable,
        fmt::format("it answers {}", std::generic_category().message(positive)));
}

Result<WireguardState> parse_state(std::string_view answer) {
    MESH_CHECK(parse_outcome(answer));
    WireguardState state;
    WireguardPeerState* peer = nullptr;
    std::string_view wrong;
    for_each_line(answer, [&](std::string_view key, std::string_view value) {
        bool good = true;
        if (key == "public_key") {
            WireguardPublicKey::Bytes bytes{};
            good = parse_hex(value, bytes);
            peer = &state.peers[WireguardPublicKey(bytes)];
        } else {
            good = peer != nullptr ? read_peer_value(*peer, key, value)
                                   : read_device_value(state, key, value);
        }
        if (!good) wrong = key;
        return good;
    });
    // The name of the line only: its value may be a key.
    if (!wrong.empty()) {
        return Error(Errc::kCorrupt, fmt::format("its answer has a bad value of {}", wrong));
    }
    for (auto& [key, held] : state.peers) std::ranges::sort(held.allowed_ips);
    return state;
}

}  // namespace mesh::datapath::uapi
