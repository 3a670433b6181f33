// Reads that must not go back in time behind other replicas of the same etcd: each has to be later
// than an answer of the upstream that was asked for after the read came. One question serves all
// reads that came before it was sent: at most one is under way, and at most one more is to follow,
// whatever the load.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "runtime/clock.hpp"
#include "state/store/ops.hpp"

namespace mesh::serve {

/// What the upstream said.
struct ReadMark {
    bool known = false;            ///< it answered, and what it had is mirrored
    store::Revision revision = 0;  ///< that it had; only if known
};

/// Called once, on the loop of who asked; may be called at once.
using OnReadMark = std::function<void(const ReadMark&)>;
/// Asks the upstream what it has; the answer comes when all of it is mirrored, or that is given up.
using ReadBarrier = std::function<void(OnReadMark)>;

struct ReadBarrierStats {
    std::uint64_t reads = 0;      ///< that came
    std::uint64_t questions = 0;  ///< that were asked for them
    std::uint64_t unknown = 0;    ///< reads whose answer was "unknown"
};

/// Gathers reads before a ReadBarrier. A question that stays without an answer for `limit` is
/// unknown for all who wait, and for all who come until some answer comes.
/// @thread the loop's
class ReadBarrierQueue : public std::enable_shared_from_this<ReadBarrierQueue> {
  public:
    /// @param ask called for one question at a time; must answer each at some time
    ReadBarrierQueue(boost::asio::any_io_executor loop, ReadBarrier ask, Duration limit);

    /// @param then may be called at once
    void wait(OnReadMark then);
    /// Nobody is called any more.
    void stop();
    [[nodiscard]] const ReadBarrierStats& stats() const noexcept { return stats_; }

  private:
    void ask_next();
    void on_answer(std::uint64_t question, const ReadMark& mark);
    void on_limit(std::uint64_t question);
    void tell(std::vector<OnReadMark> whom, const ReadMark& mark);

    const ReadBarrier ask_;
    const Duration limit_;
    boost::asio::steady_timer timer_;
    std::vector<OnReadMark> asked_;  // for them the question under way was sent
    std::vector<OnReadMark> next_;
    std::uint64_t question_ = 0;  // counts them
    bool under_way_ = false;
    bool silent_ = false;  // the question under way has passed the limit
    bool stopped_ = false;
    ReadBarrierStats stats_;
};

}  // namespace mesh::serve
