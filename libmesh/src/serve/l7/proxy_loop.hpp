// One thread of the proxy with its connections, and what all threads share. Internal to l7/.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/log.hpp"
#include "runtime/poll_loop.hpp"
#include "serve/l7/access_log.hpp"
#include "serve/l7/http1_filter.hpp"
#include "serve/l7/http_proxy.hpp"
#include "serve/l7/sockets.hpp"

namespace mesh::serve::l7 {

class ProxyConnection;

/// Shared by all loops; outlives them.
class ProxyShared {
  public:
    ProxyShared(HttpProxyOptions the_options, const PolicySource& source, Logger logger,
                std::function<void(std::string_view)> on_line);

    const HttpProxyOptions options;
    const PolicySource& policy;
    const Logger log;
    AccessLog access_log;
    std::atomic<std::uint64_t> accepted{0}, refused_limit{0};
    std::array<std::atomic<std::uint64_t>, 4> requests{};  // by Verdict

    /// Takes a place for a connection of that client. @return false: a limit. @thread any thread
    [[nodiscard]] bool enter(const model::IpAddress& client);
    void leave(const model::IpAddress& client);
    [[nodiscard]] std::size_t connections() const;
    /// Until none is left. @return false: time is up
    [[nodiscard]] bool wait_empty(Duration most);

  private:
    mutable std::mutex mutex_;  // guards all below
    std::condition_variable empty_;
    std::size_t connections_ = 0;
    std::unordered_map<model::IpAddress, std::size_t> by_client_;
};

/// @thread its poll loop's, but for construction and what says otherwise
class ProxyLoop final : private PollLoop::Timer {
  public:
    ProxyLoop(ProxyShared& the_shared, std::unique_ptr<PollLoop> the_poll);
    /// @thread any other; resets what is left
    ~ProxyLoop();
    ProxyLoop(const ProxyLoop&) = delete;
    ProxyLoop& operator=(const ProxyLoop&) = delete;

    /// @param listener shared with other loops, open until stop_accepting()
    [[nodiscard]] Result<void> add_listener(int listener, model::policy::Direction direction);
    void stop_accepting();
    void drain();  ///< no more connections are accepted by then
    void reset_all();

    /// Called by a connection at its end: it lives until the turn's.
    void bury(ProxyConnection& connection);
    /// A line of the access log was added to `lines`.
    void on_line();

    ProxyShared& shared;
    const std::unique_ptr<PollLoop> poll;
    std::string buffer;  // for reads; views of it live for a turn
    Http1Scratch http1;
    std::string lines;

  private:
    class Acceptor;
    void accept_one(Descriptor socket, const Endpoint& client, model::policy::Direction direction);
    void on_timer() override;
    void flush_lines();

    bool lines_due_ = false;
    std::vector<std::unique_ptr<Acceptor>> acceptors_;
    std::vector<std::unique_ptr<ProxyConnection>> connections_;
    std::vector<std::unique_ptr<ProxyConnection>> buried_;
};

}  // namespace mesh::serve::l7
