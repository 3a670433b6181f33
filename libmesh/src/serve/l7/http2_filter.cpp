#include "serve/l7/http2_filter.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "serve/l7/http2_callbacks.hpp"

namespace mesh::serve::l7 {

namespace {

// HTTP/2 counts 32 bytes for each field of a header list.
constexpr std::size_t kFieldOverhead = 32;
constexpr std::size_t kProduceBytes = 64 << 10;

bool is_grpc(const std::vector<Http2Field>& fields) {
    return std::ranges::any_of(fields, [](const Http2Field& field) {
        return field.name == "content-type" && field.value.starts_with("application/grpc");
    });
}

std::uint32_t to_uint(std::size_t n) {
    return static_cast<std::uint32_t>(std::min<std::size_t>(n, 0x7fffffff));
}

}  // namespace

Http2Filter::Http2Filter(FilterHost& host)
    : host_(host),
      limits_(host.limits()),
      client_(Http2Glue::make_session(*this, true)),
      head_since_(host.now()),
      resets_left_(limits_.reset_burst),
      resets_at_(host.now()) {
    const std::array<nghttp2_settings_entry, 4> settings{{
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits_.max_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(limits_.stream_window)},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, to_uint(limits_.head.max_bytes)},
        {NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 0},
    }};
    if (!client_ || nghttp2_submit_settings(client_.get(), NGHTTP2_FLAG_NONE, settings.data(),
                                            settings.size()) != 0) {
        ending_ = Ending::kReset;
        return;
    }
    nghttp2_session_set_local_window_size(client_.get(), NGHTTP2_FLAG_NONE, 0,
                                          limits_.connection_window);
}

Http2Filter::~Http2Filter() {
    for (auto& [id, stream] : streams_) {
        if (stream->verdict == Verdict::kForwarded && !stream->response_ended) {
            stream->verdict = Verdict::kError;
            stream->reason = "the connection ended before the response did";
        }
        if (stream->requested) finish(*stream);
    }
}

bool Http2Filter::open_server() {
    if (server_) return true;
    server_.reset(Http2Glue::make_session(*this, false));
    const std::array<nghttp2_settings_entry, 3> settings{{
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(limits_.stream_window)},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, to_uint(limits_.head.max_bytes)},
    }};
    if (!server_ || nghttp2_submit_settings(server_.get(), NGHTTP2_FLAG_NONE, settings.data(),
                                            settings.size()) != 0) {
        return false;
    }
    nghttp2_session_set_local_window_size(server_.get(), NGHTTP2_FLAG_NONE, 0,
                                          limits_.connection_window);
    return true;
}

// --- bytes --------------------------------------------------------------------------------------

void Http2Filter::from_client(std::string_view bytes) {
    if (ending_ != Ending::kNone) return;
    const ssize_t n = nghttp2_session_mem_recv(
        client_.get(), reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    if (n < 0) ending_ = Ending::kReset;
    settle();
}

void Http2Filter::from_server(std::string_view bytes) {
    if (ending_ != Ending::kNone || server_lost_) return;
    // Something that nothing asked for, before there is a session: the connection is made for one.
    if (!server_) return lose_server(ServerFailure::kReset);
    const ssize_t n = nghttp2_session_mem_recv(
        server_.get(), reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    if (n < 0) lose_server(ServerFailure::kReset);
    settle();
}

void Http2Filter::settle() {
    if (ending_ == Ending::kNone) {
        if (draining_ && streams_.empty())
            nghttp2_session_terminate_session(client_.get(), NGHTTP2_NO_ERROR);
        produce();
    }
    forgotten_.clear();
}

void Http2Filter::produce() {
    const auto fill = [](nghttp2_session* session, Outbox& box) {
        while (box.size() < kProduceBytes) {
            const std::uint8_t* data = nullptr;
            const ssize_t n = nghttp2_session_mem_send(session, &data);
            if (n <= 0) return n == 0;
            box.add_copy({reinterpret_cast<const char*>(data), static_cast<std::size_t>(n)});
        }
        return true;
    };
    if (server_ && !server_lost_) {
        const bool over =
            !fill(server_.get(), to_server) || (nghttp2_session_want_read(server_.get()) == 0 &&
                                                nghttp2_session_want_write(server_.get()) == 0);
        if (over) lose_server(ServerFailure::kReset);
        if (server_lost_ && streams_.empty())
            nghttp2_session_terminate_session(client_.get(), NGHTTP2_NO_ERROR);
    }
    if (!fill(client_.get(), to_client)) ending_ = Ending::kReset;
    if (ending_ == Ending::kNone && nghttp2_session_want_read(client_.get()) == 0 &&
        nghttp2_session_want_write(client_.get()) == 0) {
        ending_ = Ending::kClose;
    }
}

void Http2Filter::advance() {
    settle();
}

bool Http2Filter::wants_advance() const noexcept {
    if (ending_ != Ending::kNone) return false;
    return nghttp2_session_want_write(client_.get()) != 0 ||
           (server_ && !server_lost_ && nghttp2_session_want_write(server_.get()) != 0);
}

// --- requests -----------------------------------------------------------------------------------

void Http2Filter::open_stream(std::int32_t id) {
    auto made = std::make_unique<Http2Stream>();
    made->client_id = id;
    made->began = host_.now();
    nghttp2_session_set_stream_user_data(client_.get(), id, made.get());
    streams_[id] = std::move(made);
}

void Http2Filter::take_field(Http2Stream& stream, std::string_view name, std::string_view value,
                             bool never_index) {
    stream.field_bytes += name.size() + value.size() + kFieldOverhead;
    if (stream.field_bytes > limits_.head.max_bytes ||
        stream.fields.size() >= limits_.head.max_fields) {
        stream.too_large = true;
        return;
    }
    stream.fields.push_back({std::string(name), std::string(value), never_index});
}

Problem Http2Filter::check_request(Http2Stream& stream) {
    std::string_view method, path, authority, host, scheme;
    std::size_t hosts = 0;
    views_.clear();
    for (const Http2Field& field : stream.fields) {
        if (field.name == ":method") {
            method = field.value;
        } else if (field.name == ":path") {
            path = field.value;
        } else if (field.name == ":authority") {
            authority = field.value;
        } else if (field.name == ":scheme") {
            scheme = field.value;
        } else {
            if (field.name == "host") {
                host = field.value;
                ++hosts;
            }
            if (!is_token(field.name) || !is_field_value(field.value)) return Problem::kFieldValue;
            views_.push_back({field.name, field.value});
        }
    }
    if (hosts > 1 || (hosts == 1 && !authority.empty() && !iequals(host, authority)))
        return Problem::kHost;
    if (authority.empty()) authority = host;
    if (method == "CONNECT") {
        request_.path = authority;
    } else {
        if (scheme != "http" && scheme != "https") return Problem::kTarget;
        if (authority.empty()) return Problem::kHost;
        // An absolute target is HTTP/1's.
        if (!path.starts_with('/') && path != "*") return Problem::kTarget;
    }
    const Problem problem =
        read_target(method, method == "CONNECT" ? authority : path, authority, request_);
    stream.method.assign(method);
    stream.path.assign(request_.path);
    stream.host.assign(authority);
    return problem;
}

void Http2Filter::take_request(Http2Stream& stream, bool ended) {
    stream.requested = true;
    stream.request_bytes += stream.field_bytes;
    if (stream.too_large)
        return answer(stream, 431, Verdict::kRefused, text_of(Problem::kTooLarge));
    if (const Problem problem = check_request(stream); problem != Problem::kNone) {
        stream.verdict = Verdict::kRefused;
        stream.reason = text_of(problem);
        return reset(stream, NGHTTP2_PROTOCOL_ERROR);
    }
    const RequestView view{request_.method, request_.path, request_.host, request_.plain_path,
                           views_};
    const std::string_view denied = decide(host_, view, decision_);
    stream.rule.assign(decision_.origin);
    for (const std::string_view name : decision_.mismatched)
        stream.mismatched.append(stream.mismatched.empty() ? "" : ",").append(name);
    if (!denied.empty()) {
        if (is_grpc(stream.fields)) return answer_grpc(stream, denied);
        return answer(stream, 403, Verdict::kDenied, denied);
    }
    if (server_lost_)
        return answer(stream, 503, Verdict::kError, text_of(ServerFailure::kUnreachable));
    edit(stream);
    forward(stream, ended);
}

void Http2Filter::edit(Http2Stream& stream) const {
    for (const HeaderEdit& one : decision_.edits) {
        if (one.kind == HeaderEdit::Kind::kDelete) {
            std::erase_if(stream.fields,
                          [&](const Http2Field& field) { return iequals(field.name, one.name); });
            continue;
        }
        std::string name(one.name);
        std::ranges::transform(name, name.begin(), [](char c) {
            return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
        });
        stream.fields.push_back({std::move(name), std::string(one.value), false});
    }
}

void Http2Filter::forward(Http2Stream& stream, bool ended) {
    if (!open_server())
        return answer(stream, 503, Verdict::kError, text_of(ServerFailure::kUnreachable));
    const auto fields = to_nv(stream.fields);
    const nghttp2_data_provider body = Http2Glue::body_of(stream);
    const std::int32_t id = nghttp2_submit_request(server_.get(), nullptr, fields.data(),
                                                   fields.size(), ended ? nullptr : &body, &stream);
    stream.fields.clear();
    stream.field_bytes = 0;
    if (id < 0) return answer(stream, 503, Verdict::kError, text_of(ServerFailure::kUnreachable));
    stream.server_id = id;
    stream.server_opened = true;
}

void Http2Filter::take_trailers(Http2Stream& stream, Http2Pipe& pipe, nghttp2_session* to,
                                std::int32_t id) {
    std::erase_if(stream.fields,
                  [](const Http2Field& field) { return forbidden_in_trailer(field.name); });
    if (stream.too_large) {
        stream.verdict = Verdict::kRefused;
        stream.reason = text_of(Problem::kTooLarge);
        return reset(stream, NGHTTP2_PROTOCOL_ERROR);
    }
    pipe.trailers = std::move(stream.fields);
    stream.fields.clear();
    stream.field_bytes = 0;
    end_pipe(pipe, to, id);
}

void Http2Filter::end_pipe(Http2Pipe& pipe, nghttp2_session* to, std::int32_t id) {
    pipe.ended = true;
    if (pipe.deferred && id >= 0 && to != nullptr) {
        pipe.deferred = false;
        nghttp2_session_resume_data(to, id);
    }
}

// --- responses ----------------------------------------------------------------------------------

void Http2Filter::take_response(Http2Stream& stream, bool ended) {
    const auto status = std::ranges::find(stream.fields, ":status", &Http2Field::name);
    unsigned code = 0;
    if (status != stream.fields.end() && status->value.size() == 3) {
        for (const char c : status->value) code = code * 10 + static_cast<unsigned>(c - '0');
    }
    stream.response_bytes += stream.field_bytes;
    const std::vector<Http2Field> fields = std::move(stream.fields);
    stream.fields.clear();
    stream.field_bytes = 0;
    if (stream.client_id < 0) return;
    if (stream.too_large || code < 100 || code == 101) {
        stream.verdict = Verdict::kError;
        stream.reason = text_of(stream.too_large ? Problem::kTooLarge : Problem::kStatusLine);
        return reset(stream, NGHTTP2_INTERNAL_ERROR);
    }
    const auto nv = to_nv(fields);
    if (stream.answered_at == TimePoint{}) stream.answered_at = host_.now();
    if (code < 200) {
        nghttp2_submit_headers(client_.get(), NGHTTP2_FLAG_NONE, stream.client_id, nullptr,
                               nv.data(), nv.size(), nullptr);
        return;
    }
    stream.answered = true;
    stream.status = code;
    const nghttp2_data_provider body = Http2Glue::body_of(stream);
    if (ended) stream.down.ended = true;
    nghttp2_submit_response(client_.get(), stream.client_id, nv.data(), nv.size(),
                            ended ? nullptr : &body);
}

void Http2Filter::submit_answer(Http2Stream& stream, const std::vector<Http2Field>& fields,
                                std::string_view body) {
    stream.answered = true;
    stream.answered_at = host_.now();
    stream.down.data.assign(body);
    stream.down.ended = true;
    stream.response_bytes += body.size();
    const auto nv = to_nv(fields);
    const nghttp2_data_provider provider = Http2Glue::body_of(stream);
    nghttp2_submit_response(client_.get(), stream.client_id, nv.data(), nv.size(),
                            body.empty() ? nullptr : &provider);
}

void Http2Filter::answer(Http2Stream& stream, unsigned status, Verdict verdict,
                         std::string_view reason) {
    stream.verdict = verdict;
    stream.reason = reason;
    stream.status = status;
    const bool head = stream.method == "HEAD";
    std::string body(kDeniedBody);
    if (status != 403) body.assign(reason).append("\r\n");
    submit_answer(stream,
                  {{":status", std::to_string(status), false},
                   {"content-type", "text/plain", false},
                   {"content-length", std::to_string(body.size()), false},
                   {std::string(kReasonHeader), std::string(reason), false}},
                  head ? std::string_view() : std::string_view(body));
}

/// As Cilium's Envoy answers a gRPC call in place of 403: Trailers-Only with PERMISSION_DENIED.
void Http2Filter::answer_grpc(Http2Stream& stream, std::string_view reason) {
    stream.verdict = Verdict::kDenied;
    stream.reason = reason;
    stream.status = 200;
    submit_answer(stream,
                  {{":status", "200", false},
                   {"content-type", "application/grpc", false},
                   {"grpc-status", "7", false},
                   {"grpc-message", "Access denied", false},
                   {std::string(kReasonHeader), std::string(reason), false}},
                  {});
}

// --- ends ---------------------------------------------------------------------------------------

void Http2Filter::reset(Http2Stream& stream, std::uint32_t code) {
    if (stream.client_id >= 0)
        nghttp2_submit_rst_stream(client_.get(), NGHTTP2_FLAG_NONE, stream.client_id, code);
    if (stream.server_id >= 0 && server_)
        nghttp2_submit_rst_stream(server_.get(), NGHTTP2_FLAG_NONE, stream.server_id,
                                  NGHTTP2_CANCEL);
}

void Http2Filter::count_reset() {
    const TimePoint now = host_.now();
    const double seconds = std::chrono::duration<double>(now - resets_at_).count();
    resets_at_ = now;
    resets_left_ =
        std::min<double>(limits_.reset_burst, resets_left_ + seconds * limits_.resets_per_second);
    if (resets_left_ < 1) return give_up(NGHTTP2_ENHANCE_YOUR_CALM);
    resets_left_ -= 1;
}

void Http2Filter::give_up(std::uint32_t code) {
    nghttp2_session_terminate_session(client_.get(), code);
}

void Http2Filter::client_closed(Http2Stream& stream, std::uint32_t code) {
    const std::size_t left = stream.up.size();
    if (left > 0) {
        nghttp2_session_consume_connection(client_.get(), left);
        stream.up.data.clear();
        stream.up.head = 0;
    }
    head_since_ = TimePoint::max();
    const bool complete =
        stream.response_ended && stream.up.ended && left == 0 && code == NGHTTP2_NO_ERROR;
    if (stream.server_id >= 0 && !server_lost_ && !complete)
        nghttp2_submit_rst_stream(server_.get(), NGHTTP2_FLAG_NONE, stream.server_id,
                                  NGHTTP2_CANCEL);
    if (code != NGHTTP2_NO_ERROR && !stream.response_ended &&
        stream.verdict == Verdict::kForwarded) {
        // What nghttp2 refuses does not come to take_request().
        stream.verdict = stream.requested ? Verdict::kError : Verdict::kRefused;
        stream.reason = stream.requested ? "the stream was reset" : text_of(Problem::kHttp2);
    }
    if (stream.requested || stream.verdict != Verdict::kForwarded) finish(stream);
    const std::int32_t id = std::exchange(stream.client_id, -1);
    const auto found = streams_.find(id);
    if (found == streams_.end()) return;
    // Without a number it is found by its server's stream only.
    std::unique_ptr<Http2Stream> held = std::move(found->second);
    streams_.erase(found);
    if (held->server_id >= 0) {
        orphans_.push_back(std::move(held));
    } else {
        forgotten_.push_back(std::move(held));
    }
}

void Http2Filter::server_closed(Http2Stream& stream, std::uint32_t code) {
    const std::int32_t id = std::exchange(stream.server_id, -1);
    nghttp2_session_set_stream_user_data(server_.get(), id, nullptr);
    if (stream.client_id < 0) {
        if (stream.down.size() > 0)
            nghttp2_session_consume_connection(server_.get(), stream.down.size());
        const auto found = std::ranges::find_if(
            orphans_, [&](const auto& orphan) { return orphan.get() == &stream; });
        if (found != orphans_.end()) {
            forgotten_.push_back(std::move(*found));
            orphans_.erase(found);
        }
        return;
    }
    if (stream.answered && stream.down.ended) {
        if (stream.response_ended && !stream.request_ended)
            nghttp2_submit_rst_stream(client_.get(), NGHTTP2_FLAG_NONE, stream.client_id,
                                      NGHTTP2_NO_ERROR);
        return;
    }
    stream.verdict = Verdict::kError;
    stream.reason = "the server reset the stream";
    nghttp2_submit_rst_stream(client_.get(), NGHTTP2_FLAG_NONE, stream.client_id,
                              code == 0 ? std::uint32_t{NGHTTP2_INTERNAL_ERROR} : code);
}

void Http2Filter::finish(Http2Stream& stream) {
    host_.count(stream.verdict);
    if (!host_.logs(stream.verdict)) return;
    AccessRecord record;
    record.protocol = "HTTP/2";
    record.method = stream.method;
    record.path = stream.path;
    record.host = stream.host;
    record.status = stream.answered ? stream.status : 0;
    record.verdict = stream.verdict;
    record.reason = stream.reason;
    record.rule = stream.rule;
    record.mismatched = stream.mismatched;
    record.duration = host_.now() - stream.began;
    if (stream.answered_at != TimePoint{})
        record.until_response = stream.answered_at - stream.began;
    record.request_bytes = stream.request_bytes;
    record.response_bytes = stream.response_bytes;
    host_.log(record);
}

void Http2Filter::lose_server(ServerFailure failure) {
    if (std::exchange(server_lost_, true)) return;
    to_server.clear();
    orphans_.clear();
    for (auto& [id, stream] : streams_) {
        if (stream->server_id < 0) continue;
        stream->server_id = -1;
        if (stream->answered && stream->down.ended) continue;
        if (!stream->answered) {
            answer(*stream, failure == ServerFailure::kConnectTimeout ? 504 : 503, Verdict::kError,
                   text_of(failure));
            continue;
        }
        stream->verdict = Verdict::kError;
        stream->reason = text_of(failure);
        nghttp2_submit_rst_stream(client_.get(), NGHTTP2_FLAG_NONE, id, NGHTTP2_INTERNAL_ERROR);
    }
    if (!draining_) drain();
}

void Http2Filter::client_end() {
    if (ending_ == Ending::kNone) ending_ = streams_.empty() ? Ending::kClose : Ending::kReset;
}

void Http2Filter::server_end() {
    server_failed(ServerFailure::kReset);
}

void Http2Filter::server_failed(ServerFailure failure) {
    if (ending_ != Ending::kNone) return;
    lose_server(failure);
    settle();
}

void Http2Filter::request_timeout() {
    if (ending_ != Ending::kNone) return;
    head_since_ = TimePoint::max();
    give_up(NGHTTP2_ENHANCE_YOUR_CALM);
    settle();
}

void Http2Filter::drain() {
    if (ending_ != Ending::kNone) return;
    draining_ = true;
    nghttp2_submit_goaway(client_.get(), NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(client_.get()), NGHTTP2_NO_ERROR,
                          nullptr, 0);
}

bool Http2Filter::reads_client() const noexcept {
    return ending_ == Ending::kNone;
}

bool Http2Filter::reads_server() const noexcept {
    return ending_ == Ending::kNone && !server_lost_;
}

Waiting Http2Filter::waiting() const noexcept {
    // A stream whose request is not complete may well wait for its server, as in gRPC.
    return {head_since_, false};
}

}  // namespace mesh::serve::l7
