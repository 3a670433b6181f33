// The lease that a writer's keys hang on: the one of a former run while it lives, else a new one.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <optional>

#include "base/log.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::publish {

/// @thread the client's loop only
class LeaseHolder {
  public:
    /// @param on_lost called when a held lease has ended; hold() gets the next one
    LeaseHolder(boost::asio::any_io_executor loop, etcd::Client& client, std::chrono::seconds ttl,
                Logger log, std::function<void()> on_lost);

    /// The lease in hand; else `former` if the server still keeps it with our TTL, so that nothing
    /// has to be written again; else a new one.
    /// @param former 0 = none known
    /// @errors those of the client
    [[nodiscard]] boost::asio::awaitable<Result<std::int64_t>> hold(std::int64_t former);
    /// Gives the lease up without a call to the server: it is known to be gone.
    void drop();
    /// Ends keeping it alive and leaves it to its TTL.
    void release() { keeper_.reset(); }
    /// 0 = none.
    [[nodiscard]] std::int64_t id() const noexcept { return keeper_ ? keeper_->id() : 0; }
    [[nodiscard]] std::uint64_t losses() const noexcept { return losses_; }

  private:
    [[nodiscard]] boost::asio::awaitable<bool> adopt(std::int64_t former);
    void keep(std::int64_t id);

    etcd::Client& client_;
    std::chrono::seconds ttl_;
    Logger log_;
    std::function<void()> on_lost_;
    std::unique_ptr<etcd::LeaseKeeper> keeper_;
    /// Ends the wait for the first word on an adopted lease.
    boost::asio::steady_timer first_word_;
    std::optional<std::int64_t> kept_ttl_;
    bool adopting_ = false;
    std::uint64_t losses_ = 0;
};

}  // namespace mesh::publish
