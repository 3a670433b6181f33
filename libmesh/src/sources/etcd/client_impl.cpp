#include "sources/etcd/client_impl.hpp"

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "sources/etcd/codec.hpp"
#include "sources/etcd/views.hpp"
#include "sources/etcd/watch_stream.hpp"

namespace mesh::etcd {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {
// A connection that lived this long starts again with the shortest backoff.
constexpr Duration kStableAfter = std::chrono::seconds(10);
// A read gives up a server that sends nothing for this part of its time, and tries another.
constexpr int kAttempts = 3;
// How long requests that were sent may go on when the server has said that it goes away.
constexpr Duration kDrain = std::chrono::seconds(1);

std::string hex(std::uint64_t id) {
    return fmt::format("{:x}", id);
}
}  // namespace

Client::Impl::Impl(asio::any_io_executor loop, ClientOptions options,
                   std::vector<Endpoint> endpoints, std::shared_ptr<rpc::TlsCredentials> tls,
                   const Clock& clock, Rng rng, Logger logger)
    : loop_(std::move(loop)),
      options_(std::move(options)),
      clock_(clock),
      rng_(rng),
      logger_(std::move(logger)),
      tasks_(loop_, [this](std::string_view what) { defect(what); }),
      watches_(std::make_unique<detail::WatchStream>(*this)),
      endpoints_(std::move(endpoints)),
      tls_(std::move(tls)),
      lost_signal_(loop_) {
    for (std::size_t i = endpoints_.size(); i > 1; --i)
        std::swap(endpoints_[i - 1], endpoints_[rng_.below(i)]);
}

Client::Impl::~Impl() {
    // Calls that end with the channel must find nobody at home.
    watches_->disconnected(Error(Errc::kCancelled, "the client is gone"));
    if (channel_) channel_->close();
}

void Client::Impl::start() {
    if (std::exchange(started_, true)) return;
    tasks_.spawn(run());
}

asio::awaitable<void> Client::Impl::stop(std::shared_ptr<Impl> self) {
    self->stopping_ = true;
    self->tasks_.cancel();
    self->wake_waiters();
    co_await self->tasks_.join();
    if (self->channel_) {
        self->watches_->disconnected(Error(Errc::kCancelled, "the client stops"));
        const auto channel = std::exchange(self->channel_, nullptr);
        channel->close();
    }
}

asio::awaitable<void> Client::Impl::run() {
    Backoff backoff(options_.backoff_first, options_.backoff_limit);
    std::size_t next = 0;
    std::size_t failures = 0;
    while (!stopping_) {
        const Endpoint endpoint = endpoints_[next++ % endpoints_.size()];
        auto outcome = co_await attempt(endpoint);
        if (stopping_) break;
        if (!outcome) {
            last_failure_ = outcome.error().detail();
            ConnectionEvent event;
            event.state = ConnectionEvent::State::kFailed;
            event.endpoint = endpoint.text;
            event.reason = outcome.error();
            report(std::move(event));
            // Each endpoint gets its try before anybody waits.
            if (++failures % endpoints_.size() == 0) co_await sleep(backoff.next(rng_));
            continue;
        }
        failures = 0;
        const TimePoint since = clock_.now();
        co_await wait_lost();
        const Error why(Errc::kUnavailable, lost_why_.empty() ? "the client stops" : lost_why_);
        const auto channel = std::exchange(channel_, nullptr);
        watches_->disconnected(why);
        // What was under way is not lost with the client: reads go on on the next connection.
        if (channel)
            channel->close({stopping_ ? rpc::StatusCode::kCancelled : rpc::StatusCode::kUnavailable,
                            why.detail()});
        if (stopping_) break;
        last_failure_ = why.detail();
        ConnectionEvent event;
        event.state = ConnectionEvent::State::kLost;
        event.endpoint = endpoint.text;
        event.header = newest_;
        event.reason = why;
        report(std::move(event));
        if (clock_.now() - since >= kStableAfter) backoff.reset();
        co_await sleep(backoff.next(rng_));
    }
}

asio::awaitable<Result<void>> Client::Impl::attempt(Endpoint endpoint) {
    rpc::ChannelOptions o;
    o.host = endpoint.host;
    o.port = endpoint.port;
    if (endpoint.tls) o.tls = tls_;
    o.server_name = options_.server_name;
    o.connect_timeout = options_.connect_timeout;
    o.keepalive_interval = keepalive_interval_;
    o.keepalive_timeout = options_.keepalive_timeout;
    o.max_message_bytes = options_.max_message_bytes;
    auto channel = std::make_shared<rpc::Channel>(loop_, std::move(o), clock_, logger_);
    lost_ = false;
    lost_why_.clear();
    pinned_cluster_ = 0;
    drain_until_ = TimePoint::max();
    const TimePoint began = clock_.now();
    channel->on_closed([this, weak = std::weak_ptr<rpc::Channel>(channel)](const Error& reason) {
        const auto lost = weak.lock();
        // @source gRFC A8: the client doubles it.
        if (lost && lost->too_many_pings()) keepalive_interval_ *= 2;
        if (lost == channel_ || !channel_) drop(reason.detail());
    });
    const Result<void> connected = co_await channel->async_connect();
    if (!connected) co_return connected.error();
    if (!options_.probe_key.empty()) {
        RangeRequest probe;
        probe.range.key = options_.probe_key;
        probe.keys_only = true;
        rpc::CallOptions call;
        // A server that connects and then hangs must not cost two timeouts.
        call.deadline = std::max(options_.connect_timeout - (clock_.now() - began),
                                 options_.connect_timeout / 4);
        rpc::Frame frame = rpc::encode_frame(detail::encode(probe));
        std::string path(etcdpb::kRange);
        const rpc::UnaryResult answer =
            co_await channel->async_unary(std::move(path), std::move(frame), std::move(call));
        const std::string where = endpoint.text + ": the first read";
        if (!answer.status.ok()) co_return detail::error_of(answer.status).with_prefix(where);
        detail::RangeView view;
        MESH_CO_CHECK(detail::parse_range(answer.message, view));
        if (!view.has_header || view.header.cluster_id == 0)
            co_return Error(Errc::kCorrupt, where + ": the answer has no header");
        pinned_cluster_ = view.header.cluster_id;
        newest_ = view.header;
        last_heard_ = clock_.now();
    }
    if (lost_) co_return unavailable(lost_why_);
    channel_ = std::move(channel);
    ConnectionEvent event;
    event.state = ConnectionEvent::State::kConnected;
    event.endpoint = endpoint.text;
    if (pinned_cluster_ != 0) event.header = newest_;
    event.cluster_changed =
        last_cluster_ != 0 && pinned_cluster_ != 0 && last_cluster_ != pinned_cluster_;
    if (pinned_cluster_ != 0) last_cluster_ = pinned_cluster_;
    watches_->connected();
    report(std::move(event));
    wake_waiters();
    co_return Result<void>();
}

asio::awaitable<void> Client::Impl::wait_lost() {
    while (!lost_ && !stopping_) {
        lost_signal_.expires_at(asio::steady_timer::time_point::max());
        error_code ignored;
        co_await lost_signal_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
}

asio::awaitable<bool> Client::Impl::wait_connected(TimePoint deadline) {
    while (!usable()) {
        if (stopping_ || clock_.now() >= deadline) co_return false;
        // Told to go away: watches would keep the connection, requests need another.
        const bool drains = channel_ && draining();
        if (channel_ && !drains) drop("the server is going away");
        asio::steady_timer timer(loop_);
        const TimePoint until = drains ? std::min(deadline, drain_until_) : deadline;
        timer.expires_after(std::chrono::ceil<std::chrono::microseconds>(until - clock_.now()));
        waiters_.insert(&timer);
        error_code ignored;
        co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        waiters_.erase(&timer);
        const auto cancelled = (co_await asio::this_coro::cancellation_state).cancelled();
        if (cancelled != asio::cancellation_type::none) co_return false;
    }
    co_return true;
}

void Client::Impl::set_paused(bool paused) {
    if (std::exchange(paused_, paused) == paused) return;
    watches_->set_paused(paused);
    if (!paused) wake_waiters();
}

asio::awaitable<void> Client::Impl::wait_resumed() {
    while (paused_ && !stopping_) {
        asio::steady_timer timer(loop_);
        timer.expires_at(asio::steady_timer::time_point::max());
        waiters_.insert(&timer);
        error_code ignored;
        co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        waiters_.erase(&timer);
        const auto cancelled = (co_await asio::this_coro::cancellation_state).cancelled();
        if (cancelled != asio::cancellation_type::none) co_return;
    }
}

bool Client::Impl::draining() {
    if (!channel_->going_away() || in_flight_ == 0) return false;
    const TimePoint now = clock_.now();
    if (drain_until_ == TimePoint::max()) drain_until_ = now + kDrain;
    return now < drain_until_;
}

asio::awaitable<void> Client::Impl::sleep(Duration duration) {
    asio::steady_timer timer(loop_);
    timer.expires_after(std::chrono::ceil<std::chrono::microseconds>(duration));
    error_code ignored;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

void Client::Impl::report(ConnectionEvent event) {
    switch (event.state) {
        case ConnectionEvent::State::kConnected:
            logger_.info("{}: connected (cluster {}, member {}, revision {})", event.endpoint,
                         hex(event.header.cluster_id), hex(event.header.member_id),
                         event.header.revision);
            break;
        case ConnectionEvent::State::kLost:
            logger_.warn("{}: connection lost: {}", event.endpoint, event.reason.detail());
            break;
        case ConnectionEvent::State::kFailed:
            logger_.debug("{}: no connection: {}", event.endpoint, event.reason.detail());
            break;
    }
    if (on_connection_) {
        const auto callback = on_connection_;
        callback(event);
    }
}

void Client::Impl::wake_waiters() {
    for (asio::steady_timer* timer : waiters_) timer->cancel();
}

void Client::Impl::defect(std::string_view what) {
    if (!on_defect_) {
        std::fprintf(stderr, "etcd client failed: %.*s\n", static_cast<int>(what.size()),
                     what.data());
        std::abort();
    }
    const auto callback = on_defect_;
    callback(what);
}

void Client::Impl::drop(std::string why) {
    if (lost_) return;
    lost_ = true;
    lost_why_ = std::move(why);
    lost_signal_.cancel();
}

Result<void> Client::Impl::note(bool has_header, const Header& header) {
    if (!has_header || header.cluster_id == 0) {
        drop("an answer without a header");
        return Error(Errc::kCorrupt, "the answer of etcd has no header");
    }
    if (pinned_cluster_ == 0) {
        pinned_cluster_ = header.cluster_id;
        last_cluster_ = header.cluster_id;
    }
    if (header.cluster_id != pinned_cluster_) {
        const std::string why =
            fmt::format("an answer of etcd cluster {:x} on a connection to cluster {:x}",
                        header.cluster_id, pinned_cluster_);
        drop(why);
        return Error(Errc::kConflict, why);
    }
    // Answers overtake each other: an event may be older than a read before it.
    const bool same =
        newest_.cluster_id == header.cluster_id && newest_.member_id == header.member_id;
    if (!same || header.revision >= newest_.revision) newest_ = header;
    last_heard_ = clock_.now();
    return {};
}

rpc::CallOptions Client::Impl::stream_options() const {
    rpc::CallOptions options;
    if (options_.require_leader) options.metadata.emplace_back("hasleader", "true");
    return options;
}

asio::awaitable<rpc::UnaryResult> Client::Impl::request(std::shared_ptr<Impl> self,
                                                        std::string path, rpc::Frame frame,
                                                        bool retry) {
    /// Counts a request as sent, however the coroutine ends.
    struct Sent {
        explicit Sent(Impl& in) : impl(in) { ++impl.in_flight_; }
        ~Sent() {
            if (--impl.in_flight_ == 0 && impl.drain_until_ != TimePoint::max())
                impl.wake_waiters();
        }
        Sent(const Sent&) = delete;
        Sent& operator=(const Sent&) = delete;
        Impl& impl;
    };
    const TimePoint deadline = self->clock_.now() + self->options_.request_timeout;
    const bool others = self->endpoints_.size() > 1;
    rpc::UnaryResult result;
    for (;;) {
        const bool connected = co_await self->wait_connected(deadline);
        if (!connected) {
            if (result.status.ok()) {
                result.status = self->stopping_
                                    ? rpc::Status{rpc::StatusCode::kCancelled, "the client stops"}
                                    : rpc::Status{rpc::StatusCode::kUnavailable,
                                                  "no connection to etcd: " + self->last_failure_};
            }
            co_return result;
        }
        rpc::CallOptions options = self->stream_options();
        const TimePoint sent = self->clock_.now();
        options.deadline = std::max(deadline - sent, Duration(1));
        if (retry && others) options.silence = self->options_.request_timeout / kAttempts;
        const auto channel = self->channel_;
        std::string where = path;
        rpc::Frame copy = frame;
        {
            const Sent counted(*self);
            result = co_await channel->async_unary(std::move(where), std::move(copy),
                                                   std::move(options));
        }
        if (result.status.ok()) co_return result;
        // A write is not sent again; what follows it need not meet the same silence.
        if (others && result.status.code == rpc::StatusCode::kDeadlineExceeded &&
            self->channel_ == channel && channel->last_received() < sent)
            self->drop("etcd did not answer at all");
        // etcd says UNAVAILABLE also for "no leader" and "timed out" of its own.
        const bool again = retry && result.status.code == rpc::StatusCode::kUnavailable &&
                           self->clock_.now() < deadline && !self->stopping_;
        if (!again) co_return result;
        if (self->channel_ == channel && channel->usable())
            self->drop("etcd answered " + rpc::to_error(result.status).detail());
        co_await self->sleep(self->options_.backoff_first);
        const auto cancelled = (co_await asio::this_coro::cancellation_state).cancelled();
        if (cancelled != asio::cancellation_type::none) co_return result;
    }
}

}  // namespace mesh::etcd
