// Turns of clients on one loop. A request runs at once while its client has taken little of this
// turn of the loop; what is more waits, and those who wait are served round-robin by bytes (deficit
// round robin, new ones first as in fq_codel), a portion per turn, so that a client which asks for
// a hundred times its share delays itself and hardly the others. Over its rate a client waits until
// it has paid. No I/O and no timers here: the owner calls run() when it is told to. Internal to
// serve/etcd.
// @source M. Shreedhar, G. Varghese, Efficient Fair Queuing Using Deficit Round-Robin, 1996;
// RFC 8290
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "runtime/clock.hpp"
#include "serve/etcd/access_control.hpp"
#include "serve/etcd/clients.hpp"

namespace mesh::serve {

struct LoopClient;

/// A connection: its client, and the role that its certificate has now.
struct LoopPeer {
    std::shared_ptr<LoopClient> client;
    std::shared_ptr<const AccessTable> table;  // keeps role
    const AccessRole* role = nullptr;          // null: none
    std::uint64_t generation = 0;              // of table

    [[nodiscard]] const ClientLimits& limits() const noexcept;
    [[nodiscard]] const ClientLimits& limits_per_name() const noexcept;
    /// Watch events have a byte rate.
    bool out_limited = false;
};
using LoopPeerPtr = std::shared_ptr<LoopPeer>;

/// A client on this loop, and what of its waits; the latter is RequestQueue's.
struct LoopClient {
    explicit LoopClient(std::shared_ptr<ClientSlot> its) : slot(std::move(its)) {}

    struct Job {
        LoopPeerPtr peer;
        std::size_t bytes = 0;
        bool again = false;
        std::function<std::size_t()> run;
    };
    enum class State : std::uint8_t { kIdle, kNew, kOld, kThrottled };
    const std::shared_ptr<ClientSlot> slot;
    std::deque<Job> jobs;
    std::size_t job_bytes = 0;
    std::int64_t deficit = 0;  // what it may still take of this round
    std::uint64_t turn = 0;
    std::size_t taken = 0;  // of `turn`
    State state = State::kIdle;
};

/// @thread the loop's
class RequestQueue {
  public:
    RequestQueue() = default;
    /// As clear(): what waits holds its peer, and that what waits.
    ~RequestQueue() { clear(); }
    RequestQueue(const RequestQueue&) = delete;
    RequestQueue& operator=(const RequestQueue&) = delete;

    /// A request's price: its bytes, its answer's, and this.
    static constexpr std::size_t kBasePrice = 256;
    /// What a client may take of a turn while nobody waits, and per round when some do: more than
    /// one page of 256 keys, so that light clients never wait.
    static constexpr std::size_t kQuantum = 128U << 10;
    /// What those who wait get together per run().
    static constexpr std::size_t kPortion = 256U << 10;
    /// Of one client's requests that wait on a loop.
    static constexpr std::size_t kMostWaitingBytes = 16U << 20;

    /// What is to be done for a client.
    struct Work {
        std::size_t bytes = 0;  ///< of the request
        bool again = false;     ///< the rest of a request that had its turn, and then waited
    };
    /// Something has come. @return whether it may run now; ran() must follow then, else keep()
    [[nodiscard]] bool may_run(LoopPeer& peer, Work work, TimePoint now);
    /// @param answered bytes
    void ran(LoopPeer& peer, Work work, std::size_t answered, TimePoint now);
    /// @param run returns the bytes that it answered
    /// @return false = too many wait already: it was not kept
    [[nodiscard]] bool keep(LoopPeerPtr peer, Work work, std::function<std::size_t()> run,
                            TimePoint now);

    /// A new turn: runs a portion of what waits.
    struct Next {
        bool more = false;            ///< call again, when the loop has seen to others
        std::optional<TimePoint> at;  ///< and at this time
    };
    [[nodiscard]] Next run(TimePoint now);
    /// Drops all that waits.
    void clear();
    [[nodiscard]] std::size_t waiting() const noexcept { return waiting_; }

  private:
    using ClientPtr = std::shared_ptr<LoopClient>;
    [[nodiscard]] static Duration wait(const LoopPeer& peer, TimePoint now);
    void enlist(const ClientPtr& client, TimePoint now);
    void run_first(LoopClient& client, TimePoint now);
    void forget(const LoopClient::Job& job);

    std::list<ClientPtr> new_, old_;
    std::multimap<TimePoint, ClientPtr> throttled_;
    std::uint64_t turn_ = 1;
    std::size_t waiting_ = 0;
};

}  // namespace mesh::serve
