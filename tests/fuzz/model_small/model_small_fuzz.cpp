// The kinds with few fields; the first byte chooses which.
#include <cstddef>
#include <cstdint>

#include "../model_roundtrip.hpp"
#include "model/codec.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace mesh::model;
    if (size == 0) return 0;
    const std::string_view value(reinterpret_cast<const char*>(data) + 1, size - 1);
    const auto encoded = [](const auto& object) { return encode(object); };
    switch (data[0]) {
        case 'c':
            mesh::fuzz::round_trip("k", value, parse_cluster_config, encoded);
            break;
        case 'e':
            mesh::fuzz::round_trip("k", value, parse_service_export, encoded);
            break;
        case 'l':
            mesh::fuzz::round_trip("k", value, parse_local_service, encoded);
            break;
        case 'i':
            mesh::fuzz::round_trip("77", value, parse_identity, encoded);
            break;
        case 't':
            mesh::fuzz::round_trip("k", value, parse_timestamp, encode_timestamp);
            break;
        default:
            break;
    }
    return 0;
}
