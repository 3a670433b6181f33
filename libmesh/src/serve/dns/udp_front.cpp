#include "serve/dns/udp_front.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace mesh::serve::dns {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

/// Of one read of a listener, before others get their turn.
constexpr int kBatchesAtOnce = 4;
constexpr int kEventsAtOnce = 128;
/// A server, or somebody who guesses, that sends more wrong answers than that is not waited for.
constexpr unsigned kMaxWrongAnswers = 64;
constexpr std::size_t kMaxAnswer = 65535;
constexpr auto kWait = asio::posix::stream_descriptor::wait_read;

}  // namespace

struct UdpFront::Outstanding {
    Outstanding(ExchangePtr its_exchange, Listener& from, Socket its_socket)
        : exchange(std::move(its_exchange)), listener(from), socket(std::move(its_socket)) {}
    ExchangePtr exchange;
    Listener& listener;
    Socket socket;
    std::uint64_t number = 0;
    std::list<OutstandingPtr>::iterator place;
};

UdpFront::UdpFront(std::shared_ptr<QueryGate> gate, Logger log)
    : gate_(std::move(gate)),
      log_(std::move(log)),
      reader_(gate_->options().max_query_bytes),
      answer_buffer_(kMaxAnswer),
      answers_(gate_->executor()),
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

Result<void> UdpFront::start() {
    const int poll = ::epoll_create1(EPOLL_CLOEXEC);
    if (poll < 0) {
        return Error(Errc::kCapacity, std::string("DNS proxy: epoll: ") + std::strerror(errno));
    }
    answers_.assign(poll);
    wait_for_answers();
    for (auto& listener : listeners_) wait_for_queries(*listener);
    return {};
}

void UdpFront::stop() {
    stopped_ = true;
    timer_.cancel();
    error_code ignored;
    for (auto& listener : listeners_) listener->descriptor.close(ignored);
    answers_.close(ignored);
    by_number_.clear();
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
    const auto one =
        std::make_shared<Outstanding>(std::move(exchange), listener, *std::move(socket));
    if (error = watch(one); !error.empty()) {
        const Bytes failure = gate_->fail(*one->exchange, DnsVerdict::kFailed, std::move(error));
        return reply(listener, one->exchange->question, failure);
    }
    one->place = outstanding_.insert(outstanding_.end(), one);
    by_number_.emplace(one->number, one);
    watch_deadlines();
}

std::string UdpFront::watch(const OutstandingPtr& one) {
    one->number = ++last_number_;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = one->number;
    if (::epoll_ctl(answers_.native_handle(), EPOLL_CTL_ADD, one->socket.fd(), &event) == 0) {
        return {};
    }
    return std::string("epoll: ") + std::strerror(errno);
}

void UdpFront::wait_for_answers() {
    answers_.async_wait(kWait, [self = shared_from_this()](error_code ec) {
        if (ec || self->stopped_) return;
        self->read_answers();
        self->wait_for_answers();
    });
}

void UdpFront::read_answers() {
    std::array<epoll_event, kEventsAtOnce> events{};
    const int got = ::epoll_wait(answers_.native_handle(), events.data(), kEventsAtOnce, 0);
    for (std::size_t i = 0; got > 0 && i < static_cast<std::size_t>(got); ++i) {
        const auto at = by_number_.find(events[i].data.u64);
        if (at != by_number_.end()) read_answer(OutstandingPtr(at->second));
    }
}

void UdpFront::read_answer(const OutstandingPtr& one) {
    const auto got =
        ::recv(one->socket.fd(), answer_buffer_.data(), answer_buffer_.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) return;
    // The kernel tells of an ICMP error: nobody listens there.
    if (got < 0) return give_up(one, DnsVerdict::kFailed, std::strerror(errno));
    Bytes answer(answer_buffer_.begin(), answer_buffer_.begin() + got);
    const auto deliver = [self = shared_from_this(), one](const Bytes& bytes) {
        if (!self->stopped_) self->reply(one->listener, one->exchange->question, bytes);
    };
    if (gate_->take_answer(one->exchange, std::move(answer), deliver)) return end(*one);
    if (one->exchange->wrong_answers > kMaxWrongAnswers) {
        give_up(one, DnsVerdict::kFailed, "too many wrong answers");
    }
}

void UdpFront::give_up(const OutstandingPtr& one, DnsVerdict verdict, std::string reason) {
    const Bytes failure = gate_->fail(*one->exchange, verdict, std::move(reason));
    reply(one->listener, one->exchange->question, failure);
    end(*one);
}

void UdpFront::end(Outstanding& one) {
    // Already, if the answer that it was delivered stopped the proxy.
    const auto at = by_number_.find(one.number);
    if (at == by_number_.end()) return;
    // Closed now, not when the last one who knows of it is gone.
    one.socket = Socket();
    outstanding_.erase(one.place);
    by_number_.erase(at);
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
