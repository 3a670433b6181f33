#include "serve/status/status_server.hpp"

#include <fmt/format.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <cerrno>
#include <cstring>
#include <exception>
#include <map>
#include <utility>
#include <vector>

#include "runtime/task_group.hpp"

namespace mesh::serve {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

namespace {

// One stream type for Unix and TCP: everything of Beast below is compiled once.
using Stream = beast::basic_stream<asio::generic::stream_protocol>;

constexpr std::size_t kReadBytes = 4096;

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

std::optional<std::string> percent_decoded(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            out += text[i];
            continue;
        }
        if (i + 2 >= text.size()) return std::nullopt;
        const int high = hex_digit(text[i + 1]);
        const int low = hex_digit(text[i + 2]);
        if (high < 0 || low < 0) return std::nullopt;
        out += static_cast<char>(high * 16 + low);
        i += 2;
    }
    return out;
}

/// @return nullopt if the target is no path of ours (RFC 9112 §3.2: origin or absolute form)
std::optional<StatusRequest> parse_target(std::string_view target) {
    constexpr std::string_view kScheme = "http://";
    if (target.starts_with(kScheme)) {
        const auto slash = target.find('/', kScheme.size());
        target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
    }
    if (!target.starts_with('/')) return std::nullopt;
    const auto question = target.find('?');
    auto path = percent_decoded(target.substr(0, question));
    if (!path) return std::nullopt;
    StatusRequest request{std::move(*path), {}};
    if (question != std::string_view::npos) request.query = target.substr(question + 1);
    return request;
}

/// A page on the web must not read a loopback port through a name of its own (DNS rebinding).
bool is_loopback_host(std::string_view host) {
    if (const auto colon = host.rfind(':');
        colon != std::string_view::npos && !host.ends_with(']')) {
        host = host.substr(0, colon);
    }
    return host.empty() || host == "localhost" || host == "127.0.0.1" || host == "[::1]";
}

StatusResponse error_response(unsigned status, std::string_view text) {
    return {status, "application/json", fmt::format("{{\"error\":\"{}\"}}\n", text)};
}

/// Removes a socket file that nobody listens on.
Result<void> clear_socket_path(const std::string& path) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) return Result<void>{};
    if (!S_ISSOCK(status.st_mode)) {
        return invalid_argument(fmt::format("{}: exists and is not a socket", path));
    }
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return unavailable(fmt::format("{}: socket: {}", path, std::strerror(errno)));
    const int connected =
        ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    const int failure = errno;
    ::close(fd);
    if (connected == 0 || failure == EAGAIN) {
        return Error(Errc::kConflict, fmt::format("{}: another process listens there", path));
    }
    if (failure != ECONNREFUSED) {
        return unavailable(fmt::format("{}: connect: {}", path, std::strerror(failure)));
    }
    ::unlink(path.c_str());
    return Result<void>{};
}

}  // namespace

std::optional<std::string> StatusRequest::parameter(std::string_view name) const {
    std::string_view rest = query;
    while (!rest.empty()) {
        const auto end = rest.find('&');
        const std::string_view pair = rest.substr(0, end);
        rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
        const auto equals = pair.find('=');
        if (pair.substr(0, equals) != name) continue;
        if (equals == std::string_view::npos) return std::string{};
        return percent_decoded(pair.substr(equals + 1));
    }
    return std::nullopt;
}

class StatusServer::Impl : public std::enable_shared_from_this<Impl> {
  public:
    /// One of the two.
    struct Route {
        StatusHandler now;
        AsyncStatusHandler later;
    };

    Impl(asio::any_io_executor executor, Logger log, StatusServerOptions options)
        : executor_(executor),
          log_(std::move(log)),
          options_(std::move(options)),
          unix_acceptor_(executor),
          tcp_acceptor_(executor),
          tasks_(executor, [log = log_](std::string_view what) {
              log.error("status server: a connection ended by an exception: {}", what);
          }) {}

    void route(std::string path, Route route) { routes_[std::move(path)] = std::move(route); }

    Result<void> start() {
        if (!options_.unix_socket.empty()) MESH_CHECK(listen_unix());
        if (options_.tcp_port) {
            if (auto listening = listen_tcp(); !listening) {
                remove_socket_file();
                return listening;
            }
        }
        auto self = shared_from_this();
        if (unix_acceptor_.is_open()) tasks_.spawn(accept_unix(self));
        if (tcp_acceptor_.is_open()) tasks_.spawn(accept_tcp(self));
        return Result<void>{};
    }

    asio::awaitable<void> stop() {
        auto self = shared_from_this();
        boost::system::error_code ignored;
        unix_acceptor_.close(ignored);
        tcp_acceptor_.close(ignored);
        tasks_.cancel();
        co_await tasks_.join();
        remove_socket_file();
    }

    [[nodiscard]] std::uint16_t tcp_port() const noexcept { return tcp_port_; }

  private:
    Result<void> listen_unix() {
        const std::string& path = options_.unix_socket.native();
        if (path.size() >= sizeof(sockaddr_un{}.sun_path)) {
            return invalid_argument(
                fmt::format("{}: a socket's path has at most {} bytes, this one has {}", path,
                            sizeof(sockaddr_un{}.sun_path) - 1, path.size()));
        }
        MESH_CHECK(clear_socket_path(path));
        boost::system::error_code ec;
        const auto failed = [&](std::string_view step) {
            const std::string text = ec.message();
            boost::system::error_code ignored;
            unix_acceptor_.close(ignored);
            return unavailable(fmt::format("{}: {}: {}", path, step, text));
        };
        unix_acceptor_.open(asio::local::stream_protocol(), ec);
        if (ec) return failed("socket");
        // Linux gives the file the mode of the unbound socket: at no time is it more open.
        if (::fchmod(unix_acceptor_.native_handle(), options_.unix_socket_mode) != 0) {
            ec.assign(errno, boost::system::system_category());
            return failed("fchmod");
        }
        unix_acceptor_.bind(asio::local::stream_protocol::endpoint(path), ec);
        if (ec) return failed("bind");
        struct stat status {};
        // chmod undoes what the umask took away.
        if (::chmod(path.c_str(), options_.unix_socket_mode) != 0 ||
            ::lstat(path.c_str(), &status) != 0) {
            ec.assign(errno, boost::system::system_category());
            return failed("chmod");
        }
        socket_file_ = {status.st_dev, status.st_ino};
        unix_acceptor_.listen(asio::socket_base::max_listen_connections, ec);
        if (ec) {
            remove_socket_file();
            return failed("listen");
        }
        return Result<void>{};
    }

    Result<void> listen_tcp() {
        const asio::ip::tcp::endpoint endpoint(asio::ip::address_v4::loopback(),
                                               *options_.tcp_port);
        boost::system::error_code ec;
        tcp_acceptor_.open(endpoint.protocol(), ec);
        if (!ec) tcp_acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
        if (!ec) tcp_acceptor_.bind(endpoint, ec);
        if (!ec) tcp_acceptor_.listen(asio::socket_base::max_listen_connections, ec);
        if (ec) {
            const std::string text = ec.message();
            tcp_acceptor_.close(ec);
            return unavailable(fmt::format("127.0.0.1:{}: listen: {}", *options_.tcp_port, text));
        }
        tcp_port_ = tcp_acceptor_.local_endpoint(ec).port();
        return Result<void>{};
    }

    void remove_socket_file() {
        if (!socket_file_) return;
        struct stat status {};
        // A successor may have put its own socket there.
        if (::lstat(options_.unix_socket.c_str(), &status) == 0 &&
            status.st_dev == socket_file_->first && status.st_ino == socket_file_->second) {
            ::unlink(options_.unix_socket.c_str());
        }
        socket_file_.reset();
    }

    static asio::awaitable<void> accept_unix(std::shared_ptr<Impl> self) {
        co_await accept_loop(self, self->unix_acceptor_, false);
    }
    static asio::awaitable<void> accept_tcp(std::shared_ptr<Impl> self) {
        co_await accept_loop(self, self->tcp_acceptor_, true);
    }

    template <class Acceptor>
    static asio::awaitable<void> accept_loop(std::shared_ptr<Impl> self, Acceptor& acceptor,
                                             bool tcp) {
        while (acceptor.is_open()) {
            boost::system::error_code ec;
            auto socket =
                co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, ec));
            if (ec == asio::error::operation_aborted || self->tasks_.cancelled()) co_return;
            if (ec) {
                // Out of descriptors, most likely: let others close some.
                self->log_.warn("status server: accept: {}", ec.message());
                asio::steady_timer pause(self->executor_, std::chrono::milliseconds(100));
                co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
                if (ec) co_return;
                continue;
            }
            if (self->connections_ >= self->options_.max_connections) continue;
            self->tasks_.spawn(
                serve(self, asio::generic::stream_protocol::socket(std::move(socket)), tcp));
        }
    }

    static asio::awaitable<void> serve(std::shared_ptr<Impl> self,
                                       asio::generic::stream_protocol::socket socket, bool tcp) {
        struct Counted {
            explicit Counted(std::size_t& n) : count(n) { ++count; }
            Counted(const Counted&) = delete;
            Counted& operator=(const Counted&) = delete;
            ~Counted() { --count; }
            std::size_t& count;
        } const counted(self->connections_);
        Stream stream(std::move(socket));
        beast::flat_buffer buffer(self->options_.max_header_bytes + self->options_.max_body_bytes +
                                  kReadBytes);
        boost::system::error_code ec;
        const auto token = [&ec] { return asio::redirect_error(asio::use_awaitable, ec); };
        for (bool keep_alive = true; keep_alive;) {
            if (buffer.size() == 0) {
                stream.expires_after(self->options_.idle_timeout);
                const auto got =
                    co_await stream.async_read_some(buffer.prepare(kReadBytes), token());
                if (ec) break;
                buffer.commit(got);
            }
            http::request_parser<http::string_body> parser;
            // Beast counts from the end of the request line in some of its limits; the margin is
            // nothing next to what it protects.
            parser.header_limit(static_cast<std::uint32_t>(self->options_.max_header_bytes));
            parser.body_limit(tcp ? self->options_.max_body_bytes
                                  : self->options_.max_unix_body_bytes);
            stream.expires_after(self->options_.request_timeout);
            co_await http::async_read_header(stream, buffer, parser, token());
            const bool is_read = parser.get().method() == http::verb::get ||
                                 parser.get().method() == http::verb::head;
            if (!ec && is_read) co_await http::async_read(stream, buffer, parser, token());
            if (ec && !answerable(ec)) break;
            http::response<http::string_body> response = co_await self->answer(parser, ec, tcp);
            keep_alive = !ec && is_read && parser.keep_alive();
            response.keep_alive(keep_alive);
            const bool head = parser.get().method() == http::verb::head;
            response.prepare_payload();
            if (head) response.body().clear();
            stream.expires_after(self->options_.write_timeout);
            http::response_serializer<http::string_body> serializer(response);
            if (head) {
                co_await http::async_write_header(stream, serializer, token());
            } else {
                co_await http::async_write(stream, serializer, token());
            }
            if (ec) break;
        }
        boost::system::error_code ignored;
        stream.socket().shutdown(asio::socket_base::shutdown_send, ignored);
    }

    /// Whether a failed read can be answered: the client still listens and is told why. Beast
    /// closes a stream whose time has run out.
    static bool answerable(const boost::system::error_code& ec) {
        return ec == http::error::header_limit || ec == http::error::buffer_overflow ||
               ec == http::error::body_limit ||
               (ec.category() == http::make_error_code(http::error::bad_method).category() &&
                ec != http::error::end_of_stream && ec != http::error::partial_message);
    }

    asio::awaitable<http::response<http::string_body>> answer(
        const http::request_parser<http::string_body>& parser, const boost::system::error_code& ec,
        bool tcp) {
        const StatusResponse made = co_await make_response(parser, ec, tcp);
        http::response<http::string_body> response(static_cast<http::status>(made.status), 11);
        response.set(http::field::content_type, made.content_type);
        response.set(http::field::cache_control, "no-store");
        if (made.status == 405) response.set(http::field::allow, "GET, HEAD");
        response.body() = made.body;
        co_return response;
    }

    asio::awaitable<StatusResponse> make_response(
        const http::request_parser<http::string_body>& parser, const boost::system::error_code& ec,
        bool tcp) {
        if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
            co_return error_response(431, "the request's header is too large");
        }
        if (ec == http::error::body_limit)
            co_return error_response(413, "the request's body is too large");
        if (ec) co_return error_response(400, "not an HTTP/1.1 request");
        const auto& message = parser.get();
        if (message.method() != http::verb::get && message.method() != http::verb::head) {
            co_return error_response(405, "only GET and HEAD are served");
        }
        const auto host = message[http::field::host];
        if (tcp && !is_loopback_host({host.data(), host.size()})) {
            co_return error_response(403, "the Host header must name this machine's loopback");
        }
        const auto target = message.target();
        auto request = parse_target({target.data(), target.size()});
        if (!request) co_return error_response(400, "the request's target is not a path");
        request->body = message.body();
        const Route* route = find(request->path);
        if (route == nullptr) co_return not_found_response();
        try {
            if (route->now) co_return route->now(*request);
            co_return co_await route->later(*request);
        } catch (const std::exception& e) {
            log_.error("status server: {}: {}", request->path, e.what());
            co_return error_response(500, "internal error, see the log");
        }
    }

    [[nodiscard]] const Route* find(const std::string& path) const {
        if (const auto exact = routes_.find(path); exact != routes_.end()) return &exact->second;
        for (auto slash = path.rfind('/'); slash != std::string::npos;
             slash = slash == 0 ? std::string::npos : path.rfind('/', slash - 1)) {
            const auto below = routes_.find(path.substr(0, slash) + "/*");
            if (below != routes_.end()) return &below->second;
        }
        return nullptr;
    }

    [[nodiscard]] StatusResponse not_found_response() const {
        std::string paths;
        for (const auto& [path, handler] : routes_) {
            paths += fmt::format("{}\"{}\"", paths.empty() ? "" : ",", path);
        }
        return {404, "application/json",
                fmt::format("{{\"error\":\"no such path\",\"paths\":[{}]}}\n", paths)};
    }

    asio::any_io_executor executor_;
    Logger log_;
    StatusServerOptions options_;
    std::map<std::string, Route> routes_;
    asio::local::stream_protocol::acceptor unix_acceptor_;
    asio::ip::tcp::acceptor tcp_acceptor_;
    std::optional<std::pair<dev_t, ino_t>> socket_file_;
    std::uint16_t tcp_port_ = 0;
    std::size_t connections_ = 0;
    TaskGroup tasks_;
};

StatusServer::StatusServer(asio::any_io_executor executor, Logger log, StatusServerOptions options)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(log), std::move(options))) {
    set_health([] { return Result<void>{}; });
}
StatusServer::~StatusServer() = default;

void StatusServer::route(std::string path, StatusHandler handler) {
    impl_->route(std::move(path), {std::move(handler), {}});
}
void StatusServer::route_async(std::string path, AsyncStatusHandler handler) {
    impl_->route(std::move(path), {{}, std::move(handler)});
}

void StatusServer::serve_metrics(std::shared_ptr<prometheus::Registry> registry) {
    route("/metrics", [registry = std::move(registry)](const StatusRequest&) {
        return StatusResponse{200, "text/plain; version=0.0.4; charset=utf-8",
                              prometheus::TextSerializer().Serialize(registry->Collect())};
    });
}

void StatusServer::set_health(std::function<Result<void>()> check) {
    const StatusHandler answer = [check = std::move(check)](const StatusRequest&) {
        const Result<void> health = check();
        if (health) return StatusResponse{200, "text/plain; charset=utf-8", "ok\n"};
        return StatusResponse{503, "text/plain; charset=utf-8", health.error().message() + "\n"};
    };
    route("/healthz", answer);
    route("/readyz", answer);
}

Result<void> StatusServer::start() {
    return impl_->start();
}
asio::awaitable<void> StatusServer::async_stop() {
    return impl_->stop();
}
std::uint16_t StatusServer::tcp_port() const noexcept {
    return impl_->tcp_port();
}

}  // namespace mesh::serve
