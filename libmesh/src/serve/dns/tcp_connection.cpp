#include "serve/dns/tcp_connection.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <utility>
#include <vector>

#include "serve/dns/dns_socket.hpp"

namespace mesh::serve::dns {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr unsigned kMaxWrongAnswers = 64;

Bytes framed(const Bytes& message) {
    Bytes out;
    out.reserve(message.size() + 2);
    out.push_back(static_cast<std::uint8_t>(message.size() >> 8));
    out.push_back(static_cast<std::uint8_t>(message.size()));
    out.insert(out.end(), message.begin(), message.end());
    return out;
}

}  // namespace

TcpConnection::TcpConnection(std::shared_ptr<QueryGate> gate, TaskGroup& tasks, Stream client,
                             PeerAddress client_address, PeerAddress server_address)
    : gate_(std::move(gate)),
      tasks_(tasks),
      client_(std::move(client)),
      client_address_(client_address),
      server_address_(server_address),
      idle_(gate_->executor()),
      deadline_(gate_->executor()),
      room_(gate_->executor()) {}

asio::awaitable<bool> TcpConnection::read_some(Stream& stream, FrameReader& frames) {
    error_code ec;
    const auto room = frames.room();
    const std::size_t got = co_await stream.async_read_some(
        asio::buffer(room.data(), room.size()), asio::redirect_error(asio::use_awaitable, ec));
    frames.commit(got);
    co_return !ec;
}

asio::awaitable<void> TcpConnection::run(std::shared_ptr<TcpConnection> self) {
    FrameReader frames;
    self->watch_idle();
    while (!self->closed_) {
        if (!self->take_queries(frames)) break;
        if (self->in_flight_ >= self->gate_->options().max_tcp_pipelined) {
            co_await self->wait_for_room();
            continue;
        }
        if (!co_await read_some(self->client_, frames)) break;
    }
    // It may have closed its half and wait for answers still.
    while (!self->closed_ && self->in_flight_ > 0) co_await self->wait_for_room();
    self->close();
}

asio::awaitable<void> TcpConnection::wait_for_room() {
    error_code ignored;
    room_.expires_at(asio::steady_timer::time_point::max());
    co_await room_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

bool TcpConnection::take_queries(FrameReader& frames) {
    const DnsProxyOptions& options = gate_->options();
    while (!closed_ && in_flight_ < options.max_tcp_pipelined) {
        if (frames.next_length() > options.max_query_bytes) return false;
        const auto message = frames.next();
        if (!message) return true;
        if (message->empty()) return false;
        watch_idle();
        take_query(*message);
    }
    return true;
}

void TcpConnection::take_query(BytesView message) {
    auto admission =
        gate_->admit(message, false, Transport::kTcp, client_address_, server_address_);
    if (!admission.exchange && admission.reply.empty()) return;
    ++in_flight_;
    if (admission.exchange) return forward(std::move(admission.exchange));
    reply(std::move(admission.reply));
}

void TcpConnection::forward(ExchangePtr exchange) {
    if (!upstream_) {
        if (std::string error = open_server(); !error.empty()) {
            return reply(gate_->fail(*exchange, DnsVerdict::kFailed, std::move(error)));
        }
    }
    while (pending_.contains(exchange->upstream_id)) gate_->renew_id(*exchange);
    to_server_.push_back(framed(exchange->wire));
    pending_.emplace(exchange->upstream_id, std::move(exchange));
    write_to_server();
    watch_deadlines();
}

std::string TcpConnection::open_server() {
    const DnsProxyOptions& options = gate_->options();
    UpstreamSpec spec{Transport::kTcp, server_address_, std::nullopt, options.upstream_mark};
    if (options.from_client_address) spec.source = client_address_.address;
    auto socket = open_upstream(spec);
    if (!socket) return socket.error().detail();
    const bool v4 = server_address_.address.is_v4();
    upstream_ =
        std::make_shared<Stream>(gate_->executor(), v4 ? tcp::v4() : tcp::v6(), socket->release());
    upstream_connected_ = false;
    wrong_answers_ = 0;
    tasks_.spawn(run_upstream(shared_from_this(), upstream_));
    return {};
}

asio::awaitable<void> TcpConnection::run_upstream(std::shared_ptr<TcpConnection> self,
                                                  std::shared_ptr<Stream> upstream) {
    error_code ec;
    co_await upstream->async_wait(Stream::wait_write,
                                  asio::redirect_error(asio::use_awaitable, ec));
    if (!ec) static_cast<void>(upstream->remote_endpoint(ec));
    if (ec) {
        self->server_gone(upstream, "no connection to the server");
        co_return;
    }
    self->upstream_connected_ = true;
    self->write_to_server();
    FrameReader frames;
    while (self->upstream_ == upstream && co_await read_some(*upstream, frames)) {
        while (const auto message = frames.next()) {
            self->take_answer(*message);
            if (self->upstream_ != upstream) co_return;
        }
    }
    self->server_gone(upstream, "the server closed the connection");
}

void TcpConnection::take_answer(BytesView message) {
    const auto pending =
        message.size() < kHeaderBytes ? pending_.end() : pending_.find(id_of(message));
    const auto deliver = [self = shared_from_this()](Bytes bytes) {
        self->reply(std::move(bytes));
    };
    if (pending != pending_.end()) {
        const ExchangePtr exchange = pending->second;
        if (gate_->take_answer(exchange, Bytes(message.begin(), message.end()), deliver)) {
            pending_.erase(exchange->upstream_id);
            return;
        }
    } else {
        ++gate_->counters.wrong_answers;
    }
    if (++wrong_answers_ > kMaxWrongAnswers) server_gone(upstream_, "too many wrong answers");
}

void TcpConnection::server_gone(const std::shared_ptr<Stream>& upstream, std::string_view reason) {
    error_code ignored;
    upstream->close(ignored);
    if (upstream_ != upstream) return;
    upstream_.reset();
    to_server_.clear();
    for (const auto& [id, exchange] : std::exchange(pending_, {})) {
        reply(gate_->fail(*exchange, DnsVerdict::kFailed, std::string(reason)));
    }
}

void TcpConnection::reply(Bytes message) {
    if (closed_) return;
    to_client_.push_back(framed(message));
    write_to_client();
}

void TcpConnection::replied() {
    --in_flight_;
    room_.cancel();
}

void TcpConnection::write_to_client() {
    if (writing_to_client_ || to_client_.empty() || closed_) return;
    writing_to_client_ = true;
    write_began_ = gate_->now();
    asio::async_write(client_, asio::buffer(to_client_.front()),
                      [self = shared_from_this()](error_code ec, std::size_t) {
                          self->writing_to_client_ = false;
                          if (ec) return self->close();
                          self->to_client_.pop_front();
                          self->replied();
                          self->write_to_client();
                      });
}

void TcpConnection::write_to_server() {
    if (writing_to_server_ || to_server_.empty() || !upstream_connected_ || !upstream_) return;
    writing_to_server_ = true;
    const auto bytes = std::make_shared<const Bytes>(std::move(to_server_.front()));
    to_server_.pop_front();
    asio::async_write(
        *upstream_, asio::buffer(*bytes),
        [self = shared_from_this(), upstream = upstream_, bytes](error_code ec, std::size_t) {
            self->writing_to_server_ = false;
            if (ec) self->server_gone(upstream, "the server closed the connection");
            self->write_to_server();
        });
}

void TcpConnection::watch_idle() {
    const auto timeout = gate_->options().tcp_idle_timeout;
    idle_.expires_after(timeout);
    idle_.async_wait([self = shared_from_this(), timeout](error_code ec) {
        if (ec || self->closed_) return;
        const bool stuck =
            self->writing_to_client_ && self->gate_->now() - self->write_began_ >= timeout;
        if (self->in_flight_ == 0 || stuck) return self->close();
        self->watch_idle();
    });
}

void TcpConnection::watch_deadlines() {
    if (timing_ || pending_.empty() || closed_) return;
    const auto timeout = gate_->options().upstream_timeout;
    TimePoint first = TimePoint::max();
    for (const auto& [id, exchange] : pending_) first = std::min(first, exchange->started);
    timing_ = true;
    deadline_.expires_after(std::max(first + timeout - gate_->now(), Duration::zero()));
    deadline_.async_wait([self = shared_from_this(), timeout](error_code ec) {
        self->timing_ = false;
        if (ec || self->closed_) return;
        std::vector<ExchangePtr> late;
        for (const auto& [id, exchange] : self->pending_) {
            if (exchange->started + timeout <= self->gate_->now()) late.push_back(exchange);
        }
        for (const auto& exchange : late) {
            self->pending_.erase(exchange->upstream_id);
            self->reply(self->gate_->fail(*exchange, DnsVerdict::kTimeout, "no answer in time"));
        }
        self->watch_deadlines();
    });
}

void TcpConnection::close() {
    if (std::exchange(closed_, true)) return;
    error_code ignored;
    client_.close(ignored);
    for (auto* timer : {&idle_, &deadline_, &room_}) timer->cancel();
    if (upstream_) server_gone(std::shared_ptr(upstream_), "the client went away");
    pending_.clear();
}

}  // namespace mesh::serve::dns
