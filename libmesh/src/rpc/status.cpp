#include "rpc/status.hpp"

#include <array>

namespace mesh::rpc {

namespace {
struct Row {
    std::string_view name;
    Errc errc;
};
// By number on the wire.
constexpr std::array<Row, 17> kTable = {{
    {"OK", Errc::kInternal},
    {"CANCELLED", Errc::kCancelled},
    {"UNKNOWN", Errc::kInternal},
    {"INVALID_ARGUMENT", Errc::kInvalidArgument},
    {"DEADLINE_EXCEEDED", Errc::kTimeout},
    {"NOT_FOUND", Errc::kNotFound},
    {"ALREADY_EXISTS", Errc::kConflict},
    {"PERMISSION_DENIED", Errc::kPermission},
    {"RESOURCE_EXHAUSTED", Errc::kCapacity},
    {"FAILED_PRECONDITION", Errc::kConflict},
    {"ABORTED", Errc::kConflict},
    {"OUT_OF_RANGE", Errc::kInvalidArgument},
    {"UNIMPLEMENTED", Errc::kInvalidArgument},
    {"INTERNAL", Errc::kInternal},
    {"UNAVAILABLE", Errc::kUnavailable},
    {"DATA_LOSS", Errc::kCorrupt},
    {"UNAUTHENTICATED", Errc::kPermission},
}};

const Row& row(StatusCode code) noexcept {
    const auto n = static_cast<std::size_t>(code);
    return kTable[n < kTable.size() ? n : static_cast<std::size_t>(StatusCode::kUnknown)];
}

StatusCode code_of(Errc code) noexcept {
    switch (code) {
        case Errc::kInvalidArgument:
            return StatusCode::kInvalidArgument;
        case Errc::kNotFound:
            return StatusCode::kNotFound;
        case Errc::kUnavailable:
            return StatusCode::kUnavailable;
        case Errc::kCompacted:
            return StatusCode::kOutOfRange;
        case Errc::kConflict:
            return StatusCode::kFailedPrecondition;
        case Errc::kCapacity:
            return StatusCode::kResourceExhausted;
        case Errc::kPermission:
            return StatusCode::kPermissionDenied;
        case Errc::kCorrupt:
            return StatusCode::kDataLoss;
        case Errc::kCancelled:
            return StatusCode::kCancelled;
        case Errc::kTimeout:
            return StatusCode::kDeadlineExceeded;
        case Errc::kInternal:
            return StatusCode::kInternal;
    }
    return StatusCode::kUnknown;
}
}  // namespace

std::string_view to_string(StatusCode code) noexcept {
    return row(code).name;
}

Errc to_errc(StatusCode code) noexcept {
    return row(code).errc;
}

Error to_error(const Status& status) {
    std::string detail(to_string(status.code));
    if (!status.message.empty()) detail.append(": ").append(status.message);
    return {to_errc(status.code), std::move(detail)};
}

Status to_status(const Error& error) {
    return {code_of(error.code()), error.detail()};
}

std::string_view find_metadata(const Metadata& metadata, std::string_view name) noexcept {
    for (const auto& [key, value] : metadata)
        if (key == name) return value;
    return {};
}

}  // namespace mesh::rpc
