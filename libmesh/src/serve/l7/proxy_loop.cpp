#include "serve/l7/proxy_loop.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "serve/l7/proxy_connection.hpp"

namespace mesh::serve::l7 {

namespace {
constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kLinesBytes = 32 << 10;
constexpr int kAcceptsPerTurn = 32;
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);
}  // namespace

ProxyShared::ProxyShared(HttpProxyOptions the_options, const PolicySource& source, Logger logger,
                         std::function<void(std::string_view)> on_line)
    : options(std::move(the_options)),
      policy(source),
      log(std::move(logger)),
      access_log(options.access_log, std::move(on_line), log) {}

bool ProxyShared::enter(const model::IpAddress& client) {
    const std::lock_guard lock(mutex_);
    if (connections_ >= options.max_connections) return false;
    std::size_t& of_client = by_client_[client];
    if (of_client >= options.max_connections_per_client) {
        if (of_client == 0) by_client_.erase(client);
        return false;
    }
    ++of_client;
    ++connections_;
    return true;
}

void ProxyShared::leave(const model::IpAddress& client) {
    const std::lock_guard lock(mutex_);
    const auto found = by_client_.find(client);
    if (found != by_client_.end() && --found->second == 0) by_client_.erase(found);
    if (--connections_ == 0) empty_.notify_all();
}

std::size_t ProxyShared::connections() const {
    const std::lock_guard lock(mutex_);
    return connections_;
}

bool ProxyShared::wait_empty(Duration most) {
    std::unique_lock lock(mutex_);
    return empty_.wait_for(lock, most, [this] { return connections_ == 0; });
}

/// Takes connections from a listener that other loops watch as well.
class ProxyLoop::Acceptor final : public PollLoop::Handler, private PollLoop::Timer {
  public:
    Acceptor(ProxyLoop& loop, int listener, model::policy::Direction direction)
        : loop_(loop), listener_(listener), direction_(direction) {}

    [[nodiscard]] Result<void> start() {
        return loop_.poll->add(listener_, EPOLLIN | EPOLLEXCLUSIVE, *this);
    }

    void stop() {
        loop_.poll->cancel_timer(*this);
        loop_.poll->remove(listener_);
        listener_ = -1;
    }

    void on_ready(std::uint32_t) override {
        for (int i = 0; i < kAcceptsPerTurn && listener_ >= 0; ++i) {
            sockaddr_storage address{};
            socklen_t size = sizeof(address);
            Descriptor socket(::accept4(listener_, reinterpret_cast<sockaddr*>(&address), &size,
                                        SOCK_NONBLOCK | SOCK_CLOEXEC));
            if (socket) {
                loop_.accept_one(std::move(socket), to_endpoint(address), direction_);
                continue;
            }
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                loop_.shared.log.warn("HTTP proxy: accept: {}", std::strerror(errno));
                loop_.poll->remove(listener_);
                loop_.poll->set_timer(*this, loop_.poll->now() + kAcceptPause);
                return;
            }
            if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        }
    }

  private:
    void on_timer() override {
        if (!start()) loop_.poll->set_timer(*this, loop_.poll->now() + kAcceptPause);
    }

    ProxyLoop& loop_;
    int listener_;
    const model::policy::Direction direction_;
};

ProxyLoop::ProxyLoop(ProxyShared& the_shared, std::unique_ptr<PollLoop> the_poll)
    : shared(the_shared), poll(std::move(the_poll)), buffer(kReadBytes, '\0') {}

ProxyLoop::~ProxyLoop() {
    poll->run([this] {
        stop_accepting();
        reset_all();
        flush_lines();
        poll->cancel_timer(*this);
    });
    // Once more, for what the turn has deferred.
    poll->run([this] { buried_.clear(); });
}

Result<void> ProxyLoop::add_listener(int listener, model::policy::Direction direction) {
    auto acceptor = std::make_unique<Acceptor>(*this, listener, direction);
    MESH_CHECK(acceptor->start());
    acceptors_.push_back(std::move(acceptor));
    return Result<void>{};
}

void ProxyLoop::stop_accepting() {
    for (auto& acceptor : acceptors_) acceptor->stop();
}

void ProxyLoop::accept_one(Descriptor socket, const Endpoint& client,
                           model::policy::Direction direction) {
    auto destination = local_endpoint(socket.get());
    if (!destination || !shared.enter(client.address)) {
        shared.refused_limit.fetch_add(1, std::memory_order_relaxed);
        return socket.reset_connection();
    }
    shared.accepted.fetch_add(1, std::memory_order_relaxed);
    auto made = std::make_unique<ProxyConnection>(*this, std::move(socket),
                                                  Flow{direction, client, *destination});
    ProxyConnection& connection = *made;
    connection.index = connections_.size();
    connections_.push_back(std::move(made));
    if (auto started = connection.start(); !started) {
        shared.log.warn("HTTP proxy: {}", started.error().message());
        connection.reset();
    }
}

void ProxyLoop::bury(ProxyConnection& connection) {
    shared.leave(connection.flow().source.address);
    if (buried_.empty()) poll->defer([this] { buried_.clear(); });
    const std::size_t index = connection.index;
    buried_.push_back(std::move(connections_[index]));
    if (index + 1 != connections_.size()) {
        connections_[index] = std::move(connections_.back());
        connections_[index]->index = index;
    }
    connections_.pop_back();
}

void ProxyLoop::drain() {
    // From the end: one that ends now gives its place to one that was seen.
    for (std::size_t i = connections_.size(); i-- > 0;) connections_[i]->drain();
}

void ProxyLoop::reset_all() {
    while (!connections_.empty()) connections_.back()->reset();
}

void ProxyLoop::on_line() {
    if (lines.size() >= kLinesBytes) return flush_lines();
    if (lines_due_) return;
    lines_due_ = true;
    poll->set_timer(*this, poll->now() + shared.access_log.options().flush_interval);
}

void ProxyLoop::on_timer() {
    flush_lines();
}

void ProxyLoop::flush_lines() {
    lines_due_ = false;
    if (!lines.empty()) shared.access_log.write(lines);
    lines.clear();
}

}  // namespace mesh::serve::l7
