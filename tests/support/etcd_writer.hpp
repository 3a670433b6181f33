// Writes to an etcd from a test that has no loop of its own: many keys quickly, and single changes.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "runtime/clock.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::test {

class EtcdWriter {
  public:
    explicit EtcdWriter(const std::string& endpoint) {
        etcd::ClientOptions options;
        options.endpoints = {endpoint};
        options.request_timeout = std::chrono::seconds(30);
        options.backoff_limit = std::chrono::milliseconds(200);
        client_ = *etcd::Client::make(loop_.get_executor(), std::move(options), clock_, Rng(1), {});
        client_->start();
    }
    ~EtcdWriter() { run(client_->async_stop()); }
    EtcdWriter(const EtcdWriter&) = delete;
    EtcdWriter& operator=(const EtcdWriter&) = delete;

    /// Runs a coroutine to its end. @return what it came to
    template <class T>
    T run(boost::asio::awaitable<T> what) {
        auto future = boost::asio::co_spawn(loop_, std::move(what), boost::asio::use_future);
        loop_.restart();
        while (future.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
            loop_.run_for(std::chrono::milliseconds(1));
        return future.get();
    }

    /// Until it is done: etcd may have been started anew a moment ago. @return the revision
    std::int64_t put(const std::string& key, const std::string& value) {
        return again([&] { return run(client_->async_put(key, value)); });
    }
    std::int64_t del(const std::string& key) {
        return again([&] { return run(client_->async_delete({.key = key, .end = {}})); });
    }
    /// prefix + number, with values of a size, a hundred to a revision, `lanes` txns at a time.
    void fill(const std::string& prefix, int count, std::size_t value_size, int lanes = 8) {
        int next = 0;
        int ended = 0;
        const TimePoint end = clock_.now() + std::chrono::seconds(60);
        auto lane = [&]() -> boost::asio::awaitable<void> {
            while (next < count) {
                etcd::Txn txn;
                for (int i = 0; i < 100 && next < count; ++i, ++next)
                    txn.success.emplace_back(
                        etcd::PutOp{prefix + std::to_string(next), std::string(value_size, 'v')});
                // A connection that is lost shows with the first request.
                for (bool done = false; !done && clock_.now() < end;) {
                    const auto answer = co_await client_->async_txn(txn);
                    done = answer.has_value();
                }
            }
            ++ended;
        };
        for (int i = 0; i < lanes; ++i)
            boost::asio::co_spawn(loop_, lane, [](std::exception_ptr) {});
        loop_.restart();
        while (ended < lanes) loop_.run_for(std::chrono::milliseconds(10));
    }
    [[nodiscard]] etcd::Client& client() { return *client_; }

  private:
    template <class Write>
    std::int64_t again(const Write& write) {
        const TimePoint end = clock_.now() + std::chrono::seconds(30);
        for (;;) {
            const auto done = write();
            if (done) return done->header.revision;
            if (clock_.now() < end) continue;
            ADD_FAILURE() << done.error().message();
            return 0;
        }
    }

    SystemClock clock_;
    boost::asio::io_context loop_{1};
    std::unique_ptr<etcd::Client> client_;
};

}  // namespace mesh::test
