// Packets for the test runs, as bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mesh::bench {

struct PacketFields {
    std::string source, destination;  ///< both of the same family
    std::uint16_t source_port = 40'000, destination_port = 80;
    std::uint8_t ttl = 255;    ///< a forwarding program takes one off in each run of a test
    std::size_t payload = 64;  ///< bytes after the TCP header
};

/// An Ethernet frame with a TCP segment (SYN) in it, checksums valid.
[[nodiscard]] std::vector<std::uint8_t> make_packet(const PacketFields& fields);

}  // namespace mesh::bench
