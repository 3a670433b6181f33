// Tells a server that is only behind us (a proxy that lags, or is cut from its etcd) from an etcd
// that lost its data and has the same ids: both show a lower revision. Pure computation: times and
// headers in, a verdict out. Internal to sources/etcd/.
//
// A revision below ours says nothing by itself, so the guard refuses such a server and has the
// next one tried. Only when all endpoints have stayed behind for a while is it another history.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "runtime/clock.hpp"
#include "sources/etcd/types.hpp"

namespace mesh::etcd::detail {

struct HistoryGuardOptions {
    std::size_t endpoints = 1;
    Duration limit{};         ///< for how long all endpoints must have been behind
    Duration limit_absent{};  ///< the same while some of them do not answer: they may know better
    Header reached;           ///< where the reader stands at first; cluster_id 0 = nowhere
};

/// @thread one thread
class HistoryGuard {
  public:
    explicit HistoryGuard(HistoryGuardOptions options) : options_(std::move(options)) {
        reached_ = options_.reached;
    }

    /// All of that cluster up to the revision was given to somebody.
    void reached(std::uint64_t cluster_id, std::int64_t revision);
    /// Judges a new connection by its first answer. @return false: the server is behind us, try
    /// the next. A lower revision that is let through is that of another history.
    [[nodiscard]] bool admits(const Header& first, TimePoint now);
    /// The connection judged last was to this endpoint.
    void judged(const std::string& endpoint);
    /// The verdict on the connection judged last.
    [[nodiscard]] bool refused() const noexcept { return refused_; }
    /// For people; empty unless refused().
    [[nodiscard]] const std::string& why() const noexcept { return why_; }
    /// No connection to this endpoint could be made.
    void failed(const std::string& endpoint) { behind_.erase(endpoint); }

  private:
    HistoryGuardOptions options_;
    Header reached_;
    std::optional<TimePoint> behind_since_;
    std::set<std::string> behind_;  // endpoints that answered so
    bool refused_ = false;
    std::string why_;
};

}  // namespace mesh::etcd::detail
