// Random writes on one etcd: puts, deletes, transactions, leases that expire or are revoked.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <vector>

#include "caller.hpp"
#include "runtime/clock.hpp"

namespace mesh::soak {

/// @thread the loop's
class Writer : public std::enable_shared_from_this<Writer> {
  public:
    /// @param pause between two writes, on average
    Writer(boost::asio::any_io_executor loop, Rng rng, Caller caller, Duration pause,
           Report& report);

    static boost::asio::awaitable<void> run(std::shared_ptr<Writer> self);
    void stop() { stopping_ = true; }
    /// Ends what would change by itself, and writes the last key of all.
    /// @return its revision
    static boost::asio::awaitable<std::int64_t> finish(std::shared_ptr<Writer> self);
    /// Many large values at once, so that what readers do not take fills the queues.
    static boost::asio::awaitable<void> burst(std::shared_ptr<Writer> self);
    static boost::asio::awaitable<void> compact(std::shared_ptr<Writer> self, std::int64_t at);
    /// All keys at a revision; empty when it failed.
    static boost::asio::awaitable<std::vector<Change>> all(std::shared_ptr<Writer> self,
                                                           std::int64_t revision);

    /// Below this prefix is the last key.
    static constexpr std::string_view kFence = "cilium/state/zz-fence/";

  private:
    [[nodiscard]] std::string key();
    [[nodiscard]] std::string value();
    void fill(etcdpb::PutRequest& put);
    void fill(etcdpb::DeleteRangeRequest& range);
    boost::asio::awaitable<void> write();
    boost::asio::awaitable<void> put();
    boost::asio::awaitable<void> erase();
    boost::asio::awaitable<void> transact(int operations);
    boost::asio::awaitable<void> lease();
    boost::asio::awaitable<void> revoke();
    template <class Response, class Request>
    boost::asio::awaitable<bool> send(std::string_view path, Request request);

    boost::asio::any_io_executor loop_;
    Rng rng_;
    Caller caller_;
    Duration pause_;
    Report& report_;
    std::vector<std::int64_t> leases_;
    std::uint64_t written_ = 0;
    bool stopping_ = false;
};

}  // namespace mesh::soak
