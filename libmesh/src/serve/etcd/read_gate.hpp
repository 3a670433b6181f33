// When a Range may be answered by a mirror: at once, once the mirror has the revision that was
// asked for, or once it has what the upstream had when the read came. Waits are bounded in time and
// number. Internal to serve/etcd.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "runtime/clock.hpp"
#include "serve/etcd/etcd_service.hpp"
#include "serve/etcd/read_barrier.hpp"
#include "state/store/store.hpp"

namespace mesh::serve {

/// What is known of a read that may be answered now.
enum class ReadVerdict : std::uint8_t {
    kFresh,     ///< nobody has seen anything newer when it came
    kUnproven,  ///< the upstream did not say in time: what is there is all there is
};

/// @thread the loop's; held by a shared_ptr, as waits may outlive the service's interest
class ReadGate : public std::enable_shared_from_this<ReadGate> {
  public:
    /// @param store its on_revision() is the gate's until stop()
    ReadGate(boost::asio::any_io_executor loop, store::Store& store,
             const EtcdServiceOptions& options);
    ~ReadGate();
    /// To be called once.
    void start();
    void stop();

    /// Whether a read has nothing to wait for.
    [[nodiscard]] bool at_once(store::Revision revision, bool serializable) const;
    /// @param revision of the read; <= 0 = the newest
    /// @param then called once, at once or later on the loop, never from within a store's call;
    /// what has not come by then is not here
    void pass(store::Revision revision, bool serializable, std::function<void(ReadVerdict)> then);
    /// Adds what the gate counted.
    void count(EtcdServiceStats& stats) const;

  private:
    struct Waiter {
        std::uint64_t id = 0;
        std::function<void()> then;
        std::unique_ptr<boost::asio::steady_timer> timer;
    };
    using Waiters = std::multimap<store::Revision, Waiter>;

    void pass_newest(std::function<void(ReadVerdict)> then);
    void pass_future(store::Revision revision, std::function<void(ReadVerdict)> then);
    /// Calls then once the store has revision, or after `limit`. @return the waiter's id
    std::uint64_t wait(store::Revision revision, Duration limit, std::function<void()> then);
    void release(store::Revision revision, std::uint64_t id);
    void on_revision();

    boost::asio::any_io_executor loop_;
    store::Store& store_;
    const EtcdServiceOptions& options_;
    std::shared_ptr<ReadBarrierQueue> barrier_;  // null: what the store has is all there is
    Waiters waiters_;
    std::uint64_t last_id_ = 0;
    bool release_scheduled_ = false;
    bool stopped_ = false;
    std::uint64_t newest_waiting_ = 0;
    std::uint64_t waited_ = 0, unproven_ = 0, crowded_ = 0;
};

}  // namespace mesh::serve
