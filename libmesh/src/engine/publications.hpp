// The workloads that an embedder registers with Mesh::publish(): on the loop, registrations with an
// etcd client of their own; on any thread, the Publications that were handed out. A Publication
// may outlive the mesh: it reaches the loop through a link that is cut when the mesh ends.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <mesh/publish.hpp>
#include <mutex>
#include <optional>
#include <string>

#include "base/log.hpp"
#include "model/workload.hpp"
#include "publish/workload_registration.hpp"
#include "runtime/clock.hpp"
#include "runtime/serial_loop.hpp"
#include "runtime/task_group.hpp"
#include "sources/etcd/client.hpp"

namespace mesh {

namespace engine {

/// What publications know of the loop that they are on.
struct LoopSeat {
    SerialLoop::Turns turns;
    /// The loop has a thread of its own: others may wait for it.
    bool own_thread = true;
};

/// The way from any thread to the loop. @thread any thread
class LoopLink {
  public:
    LoopLink(boost::asio::any_io_executor loop, LoopSeat seat)
        : loop_(std::move(loop)), seat_(std::move(seat)) {}
    /// @return false if the mesh is gone; nothing is done then
    bool post(std::function<void()> call);
    /// After this the loop is not used.
    void sever();
    [[nodiscard]] bool on_loop() const noexcept { return seat_.turns.on_loop(); }
    [[nodiscard]] bool may_wait() const noexcept { return seat_.own_thread && !on_loop(); }

  private:
    boost::asio::any_io_executor loop_;
    const LoopSeat seat_;
    std::mutex mutex_;  // guards severed_, and the loop from being used when it is
    bool severed_ = false;
};

}  // namespace engine

/// Shared by the Publication and the loop.
struct Publication::Impl {
    std::string name;
    std::shared_ptr<engine::LoopLink> link;
    std::function<void(model::Workload)> update;  ///< on the loop
    std::function<void()> close;                  ///< likewise

    mutable std::mutex mutex;  // guards what follows
    mutable std::condition_variable changed;
    publish::RegistrationStatus status;
    int updates = 0;  ///< that the loop has not taken yet
    bool closing = false;
    std::optional<Result<void>> closed;  ///< and how that ended; set on the loop
};

namespace engine {

/// @errors kInvalidArgument names the field
[[nodiscard]] Result<model::Workload> to_workload(const WorkloadOptions& options);

/// @thread the loop's thread
class Publications {
  public:
    using MakeClient = std::function<Result<std::unique_ptr<etcd::Client>>()>;

    /// @param make_client called with the first publication
    Publications(boost::asio::any_io_executor loop, const Clock& clock, Rng rng, Logger log,
                 MakeClient make_client);
    /// After async_stop() completed, or if nothing was published.
    ~Publications();
    Publications(const Publications&) = delete;
    Publications& operator=(const Publications&) = delete;

    /// @param seat the same with each call
    /// @errors as Mesh::publish()
    [[nodiscard]] Result<Publication> publish(const WorkloadOptions& options, const LoopSeat& seat);
    /// All leave, those that etcd does not let go in time with their leases; then the client ends.
    [[nodiscard]] boost::asio::awaitable<void> async_stop();

  private:
    class State;
    std::shared_ptr<State> state_;
};

}  // namespace engine
}  // namespace mesh
