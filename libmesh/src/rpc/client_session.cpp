#include "rpc/client_session.hpp"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "rpc/wire.hpp"

namespace mesh::rpc::detail {

namespace {
constexpr Duration kLongestDeadline = std::chrono::hours(24 * 365);

SessionOptions session_options(const ChannelOptions& o) {
    SessionOptions s;
    s.server = false;
    s.max_message_bytes = o.max_message_bytes;
    s.max_buffered_bytes = o.max_message_bytes * 4;
    s.max_header_bytes = o.max_header_bytes;
    s.max_send_queue_bytes = o.max_send_queue_bytes;
    s.stream_window = o.stream_window;
    s.connection_window = o.connection_window;
    s.keepalive_interval = o.keepalive_interval;
    s.keepalive_timeout = o.keepalive_timeout;
    s.keepalive_without_calls = o.keepalive_without_calls;
    return s;
}
}  // namespace

class ClientStream final : public ClientCall, public Stream {
  public:
    ClientStream(ClientSession& session, CallEvents events)
        : Stream(session), events_(std::move(events)) {}
    ~ClientStream() override = default;

    Write write(Frame frame) override { return enqueue(std::move(frame)); }

    void half_close() override {
        if (session_ == nullptr || body_complete_) return;
        body_complete_ = true;
        session().resume_data(*this);
    }

    void cancel() override {
        if (session_ == nullptr) return;
        end_early({StatusCode::kCancelled, "the call was cancelled"});
    }

    void abandon() override {
        // What the callbacks hold may be the last owner of this call.
        const auto keep = shared_from_this();
        const CallEvents dropped = std::exchange(events_, {});
        cancel();
    }

    void pause() override { pause_reading(); }
    void resume() override { resume_reading(); }
    std::size_t queued_bytes() const noexcept override { return queued_bytes_; }
    bool ended() const noexcept override { return session_ == nullptr; }

  private:
    friend class ClientSession;
    ClientSession& session() const noexcept { return static_cast<ClientSession&>(*session_); }

    void handle_header(std::string_view name, std::string_view value) override {
        if (name == ":status") {
            // An interim answer (1xx) is followed by the real one.
            std::from_chars(value.data(), value.data() + value.size(), http_status_);
            answer_block_ = header_blocks_;
        } else if (name == "content-type") {
            grpc_ = is_grpc_content_type(value);
        } else if (name == "grpc-status") {
            status_ = Status{parse_status_code(value).value_or(StatusCode::kUnknown), {}};
        } else if (name == "grpc-message") {
            text_ = unescape_message(value);
        } else if (is_custom_header(name)) {
            // Not by headers_done_: an answer may come whole in one read.
            (header_blocks_ > answer_block_ ? trailers_ : metadata_).emplace_back(name, value);
        }
    }

    void handle_headers(bool end_of_stream) override {
        if (!headers_done_ && http_status_ >= 100 && http_status_ < 200) return;
        const bool first = !std::exchange(headers_done_, true);
        if (first && (http_status_ != 200 || !grpc_) && !status_) {
            end_early(
                http_status_ != 200
                    ? Status{code_of_http_status(http_status_),
                             "the server answered with HTTP status " + std::to_string(http_status_)}
                    : Status{StatusCode::kUnknown, "the server's answer is no application/grpc"});
            return;
        }
        if (first && end_of_stream) trailers_ = std::exchange(metadata_, {});  // Trailers-Only
        if (first && !end_of_stream && events_.on_headers) {
            const auto callback = std::exchange(events_.on_headers, nullptr);
            callback(metadata_);
        }
    }

    void handle_message(std::string_view message) override {
        if (early_) return;
        if (events_.on_own_message) {
            auto running = std::exchange(events_.on_own_message, nullptr);
            running(reader_.take(message));
            if (session_ != nullptr && !early_) events_.on_own_message = std::move(running);
            return;
        }
        if (!events_.on_message) return;
        auto running = std::exchange(events_.on_message, nullptr);
        running(message);
        if (session_ != nullptr && !early_) events_.on_message = std::move(running);
    }

    void handle_remote_end() override {
        // The status is told by handle_closed; a server that ended its side needs nothing more of
        // ours.
        if (!body_complete_) {
            body_complete_ = true;
            drop_queue();
            session().reset(*this, NGHTTP2_NO_ERROR);
        }
    }

    void handle_writable() override {
        if (!events_.on_writable || early_) return;
        auto running = std::exchange(events_.on_writable, nullptr);
        running();
        if (session_ != nullptr && !early_) events_.on_writable = std::move(running);
    }

    void handle_failure(Status status) override { end_early(std::move(status)); }
    void handle_deadline() override {
        const TimePoint now = session().clock_.now();
        if (end_by_ <= now)
            return end_early({StatusCode::kDeadlineExceeded, "no answer before the deadline"});
        if (quiet_until() <= now)
            return end_early(
                {StatusCode::kUnavailable,
                 "nothing arrived from the server for " +
                     std::to_string(
                         std::chrono::duration_cast<std::chrono::milliseconds>(silence_).count()) +
                     " ms"});
        arm();
    }

    void handle_ended(const Status& why) override { end_early(why); }

    void handle_closed(std::uint32_t http2_error, const Status* lost) override {
        Status status;
        if (early_) {
            status = *early_;
        } else if (status_) {
            status = {status_->code, text_};
        } else if (lost != nullptr) {
            status = *lost;
        } else if (http2_error != NGHTTP2_NO_ERROR) {
            status = {code_of_reset(http2_error), std::string("the server reset the stream: ") +
                                                      nghttp2_http2_strerror(http2_error)};
        } else {
            status = {StatusCode::kUnknown, "the answer ended without a grpc-status"};
        }
        const CallEvents events = std::exchange(events_, {});
        if (events.on_end) events.on_end(status, trailers_);
    }

    bool has_trailers() const noexcept override { return false; }
    void submit_trailers() override {}

    void set_limits(const CallOptions& options) {
        started_ = session().clock_.now();
        if (options.deadline > Duration::zero() && options.deadline < kLongestDeadline)
            end_by_ = started_ + options.deadline;
        if (options.silence < kLongestDeadline) silence_ = options.silence;
        arm();
    }

    TimePoint quiet_until() const noexcept {
        if (silence_ <= Duration::zero()) return TimePoint::max();
        return std::max(started_, session().last_received()) + silence_;
    }

    void arm() {
        const TimePoint next = std::min(end_by_, quiet_until());
        if (next != TimePoint::max()) session().set_deadline(*this, next);
    }

    /// The rest of the answer is of no interest: reset the stream; on_end comes when it is closed.
    void end_early(Status status) {
        if (early_ || session_ == nullptr) return;
        early_ = std::move(status);
        failed_ = true;
        body_complete_ = true;
        held_.clear();
        drop_queue();
        session().reset(*this, NGHTTP2_CANCEL);
        if (closed_while_paused_) resume_reading();  // nghttp2 knows it no more; ends as if read
    }

    CallEvents events_;
    Metadata metadata_;
    Metadata trailers_;
    int answer_block_ = 0;  // which of the header blocks has the HTTP status
    std::optional<Status> status_;
    std::string text_;
    std::optional<Status> early_;
    TimePoint started_;
    TimePoint end_by_ = TimePoint::max();
    Duration silence_{};
    int http_status_ = 0;
    bool grpc_ = false;
    bool headers_done_ = false;
};

ClientSession::ClientSession(const ChannelOptions& options, const Clock& clock)
    : Session(session_options(options), clock.now(), counters_storage_),
      clock_(clock),
      scheme_(options.tls ? "https" : "http"),
      authority_(options.authority),
      user_agent_(options.user_agent) {
    if (authority_.empty()) {
        const bool v6 = options.host.find(':') != std::string::npos;
        authority_ =
            (v6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(options.port);
    }
}

ClientSession::~ClientSession() {
    end_all({StatusCode::kCancelled, "the channel was closed"});
}

ClientCallPtr ClientSession::call(std::string_view path, const CallOptions& options,
                                  CallEvents events) {
    auto stream = std::make_shared<ClientStream>(*this, std::move(events));
    std::vector<nghttp2_nv> fields = {field(":method", "POST"),
                                      field(":scheme", scheme_),
                                      field(":path", path),
                                      field(":authority", authority_),
                                      field("content-type", "application/grpc"),
                                      field("te", "trailers"),
                                      field("user-agent", user_agent_)};
    std::string timeout;
    if (options.deadline > Duration::zero()) {
        timeout = format_timeout(options.deadline);
        fields.push_back(field("grpc-timeout", timeout));
    }
    for (const auto& [name, value] : options.metadata)
        if (is_custom_header(name)) fields.push_back(field(name, value));
    const auto provider = body_of(*stream);
    const std::int32_t id = nghttp2_submit_request(http2_, nullptr, fields.data(), fields.size(),
                                                   &provider, static_cast<Stream*>(stream.get()));
    if (id < 0) {
        // Out of stream numbers: the connection is used up, the call never was.
        stream->early_ = Status{StatusCode::kUnavailable, nghttp2_strerror(id)};
        later(stream, [](Session& session, Stream& self) {
            static_cast<ClientSession&>(session).forget(self, NGHTTP2_REFUSED_STREAM, nullptr);
        });
        return {stream, stream.get()};
    }
    add(id, stream);
    stream->set_limits(options);
    wake();
    return {stream, stream.get()};
}

void ClientSession::handle_goaway(std::uint32_t code, std::string_view debug) {
    goaway_text_ = nghttp2_http2_strerror(code);
    too_many_pings_ = code == NGHTTP2_ENHANCE_YOUR_CALM && debug == "too_many_pings";
    if (!debug.empty()) goaway_text_.append(": ").append(debug.substr(0, 200));
}

}  // namespace mesh::rpc::detail
