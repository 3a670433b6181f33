#include "serve/l7/proxy_connection.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "serve/l7/http1_filter.hpp"
#include "serve/l7/http2_filter.hpp"

namespace mesh::serve::l7 {

namespace {
constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
// A client that still sends when it is closed would get a reset, and lose the answer.
constexpr Duration kLinger = std::chrono::seconds(1);
constexpr std::size_t kLingerBytes = 1 << 20;

bool would_block() noexcept {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}
}  // namespace

void ProxyConnection::Side::on_ready(std::uint32_t ready) {
    if (owner.closed_) return;
    try {
        (owner.*on_event)(ready);
    } catch (...) {
        owner.reset();
        throw;  // for the loop, which logs it
    }
}

ProxyConnection::ProxyConnection(ProxyLoop& loop, Descriptor client, Flow flow)
    : loop_(loop),
      flow_(flow),
      client_(*this, &ProxyConnection::on_client),
      server_(*this, &ProxyConnection::on_server) {
    client_.socket = std::move(client);
    client_.moved = server_.moved = now();
}

ProxyConnection::~ProxyConnection() = default;

Result<void> ProxyConnection::start() {
    set_no_delay(client_.socket.get());
    client_.events = EPOLLIN;
    MESH_CHECK(loop_.poll->add(client_.socket.get(), EPOLLIN, client_));
    client_.polled = true;
    arm_timer();
    return Result<void>{};
}

void ProxyConnection::drain() {
    if (closed_) return;
    if (!filter_) return close(false);
    filter_->drain();
    progress();
}

void ProxyConnection::reset() {
    close(true);
}

const FlowPolicy& ProxyConnection::policy() {
    const std::uint64_t generation = loop_.shared.policy.generation();
    if (policy_known_ && generation == generation_) return flow_policy_;
    policy_known_ = false;
    flow_policy_.policy = nullptr;
    flow_policy_ = loop_.shared.policy.find(flow_);
    generation_ = generation;
    policy_known_ = true;
    return flow_policy_;
}

void ProxyConnection::log(AccessRecord& record) {
    record.time = loop_.poll->wall_now();
    record.flow = &flow_;
    record.source_identity = flow_policy_.source_identity;
    record.destination_identity = flow_policy_.destination_identity;
    append_json(record, loop_.lines);
    loop_.on_line();
}

void ProxyConnection::count(Verdict verdict) noexcept {
    loop_.shared.requests[static_cast<std::size_t>(verdict)].fetch_add(1,
                                                                       std::memory_order_relaxed);
}

// --- events -------------------------------------------------------------------------------------

void ProxyConnection::on_client(std::uint32_t events) {
    if ((events & EPOLLERR) != 0) return close(true);
    if ((events & EPOLLHUP) != 0 && !client_.shut) return close(!lingering_);
    if ((events & (EPOLLIN | EPOLLHUP)) != 0) read_client();
    if (!closed_) progress();
}

void ProxyConnection::on_server(std::uint32_t events) {
    if (!server_.socket) return;
    if (connecting_) {
        connected();
    } else if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
        if ((server_.events & EPOLLIN) != 0) {
            static_cast<void>(read_server());
        } else if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
            // Cannot be masked: until the client has room for what is left, it is not asked.
            loop_.poll->remove(server_.socket.get());
            server_.polled = false;
        }
    }
    if (!closed_) progress();
}

void ProxyConnection::read_client() {
    const ssize_t n = ::recv(client_.socket.get(), loop_.buffer.data(), loop_.buffer.size(), 0);
    if (n < 0) {
        if (!would_block()) close(true);
        return;
    }
    client_.moved = client_.received = now();
    if (lingering_) {
        lingered_ += static_cast<std::size_t>(n);
        if (n == 0 || lingered_ > kLingerBytes) close(false);
        return;
    }
    if (n == 0) {
        client_.ended = true;
        if (!filter_) return close(false);
        filter_->client_end();
        return;
    }
    const std::string_view bytes(loop_.buffer.data(), static_cast<std::size_t>(n));
    if (filter_) {
        filter_->from_client(bytes);
    } else {
        choose_filter(bytes);
    }
}

void ProxyConnection::choose_filter(std::string_view bytes) {
    std::string all;
    if (!first_.empty()) {
        all = std::move(first_);
        first_.clear();
        all.append(bytes);
        bytes = all;
    }
    const std::size_t common = std::min(bytes.size(), kPreface.size());
    const bool maybe = bytes.substr(0, common) == kPreface.substr(0, common);
    if (maybe && common < kPreface.size()) {
        first_.assign(bytes);
        return;
    }
    if (maybe && loop_.shared.options.http2) {
        filter_ = std::make_unique<Http2Filter>(host());
    } else {
        filter_ = std::make_unique<Http1Filter>(host(), loop_.http1);
    }
    filter_->from_client(bytes);
    if (!all.empty()) filter_->to_server.keep();
}

bool ProxyConnection::read_server() {
    const ssize_t n = ::recv(server_.socket.get(), loop_.buffer.data(), loop_.buffer.size(), 0);
    if (n < 0) {
        if (would_block()) return false;
        fail_server(ServerFailure::kReset);
        return true;
    }
    server_.moved = now();
    if (n == 0) {
        server_.ended = true;
        filter_->server_end();
        return true;
    }
    filter_->from_server({loop_.buffer.data(), static_cast<std::size_t>(n)});
    return true;
}

// --- the server ---------------------------------------------------------------------------------

void ProxyConnection::connect() {
    const HttpProxyOptions& options = loop_.shared.options;
    const Endpoint destination =
        options.resolve ? options.resolve(flow_.destination) : flow_.destination;
    std::optional<Endpoint> source;
    if (options.transparent) source = flow_.source;
    const std::uint32_t mark = flow_policy_.mark != 0 ? flow_policy_.mark : options.mark;
    auto socket = begin_connect(destination, source, mark);
    if (!socket) {
        loop_.shared.log.debug("{} to {}: {}", to_text(flow_.source), to_text(flow_.destination),
                               socket.error().message());
        return fail_server(ServerFailure::kUnreachable);
    }
    server_.socket = *std::move(socket);
    server_.events = EPOLLOUT;
    if (!loop_.poll->add(server_.socket.get(), EPOLLOUT, server_))
        return fail_server(ServerFailure::kUnreachable);
    server_.polled = true;
    connecting_ = true;
    since_ = now();
}

void ProxyConnection::connected() {
    connecting_ = false;
    if (const int error = connect_error(server_.socket.get()); error != 0)
        return fail_server(ServerFailure::kUnreachable);
    server_.moved = now();
}

void ProxyConnection::fail_server(ServerFailure failure) {
    drop_server();
    filter_->server_failed(failure);
}

void ProxyConnection::drop_server() {
    if (server_.socket && server_.polled) loop_.poll->remove(server_.socket.get());
    server_.polled = false;
    // What it has of a request may not look complete.
    server_.socket.reset_connection();
    server_gone_ = true;
    connecting_ = false;
    filter_->to_server.clear();
}

// --- both ---------------------------------------------------------------------------------------

void ProxyConnection::progress() {
    if (!filter_ || lingering_) {
        if (!lingering_) arm_timer();
        return;
    }
    while (flush_both() && !closed_) {
    }
    if (closed_) return;
    if (filter_->ending() == Ending::kReset) return close(true);
    if (filter_->server_done() && server_.socket) drop_server();
    if (filter_->ending() == Ending::kClose && filter_->to_client.empty()) return linger();
    half_close();
    update_interest();
    arm_timer();
}

Outbox::Flush ProxyConnection::flush(Side& side, Outbox& box) {
    const std::uint64_t before = box.sent();
    const Outbox::Flush flushed = box.flush(side.socket.get());
    if (box.sent() != before) side.moved = now();
    if (box.empty()) {
        side.stalled = TimePoint::max();
    } else if (box.sent() != before || side.stalled == TimePoint::max()) {
        side.stalled = now();
    }
    return flushed;
}

void ProxyConnection::flush_server() {
    Outbox& up = filter_->to_server;
    if (up.empty() || filter_->ending() != Ending::kNone) return;
    if (server_gone_) return up.clear();
    if (!server_.socket) connect();
    if (!server_.socket || connecting_) return;
    if (flush(server_, up) != Outbox::Flush::kBroken) return;
    // It may have answered before it closed.
    up.clear();
    while (server_.socket && !server_.ended && filter_->ending() == Ending::kNone) {
        filter_->to_client.keep();
        if (!read_server() && server_.socket) fail_server(ServerFailure::kReset);
    }
}

bool ProxyConnection::flush_both() {
    if (filter_->ending() == Ending::kReset) return false;
    Outbox& up = filter_->to_server;
    Outbox& down = filter_->to_client;
    flush_server();
    up.keep();
    if (!down.empty() && flush(client_, down) == Outbox::Flush::kBroken) {
        close(true);
        return false;
    }
    const std::size_t most = limits().max_buffered;
    if (!filter_->wants_advance() || up.size() >= most || down.size() >= most) return false;
    const std::uint64_t before = up.position() + down.position();
    filter_->advance();
    return up.position() + down.position() != before;
}

void ProxyConnection::half_close() {
    if (filter_->server_told_end() && server_.socket && !connecting_ && !server_.shut &&
        filter_->to_server.empty()) {
        ::shutdown(server_.socket.get(), SHUT_WR);
        server_.shut = true;
    }
    if (filter_->client_told_end() && !client_.shut && filter_->to_client.empty()) {
        ::shutdown(client_.socket.get(), SHUT_WR);
        client_.shut = true;
    }
}

void ProxyConnection::linger() {
    if (server_.socket) {
        if (server_.polled) loop_.poll->remove(server_.socket.get());
        server_.polled = false;
        server_.socket.close();
    }
    if (client_.ended) return close(false);
    ::shutdown(client_.socket.get(), SHUT_WR);
    lingering_ = true;
    since_ = now();
    set_interest(client_, EPOLLIN);
    loop_.poll->set_timer(*this, since_ + kLinger);
}

bool ProxyConnection::server_wanted() const noexcept {
    return filter_->reads_server() && filter_->to_client.size() < limits().max_buffered;
}

void ProxyConnection::update_interest() {
    std::uint32_t events = 0;
    if (!client_.ended && filter_->reads_client() &&
        filter_->to_server.size() < limits().max_buffered) {
        events |= EPOLLIN;
    }
    if (!filter_->to_client.empty()) events |= EPOLLOUT;
    set_interest(client_, events);
    if (!server_.socket || server_.ended) {
        if (server_.socket) set_interest(server_, filter_->to_server.empty() ? 0U : EPOLLOUT);
        return;
    }
    if (connecting_) return;
    events = 0;
    if (server_wanted()) events |= EPOLLIN;
    if (!filter_->to_server.empty()) events |= EPOLLOUT;
    set_interest(server_, events);
}

void ProxyConnection::set_interest(Side& side, std::uint32_t events) {
    if (!side.polled) {
        // See on_server: asked again when it may be read.
        if ((events & EPOLLIN) == 0) return;
        if (!loop_.poll->add(side.socket.get(), events, side)) return close(true);
        side.polled = true;
        side.events = events;
        return;
    }
    if (side.events == events) return;
    side.events = events;
    loop_.poll->modify(side.socket.get(), events, side);
}

// --- time ---------------------------------------------------------------------------------------

void ProxyConnection::arm_timer() {
    if (closed_ || lingering_) return;
    const HttpLimits& bounds = limits();
    TimePoint due = TimePoint::max();
    const auto until = [&](TimePoint since, Duration most) {
        if (most > Duration::zero() && since != TimePoint::max()) due = std::min(due, since + most);
    };
    until(std::max(client_.moved, server_.moved), bounds.idle_timeout);
    if (connecting_) until(since_, bounds.connect_timeout);
    if (filter_) {
        const Waiting waiting = filter_->waiting();
        until(waiting.head_since, bounds.header_timeout);
        if (waiting.body && filter_->reads_client() && filter_->to_server.empty())
            until(client_.received, bounds.body_timeout);
        until(client_.stalled, bounds.write_timeout);
        until(server_.stalled, bounds.write_timeout);
    } else if (!first_.empty()) {
        until(client_.received, bounds.header_timeout);
    }
    if (due == TimePoint::max()) {
        loop_.poll->cancel_timer(*this);
    } else {
        loop_.poll->set_timer(*this, due);
    }
}

void ProxyConnection::on_timer() {
    if (closed_) return;
    if (lingering_ || !filter_) return close(false);
    const HttpLimits& bounds = limits();
    const TimePoint at = now();
    const auto over = [&](TimePoint since, Duration most) {
        return most > Duration::zero() && since != TimePoint::max() && at >= since + most;
    };
    const Waiting waiting = filter_->waiting();
    if (connecting_ && over(since_, bounds.connect_timeout)) {
        fail_server(ServerFailure::kConnectTimeout);
    } else if (over(waiting.head_since, bounds.header_timeout) ||
               (waiting.body && filter_->reads_client() && filter_->to_server.empty() &&
                over(client_.received, bounds.body_timeout))) {
        filter_->request_timeout();
    } else if (over(client_.stalled, bounds.write_timeout) ||
               over(server_.stalled, bounds.write_timeout)) {
        return close(true);
    } else if (over(std::max(client_.moved, server_.moved), bounds.idle_timeout)) {
        return close(false);
    }
    progress();
}

void ProxyConnection::close(bool reset) {
    if (closed_) return;
    closed_ = true;
    loop_.poll->cancel_timer(*this);
    for (Side* side : {&client_, &server_}) {
        if (!side->socket) continue;
        if (side->polled) loop_.poll->remove(side->socket.get());
        if (reset) {
            side->socket.reset_connection();
        } else {
            side->socket.close();
        }
    }
    loop_.bury(*this);
}

}  // namespace mesh::serve::l7
