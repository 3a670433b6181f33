// Keeps one workload registered in its cluster's etcd: its key under a lease of its own, and what
// the operator says of it. Comes back after a lost lease, a restarted etcd, and after somebody
// else's key is gone. Used by engine (Mesh::publish) and meshctl.
//
// A name that is there already is another process's: it is waited for, except that the first
// attempt takes over a record with the same addresses, which is this host's own of a moment ago.
// Who is taken over does not fight: it waits until the name is free.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <string>

#include "base/log.hpp"
#include "model/workload.hpp"
#include "runtime/clock.hpp"

namespace mesh::etcd {
class Client;
}

namespace mesh::publish {

/// How a registration stands.
struct RegistrationStatus {
    enum class State : std::uint8_t {
        kPending,    ///< etcd or the operator has not answered yet
        kPublished,  ///< the operator has accepted what is registered now
        kRefused,    ///< by the operator, by etcd, or somebody else has the name
    };
    State state = State::kPending;
    Errc code = Errc::kTimeout;  ///< of kRefused: kConflict or kPermission
    std::string reason;          ///< empty = nothing to say
    friend bool operator==(const RegistrationStatus&, const RegistrationStatus&) = default;
};

/// @thread the client's loop only
class WorkloadRegistration {
  public:
    /// @param workload as check_workload() wants it, normalised
    /// @param client started by its owner; outlives this
    /// @param on_change called with each new status
    WorkloadRegistration(boost::asio::any_io_executor loop, etcd::Client& client,
                         model::Workload workload, std::chrono::seconds lease_ttl,
                         const Clock& clock, Rng rng, Logger log,
                         std::function<void(const RegistrationStatus&)> on_change);
    /// After async_stop() completed, or if start() was never called.
    ~WorkloadRegistration();
    WorkloadRegistration(const WorkloadRegistration&) = delete;
    WorkloadRegistration& operator=(const WorkloadRegistration&) = delete;

    void start();
    /// Another value for the same key. @param workload of the same name
    void update(model::Workload workload);
    [[nodiscard]] const RegistrationStatus& status() const noexcept;
    /// Ends it: the lease is revoked, if there is one. on_change is not called any more.
    /// @errors kTimeout when etcd has not answered within `bound`: it ends with the lease
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_close(Duration bound);
    /// Whether nothing of it is under way any more.
    [[nodiscard]] bool ended() const noexcept;
    /// Joins what async_close() left behind; the client has been stopped, or answers.
    [[nodiscard]] boost::asio::awaitable<void> async_stop();

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::publish
