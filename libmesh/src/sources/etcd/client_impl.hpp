// The inside of Client: the connection loop, requests with retry, and what watches and leases need
// of them. Internal to sources/etcd/.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/client.hpp"
#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"
#include "sources/etcd/client.hpp"
#include "sources/etcd/endpoint.hpp"
#include "sources/etcd/history_guard.hpp"

namespace mesh::etcd {

namespace detail {
class WatchStream;
}

class Client::Impl : public std::enable_shared_from_this<Client::Impl> {
  public:
    Impl(boost::asio::any_io_executor loop, ClientOptions options, std::vector<Endpoint> endpoints,
         std::shared_ptr<rpc::TlsCredentials> tls, const Clock& clock, Rng rng, Logger logger);
    ~Impl();

    void start();
    static boost::asio::awaitable<void> stop(std::shared_ptr<Impl> self);

    /// Sends when connected; a read is sent again when the connection breaks, until the deadline.
    static boost::asio::awaitable<rpc::UnaryResult> request(std::shared_ptr<Impl> self,
                                                            std::string path, rpc::Frame frame,
                                                            bool retry);
    /// Takes note of an answer's header.
    /// @errors kCorrupt for an answer without one, kConflict when it is of another cluster than the
    /// connection's first: the connection is dropped then
    [[nodiscard]] Result<void> note(bool has_header, const Header& header);
    void note_alive() { last_heard_ = clock_.now(); }

    /// An exception left a task or callback; see Client::on_defect.
    void defect(std::string_view what);

    /// Tells the user of an event; the connection to a server that is behind was none.
    void tell(const ConnectionEvent& event);
    void set_paused(bool paused);
    /// Until the client is not paused any more, or stops, or the caller is cancelled.
    boost::asio::awaitable<void> wait_resumed();
    /// Gives up the connection; the next endpoint is tried.
    void drop(std::string why);
    [[nodiscard]] bool usable() const noexcept { return channel_ && !lost_ && channel_->usable(); }
    [[nodiscard]] rpc::CallOptions stream_options() const;

    boost::asio::any_io_executor loop_;
    const ClientOptions options_;
    Duration keepalive_interval_ = options_.keepalive_interval;  // longer once a server complained
    const Clock& clock_;
    Rng rng_;
    Logger logger_;
    TaskGroup tasks_;
    std::shared_ptr<rpc::Channel> channel_;  // null unless connected
    std::unique_ptr<detail::WatchStream> watches_;
    std::function<void(const ConnectionEvent&)> on_connection_;  // make() sets it to tell()
    std::function<void(const ConnectionEvent&)> user_on_connection_;
    std::function<void(std::string_view what)> on_defect_;
    detail::HistoryGuard guard_{{.endpoints = options_.endpoints.size(),
                                 .limit = options_.behind_limit,
                                 .limit_absent = options_.behind_limit_absent,
                                 .reached = options_.reached}};
    Header newest_;                     // of this connection the one with the highest revision
    std::uint64_t pinned_cluster_ = 0;  // of this connection; 0 before its first answer
    TimePoint last_heard_{};
    bool started_ = false;
    bool stopping_ = false;
    bool paused_ = false;

  private:
    boost::asio::awaitable<void> run();
    boost::asio::awaitable<Result<void>> attempt(Endpoint endpoint);
    boost::asio::awaitable<void> wait_lost();
    /// @return false when the deadline passed or the client stops
    boost::asio::awaitable<bool> wait_connected(TimePoint deadline);
    boost::asio::awaitable<void> sleep(Duration duration);
    /// Whether calls of a connection that goes away get the time to end.
    [[nodiscard]] bool draining();
    void report(ConnectionEvent event);
    void wake_waiters();

    std::vector<Endpoint> endpoints_;
    std::shared_ptr<rpc::TlsCredentials> tls_;
    std::uint64_t last_cluster_ = 0;
    std::string lost_why_;
    std::string last_failure_;
    bool lost_ = false;
    std::size_t in_flight_ = 0;  // requests that were sent
    TimePoint drain_until_ = TimePoint::max();
    boost::asio::steady_timer lost_signal_;
    std::set<boost::asio::steady_timer*> waiters_;
};

}  // namespace mesh::etcd
