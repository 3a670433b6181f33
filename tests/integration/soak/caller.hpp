// Unary calls of etcd's API by raw gRPC, over a connection that is made again when it breaks, and
// etcd's messages as Changes.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"

namespace mesh::soak {

/// A put, or a key of a list.
[[nodiscard]] Change to_change(const etcdpb::KeyValue& kv);
[[nodiscard]] Change to_change(const etcdpb::Event& event);

boost::asio::awaitable<void> sleep_for(boost::asio::any_io_executor loop, Duration time);

/// @thread the loop's
class Caller {
  public:
    Caller(boost::asio::any_io_executor loop, const Clock& clock, std::uint16_t port,
           std::shared_ptr<rpc::TlsCredentials> tls)
        : loop_(std::move(loop)), clock_(clock), port_(port), tls_(std::move(tls)) {}

    /// One attempt. The outcome of a write that failed is not known.
    template <class Response, class Request>
    boost::asio::awaitable<Result<Response>> call(std::string_view path, Request request) {
        auto connected = co_await connect();
        if (!connected) co_return connected.error();
        rpc::CallOptions options;
        options.deadline = std::chrono::seconds(5);
        const auto channel = channel_;
        rpc::UnaryResult result = co_await channel->async_unary(
            std::string(path), rpc::encode_frame(request), std::move(options));
        if (!result.status.ok() && (result.status.code == rpc::StatusCode::kUnavailable ||
                                    result.status.code == rpc::StatusCode::kDeadlineExceeded)) {
            channel_.reset();
        }
        co_return result.parse<Response>();
    }
    void close() { channel_.reset(); }

  private:
    boost::asio::awaitable<Result<void>> connect();

    boost::asio::any_io_executor loop_;
    const Clock& clock_;
    std::uint16_t port_;
    std::shared_ptr<rpc::TlsCredentials> tls_;
    std::shared_ptr<rpc::Channel> channel_;
};

}  // namespace mesh::soak
