// How a backend is probed from the nodes that use it: annotation libmesh.io/health-check of a
// Service. Ours, not Cilium's. compile/services/README.md says what follows from it.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mesh::model {

inline constexpr std::string_view kHealthCheckAnnotation = "libmesh.io/health-check";
/// "false": connections to backends that are gone or unhealthy are left alone; default "true".
inline constexpr std::string_view kResetConnectionsAnnotation = "libmesh.io/reset-connections";
/// What its value must be like, for messages.
inline constexpr std::string_view kHealthCheckForm =
    "tcp or http:/path, and after it any of interval=, timeout= (each 50ms to 60s), failures=, "
    "successes= (1 to 10), port=: http:/healthz,interval=1s,failures=3";

/// One way to probe. With the defaults, what dies is noticed within 0.7 s.
struct HealthCheck {
    enum class Kind : std::uint8_t {
        kTcp,   ///< a connection is accepted
        kHttp,  ///< a GET of `path` is answered with 2xx or 3xx
    };
    Kind kind = Kind::kTcp;
    std::string path;                         ///< of kHttp; begins with a slash
    std::chrono::milliseconds interval{200};  ///< from the start of a probe to that of the next
    std::chrono::milliseconds timeout{200};
    std::uint8_t failures = 2;   ///< in a row, to count as unhealthy
    std::uint8_t successes = 2;  ///< in a row, to count as healthy again
    std::uint16_t port = 0;      ///< 0 = the backend's own, of TCP ports only
    friend auto operator<=>(const HealthCheck&, const HealthCheck&) = default;
};

/// "tcp", "http:/healthz".
[[nodiscard]] std::string to_string(const HealthCheck& check);

/// Reads the annotation's value; spaces around its parts are passed over.
/// @return nullopt if it is not of kHealthCheckForm
/// @thread any thread
[[nodiscard]] std::optional<HealthCheck> parse_health_check(std::string_view text);

}  // namespace mesh::model
