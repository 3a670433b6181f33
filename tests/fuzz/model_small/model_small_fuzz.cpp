// The kinds with few fields; the first byte chooses which.
#include <cstddef>
#include <cstdint>

#include "../model_roundtrip.hpp"
#include "model/codec.hpp"
#include "model/workload.hpp"

namespace {

/// The label grammar has no escapes: two forms are read as upstream reads them and cannot be
/// written again, namely no labels at all, and a reserved label whose key holds a '=' ("$=a=b").
void identity(std::string_view value) {
    using namespace mesh::model;
    const auto first = parse_identity("77", value);
    if (!first || first->labels.empty()) return;
    for (const Label& label : first->labels) {
        if (label.key.view().find('=') != std::string_view::npos) return;
    }
    mesh::fuzz::round_trip("77", value, parse_identity,
                           [](const Identity& object) { return encode(object); });
}

}  // namespace

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
            identity(value);
            break;
        case 'w':
            mesh::fuzz::round_trip("mesh/local/workloads/v1/vm1", value, parse_workload, encoded);
            break;
        case 's':
            mesh::fuzz::round_trip("mesh/local/workload-status/v1/vm1", value,
                                   parse_workload_status, encoded);
            break;
        case 't':
            mesh::fuzz::round_trip("k", value, parse_timestamp, encode_timestamp);
            break;
        default:
            break;
    }
    return 0;
}
