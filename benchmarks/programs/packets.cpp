#include "packets.hpp"

#include <arpa/inet.h>

#include <cstdlib>
#include <span>

namespace mesh::bench {
namespace {

using Bytes = std::vector<std::uint8_t>;

void put16(Bytes& to, std::size_t value) {
    to.push_back(static_cast<std::uint8_t>(value >> 8));
    to.push_back(static_cast<std::uint8_t>(value));
}

Bytes address(const std::string& text) {
    const bool v6 = text.find(':') != std::string::npos;
    Bytes bytes(v6 ? 16 : 4);
    if (inet_pton(v6 ? AF_INET6 : AF_INET, text.c_str(), bytes.data()) != 1) std::abort();
    return bytes;
}

std::uint32_t sum(std::span<const std::uint8_t> bytes, std::uint32_t so_far = 0) {
    for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
        so_far += static_cast<std::uint32_t>(bytes[i] << 8) + bytes[i + 1];
    }
    if (bytes.size() % 2 != 0) so_far += static_cast<std::uint32_t>(bytes.back() << 8);
    return so_far;
}

void set_checksum(Bytes& bytes, std::size_t at, std::uint32_t value) {
    while (value >> 16 != 0) value = (value & 0xffff) + (value >> 16);
    value = ~value;
    bytes[at] = static_cast<std::uint8_t>(value >> 8);
    bytes[at + 1] = static_cast<std::uint8_t>(value);
}

Bytes tcp_segment(const PacketFields& f, const Bytes& from, const Bytes& to) {
    Bytes tcp;
    put16(tcp, f.source_port);
    put16(tcp, f.destination_port);
    for (int i = 0; i < 8; ++i) tcp.push_back(0);  // sequence numbers
    put16(tcp, 0x5002);                            // 20 bytes of header, SYN
    put16(tcp, 0xffff);
    put16(tcp, 0);
    put16(tcp, 0);
    tcp.resize(tcp.size() + f.payload, 'x');
    const auto pseudo = sum(from, sum(to)) + 6 + static_cast<std::uint32_t>(tcp.size());
    set_checksum(tcp, 16, sum(tcp, pseudo));
    return tcp;
}

}  // namespace

Bytes make_packet(const PacketFields& f) {
    const Bytes from = address(f.source);
    const Bytes to = address(f.destination);
    const Bytes tcp = tcp_segment(f, from, to);
    Bytes frame{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};
    Bytes ip;
    if (from.size() == 4) {
        put16(frame, 0x0800);
        put16(ip, 0x4500);
        put16(ip, 20 + tcp.size());
        put16(ip, 1);
        put16(ip, 0x4000);
        ip.push_back(f.ttl);
        ip.push_back(6);
        put16(ip, 0);
    } else {
        put16(frame, 0x86dd);
        put16(ip, 0x6000);
        put16(ip, 0);
        put16(ip, tcp.size());
        ip.push_back(6);
        ip.push_back(f.ttl);
    }
    ip.insert(ip.end(), from.begin(), from.end());
    ip.insert(ip.end(), to.begin(), to.end());
    if (from.size() == 4) set_checksum(ip, 10, sum(ip));
    frame.insert(frame.end(), ip.begin(), ip.end());
    frame.insert(frame.end(), tcp.begin(), tcp.end());
    return frame;
}

}  // namespace mesh::bench
