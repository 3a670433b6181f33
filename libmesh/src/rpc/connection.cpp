#include "rpc/connection.hpp"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/execution/context.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/post.hpp>
#include <utility>

namespace mesh::rpc::detail {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {
constexpr std::size_t kWriteRoom = 64U << 10;
// One connection may take this many steps before the loop's others get their turn.
constexpr int kReadsPerTurn = 4;
constexpr int kWritesPerTurn = 16;
// Frames (acks, resets) that wait for a peer which sends but does not read.
constexpr std::size_t kMostWaitingFrames = 20'000;

/// Bytes that the kernel holds for a peer that has not acknowledged them.
int unacked(int socket) {
    int bytes = 0;
    return ::ioctl(socket, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

/// Lives as long as the io_context.
class SharedBuffers : public asio::execution_context::service {
  public:
    static inline asio::execution_context::id id;
    explicit SharedBuffers(asio::execution_context& context) : service(context) {}
    const std::shared_ptr<LoopBuffers> buffers = std::make_shared<LoopBuffers>();

  private:
    void shutdown() override {}
};

bool would_block(const error_code& ec) {
    return ec == asio::error::would_block || ec == asio::error::try_again ||
           ec == asio::error::interrupted;
}
}  // namespace

std::shared_ptr<LoopBuffers> buffers_of(const asio::any_io_executor& loop) {
    return asio::use_service<SharedBuffers>(asio::query(loop, asio::execution::context)).buffers;
}

std::string to_text(const asio::ip::tcp::endpoint& endpoint) {
    const std::string host = endpoint.address().to_string();
    const std::string port = std::to_string(endpoint.port());
    return endpoint.address().is_v6() ? "[" + host + "]:" + port : host + ":" + port;
}

Connection::Connection(asio::ip::tcp::socket socket, std::unique_ptr<TlsEngine> tls,
                       const Clock& clock, std::shared_ptr<LoopBuffers> buffers,
                       IoCounters& counters)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      clock_(clock),
      buffers_(std::move(buffers)),
      counters_(counters),
      tls_(std::move(tls)),
      peer_(std::make_shared<Peer>()) {
    error_code ec;
    const auto remote = socket_.remote_endpoint(ec);
    if (!ec) peer_->address = to_text(remote);
    socket_.non_blocking(true, ec);
    socket_.set_option(asio::ip::tcp::no_delay(true), ec);
}

Connection::~Connection() = default;

void Connection::start(Duration handshake_timeout) {
    handshake_deadline_ = clock_.now() + handshake_timeout;
    working_ = true;
    if (tls_) {
        std::string none;
        if (auto began = tls_->receive({}, none, pending_); !began)
            return fail(std::move(began).error());
    } else {
        begin_session();
    }
    working_ = false;
    flush();
    wait_readable();
}

bool Connection::heard() {
    error_code ignored;
    heard_ = heard_ || socket_.available(ignored) > 0;
    return heard_;
}

void Connection::close(const Status& why) {
    shut(Error(), why, false);
}

void Connection::end(const Status& why) {
    if (closed_ || ending_) return;
    if (!session_) return fail(unavailable(why.message));
    ending_ = why;
    session_->end_calls(why);
    session_->go_away_now();
    schedule();
}

void Connection::wait_readable() {
    if (closed_) return;
    socket_.async_wait(
        asio::ip::tcp::socket::wait_read, [self = shared_from_this()](const error_code& ec) {
            if (self->closed_) return;
            if (ec) return self->fail(unavailable("the connection broke: " + ec.message()));
            self->on_readable();
        });
}

void Connection::on_readable() {
    if (waiting_writable_ && session_ && session_->waiting_frames() > kMostWaitingFrames)
        return fail(Error(Errc::kCapacity, "the other side sends but does not read"));
    working_ = true;
    std::string& in = buffers_->in;
    for (int i = 0; i < kReadsPerTurn && !closed_; ++i) {
        error_code ec;
        const std::size_t n = socket_.read_some(asio::buffer(in), ec);
        if (would_block(ec)) break;
        if (ec) {
            working_ = false;
            // What was received before the end is answered as far as the socket still takes it.
            flush();
            return fail(unavailable(ec == asio::error::eof
                                        ? "the other side closed the connection"
                                        : "the connection broke: " + ec.message()));
        }
        counters_.bytes_received += n;
        traffic_.bytes_received += n;
        heard_ = true;
        if (!take(std::string_view(in).substr(0, n))) break;
        if (n < in.size()) break;
    }
    working_ = false;
    if (closed_) return;
    flush();
    wait_readable();
}

bool Connection::take(std::string_view bytes) {
    if (!tls_) {
        if (auto ok = session_->receive(bytes, clock_.now()); !ok) {
            fail(ok.error().with_prefix("HTTP/2"));
            return false;
        }
    } else {
        std::string& plain = buffers_->plain;
        plain.clear();
        const bool before = tls_->handshake_done();
        auto opened = tls_->receive(bytes, plain, pending_);
        if (!before && tls_->handshake_done()) {
            if (!tls_->h2_agreed()) {
                fail(Error(Errc::kCorrupt, "TLS: HTTP/2 was not agreed on (ALPN h2)"));
                return false;
            }
            tls_->describe_peer(*peer_);
            begin_session();
        }
        if (session_ && !plain.empty()) {
            if (auto ok = session_->receive(plain, clock_.now()); !ok) {
                fail(ok.error().with_prefix("HTTP/2"));
                return false;
            }
        }
        if (closed_) return false;
        if (!opened) {
            // The alert that tells the peer why is in pending_.
            write_out({});
            fail(std::move(opened).error());
            return false;
        }
        if (tls_->closed_by_peer()) {
            fail(unavailable("the other side closed the connection"));
            return false;
        }
    }
    if (!closed_ && session_ && session_->ready() && !ready_told_) {
        ready_told_ = true;
        handshake_deadline_ = TimePoint::max();
        if (on_ready) on_ready();
    }
    return !closed_;
}

void Connection::begin_session() {
    auto made = make_session(peer_);
    if (!made) return fail(std::move(made).error());
    session_ = *std::move(made);
    session_->on_wake = [this] { schedule(); };
}

void Connection::schedule() {
    if (scheduled_ || working_ || closed_) return;
    scheduled_ = true;
    auto ready = buffers_->ready.lock();
    if (!ready) {
        buffers_->ready = ready = std::make_shared<std::vector<std::shared_ptr<Connection>>>();
        asio::post(socket_.get_executor(), [buffers = buffers_, ready] {
            buffers->ready.reset();
            run_ready(*ready);
        });
    }
    ready->push_back(shared_from_this());
}

void Connection::run_ready(const std::vector<std::shared_ptr<Connection>>& ready) {
    // With thousands of connections each turn finds its memory cold; so it is loaded while the
    // turns before it run, what points to more of it first.
    const std::size_t n = ready.size();
    for (std::size_t i = 0; i < n; ++i) {
        if (i + 3 < n) fetch_lines(ready[i + 3].get(), sizeof(Connection));
        if (i + 2 < n) ready[i + 2]->fetch_parts();
        if (i + 1 < n) ready[i + 1]->fetch_libraries();
        ready[i]->turn();
    }
}

void Connection::fetch_parts() const noexcept {
    if (session_) fetch_lines(session_.get(), sizeof(Session));
    if (tls_) tls_->fetch();
}

void Connection::fetch_libraries() const noexcept {
    if (session_) session_->fetch_http2();
    if (tls_) tls_->fetch_library();
}

void Connection::turn() {
    scheduled_ = false;
    if (!closed_) flush();
}

void Connection::flush() {
    if (closed_) return;
    const auto keep = shared_from_this();
    working_ = true;
    bool more = true;
    for (int i = 0; i < kWritesPerTurn && more && !closed_; ++i) {
        if (session_) session_->turn();
        if (closed_) break;
        if (waiting_writable_) break;
        if (!pending_.empty() && !write_out({})) break;
        if (!session_) break;
        std::string& out = buffers_->out;
        out.clear();
        more = session_->produce(out, kWriteRoom) || session_->has_work();
        if (closed_) break;
        if (out.empty()) continue;
        if (tls_) {
            std::string& cipher = buffers_->cipher;
            cipher.clear();
            if (auto ok = tls_->send(out, cipher); !ok) {
                working_ = false;
                return fail(std::move(ok).error());
            }
            if (!write_out(cipher)) break;
        } else if (!write_out(out)) {
            break;
        }
    }
    working_ = false;
    if (closed_) return;
    if (ending_) return shut(unavailable(ending_->message), *ending_, true);
    if (session_ && session_->finished() && pending_.empty()) {
        const std::string& why = session_->failure();
        return fail(
            unavailable(why.empty() ? "the connection has ended (GOAWAY)" : "HTTP/2: " + why));
    }
    if (more && session_ && !waiting_writable_) schedule();
    arm_timer();
}

bool Connection::write_out(std::string_view bytes) {
    const bool queued = !pending_.empty();
    if (queued) {
        pending_.append(bytes);
        bytes = pending_;
    }
    if (bytes.empty()) return true;
    std::size_t sent = 0;
    if (!waiting_writable_) {
        error_code ec;
        sent = socket_.write_some(asio::buffer(bytes), ec);
        ++counters_.socket_writes;
        if (ec && !would_block(ec)) {
            fail(unavailable("the connection broke: " + ec.message()));
            return false;
        }
        counters_.bytes_sent += sent;
        traffic_.bytes_sent += sent;
        ++traffic_.socket_writes;
    }
    if (sent == bytes.size()) {
        if (queued) taken_ += sent;
        // Kept memory per connection is what an idle one costs.
        if (queued) std::string().swap(pending_);
        return true;
    }
    if (queued) {
        pending_.erase(0, sent);
        taken_ += sent;
    } else {
        pending_.assign(bytes.substr(sent));
    }
    if (!waiting_writable_) {
        waiting_writable_ = true;
        socket_.async_wait(
            asio::ip::tcp::socket::wait_write, [self = shared_from_this()](const error_code& ec) {
                self->waiting_writable_ = false;
                if (self->closed_) return;
                if (ec) return self->fail(unavailable("the connection broke: " + ec.message()));
                self->flush();
            });
    }
    return false;
}

void Connection::watch_progress() {
    if (write_timeout <= Duration::zero()) return;
    if (pending_.empty() && (!session_ || session_->queued_bytes() == 0)) {
        stalled_since_ = TimePoint::max();
        return;
    }
    // Acks and pings are no progress: only messages, and what the socket had refused before.
    const std::uint64_t progress = taken_ + (session_ ? session_->data_sent() : 0);
    if (stalled_since_ != TimePoint::max() && progress == progress_) return;
    progress_ = progress;
    stalled_since_ = clock_.now();
    unacked_ = pending_.empty() ? 0 : unacked(socket_.native_handle());
}

bool Connection::stalled(TimePoint now) {
    if (stalled_since_ == TimePoint::max() || now - stalled_since_ < write_timeout) return false;
    if (pending_.empty()) return true;
    // Over a slow line the socket's buffer, which may be large, is seen to shrink first.
    const int left = unacked(socket_.native_handle());
    if (left == unacked_) return true;
    unacked_ = left;
    stalled_since_ = now;
    return false;
}

void Connection::arm_timer() {
    watch_progress();
    TimePoint next = handshake_deadline_;
    if (session_) next = std::min(next, session_->next_timeout());
    if (stalled_since_ != TimePoint::max()) next = std::min(next, stalled_since_ + write_timeout);
    // A timer that fires too early looks again; one that would fire too late is set anew.
    if (next >= armed_) return;
    armed_ = next;
    const Duration delay = std::max(Duration::zero(), next - clock_.now());
    timer_.expires_after(std::chrono::ceil<std::chrono::microseconds>(delay));
    timer_.async_wait([self = shared_from_this()](const error_code& ec) {
        if (!ec && !self->closed_) self->on_timer();
    });
}

void Connection::on_timer() {
    armed_ = TimePoint::max();
    const TimePoint now = clock_.now();
    if (now >= handshake_deadline_)
        return fail(Error(Errc::kTimeout, tls_ && !tls_->handshake_done()
                                              ? "no TLS handshake in time"
                                              : "no HTTP/2 settings in time"));
    if (stalled(now))
        return fail(
            Error(Errc::kTimeout,
                  "the other side takes nothing of " +
                      std::to_string(pending_.size() + (session_ ? session_->queued_bytes() : 0)) +
                      " bytes that wait for it"));
    working_ = true;
    if (session_) session_->on_timeout(now);
    working_ = false;
    flush();
}

void Connection::fail(Error reason) {
    const Status told =
        to_status(reason.code() == Errc::kPermission ? reason : unavailable(reason.detail()));
    shut(reason, told, true);
}

void Connection::shut(const Error& reason, const Status& told, bool report) {
    if (closed_) return;
    const auto keep = shared_from_this();
    closed_ = true;
    timer_.cancel();
    error_code ec;
    if (tls_ && pending_.empty() && socket_.is_open()) {
        std::string bye;
        tls_->close(bye);
        if (!bye.empty()) socket_.write_some(asio::buffer(bye), ec);
    }
    socket_.close(ec);
    if (session_) session_->end_all(told);
    const auto callback = std::exchange(on_closed, nullptr);
    on_ready = nullptr;
    make_session = nullptr;
    if (report && callback) callback(reason);
}

}  // namespace mesh::rpc::detail
