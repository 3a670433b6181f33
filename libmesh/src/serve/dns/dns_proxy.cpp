#include "serve/dns/dns_proxy.hpp"

#include <fmt/format.h>

#include <utility>

#include "serve/dns/dns_socket.hpp"
#include "serve/dns/query_gate.hpp"
#include "serve/dns/tcp_front.hpp"
#include "serve/dns/udp_front.hpp"

namespace mesh::serve::dns {

namespace asio = boost::asio;

namespace {

/// For a port that is free for UDP and TCP and both families; each try is another port.
constexpr int kPortTries = 32;

Result<void> check(const DnsProxyOptions& options) {
    if (options.listen.empty()) return invalid_argument("DNS proxy: no address to listen on");
    for (const PeerAddress& at : options.listen) {
        if (at.port == options.listen.front().port) continue;
        return invalid_argument("DNS proxy: expected one port for all listening addresses");
    }
    if (!options.transparent && !options.fixed_server) {
        return invalid_argument("DNS proxy: a server is needed if it is not transparent");
    }
    if (options.reject_code != ResponseCode::kRefused &&
        options.reject_code != ResponseCode::kNameError) {
        return invalid_argument(
            fmt::format("DNS proxy: reject code {}: expected REFUSED or "
                        "NXDOMAIN",
                        to_string(options.reject_code)));
    }
    if (options.max_query_bytes < 512 || options.max_query_bytes > 65535) {
        return invalid_argument("DNS proxy: max_query_bytes: expected 512 to 65535");
    }
    return {};
}

struct Listeners {
    std::vector<Socket> udp, tcp;
    std::uint16_t port = 0;
};

}  // namespace

class DnsProxy::Impl {
  public:
    Impl(asio::any_io_executor executor, const Clock& clock, Logger log, DnsProxyOptions options,
         DnsProxyCallbacks callbacks)
        : log_(std::move(log)),
          options_(std::move(options)),
          gate_(std::make_shared<QueryGate>(std::move(executor), clock, options_,
                                            std::move(callbacks))) {}

    Result<void> start() {
        MESH_CHECK(check(options_));
        MESH_TRY(Listeners listeners, open());
        udp_ = std::make_shared<UdpFront>(gate_, log_);
        tcp_ = std::make_shared<TcpFront>(gate_, log_);
        for (Socket& socket : listeners.udp) {
            if (auto added = udp_->add_listener(std::move(socket), listeners.port); !added) {
                udp_->stop();
                udp_.reset();
                return added;
            }
        }
        for (Socket& socket : listeners.tcp) {
            tcp_->add_listener(std::move(socket), listeners.port);
        }
        port_ = listeners.port;
        udp_->start();
        tcp_->start();
        return {};
    }

    asio::awaitable<void> async_stop() {
        gate_->close();
        if (udp_) udp_->stop();
        if (tcp_) co_await tcp_->async_stop();
    }

    [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
    [[nodiscard]] const DnsProxyCounters& counters() const noexcept { return gate_->counters; }

  private:
    Result<Listeners> open() const {
        for (int left = kPortTries;; --left) {
            auto listeners = open_once();
            const bool again = !listeners && listeners.error().code() == Errc::kConflict &&
                               options_.listen.front().port == 0 && left > 1;
            if (!again) return listeners;
        }
    }

    Result<Listeners> open_once() const {
        Listeners out;
        out.port = options_.listen.front().port;
        std::optional<Error> missing;
        for (PeerAddress at : options_.listen) {
            at.port = out.port;
            auto udp =
                open_listener({at, Transport::kUdp, options_.transparent, options_.listener_mark});
            if (!udp && udp.error().code() == Errc::kUnavailable) {
                missing = std::move(udp).error();
                log_.warn("DNS proxy: not listening: {}", missing->detail());
                continue;
            }
            if (!udp) return std::move(udp).error();
            at.port = out.port = local_address(udp->fd()).port;
            MESH_TRY(Socket tcp, open_listener({at, Transport::kTcp, options_.transparent,
                                                options_.listener_mark}));
            out.udp.push_back(*std::move(udp));
            out.tcp.push_back(std::move(tcp));
        }
        if (out.udp.empty()) return *std::move(missing);
        return out;
    }

    Logger log_;
    DnsProxyOptions options_;
    std::shared_ptr<QueryGate> gate_;
    std::shared_ptr<UdpFront> udp_;
    std::shared_ptr<TcpFront> tcp_;
    std::uint16_t port_ = 0;
};

DnsProxy::DnsProxy(asio::any_io_executor executor, const Clock& clock, Logger log,
                   DnsProxyOptions options, DnsProxyCallbacks callbacks)
    : impl_(std::make_shared<Impl>(std::move(executor), clock, std::move(log), std::move(options),
                                   std::move(callbacks))) {}
DnsProxy::~DnsProxy() = default;
Result<void> DnsProxy::start() {
    return impl_->start();
}
asio::awaitable<void> DnsProxy::async_stop() {
    return impl_->async_stop();
}
std::uint16_t DnsProxy::port() const noexcept {
    return impl_->port();
}
DnsProxyCounters DnsProxy::counters() const noexcept {
    return impl_->counters();
}

}  // namespace mesh::serve::dns
