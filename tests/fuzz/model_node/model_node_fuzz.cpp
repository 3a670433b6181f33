#include <cstddef>
#include <cstdint>

#include "../model_roundtrip.hpp"
#include "model/codec.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view value(reinterpret_cast<const char*>(data), size);
    mesh::fuzz::round_trip("k", value, mesh::model::parse_node,
                           [](const auto& object) { return mesh::model::encode(object); });
    return 0;
}
