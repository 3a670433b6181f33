#include "rpc/server.hpp"

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <iterator>
#include <list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "rpc/connection.hpp"
#include "rpc/server_session.hpp"
#include "rpc/tls_context.hpp"
#include "rpc/trust_watch.hpp"

namespace mesh::rpc {

namespace asio = boost::asio;
using boost::system::error_code;
using detail::Connection;

namespace {
// What a handshake may take before it makes room for another; less for one whose client has sent
// nothing yet.
constexpr Duration kHandshakeGrace = std::chrono::seconds(5);
constexpr Duration kIdleGrace = std::chrono::seconds(1);

struct Handshake {
    std::shared_ptr<Connection> connection;
    std::string address;
    TimePoint since;
};
}  // namespace

class Server::Impl : public std::enable_shared_from_this<Server::Impl> {
  public:
    Impl(asio::any_io_executor loop, ServerOptions options, const Clock& clock, Logger logger)
        : loop_(std::move(loop)),
          core_(std::make_shared<detail::ServerCore>(detail::ServerCore{
              std::move(options), clock, std::move(logger), {}, {}, {}, {}, {}, {}})),
          buffers_(std::make_shared<detail::LoopBuffers>()),
          drained_(loop_) {}

    Result<std::uint16_t> listen(std::string_view address, std::uint16_t port) {
        if (core_->options.tls && !credentials_) {
            MESH_TRY(credentials_,
                     TlsCredentials::load(TlsRole::kServer, *core_->options.tls, core_->logger));
            watch_trust();
        }
        error_code ec;
        const auto ip = asio::ip::make_address(std::string(address), ec);
        const std::string where = std::string(address) + ":" + std::to_string(port);
        if (ec) return invalid_argument("listen address " + where + ": expected an IP address");
        const asio::ip::tcp::endpoint endpoint(ip, port);
        auto listener = std::make_shared<Listener>(loop_);
        auto& acceptor = listener->acceptor;
        acceptor.open(endpoint.protocol(), ec);
        if (!ec) acceptor.set_option(asio::socket_base::reuse_address(true), ec);
        if (!ec && core_->options.reuse_port) {
            using ReusePort = asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>;
            acceptor.set_option(ReusePort(true), ec);
        }
        if (!ec) acceptor.bind(endpoint, ec);
        if (!ec) acceptor.listen(asio::socket_base::max_listen_connections, ec);
        if (ec) return unavailable("cannot listen on " + where + ": " + ec.message());
        const std::uint16_t bound = acceptor.local_endpoint(ec).port();
        listeners_.push_back(listener);
        accept(listener);
        return bound;
    }

    struct Listener {
        explicit Listener(const asio::any_io_executor& loop) : acceptor(loop), pause(loop) {}
        asio::ip::tcp::acceptor acceptor;
        asio::steady_timer pause;  // while nobody is accepted
    };
    using ListenerPtr = std::shared_ptr<Listener>;

    void accept(const ListenerPtr& listener) {
        if (stopped_ || !listener->acceptor.is_open()) return;
        if (const Duration wait = accept_delay(); wait > Duration::zero())
            return accept_after(listener, wait);
        listener->acceptor.async_accept([self = shared_from_this(), listener](
                                            const error_code& ec, asio::ip::tcp::socket socket) {
            if (self->stopped_ || !listener->acceptor.is_open()) return;
            if (ec) {
                // Out of descriptors or memory: connections end, so wait a little and go on.
                self->core_->logger.warn("accept failed: {}", ec.message());
                return self->accept_after(listener, std::chrono::milliseconds(100));
            }
            self->take(std::move(socket));
            self->accept(listener);
        });
    }

    void accept_after(const ListenerPtr& listener, Duration wait) {
        listener->pause.expires_after(std::chrono::ceil<std::chrono::microseconds>(wait));
        // Cancelled when a handshake is done, and there is room earlier.
        listener->pause.async_wait(
            [self = shared_from_this(), listener](const error_code&) { self->accept(listener); });
    }

    [[nodiscard]] bool full() const {
        return core_->options.max_handshakes != 0 &&
               handshakes_.size() >= core_->options.max_handshakes;
    }

    /// When a handshake may be ended for another: not while it has hardly begun, and later when its
    /// client has sent something. When very many clients come at once, each is to get the time that
    /// a handshake takes a busy server, while the others wait in the kernel's queue.
    static TimePoint may_end(const Handshake& one) {
        return one.since + (one.connection->heard() ? kHandshakeGrace : kIdleGrace);
    }

    /// The handshake that makes room for another: the first that may end, of those whose address
    /// has more than its share if there are such. O(max_handshakes)
    [[nodiscard]] const Handshake& next_to_go() const {
        const std::size_t share = core_->options.max_handshakes_per_address;
        const Handshake* chosen = nullptr;
        std::pair<bool, TimePoint> rank;
        for (const Handshake& one : handshakes_) {
            const bool modest = share == 0 || handshakes_by_address_.at(one.address) <= share;
            const std::pair<bool, TimePoint> own{modest, may_end(one)};
            if (chosen != nullptr && own >= rank) continue;
            chosen = &one;
            rank = own;
        }
        return *chosen;
    }

    /// How long nobody is accepted.
    [[nodiscard]] Duration accept_delay() const {
        if (!full()) return {};
        return std::max(may_end(next_to_go()) - core_->clock.now(), Duration::zero());
    }

    void end_handshake(std::shared_ptr<Connection> connection) {
        ++core_->stats.handshakes_closed;
        connection->close({StatusCode::kUnavailable, "too many handshakes"});
        forget(connection);
    }

    /// The handshake is done, or the connection is.
    void handshake_over(const std::shared_ptr<Connection>& connection) {
        const auto it = handshake_at_.find(connection);
        if (it == handshake_at_.end()) return;
        const auto count = handshakes_by_address_.find(it->second->address);
        if (--count->second == 0) handshakes_by_address_.erase(count);
        handshakes_.erase(it->second);
        handshake_at_.erase(it);
        for (const ListenerPtr& listener : listeners_) listener->pause.cancel();
    }

    void forget(const std::shared_ptr<Connection>& connection) {
        handshake_over(connection);
        const auto it = connections_.find(connection->id);
        if (it == connections_.end()) return;
        connections_.erase(it);
        if (connection->was_ready() && peer_gone_) {
            peer_gone_(connection->peer());
        }
        if (connections_.empty()) drained_.cancel();
    }

    void take(asio::ip::tcp::socket socket) {
        ServerStats& stats = core_->stats;
        error_code ignored;
        const std::string address = socket.remote_endpoint(ignored).address().to_string();
        if (connections_.size() >= core_->options.max_connections) {
            ++stats.refused_limit;
            return;
        }
        ++stats.accepted;
        if (full()) end_handshake(next_to_go().connection);
        std::unique_ptr<detail::TlsEngine> tls;
        if (credentials_) {
            auto made = detail::TlsEngine::make(*credentials_, std::string());
            if (!made) {
                core_->logger.error("{}", made.error().message());
                return;
            }
            tls = *std::move(made);
        }
        auto connection = std::make_shared<Connection>(std::move(socket), std::move(tls),
                                                       core_->clock, buffers_, io_);
        connection->write_timeout = core_->options.write_timeout;
        const std::weak_ptr<Connection> weak = connection;
        connection->make_session = [this, weak](std::shared_ptr<const Peer> peer) {
            return make_session(*weak.lock(), std::move(peer));
        };
        connection->on_ready = [this, weak] {
            if (const auto ready = weak.lock()) handshake_over(ready);
        };
        connection->on_closed = [this, weak](const Error& reason) {
            const auto closed = weak.lock();
            if (!closed) return;
            if (!closed->was_ready()) {
                ++core_->stats.handshake_failures;
                core_->logger.info("{}: connection refused: {}", closed->peer().address,
                                   reason.detail());
            }
            forget(closed);
        };
        connection->id = ++last_id_;
        connection->since = core_->clock.now();
        connection->trust = credentials_ ? credentials_->reloads() : 0;
        connections_.emplace(connection->id, connection);
        handshakes_.push_back({connection, address, core_->clock.now()});
        handshake_at_.emplace(connection, std::prev(handshakes_.end()));
        ++handshakes_by_address_[address];
        connection->start(core_->options.handshake_timeout);
    }

    /// TLS is done, or there is none.
    Result<std::unique_ptr<detail::Session>> make_session(Connection& connection,
                                                          std::shared_ptr<const Peer> peer) {
        if (const detail::TlsEngine* tls = connection.tls(); tls != nullptr) {
            ++core_->stats.tls_handshakes;
            if (tls->resumed()) ++core_->stats.tls_resumed;
            // What it began with may have been replaced while it took its time.
            if (connection.trust != credentials_->reloads()) {
                connection.trust = credentials_->reloads();
                if (auto ok = tls->check_again(*credentials_->context()); !ok) {
                    ++core_->stats.closed_revoked;
                    return ok.error().with_prefix("certificate of \"" + peer->common_name + "\"");
                }
            }
        }
        const std::size_t most = core_->options.max_connections_per_name;
        if (most != 0 && peer->verified) {
            const auto count = core_->connections_by_name.find(peer->common_name);
            if (count != core_->connections_by_name.end() && count->second >= most) {
                ++core_->stats.refused_limit;
                return Error(Errc::kCapacity, "\"" + peer->common_name +
                                                  "\" has as many connections as one name may");
            }
        }
        return std::unique_ptr<detail::Session>(
            std::make_unique<detail::ServerSession>(core_, std::move(peer)));
    }

    void watch_trust() {
        if (core_->options.tls_check_interval <= Duration::zero()) return;
        trust_watch_ = std::make_shared<detail::TrustWatch>(
            loop_, credentials_,
            [this](std::uint64_t after) {
                const auto it = connections_.upper_bound(after);
                return it != connections_.end() ? it->second : nullptr;
            },
            [this](Connection& connection, const Error& why, bool first) {
                const std::string text =
                    "certificate of \"" + connection.peer().common_name + "\": " + why.detail();
                if (first) core_->logger.warn("{}: its connections end", text);
                ++core_->stats.closed_revoked;
                connection.end({StatusCode::kUnauthenticated, text});
            });
        trust_watch_->start(core_->options.tls_check_interval);
    }

    void close_listeners() {
        error_code ignored;
        for (const ListenerPtr& listener : listeners_) {
            listener->acceptor.close(ignored);
            listener->pause.cancel();
        }
        listeners_.clear();
    }

    void stop() {
        if (stopped_) return;
        stopped_ = true;
        if (trust_watch_) trust_watch_->stop();
        close_listeners();
        handshakes_.clear();
        handshake_at_.clear();
        handshakes_by_address_.clear();
        const auto connections = std::exchange(connections_, {});
        for (const auto& [id, connection] : connections)
            connection->close({StatusCode::kUnavailable, "the server is stopping"});
        drained_.cancel();
    }

    static asio::awaitable<void> drain(std::shared_ptr<Impl> self, Duration grace) {
        self->close_listeners();
        const auto connections = self->connections_;
        for (const auto& [id, connection] : connections) {
            if (connection->session() != nullptr) {
                connection->session()->go_away(self->core_->clock.now());
            } else {
                connection->close({});
                self->forget(connection);
            }
        }
        // First by themselves, then with a status that reaches the clients, which takes a turn.
        for (const Duration wait : {grace, Duration(std::chrono::seconds(1))}) {
            if (self->connections_.empty() || self->stopped_) break;
            self->drained_.expires_after(wait);
            error_code ignored;
            co_await self->drained_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
            for (const auto& [id, connection] : self->connections_)
                connection->end({StatusCode::kUnavailable, "the server is stopping"});
        }
        self->stop();
    }

    static ConnectionInfo info_of(const Connection& connection) {
        const detail::Session* session = connection.session();
        const detail::IoCounters& traffic = connection.traffic();
        return {connection.id,
                connection.peer(),
                connection.since,
                session != nullptr ? session->last_received() : connection.since,
                connection.was_ready(),
                session != nullptr && session->going_away(),
                session != nullptr ? session->live_streams() : 0,
                traffic.bytes_received,
                traffic.bytes_sent,
                traffic.socket_writes,
                connection.queued_bytes()};
    }

    using Chooser = std::function<bool(const ConnectionInfo&)>;

    std::vector<std::shared_ptr<Connection>> chosen(const Chooser& which) const {
        std::vector<std::shared_ptr<Connection>> found;
        for (const auto& [id, connection] : connections_)
            if (which(info_of(*connection))) found.push_back(connection);
        return found;
    }

    std::size_t close_connections(const Chooser& which, const Status& why) {
        const auto found = chosen(which);
        for (const auto& connection : found) connection->end(why);
        core_->stats.closed_on_request += found.size();
        return found.size();
    }

    std::size_t drain_connections(const Chooser& which) {
        std::size_t count = 0;
        for (const auto& connection : chosen(which)) {
            detail::Session* session = connection->session();
            if (session == nullptr || session->going_away()) continue;
            session->go_away(core_->clock.now());
            ++count;
        }
        core_->stats.drained += count;
        return count;
    }

    ServerStats stats() const {
        ServerStats s = core_->stats;
        s.connections = connections_.size();
        s.messages_received = core_->counters.messages_received;
        s.messages_sent = core_->counters.messages_sent;
        s.bytes_received = io_.bytes_received;
        s.bytes_sent = io_.bytes_sent;
        s.socket_writes = io_.socket_writes;
        const detail::SessionCounters& counters = core_->counters;
        s.too_many_pings = counters.too_many_pings;
        s.too_many_resets = counters.too_many_resets;
        s.too_many_controls = counters.too_many_controls;
        s.closed_flood = s.too_many_pings + s.too_many_resets + s.too_many_controls;
        s.closed_silent = counters.silent;
        s.aged = counters.aged;
        s.tls_reloads = credentials_ ? credentials_->reloads() : 0;
        return s;
    }

    asio::any_io_executor loop_;
    std::shared_ptr<detail::ServerCore> core_;
    std::shared_ptr<detail::LoopBuffers> buffers_;
    detail::IoCounters io_;
    std::shared_ptr<TlsCredentials> credentials_;
    std::shared_ptr<detail::TrustWatch> trust_watch_;
    std::vector<ListenerPtr> listeners_;
    std::map<std::uint64_t, std::shared_ptr<Connection>> connections_;  // by their ids
    std::uint64_t last_id_ = 0;
    std::list<Handshake> handshakes_;  // the oldest first
    std::map<std::shared_ptr<Connection>, std::list<Handshake>::iterator> handshake_at_;
    std::map<std::string, std::size_t> handshakes_by_address_;
    asio::steady_timer drained_;
    std::function<void(const Peer&)> peer_gone_;
    bool stopped_ = false;
};

Server::Server(asio::any_io_executor loop, ServerOptions options, const Clock& clock, Logger logger)
    : impl_(std::make_shared<Impl>(std::move(loop), std::move(options), clock, std::move(logger))) {
}

Server::~Server() {
    impl_->stop();
}

void Server::handle(std::string_view path, StreamHandler handler) {
    impl_->core_->routes.insert_or_assign(std::string(path), detail::Route{std::move(handler), {}});
}

void Server::handle_unary(std::string_view path, UnaryHandler handler) {
    impl_->core_->routes.insert_or_assign(std::string(path), detail::Route{{}, std::move(handler)});
}

void Server::handle_unknown(StreamHandler handler) {
    impl_->core_->unknown = std::move(handler);
}

void Server::admit(std::function<Status(const ServerCall&)> admission) {
    impl_->core_->admit = std::move(admission);
}

void Server::on_peer_gone(std::function<void(const Peer&)> callback) {
    impl_->peer_gone_ = std::move(callback);
}

Result<std::uint16_t> Server::listen(std::string_view address, std::uint16_t port) {
    return impl_->listen(address, port);
}

asio::awaitable<void> Server::async_drain(Duration grace) {
    return Impl::drain(impl_, grace);
}
void Server::stop() {
    impl_->stop();
}
ServerStats Server::stats() const {
    return impl_->stats();
}

TlsExpiry Server::tls_expiry() const {
    return impl_->credentials_ ? impl_->credentials_->expiry() : TlsExpiry{};
}

void Server::for_each_connection(const std::function<void(const ConnectionInfo&)>& visit) const {
    for (const auto& [id, connection] : impl_->connections_) visit(Impl::info_of(*connection));
}

std::size_t Server::close_connections(const std::function<bool(const ConnectionInfo&)>& which,
                                      const Status& why) {
    return impl_->close_connections(which, why);
}

std::size_t Server::drain_connections(const std::function<bool(const ConnectionInfo&)>& which) {
    return impl_->drain_connections(which);
}

}  // namespace mesh::rpc
