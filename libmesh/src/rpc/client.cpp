#include "rpc/client.hpp"

#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "rpc/client_session.hpp"
#include "rpc/connection.hpp"

namespace mesh::rpc {

namespace asio = boost::asio;
using boost::system::error_code;
using detail::Connection;
using tcp = asio::ip::tcp;

namespace {
const Status kClosed{StatusCode::kCancelled, "the channel was closed"};

/// A call on a channel that has no connection: ends with a status in the next turn.
class UnsentCall final : public ClientCall {
  public:
    explicit UnsentCall(CallEvents events) : events_(std::move(events)) {}
    void end(const Status& status) {
        ended_ = true;
        const CallEvents events = std::exchange(events_, {});
        if (events.on_end) events.on_end(status, {});
    }
    Write write(Frame) override { return Write::kEnded; }
    void half_close() override {}
    void cancel() override {}
    void abandon() override { const CallEvents dropped = std::exchange(events_, {}); }
    void pause() override {}
    void resume() override {}
    std::size_t queued_bytes() const noexcept override { return 0; }
    bool ended() const noexcept override { return ended_; }

  private:
    CallEvents events_;
    bool ended_ = false;
};
}  // namespace

class Channel::Impl : public std::enable_shared_from_this<Channel::Impl> {
  public:
    Impl(asio::any_io_executor loop, ChannelOptions options, const Clock& clock, Logger logger)
        : loop_(std::move(loop)),
          options_(std::move(options)),
          clock_(clock),
          logger_(std::move(logger)),
          timer_(loop_),
          resolver_(loop_),
          socket_(loop_) {
        const bool v6 = options_.host.find(':') != std::string::npos;
        where_ =
            (v6 ? "[" + options_.host + "]" : options_.host) + ":" + std::to_string(options_.port);
    }

    void connect(std::function<void(Result<void>)> done) {
        if (connect_done_ || connection_ || closed_) {
            asio::post(loop_, [done = std::move(done)] {
                done(internal("a channel connects once; make another"));
            });
            return;
        }
        connect_done_ = std::move(done);
        started_ = clock_.now();
        timer_.expires_after(options_.connect_timeout);
        timer_.async_wait([self = shared_from_this()](const error_code& ec) {
            if (!ec) self->connect_failed(Error(Errc::kTimeout, "no connection in time"));
        });
        error_code ec;
        const auto ip = asio::ip::make_address(options_.host, ec);
        if (!ec)
            return connect_tcp(tcp::resolver::results_type::create(tcp::endpoint(ip, options_.port),
                                                                   options_.host, ""));
        resolver_.async_resolve(
            options_.host, std::to_string(options_.port), tcp::resolver::numeric_service,
            [self = shared_from_this()](const error_code& failure,
                                        tcp::resolver::results_type found) {
                if (!self->connect_done_) return;
                if (failure)
                    return self->connect_failed(
                        unavailable("the name cannot be resolved: " + failure.message()));
                self->connect_tcp(found);
            });
    }

    void connect_tcp(const tcp::resolver::results_type& addresses) {
        asio::async_connect(
            socket_, addresses,
            [self = shared_from_this()](const error_code& ec, const tcp::endpoint&) {
                if (!self->connect_done_) return;
                if (ec) return self->connect_failed(unavailable(ec.message()));
                self->connected_tcp();
            });
    }

    void connected_tcp() {
        std::unique_ptr<detail::TlsEngine> tls;
        if (options_.tls) {
            std::string name = options_.server_name;
            if (name.empty()) name = options_.tls->options().server_name;
            if (name.empty()) name = options_.host;
            auto made = detail::TlsEngine::make(*options_.tls, std::move(name), where_);
            if (!made) return connect_failed(std::move(made).error());
            tls = *std::move(made);
        }
        const Duration left = options_.connect_timeout - (clock_.now() - started_);
        connection_ = std::make_shared<Connection>(std::move(socket_), std::move(tls), clock_,
                                                   detail::buffers_of(loop_), io_);
        connection_->make_session =
            [this](const std::shared_ptr<const Peer>&) -> Result<std::unique_ptr<detail::Session>> {
            auto session = std::make_unique<detail::ClientSession>(options_, clock_);
            session_ = session.get();
            return std::unique_ptr<detail::Session>(std::move(session));
        };
        connection_->on_ready = [this] {
            timer_.cancel();
            finish_connect({});
        };
        connection_->on_closed = [this](const Error& reason) { lost(reason); };
        connection_->start(std::max(left, Duration(1)));
    }

    void lost(const Error& reason) {
        const auto keep = shared_from_this();
        Error named = reason.with_prefix(where_);
        if (session_ != nullptr && !session_->goaway_text().empty())
            named =
                Error(reason.code(), named.detail() + " (GOAWAY: " + session_->goaway_text() + ")");
        too_many_pings_ = session_ != nullptr && session_->too_many_pings();
        session_ = nullptr;
        if (connect_done_) {
            timer_.cancel();
            finish_connect(std::move(named));
            return;
        }
        const auto callback = std::exchange(on_closed_, nullptr);
        if (callback) callback(named);
    }

    void connect_failed(const Error& reason) {
        if (!connect_done_) return;
        timer_.cancel();
        resolver_.cancel();
        error_code ignored;
        socket_.close(ignored);
        if (connection_) connection_->close({StatusCode::kUnavailable, reason.detail()});
        session_ = nullptr;
        finish_connect(reason.with_prefix(where_));
    }

    void finish_connect(Result<void> outcome) {
        const auto done = std::exchange(connect_done_, nullptr);
        if (done) done(std::move(outcome));
    }

    ClientCallPtr call(std::string_view path, const CallOptions& options, CallEvents events) {
        if (usable()) return session_->call(path, options, std::move(events));
        auto unsent = std::make_shared<UnsentCall>(std::move(events));
        asio::post(loop_, [unsent, where = where_] {
            unsent->end({StatusCode::kUnavailable, where + ": not connected"});
        });
        return unsent;
    }

    void unary(std::string_view path, Frame request, const CallOptions& options,
               std::function<void(UnaryResult)> done, ClientCallPtr* out) {
        struct State {
            UnaryResult result;
            bool got = false;
            std::function<void(UnaryResult)> done;
        };
        auto state = std::make_shared<State>();
        state->done = std::move(done);
        CallEvents events;
        // A page of a list is megabytes.
        events.on_own_message = [state](std::string&& message) {
            state->result.message = std::move(message);
            state->got = true;
        };
        events.on_end = [state](const Status& status, const Metadata& trailers) {
            state->result.status = status;
            state->result.trailers = trailers;
            if (status.ok() && !state->got)
                state->result.status = {StatusCode::kInternal, "an OK answer without a message"};
            state->done(std::move(state->result));
        };
        const ClientCallPtr made = call(path, options, std::move(events));
        // The queue of a new call is empty and takes any size; an unsent call needs no message.
        static_cast<void>(made->write(std::move(request)));
        made->half_close();
        if (out != nullptr) *out = made;
    }

    void close(const Status& why) {
        if (std::exchange(closed_, true)) return;
        const auto keep = shared_from_this();
        on_closed_ = nullptr;
        if (connection_) connection_->close(why);
        session_ = nullptr;
        if (connect_done_) connect_failed(Error(Errc::kCancelled, "the channel was closed"));
    }

    bool usable() const noexcept {
        return session_ != nullptr && !connect_done_ && !session_->going_away() &&
               !session_->finished() && !closed_;
    }

    bool going_away() const noexcept {
        return session_ != nullptr && !connect_done_ && session_->going_away() &&
               !session_->finished() && !closed_;
    }

    TimePoint last_received() const noexcept {
        return session_ != nullptr ? session_->last_received() : started_;
    }

    asio::any_io_executor loop_;
    ChannelOptions options_;
    const Clock& clock_;
    Logger logger_;
    asio::steady_timer timer_;
    tcp::resolver resolver_;
    tcp::socket socket_;
    std::string where_;
    TimePoint started_;
    detail::IoCounters io_;
    std::shared_ptr<Connection> connection_;
    detail::ClientSession* session_ = nullptr;  // owned by connection_
    std::function<void(Result<void>)> connect_done_;
    std::function<void(const Error&)> on_closed_;
    bool too_many_pings_ = false;
    bool closed_ = false;
};

Channel::Channel(asio::any_io_executor loop, ChannelOptions options, const Clock& clock,
                 Logger logger)
    : impl_(std::make_shared<Impl>(std::move(loop), std::move(options), clock, std::move(logger))) {
}

Channel::~Channel() {
    impl_->close(kClosed);
}

void Channel::connect(std::function<void(Result<void>)> done) {
    impl_->connect(std::move(done));
}

// Both are no coroutines themselves: g++ 12 destroys captures of a closure in a co_await expression
// once too often. The closure moves into the awaitable, and runs when that is awaited.

asio::awaitable<Result<void>> Channel::async_connect() {
    return asio::async_initiate<const asio::use_awaitable_t<>, void(Result<void>)>(
        [impl = impl_](auto handler) {
            auto shared = std::make_shared<decltype(handler)>(std::move(handler));
            auto slot = asio::get_associated_cancellation_slot(*shared);
            if (slot.is_connected())
                slot.assign([weak = std::weak_ptr<Impl>(impl)](asio::cancellation_type) {
                    if (auto live = weak.lock())
                        asio::post(live->loop_, [live] { live->close(kClosed); });
                });
            impl->connect([impl, shared](Result<void> outcome) {
                // Resumed from the loop: the coroutine may destroy the channel.
                asio::post(impl->loop_, [shared, outcome = std::move(outcome)]() mutable {
                    asio::get_associated_cancellation_slot(*shared).clear();
                    std::move (*shared)(std::move(outcome));
                });
            });
        },
        asio::use_awaitable);
}

void Channel::on_closed(std::function<void(const Error&)> callback) {
    impl_->on_closed_ = std::move(callback);
}

ClientCallPtr Channel::call(std::string_view path, CallOptions options, CallEvents events) {
    return impl_->call(path, options, std::move(events));
}

asio::awaitable<UnaryResult> Channel::async_unary(std::string path, Frame request,
                                                  CallOptions options) {
    return asio::async_initiate<const asio::use_awaitable_t<>, void(UnaryResult)>(
        [impl = impl_, path = std::move(path), request = std::move(request),
         options = std::move(options)](auto handler) {
            auto shared = std::make_shared<decltype(handler)>(std::move(handler));
            auto slot = asio::get_associated_cancellation_slot(*shared);
            ClientCallPtr made;
            impl->unary(
                path, request, options,
                [impl, shared](UnaryResult result) {
                    asio::post(impl->loop_, [shared, result = std::move(result)]() mutable {
                        asio::get_associated_cancellation_slot(*shared).clear();
                        std::move (*shared)(std::move(result));
                    });
                },
                &made);
            if (slot.is_connected())
                slot.assign([weak = std::weak_ptr<ClientCall>(made)](asio::cancellation_type) {
                    if (auto live = weak.lock()) live->cancel();
                });
        },
        asio::use_awaitable);
}

void Channel::unary(std::string_view path, Frame request, CallOptions options,
                    std::function<void(UnaryResult)> done) {
    impl_->unary(path, std::move(request), options, std::move(done), nullptr);
}

void Channel::close(const Status& why) {
    impl_->close(why);
}
bool Channel::usable() const noexcept {
    return impl_->usable();
}
bool Channel::going_away() const noexcept {
    return impl_->going_away();
}
bool Channel::too_many_pings() const noexcept {
    return impl_->too_many_pings_;
}
TimePoint Channel::last_received() const noexcept {
    return impl_->last_received();
}
const Peer& Channel::peer() const noexcept {
    static const Peer kNobody;
    return impl_->connection_ ? impl_->connection_->peer() : kNobody;
}

}  // namespace mesh::rpc
