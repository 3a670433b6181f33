// What was refused: counted by client and reason, and told once per client and minute. Names come
// from certificates, addresses from anybody: memory is bounded against many of both.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "serve/etcd/access.hpp"

namespace mesh::serve {

/// Denials of one client name for one reason. Names beyond DenialLog::kMostNames are together
/// "others"; what had no certificate has the empty name.
struct DenialCount {
    std::string client;
    DenialReason reason{};
    std::uint64_t count = 0;
};

/// @thread any thread
class DenialLog {
  public:
    static constexpr std::size_t kMostNames = 100;     ///< that are counted one by one
    static constexpr std::size_t kMostClients = 1000;  ///< that are logged one by one in a minute

    DenialLog(const Clock& clock, Logger log) : clock_(clock), log_(std::move(log)) {}

    /// @param why for people: what the client may not do, or which limit it met
    void add(const AccessRequest& request, DenialReason reason, std::string_view why);

    /// By name, then reason; those without denials are left out. @complexity O(kMostNames)
    [[nodiscard]] std::vector<DenialCount> counts() const;

  private:
    struct Told {
        TimePoint at{};
        std::uint64_t suppressed = 0;
    };
    /// @return how many were suppressed since the line before, -1 = this one is
    std::int64_t may_tell(const std::string& client, TimePoint now);

    const Clock& clock_;
    const Logger log_;
    mutable std::mutex mutex_;  // guards all below
    std::map<std::string, std::array<std::uint64_t, kDenialReasons>, std::less<>> counts_;
    std::map<std::string, Told> told_;  // by name and address
    Told others_;                       // clients that told_ has no room for
};

/// The reason in words, behind "denied: ...: ".
[[nodiscard]] std::string_view describe(DenialReason reason) noexcept;
/// The client's address without its port: "10.0.0.1", "fd00::1".
[[nodiscard]] std::string_view address_of(const rpc::Peer& peer) noexcept;
/// What a client is called: the certificate's common name, else its first URI or DNS name; empty
/// without a verified certificate.
[[nodiscard]] const std::string& name_of(const rpc::Peer& peer) noexcept;
/// Text of others for a log line: at most `most` bytes, nothing but printable ASCII.
[[nodiscard]] std::string printable(std::string_view text, std::size_t most = 64);

}  // namespace mesh::serve
