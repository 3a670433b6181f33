// What was refused of one cluster, counted by reason with the last key named, and logged at a rate
// that a hostile or broken writer cannot raise.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/log.hpp"
#include "runtime/clock.hpp"

namespace mesh::state {

/// Why an entry was refused.
enum class Refusal : std::uint8_t {
    kKey,        ///< the key is none of this prefix's
    kValue,      ///< the value does not parse
    kForeign,    ///< another cluster's name, id or identity, or key and value differ
    kForeignIp,  ///< an ip outside the CIDRs that the cluster's nodes announce, or, as a node's
                 ///< CIDR, outside the pod-cidrs of the remote's file
    kLimit,      ///< more than the remote's configured limit
    kTooLarge,   ///< key or value over the limit of bytes
    kRate,       ///< more events per second than allowed; listed again when it is calm
    kNotShared,  ///< a service that is not offered to the mesh: nothing wrong, and not logged
};
inline constexpr std::size_t kRefusals = 8;
[[nodiscard]] std::string_view to_string(Refusal reason) noexcept;

/// One refused entry, for whoever wants to see each.
using OnRefused =
    std::function<void(std::string_view key, Refusal reason, std::string_view detail)>;

/// @thread one thread
class Refusals {
  public:
    struct Count {
        std::uint64_t count = 0;
        std::string last_key;
        std::string last_detail;
    };
    Refusals(std::string cluster, Logger log, OnRefused on_refused)
        : cluster_(std::move(cluster)), log_(std::move(log)), on_refused_(std::move(on_refused)) {}

    /// Counts, and logs at most once per reason and ten seconds.
    /// @param times how many were refused, of which this is the last
    void add(TimePoint now, std::string_view key, Refusal reason, std::string_view detail,
             std::uint64_t times = 1);
    [[nodiscard]] const std::array<Count, kRefusals>& counts() const noexcept { return counts_; }
    [[nodiscard]] std::uint64_t total() const noexcept;

  private:
    std::string cluster_;
    Logger log_;
    OnRefused on_refused_;
    std::array<Count, kRefusals> counts_{};
    std::array<std::optional<TimePoint>, kRefusals> logged_{};
    std::array<std::uint64_t, kRefusals> unlogged_{};
};

}  // namespace mesh::state
