// gRPC's statuses and metadata as plain values, and what they mean in mesh::Errc.
#pragma once

#include <mesh/error.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::rpc {

/// gRPC's status codes, by their numbers on the wire. @source gRPC over HTTP/2, "Status codes"
enum class StatusCode : std::uint8_t {
    kOk = 0,
    kCancelled = 1,
    kUnknown = 2,
    kInvalidArgument = 3,
    kDeadlineExceeded = 4,
    kNotFound = 5,
    kAlreadyExists = 6,
    kPermissionDenied = 7,
    kResourceExhausted = 8,
    kFailedPrecondition = 9,
    kAborted = 10,
    kOutOfRange = 11,
    kUnimplemented = 12,
    kInternal = 13,
    kUnavailable = 14,
    kDataLoss = 15,
    kUnauthenticated = 16,
};

/// The code's name as gRPC's documents write it, e.g. "PERMISSION_DENIED"; "UNKNOWN" for others.
[[nodiscard]] std::string_view to_string(StatusCode code) noexcept;

/// How a call ended: the raw code and text. @thread any thread (a plain value)
struct Status {
    StatusCode code = StatusCode::kOk;
    std::string message;

    [[nodiscard]] bool ok() const noexcept { return code == StatusCode::kOk; }
    friend bool operator==(const Status&, const Status&) = default;
};

/// What a caller should do about a failed status. kOk gives kInternal: it is no failure.
[[nodiscard]] Errc to_errc(StatusCode code) noexcept;
/// The failure as an Error: "<NAME>: <message>" behind the mapped code.
[[nodiscard]] Error to_error(const Status& status);
/// The other direction, for servers whose logic reports mesh::Error.
[[nodiscard]] Status to_status(const Error& error);

/// Header or trailer fields, lower-case names, in order of arrival. Names that end in "-bin" hold
/// the base64 text as it travelled.
using Metadata = std::vector<std::pair<std::string, std::string>>;

/// The first value of a name, or an empty view.
[[nodiscard]] std::string_view find_metadata(const Metadata& metadata,
                                             std::string_view name) noexcept;

}  // namespace mesh::rpc
