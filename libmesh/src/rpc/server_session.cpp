#include "rpc/server_session.hpp"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "rpc/wire.hpp"

namespace mesh::rpc::detail {

namespace {
// Deadlines further away than this are none: they only cost arithmetic that could overflow.
constexpr Duration kLongestDeadline = std::chrono::hours(24 * 365);
// An answer of this size is taken whatever waits on its connection.
constexpr std::size_t kSmallAnswer = 16U << 10;

/// Not all at once, when many came at once. @source gRFC A9
Duration jittered(Duration age, Rng& rng) {
    return std::chrono::duration_cast<Duration>(age * (0.9 + 0.2 * rng.uniform()));
}

SessionOptions session_options(const ServerOptions& o, Rng& rng) {
    SessionOptions s;
    s.server = true;
    s.max_message_bytes = o.max_message_bytes;
    // One message, its buffer's growth included, must always fit.
    s.max_buffered_bytes = std::max(o.max_buffered_bytes, o.max_message_bytes * 4);
    s.max_header_bytes = o.max_header_bytes;
    s.max_send_queue_bytes = o.max_send_queue_bytes;
    s.max_connection_queue_bytes = o.max_connection_queue_bytes;
    s.max_concurrent_streams = o.max_concurrent_streams;
    s.stream_window = o.stream_window;
    s.connection_window = o.connection_window;
    s.keepalive_interval = o.keepalive_interval;
    s.keepalive_timeout = o.keepalive_timeout;
    s.keepalive_without_calls = true;
    s.max_age = jittered(o.max_connection_age, rng);
    s.max_age_grace = o.max_connection_age_grace;
    s.header_timeout = o.request_timeout;
    s.min_ping_interval = o.min_ping_interval;
    // All calls of a connection may be cancelled at once.
    s.reset_burst = std::max<std::int64_t>(s.reset_burst, 2LL * o.max_concurrent_streams);
    return s;
}
}  // namespace

class ServerStream final : public ServerCall, public Stream {
  public:
    explicit ServerStream(ServerSession& session)
        : Stream(session), core_(session.core_), peer_(session.peer_) {
        ++core_->stats.calls;
    }
    ~ServerStream() override = default;

    std::string_view method() const noexcept override { return path_; }
    const Metadata& metadata() const noexcept override { return metadata_; }
    const Peer& peer() const noexcept override { return *peer_; }
    std::optional<TimePoint> deadline() const noexcept override { return call_deadline_; }

    void on_message(std::function<void(std::string_view)> cb) override {
        on_message_ = std::move(cb);
    }
    void on_half_close(std::function<void()> cb) override { on_half_close_ = std::move(cb); }
    void on_writable(std::function<void()> cb) override { on_writable_ = std::move(cb); }
    void on_end(std::function<void(const Status&)> cb) override {
        if (session_ != nullptr) on_end_ = std::move(cb);
    }

    Write write(Frame frame) override {
        if (finished_) return Write::kEnded;
        const Write outcome = enqueue(std::move(frame));
        if (outcome == Write::kQueued) send_headers();
        return outcome;
    }

    void finish(Status status, Metadata trailers) override {
        if (finished_ || session_ == nullptr) return;
        stop_reading();
        finished_ = true;
        body_complete_ = true;
        end_status_ = std::move(status);
        trailers_ = std::move(trailers);
        if (headers_sent_) {
            session().resume_data(*this);
        } else {
            respond(200, /*trailers_only=*/true);
        }
    }

    void reply(Frame frame) override {
        if (finished_ || session_ == nullptr) return;
        if (!frame)
            return finish(
                {StatusCode::kResourceExhausted, "the answer is longer than a message may be"}, {});
        if (session().congested() && frame.size() > kSmallAnswer) {
            finish({StatusCode::kResourceExhausted, "answers of " +
                                                        std::to_string(session().queued_bytes()) +
                                                        " bytes wait on this connection already"},
                   {});
            return;
        }
        // What a small answer tells may have been done: it must be told.
        enqueue_always(std::move(frame));
        send_headers();
        finish({}, {});
    }
    bool congested() const noexcept override {
        return session_ != nullptr && session().congested();
    }

    void pause() override { pause_reading(); }
    void resume() override { resume_reading(); }
    std::size_t queued_bytes() const noexcept override { return queued_bytes_; }
    bool ended() const noexcept override { return session_ == nullptr || finished_; }

  private:
    ServerSession& session() const noexcept { return static_cast<ServerSession&>(*session_); }

    void handle_header(std::string_view name, std::string_view value) override {
        if (headers_done_) return;  // trailers of a request mean nothing in gRPC
        if (name == ":path") {
            path_ = value;
        } else if (name == ":method") {
            post_ = value == "POST";
        } else if (name == "content-type") {
            grpc_ = is_grpc_content_type(value);
        } else if (name == "grpc-timeout") {
            timeout_ = parse_timeout(value);
            bad_timeout_ = !timeout_;
        } else if (name == "grpc-encoding") {
            identity_ = value == "identity";
        } else if (is_custom_header(name)) {
            metadata_.emplace_back(name, value);
        }
    }

    void handle_headers(bool /*end_of_stream*/) override {
        if (std::exchange(headers_done_, true)) return;
        if (!post_) return refuse_http(405, "the HTTP method must be POST");
        if (!grpc_) return refuse_http(415, "the content-type must be application/grpc");
        if (bad_timeout_)
            return refuse({StatusCode::kInvalidArgument, "grpc-timeout is malformed"});
        if (!identity_)
            return refuse(
                {StatusCode::kUnimplemented, "the server takes messages uncompressed only"});
        if (core_->admit) {
            if (Status status = core_->admit(*this); !status.ok()) return refuse(std::move(status));
        }
        const auto route = core_->routes.find(path_);
        const bool known = route != core_->routes.end();
        if (!known && !core_->unknown)
            return refuse({StatusCode::kUnimplemented, "unknown method " + path_.substr(0, 200)});
        ++core_->stats.calls_started;
        if (!timeout_ && known && route->second.unary &&
            core_->options.default_deadline > Duration::zero())
            timeout_ = core_->options.default_deadline;
        const TimePoint now = core_->clock.now();
        if (timeout_ && *timeout_ < kLongestDeadline) call_deadline_ = now + *timeout_;
        auto first = call_deadline_;
        if (known && route->second.unary && core_->options.request_timeout > Duration::zero()) {
            request_by_ = now + core_->options.request_timeout;
            first = std::min(first.value_or(TimePoint::max()), *request_by_);
        }
        if (first) session().set_deadline(*this, first);
        const ServerCallPtr call(shared_from_this(), this);
        if (!known) {
            core_->unknown(call);
        } else if (route->second.unary) {
            unary_ = route->second.unary;
        } else {
            // A copy: the handler may register another one in its place.
            const StreamHandler handler = route->second.stream;
            handler(call);
        }
    }

    void handle_message(std::string_view message) override {
        if (unary_) {
            if (request_)
                return refuse({StatusCode::kInternal, "a second message in a unary request"});
            // Most requests are complete here; only then is the handler to run.
            request_ = reader_.take(message);
            request_bytes_ = request_->capacity();
            return;
        }
        if (on_message_ && !finished_) call_back(on_message_, message);
    }

    void handle_remote_end() override {
        if (finished_) return;
        if (unary_) {
            if (!request_)
                return refuse({StatusCode::kInternal, "a unary request without a message"});
            const ServerCallPtr call(shared_from_this(), this);
            const UnaryHandler handler = std::exchange(unary_, nullptr);
            const std::string request = *std::exchange(request_, std::nullopt);
            request_bytes_ = 0;
            session().account(*this);
            if (std::exchange(request_by_, std::nullopt))
                session().set_deadline(*this, call_deadline_);
            handler(call, request);
            return;
        }
        if (on_half_close_) call_back(on_half_close_);
    }

    void handle_writable() override {
        if (on_writable_ && !finished_) call_back(on_writable_);
    }

    void handle_failure(Status status) override { refuse(std::move(status)); }

    void handle_deadline() override {
        const bool asked = request_by_ && (!call_deadline_ || *request_by_ < *call_deadline_);
        abort({StatusCode::kDeadlineExceeded, asked ? "the request was not complete in time"
                                                    : "the deadline of the call has passed"});
    }

    void handle_ended(const Status& why) override { abort(why); }

    void handle_closed(std::uint32_t http2_error, const Status* lost) override {
        --core_->stats.calls;
        Status status;
        if (lost != nullptr) {
            status = *lost;
        } else if (finished_ && (http2_error == NGHTTP2_NO_ERROR || aborted_)) {
            status = end_status_;
        } else {
            status = {StatusCode::kCancelled, "the client cancelled the call"};
        }
        finished_ = true;
        const auto on_end = std::exchange(on_end_, nullptr);
        // Before on_end, since callbacks may hold the pointer that keeps this alive.
        const auto dropped = std::make_tuple(std::exchange(on_message_, nullptr),
                                             std::exchange(on_half_close_, nullptr),
                                             std::exchange(on_writable_, nullptr));
        if (on_end) on_end(status);
    }

    bool has_trailers() const noexcept override { return true; }

    void submit_trailers() override {
        std::string code;
        std::string text;
        const auto fields = status_fields(code, text);
        nghttp2_submit_trailer(session().http2_, id_, fields.data(), fields.size());
    }

    /// The callback may replace itself, or end the server, while it runs.
    template <class Callback, class... Args>
    void call_back(Callback& callback, Args&&... args) {
        Callback running = std::exchange(callback, nullptr);
        running(std::forward<Args>(args)...);
        if (session_ != nullptr && !callback) callback = std::move(running);
    }

    void refuse(Status status) {
        ++core_->stats.calls_refused;
        abort(std::move(status));
    }

    void refuse_http(int http_status, std::string_view why) {
        ++core_->stats.calls_refused;
        stop_reading();
        finished_ = true;
        body_complete_ = true;
        end_status_ = {StatusCode::kInternal, std::string(why)};
        respond(http_status, /*trailers_only=*/true);
    }

    /// What still comes is dropped, and what waits is let go of.
    void stop_reading() {
        failed_ = true;
        std::string().swap(held_);
        request_.reset();
        request_bytes_ = 0;
        session().account(*this);
    }

    /// Ends the call now; what is queued is dropped, unless a message is half on its way: then the
    /// stream can only be reset.
    void abort(Status status) {
        if (session_ == nullptr) return;
        const bool mid = mid_frame();
        drop_queue();
        if (finished_ || mid) {
            stop_reading();
            finished_ = true;
            body_complete_ = true;
            aborted_ = true;
            end_status_ = std::move(status);
            session().reset(*this, NGHTTP2_CANCEL);
        } else {
            finish(std::move(status), {});
        }
    }

    void send_headers() {
        if (std::exchange(headers_sent_, true)) return;
        const auto provider = session().body_of(*this);
        const std::array<nghttp2_nv, 2> fields = {field(":status", "200"),
                                                  field("content-type", "application/grpc")};
        nghttp2_submit_response(session().http2_, id_, fields.data(), fields.size(), &provider);
        session().wake();
    }

    void respond(int http_status, bool trailers_only) {
        headers_sent_ = true;
        std::string code;
        std::string text;
        const std::string http = std::to_string(http_status);
        std::vector<nghttp2_nv> fields = {field(":status", http),
                                          field("content-type", "application/grpc")};
        // @source gRPC's compression.md: the refusal says what would be taken.
        if (!identity_) fields.push_back(field("grpc-accept-encoding", "identity"));
        if (trailers_only) {
            const auto more = status_fields(code, text);
            fields.insert(fields.end(), more.begin(), more.end());
        }
        nghttp2_submit_response(session().http2_, id_, fields.data(), fields.size(), nullptr);
        session().wake();
    }

    std::vector<nghttp2_nv> status_fields(std::string& code, std::string& text) const {
        code = std::to_string(static_cast<int>(end_status_.code));
        text = escape_message(end_status_.message);
        std::vector<nghttp2_nv> fields = {field("grpc-status", code)};
        if (!text.empty()) fields.push_back(field("grpc-message", text));
        for (const auto& [name, value] : trailers_)
            if (is_custom_header(name)) fields.push_back(field(name, value));
        return fields;
    }

    std::shared_ptr<ServerCore> core_;
    std::shared_ptr<const Peer> peer_;
    std::string path_;
    Metadata metadata_;
    std::optional<Duration> timeout_;
    std::optional<TimePoint> call_deadline_;  // the client's
    std::optional<TimePoint> request_by_;     // until the request is complete
    std::function<void(std::string_view)> on_message_;
    std::function<void()> on_half_close_;
    std::function<void()> on_writable_;
    std::function<void(const Status&)> on_end_;
    UnaryHandler unary_;
    std::optional<std::string> request_;
    Status end_status_;
    Metadata trailers_;
    bool post_ = false;
    bool grpc_ = false;
    bool identity_ = true;
    bool bad_timeout_ = false;
    bool headers_done_ = false;
    bool headers_sent_ = false;
    bool finished_ = false;
    bool aborted_ = false;
};

ServerSession::ServerSession(std::shared_ptr<ServerCore> core, std::shared_ptr<const Peer> peer)
    : Session(session_options(core->options, core->rng), core->clock.now(), core->counters),
      core_(std::move(core)),
      peer_(std::move(peer)) {
    ++core_->connections_by_name[peer_->common_name];
}

ServerSession::~ServerSession() {
    end_all({StatusCode::kUnavailable, "the connection is closed"});
    const auto mine = core_->connections_by_name.find(peer_->common_name);
    if (--mine->second == 0) core_->connections_by_name.erase(mine);
}

std::shared_ptr<Stream> ServerSession::make_stream() {
    return std::make_shared<ServerStream>(*this);
}

}  // namespace mesh::rpc::detail
