// The mesh's own etcd client as a reader of the soak: list-then-watch of prefixes, fail-over
// between servers.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "sources/etcd/prefix_watcher.hpp"

namespace mesh::soak {

class ProductReader {
  public:
    /// @param checkers one per prefix watched; outlive the reader
    ProductReader(boost::asio::any_io_executor loop, const Clock& clock, Rng rng,
                  etcd::ClientOptions options, const std::vector<Checker*>& checkers,
                  Report& report);

    [[nodiscard]] boost::asio::awaitable<void> async_stop();
    void ask_progress() { client_->request_progress(); }
    [[nodiscard]] std::int64_t position() const;
    [[nodiscard]] std::string state() const;

  private:
    struct Watch {
        Checker* checker = nullptr;
        std::map<std::string, Change> keys;
        std::int64_t in_step = 0;  // told when asked
        std::unique_ptr<etcd::PrefixWatcher> watcher;
    };
    void on_batch(Watch& watch, const etcd::Batch& batch);

    Report& report_;
    std::unique_ptr<etcd::Client> client_;
    std::vector<std::unique_ptr<Watch>> watches_;
};

}  // namespace mesh::soak
