// etcd's lock: the key <path>/<lease id in hex> with the lowest create revision below <path>/ has
// it. Cilium's agents and operators take the same ones. @source wire.md §11, etcd's
// concurrency.Mutex
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>

#include "runtime/clock.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::publish {

/// @thread the client's loop only
class EtcdMutex {
  public:
    /// @param path without the slash at its end @param lease that the key hangs on
    EtcdMutex(boost::asio::any_io_executor loop, etcd::Client& client, std::string path,
              std::int64_t lease);

    /// Waits until it is ours. @param most to wait; then it is not ours, nor asked for
    /// @errors kTimeout; kNotFound: the lease is gone; those of the client
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_lock(Duration most);
    [[nodiscard]] boost::asio::awaitable<void> async_unlock();
    /// A transaction with this condition is done only while it is ours.
    [[nodiscard]] etcd::Compare is_owner() const;

  private:
    boost::asio::awaitable<Result<bool>> is_first(etcd::KeyValue& ahead, std::int64_t& revision);
    boost::asio::awaitable<void> wait_for_end(const etcd::KeyValue& of, std::int64_t revision,
                                              Duration most);

    boost::asio::any_io_executor loop_;
    etcd::Client& client_;
    std::string path_;
    std::string key_;
    std::int64_t lease_;
    std::int64_t create_revision_ = 0;
};

}  // namespace mesh::publish
