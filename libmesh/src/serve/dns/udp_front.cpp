#include "serve/dns/udp_front.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace mesh::serve::dns {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

/// Of one read of a listener, before others get their turn.
constexpr int kBatchesAtOnce = 4;
/// A server, or somebody who guesses, that sends more wrong answers than that is not waited for.
constexpr unsigned kMaxWrongAnswers = 64;
constexpr std::size_t kMaxAnswer = 65535;
constexpr auto kWait = asio::posix::stream_descriptor::wait_read;

}  // namespace

struct UdpFront::Outstanding {
    Outstanding(const asio::any_io_executor& executor, ExchangePtr its_exchange, Listener& from,
                Socket its_socket)
        : exchange(std::move(its_exchange)),
          listener(from),
          socket(executor, its_socket.release()) {}
    ExchangePtr exchange;
    Listener& listener;
    asio::posix::stream_descriptor socket;
    std::list<OutstandingPtr>::iterator place;
    bool ended = false;
};

UdpFront::UdpFront(std::shared_ptr<QueryGate> gate, Logger log)
    : gate_(std::move(gate)),
      log_(std::move(log)),
      reader_(gate_->options().max_query_bytes),
      answer_buffer_(kMaxAnswer),
      timer_(gate_->executor()) {}

Result<void> UdpFront::add_listener(Socket socket, std::uint16_t port) {
    port_ = port;
    const bool ipv6 = !local_address(socket.fd()).address.is_v4();
    auto listener = std::make_unique<Listener>(gate_->executor(), std::move(socket), ipv6);
    if (gate_->options().transparent) {
        MESH_TRY(auto sender, SpoofingSender::open(ipv6, gate_->options().listener_mark));
        listener->sender.emplace(std::move(sender));
    }
    listeners_.push_back(std::move(listener));
    return {};
}

void UdpFront::start() {
    for (auto& listener : listeners_) wait_for_queries(*listener);
}

void UdpFront::stop() {
    stopped_ = true;
    timer_.cancel();
    error_code ignored;
    for (auto& listener : listeners_) listener->descriptor.close(ignored);
    for (auto& one : outstanding_) {
        one->ended = true;
        one->socket.close(ignored);
    }
    outstanding_.clear();
}

void UdpFront::wait_for_queries(Listener& listener) {
    listener.descriptor.async_wait(kWait, [self = shared_from_this(), &listener](error_code ec) {
        if (ec || self->stopped_) return;
        self->read_queries(listener);
        self->wait_for_queries(listener);
    });
}

void UdpFront::read_queries(Listener& listener) {
    for (int i = 0; i < kBatchesAtOnce; ++i) {
        const auto datagrams = reader_.read(listener.descriptor.native_handle());
        for (const auto& datagram : datagrams) take_query(listener, datagram);
        if (datagrams.size() < DatagramReader::kBatch) return;
    }
}

void UdpFront::take_query(Listener& listener, const DatagramReader::Datagram& datagram) {
    const auto server =
        gate_->options().transparent ? datagram.server : gate_->options().fixed_server;
    // To the proxy itself, not to a server: to send it on would make a circle.
    if (!server || (gate_->options().transparent && server->port == port_)) return;
    auto admission =
        gate_->admit(datagram.bytes, datagram.cut, Transport::kUdp, datagram.client, *server);
    if (admission.exchange) return forward(listener, std::move(admission.exchange));
    if (admission.reply.empty()) return;
    reply(listener, {Transport::kUdp, datagram.client, *server, {}, {}}, admission.reply);
}

void UdpFront::forward(Listener& listener, ExchangePtr exchange) {
    const DnsProxyOptions& options = gate_->options();
    UpstreamSpec spec{Transport::kUdp, exchange->question.server, std::nullopt,
                      options.upstream_mark};
    if (options.from_client_address) spec.source = exchange->question.client.address;
    auto socket = open_upstream(spec);
    std::string error;
    if (!socket) {
        error = socket.error().detail();
    } else if (::send(socket->fd(), exchange->wire.data(), exchange->wire.size(), MSG_NOSIGNAL) <
               0) {
        error = std::string("send: ") + std::strerror(errno);
    }
    if (!error.empty()) {
        const Bytes failure = gate_->fail(*exchange, DnsVerdict::kFailed, std::move(error));
        return reply(listener, exchange->question, failure);
    }
    const auto one = std::make_shared<Outstanding>(gate_->executor(), std::move(exchange), listener,
                                                   *std::move(socket));
    one->place = outstanding_.insert(outstanding_.end(), one);
    wait_for_answer(one);
    watch_deadlines();
}

void UdpFront::wait_for_answer(const OutstandingPtr& one) {
    one->socket.async_wait(kWait, [self = shared_from_this(), one](error_code ec) {
        if (ec || one->ended) return;
        self->read_answers(one);
    });
}

void UdpFront::read_answers(const OutstandingPtr& one) {
    for (;;) {
        const auto got = ::recv(one->socket.native_handle(), answer_buffer_.data(),
                                answer_buffer_.size(), MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return wait_for_answer(one);
        // The kernel tells of an ICMP error: nobody listens there.
        if (got < 0) return give_up(one, DnsVerdict::kFailed, std::strerror(errno));
        Bytes answer(answer_buffer_.begin(), answer_buffer_.begin() + got);
        const auto deliver = [self = shared_from_this(), one](const Bytes& bytes) {
            if (!self->stopped_) self->reply(one->listener, one->exchange->question, bytes);
        };
        if (gate_->take_answer(one->exchange, std::move(answer), deliver)) return end(*one);
        if (one->exchange->wrong_answers > kMaxWrongAnswers) {
            return give_up(one, DnsVerdict::kFailed, "too many wrong answers");
        }
    }
}

void UdpFront::give_up(const OutstandingPtr& one, DnsVerdict verdict, std::string reason) {
    const Bytes failure = gate_->fail(*one->exchange, verdict, std::move(reason));
    reply(one->listener, one->exchange->question, failure);
    end(*one);
}

void UdpFront::end(Outstanding& one) {
    if (one.ended) return;
    one.ended = true;
    error_code ignored;
    one.socket.close(ignored);
    outstanding_.erase(one.place);
}

void UdpFront::watch_deadlines() {
    if (timing_ || outstanding_.empty() || stopped_) return;
    const TimePoint deadline =
        outstanding_.front()->exchange->started + gate_->options().upstream_timeout;
    timing_ = true;
    timer_.expires_after(std::max(deadline - gate_->now(), Duration::zero()));
    timer_.async_wait([self = shared_from_this()](error_code ec) {
        self->timing_ = false;
        if (ec || self->stopped_) return;
        const TimePoint late = self->gate_->now() - self->gate_->options().upstream_timeout;
        while (!self->outstanding_.empty()) {
            const OutstandingPtr one = self->outstanding_.front();
            if (one->exchange->started > late) break;
            self->give_up(one, DnsVerdict::kTimeout, "no answer in time");
        }
        self->watch_deadlines();
    });
}

void UdpFront::reply(Listener& listener, const DnsQuestion& question, BytesView bytes) {
    bool sent = false;
    if (listener.sender) {
        sent = listener.sender->send(question.server, question.client, bytes);
    } else {
        const RawAddress client(question.client);
        sent = ::sendto(listener.descriptor.native_handle(), bytes.data(), bytes.size(),
                        MSG_NOSIGNAL | MSG_DONTWAIT, client.get(), client.size()) >= 0;
    }
    if (!sent) ++gate_->counters.unsent;
}

}  // namespace mesh::serve::dns
