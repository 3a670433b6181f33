// The cache of learnt names with a clock, a timer and a file: between the DNS proxy, which learns,
// and whoever gives addresses of selectors their identities. Keeps the promise that an answer is
// passed on only when everything that it, or one before it, changed is in force.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "serve/dns/dns_event.hpp"
#include "serve/dns/fqdn_cache.hpp"

namespace mesh::serve::dns {

struct FqdnTrackerOptions {
    CacheLimits limits{};
    std::string file;  ///< where it is kept over a restart; empty = it is not
    /// Between two writes of the file, at least.
    std::chrono::milliseconds save_interval{10'000};
};

struct FqdnTrackerCallbacks {
    /// Sets of addresses changed; `in_force` is to be called, from any thread, when they are what
    /// packets meet. Called on the executor.
    std::function<void(const SelectorChanges& changes, std::function<void()> in_force)> on_change;
    /// A look at the connections there are: asked for once before zombies are asked about. Without
    /// it no connection lives.
    std::function<FqdnCache::Alive()> connections{};
};

/// stop() before it is destroyed. @thread the executor's thread
class FqdnTracker {
  public:
    FqdnTracker(boost::asio::any_io_executor executor, const Clock& clock, Logger log,
                FqdnTrackerOptions options, FqdnTrackerCallbacks callbacks);
    ~FqdnTracker();
    FqdnTracker(const FqdnTracker&) = delete;
    FqdnTracker& operator=(const FqdnTracker&) = delete;

    /// Reads the file, before the first selector is added, so that selectors have their addresses
    /// from the beginning. What cannot be read is logged and passed over.
    void start();
    /// Writes the file a last time. Nobody is called any more. Idempotent.
    void stop();

    /// As OnLearnt. @see DnsProxyCallbacks
    void learn(const Learnt& learnt, std::function<void()> done);
    /// @return its addresses now; on_change() tells what follows. @see FqdnCache::add_selector
    std::vector<model::IpAddress> add_selector(const model::policy::FqdnSelector& selector);
    /// @see FqdnCache::remove_selector
    bool remove_selector(const model::policy::FqdnSelector& selector);
    void remove_endpoint(EndpointId endpoint);
    /// What the timer does: what is due of the cache.
    void tick();

    [[nodiscard]] const FqdnCache& cache() const noexcept;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::serve::dns
