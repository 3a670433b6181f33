#include "rpc/session.hpp"

#include <algorithm>
#include <cstring>

namespace mesh::rpc::detail {

// ---- Stream ----

Write Stream::enqueue(Frame frame) {
    if (session_ == nullptr || body_complete_) return Write::kEnded;
    if (queued_bytes_ != 0 &&
        queued_bytes_ + frame.size() > session_->options_.max_send_queue_bytes) {
        refused_write_ = true;
        return Write::kFull;
    }
    queued_bytes_ += frame.size();
    queue_.push_back(std::move(frame));
    ++session_->counters_.messages_sent;
    session_->resume_data(*this);
    return Write::kQueued;
}

void Stream::drop_queue() noexcept {
    queue_.clear();
    head_ = 0;
    offset_ = 0;
    queued_bytes_ = 0;
}

void Stream::resume_reading() {
    if (!paused_) return;
    paused_ = false;
    if (session_ == nullptr) return;
    session_->later(shared_from_this(), [](Session& session, Stream& stream) {
        if (stream.paused_) return;
        std::string held;
        held.swap(stream.held_);
        session.feed(stream, held);
        session.tell_end(stream);
        if (stream.closed_while_paused_ && stream.held_.empty() && !stream.paused_) {
            std::erase_if(session.lingering_,
                          [&](const auto& one) { return one.get() == &stream; });
            session.forget(stream, NGHTTP2_NO_ERROR, nullptr);
        }
    });
}

// ---- nghttp2's callbacks: record, never act ----

struct Session::Callbacks {
    static Session& self(void* user) { return *static_cast<Session*>(user); }
    static std::shared_ptr<Stream> stream_of(nghttp2_session* http2, std::int32_t id) {
        auto* stream = static_cast<Stream*>(nghttp2_session_get_stream_user_data(http2, id));
        return stream != nullptr ? stream->shared_from_this() : nullptr;
    }

    static ssize_t send(nghttp2_session*, const std::uint8_t* data, std::size_t length, int,
                        void* user) {
        Session& s = self(user);
        if (s.out_->size() >= s.room_) return NGHTTP2_ERR_WOULDBLOCK;
        s.out_->append(reinterpret_cast<const char*>(data), length);
        return static_cast<ssize_t>(length);
    }

    static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* head,
                         std::size_t length, nghttp2_data_source* source, void* user) {
        Session& s = self(user);
        if (s.out_->size() >= s.room_) return NGHTTP2_ERR_WOULDBLOCK;
        Stream& stream = *static_cast<Stream*>(source->ptr);
        // The queue may have been dropped after read_body() promised these bytes.
        if (stream.queued_bytes_ < length) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        constexpr std::size_t kFrameHead = 9;
        s.out_->append(reinterpret_cast<const char*>(head), kFrameHead);
        while (length > 0) {
            const std::string_view wire = stream.queue_[stream.head_].wire();
            const std::size_t n = std::min(length, wire.size() - stream.offset_);
            s.out_->append(wire.substr(stream.offset_, n));
            length -= n;
            stream.offset_ += n;
            stream.queued_bytes_ -= n;
            if (stream.offset_ == wire.size()) {
                stream.queue_[stream.head_] = Frame();
                stream.offset_ = 0;
                ++stream.head_;
            }
        }
        if (stream.head_ == stream.queue_.size()) {
            stream.queue_.clear();
            stream.head_ = 0;
        } else if (stream.head_ >= 64 && stream.head_ * 2 >= stream.queue_.size()) {
            stream.queue_.erase(stream.queue_.begin(),
                                stream.queue_.begin() + static_cast<std::ptrdiff_t>(stream.head_));
            stream.head_ = 0;
        }
        if (stream.refused_write_ && stream.queued_bytes_ <= s.options_.max_send_queue_bytes / 2) {
            stream.refused_write_ = false;
            s.events_.push_back({EventKind::kWritable, stream.shared_from_this(), {}});
        }
        return 0;
    }

    static ssize_t read_body(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t length,
                             std::uint32_t* flags, nghttp2_data_source* source, void*) {
        Stream& stream = *static_cast<Stream*>(source->ptr);
        const std::size_t n = std::min(length, stream.queued_bytes_);
        if (n == 0 && !stream.body_complete_) {
            stream.deferred_ = true;
            return NGHTTP2_ERR_DEFERRED;
        }
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        if (stream.body_complete_ && n == stream.queued_bytes_) {
            *flags |= NGHTTP2_DATA_FLAG_EOF;
            if (stream.has_trailers()) {
                *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
                stream.submit_trailers();
            }
        }
        return static_cast<ssize_t>(n);
    }

    static int begin_headers(nghttp2_session* http2, const nghttp2_frame* frame, void* user) {
        Session& s = self(user);
        if (!s.options_.server || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
        auto stream = s.make_stream();
        if (!stream) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        nghttp2_session_set_stream_user_data(http2, frame->hd.stream_id, stream.get());
        s.add(frame->hd.stream_id, std::move(stream));
        return 0;
    }

    static int header(nghttp2_session* http2, const nghttp2_frame* frame, const std::uint8_t* name,
                      std::size_t name_length, const std::uint8_t* value, std::size_t value_length,
                      std::uint8_t, void* user) {
        auto* stream =
            static_cast<Stream*>(nghttp2_session_get_stream_user_data(http2, frame->hd.stream_id));
        if (stream == nullptr) return 0;
        stream->header_bytes_ += name_length + value_length;
        // Past the bound fields are dropped, and the call is refused when the block is complete.
        if (stream->header_bytes_ > self(user).options_.max_header_bytes) return 0;
        stream->handle_header({reinterpret_cast<const char*>(name), name_length},
                              {reinterpret_cast<const char*>(value), value_length});
        return 0;
    }

    static int frame_received(nghttp2_session* http2, const nghttp2_frame* frame, void* user) {
        Session& s = self(user);
        const bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
        switch (frame->hd.type) {
            case NGHTTP2_HEADERS:
                if (auto stream = stream_of(http2, frame->hd.stream_id))
                    s.events_.push_back({end ? EventKind::kHeadersAndEnd : EventKind::kHeaders,
                                         std::move(stream),
                                         {}});
                break;
            case NGHTTP2_DATA:
                if (!end) break;
                if (auto stream = stream_of(http2, frame->hd.stream_id))
                    s.events_.push_back({EventKind::kEnd, std::move(stream), {}});
                break;
            case NGHTTP2_SETTINGS:
                if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) s.ready_ = true;
                break;
            case NGHTTP2_GOAWAY:
                s.goaway_received_ = true;
                s.handle_goaway(frame->goaway.error_code,
                                {reinterpret_cast<const char*>(frame->goaway.opaque_data),
                                 frame->goaway.opaque_data_len});
                break;
            default:
                break;
        }
        return 0;
    }

    static int data(nghttp2_session* http2, std::uint8_t, std::int32_t id,
                    const std::uint8_t* bytes, std::size_t length, void* user) {
        // The view points into what receive() was given, which outlives the dispatch.
        if (auto stream = stream_of(http2, id))
            self(user).events_.push_back({EventKind::kData,
                                          std::move(stream),
                                          {reinterpret_cast<const char*>(bytes), length}});
        return 0;
    }

    static int stream_closed(nghttp2_session* http2, std::int32_t id, std::uint32_t code,
                             void* user) {
        if (auto stream = stream_of(http2, id))
            self(user).events_.push_back({EventKind::kClosed, std::move(stream), {}, code});
        return 0;
    }

    static int frame_sent(nghttp2_session* http2, const nghttp2_frame* frame, void* user) {
        Session& s = self(user);
        if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
            s.failure_ = nghttp2_http2_strerror(frame->goaway.error_code);
            if (frame->goaway.opaque_data_len > 0)
                s.failure_.append(": ").append(
                    reinterpret_cast<const char*>(frame->goaway.opaque_data),
                    frame->goaway.opaque_data_len);
        }
        // A server that has answered does not wait for a client that keeps its side open.
        if (!s.options_.server || frame->hd.type != NGHTTP2_HEADERS ||
            (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
            return 0;
        if (nghttp2_session_get_stream_remote_close(http2, frame->hd.stream_id) == 0)
            nghttp2_submit_rst_stream(http2, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                      NGHTTP2_NO_ERROR);
        return 0;
    }

    static int error_text(nghttp2_session*, int, const char* text, std::size_t length, void* user) {
        self(user).http2_text_.assign(text, std::min<std::size_t>(length, 200));
        return 0;
    }

    static nghttp2_session_callbacks* make() {
        nghttp2_session_callbacks* cb = nullptr;
        if (nghttp2_session_callbacks_new(&cb) != 0) throw std::bad_alloc();
        nghttp2_session_callbacks_set_send_callback(cb, send);
        nghttp2_session_callbacks_set_send_data_callback(cb, send_data);
        nghttp2_session_callbacks_set_on_begin_headers_callback(cb, begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(cb, header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(cb, frame_received);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, data);
        nghttp2_session_callbacks_set_on_stream_close_callback(cb, stream_closed);
        nghttp2_session_callbacks_set_on_frame_send_callback(cb, frame_sent);
        nghttp2_session_callbacks_set_error_callback2(cb, error_text);
        return cb;
    }
};

// ---- Session ----

Session::Session(SessionOptions options, TimePoint now, SessionCounters& counters)
    : options_(options), counters_(counters), last_received_(now) {
    struct Deleter {
        void operator()(nghttp2_session_callbacks* p) const { nghttp2_session_callbacks_del(p); }
        void operator()(nghttp2_option* p) const { nghttp2_option_del(p); }
    };
    const std::unique_ptr<nghttp2_session_callbacks, Deleter> callbacks(Callbacks::make());
    nghttp2_option* raw_option = nullptr;
    if (nghttp2_option_new(&raw_option) != 0) throw std::bad_alloc();
    const std::unique_ptr<nghttp2_option, Deleter> option(raw_option);
    nghttp2_option_set_no_auto_window_update(raw_option, 1);
    nghttp2_option_set_no_closed_streams(raw_option, 1);
    const int made = options_.server
                         ? nghttp2_session_server_new2(&http2_, callbacks.get(), this, raw_option)
                         : nghttp2_session_client_new2(&http2_, callbacks.get(), this, raw_option);
    if (made != 0) throw std::bad_alloc();

    std::vector<nghttp2_settings_entry> settings = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(options_.stream_window)},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, options_.max_header_bytes},
    };
    if (options_.server) {
        settings.push_back(
            {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options_.max_concurrent_streams});
    } else {
        settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
    }
    if (nghttp2_submit_settings(http2_, NGHTTP2_FLAG_NONE, settings.data(), settings.size()) != 0)
        throw std::bad_alloc();
    nghttp2_session_set_local_window_size(http2_, NGHTTP2_FLAG_NONE, 0, options_.connection_window);
}

Session::~Session() {
    // Calls that somebody still holds must not reach back here.
    end_all({StatusCode::kUnavailable, "the connection is closed"});
    nghttp2_session_del(http2_);
}

Result<void> Session::receive(std::string_view bytes, TimePoint now) {
    if (dead_) return unavailable("the connection is closed");
    last_received_ = now;
    ping_sent_.reset();
    const ssize_t taken = nghttp2_session_mem_recv(
        http2_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    dispatch();
    if (taken < 0) {
        std::string why = nghttp2_strerror(static_cast<int>(taken));
        if (!http2_text_.empty()) why.append(" (").append(http2_text_).append(")");
        fail_session(std::move(why));
        return Error(Errc::kCorrupt, failure_);
    }
    if (!http2_text_.empty() && nghttp2_session_want_read(http2_) == 0 && failure_.empty())
        failure_ = http2_text_;
    return {};
}

void Session::turn() {
    auto todo = std::exchange(later_, {});
    for (auto& [stream, run] : todo) {
        if (dead_) return;
        if (stream->session_ != nullptr) run(*this, *stream);
    }
}

bool Session::produce(std::string& out, std::size_t room) {
    if (failed_ || dead_) return false;
    out_ = &out;
    room_ = room;
    const int sent = nghttp2_session_send(http2_);
    out_ = nullptr;
    if (sent != 0) fail_session(nghttp2_strerror(sent));
    dispatch();
    return nghttp2_session_want_write(http2_) != 0;
}

bool Session::finished() const noexcept {
    if (dead_ || failed_) return true;
    if (nghttp2_session_want_read(http2_) == 0 && nghttp2_session_want_write(http2_) == 0)
        return true;
    return going_away() && streams_.empty() && lingering_.empty() &&
           nghttp2_session_want_write(http2_) == 0;
}

bool Session::keepalive_on() const noexcept {
    return options_.keepalive_interval > Duration::zero() && ready_ &&
           (options_.keepalive_without_calls || !streams_.empty());
}

TimePoint Session::next_timeout() const noexcept {
    TimePoint next = TimePoint::max();
    if (dead_) return next;
    if (!deadlines_.empty()) next = deadlines_.begin()->first;
    if (ping_sent_) {
        next = std::min(next, *ping_sent_ + options_.keepalive_timeout);
    } else if (keepalive_on()) {
        next = std::min(next, last_received_ + options_.keepalive_interval);
    }
    return next;
}

void Session::on_timeout(TimePoint now) {
    while (!dead_ && !deadlines_.empty() && deadlines_.begin()->first <= now) {
        const std::int32_t id = deadlines_.begin()->second;
        deadlines_.erase(deadlines_.begin());
        if (const auto it = streams_.find(id); it != streams_.end()) {
            const auto stream = it->second;
            stream->deadline_.reset();
            stream->handle_deadline();
        }
    }
    if (dead_) return;
    if (ping_sent_ && now >= *ping_sent_ + options_.keepalive_timeout) {
        fail_session("the other side did not answer a keepalive ping");
    } else if (!ping_sent_ && keepalive_on() &&
               now >= last_received_ + options_.keepalive_interval) {
        nghttp2_submit_ping(http2_, NGHTTP2_FLAG_NONE, nullptr);
        ping_sent_ = now;
        wake();
    }
}

void Session::end_all(const Status& why) {
    if (dead_) return;
    dead_ = true;
    auto streams = std::exchange(streams_, {});
    auto lingering = std::exchange(lingering_, {});
    events_.clear();
    later_.clear();
    deadlines_.clear();
    // By number, so that the order does not depend on the hash.
    std::vector<std::shared_ptr<Stream>> ordered = std::move(lingering);
    for (auto& [id, stream] : streams) ordered.push_back(stream);
    std::sort(ordered.begin(), ordered.end(),
              [](const auto& a, const auto& b) { return a->id_ < b->id_; });
    for (auto& stream : ordered) {
        nghttp2_session_set_stream_user_data(http2_, stream->id_, nullptr);
        forget(*stream, NGHTTP2_CANCEL, &why);
    }
}

void Session::go_away() {
    if (dead_ || goaway_sent_) return;
    goaway_sent_ = true;
    nghttp2_submit_goaway(http2_, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(http2_), NGHTTP2_NO_ERROR,
                          nullptr, 0);
    wake();
}

void Session::add(std::int32_t id, std::shared_ptr<Stream> stream) {
    stream->id_ = id;
    streams_.emplace(id, std::move(stream));
}

void Session::resume_data(Stream& stream) {
    if (stream.deferred_) {
        stream.deferred_ = false;
        nghttp2_session_resume_data(http2_, stream.id_);
    }
    wake();
}

void Session::reset(Stream& stream, std::uint32_t code) {
    nghttp2_submit_rst_stream(http2_, NGHTTP2_FLAG_NONE, stream.id_, code);
    wake();
}

void Session::set_deadline(Stream& stream, TimePoint at) {
    stream.deadline_ = at;
    deadlines_.emplace(at, stream.id_);
    wake();
}

void Session::wake() {
    if (on_wake && !dead_) on_wake();
}

void Session::later(std::shared_ptr<Stream> stream, void (*run)(Session&, Stream&)) {
    later_.emplace_back(std::move(stream), run);
    wake();
}

void Session::fail_session(std::string why) {
    if (failure_.empty()) failure_ = std::move(why);
    failed_ = true;
    wake();
}

nghttp2_data_provider Session::body_of(Stream& stream) noexcept {
    nghttp2_data_provider provider{};
    provider.source.ptr = &stream;
    provider.read_callback = Callbacks::read_body;
    return provider;
}

void Session::forget(Stream& stream, std::uint32_t code, const Status* lost) {
    if (stream.session_ == nullptr) return;
    const auto keep = stream.shared_from_this();
    if (stream.deadline_) deadlines_.erase({*stream.deadline_, stream.id_});
    buffered_ -= stream.reader_accounted_;
    stream.reader_accounted_ = 0;
    streams_.erase(stream.id_);
    stream.session_ = nullptr;
    stream.drop_queue();
    stream.handle_closed(code, lost);
}

void Session::dispatch() {
    // Handlers may cause new events only through nghttp2, which is not entered in here.
    auto events = std::exchange(events_, {});
    for (const Event& event : events) {
        if (dead_) return;
        if (event.stream->session_ != nullptr) dispatch_one(event);
    }
    if (events_.empty()) {
        events.clear();
        events_ = std::move(events);
    }
}

void Session::dispatch_one(const Event& event) {
    Stream& stream = *event.stream;
    switch (event.kind) {
        case EventKind::kHeaders:
        case EventKind::kHeadersAndEnd: {
            const bool end = event.kind == EventKind::kHeadersAndEnd;
            if (stream.header_bytes_ > options_.max_header_bytes) {
                fail_stream(stream, {StatusCode::kResourceExhausted,
                                     "header fields of " + std::to_string(stream.header_bytes_) +
                                         " bytes, at most " +
                                         std::to_string(options_.max_header_bytes) + " are taken"});
                break;
            }
            stream.header_bytes_ = 0;
            stream.handle_headers(end);
            if (end) {
                stream.remote_ended_ = true;
                tell_end(stream);
            }
            break;
        }
        case EventKind::kData:
            take_data(stream, event.data);
            break;
        case EventKind::kEnd:
            stream.remote_ended_ = true;
            tell_end(stream);
            break;
        case EventKind::kWritable:
            stream.handle_writable();
            break;
        case EventKind::kClosed:
            if (event.code == NGHTTP2_NO_ERROR && stream.paused_ && !stream.held_.empty()) {
                stream.closed_while_paused_ = true;
                lingering_.push_back(event.stream);
                streams_.erase(stream.id_);
            } else {
                forget(stream, event.code, nullptr);
            }
            break;
    }
}

void Session::take_data(Stream& stream, std::string_view data) {
    // The connection's window is given back at once: a stream that pauses must not stop the others.
    nghttp2_session_consume_connection(http2_, data.size());
    if (stream.failed_) {
        nghttp2_session_consume_stream(http2_, stream.id_, data.size());
    } else if (stream.paused_ || !stream.held_.empty()) {
        stream.held_.append(data);
    } else {
        feed(stream, data);
    }
}

void Session::feed(Stream& stream, std::string_view data) {
    const std::size_t offered = data.size();
    const auto keep = stream.shared_from_this();
    while (!data.empty() && !dead_ && stream.session_ != nullptr && !stream.failed_) {
        if (stream.paused_) {
            stream.held_.assign(data);
            break;
        }
        std::string_view message;
        const auto outcome = stream.reader_.next(data, message, options_.max_message_bytes);
        if (outcome == MessageReader::Outcome::kNeedMore) break;
        switch (outcome) {
            case MessageReader::Outcome::kMessage:
                ++counters_.messages_received;
                stream.handle_message(message);
                break;
            case MessageReader::Outcome::kCompressed:
                fail_stream(stream,
                            {StatusCode::kUnimplemented, "compressed messages are not taken"});
                break;
            case MessageReader::Outcome::kTooLarge:
                fail_stream(stream, {StatusCode::kResourceExhausted,
                                     "a message is larger than the limit of " +
                                         std::to_string(options_.max_message_bytes) + " bytes"});
                break;
            default:
                fail_stream(stream,
                            {StatusCode::kInternal, "a message's flag byte is neither 0 nor 1"});
                break;
        }
    }
    if (dead_ || stream.session_ == nullptr) return;
    buffered_ += stream.reader_.buffered();
    buffered_ -= std::exchange(stream.reader_accounted_, stream.reader_.buffered());
    if (buffered_ > options_.max_buffered_bytes && !stream.failed_)
        fail_stream(stream,
                    {StatusCode::kResourceExhausted,
                     "unfinished messages of more than " +
                         std::to_string(options_.max_buffered_bytes) + " bytes on one connection"});
    const std::size_t consumed = offered - stream.held_.size();
    if (consumed > 0 && !stream.remote_ended_) {
        nghttp2_session_consume_stream(http2_, stream.id_, consumed);
        wake();
    }
}

void Session::tell_end(Stream& stream) {
    if (!stream.remote_ended_ || stream.end_told_ || !stream.held_.empty() || stream.failed_ ||
        stream.session_ == nullptr)
        return;
    stream.end_told_ = true;
    if (stream.reader_.partial()) {
        fail_stream(stream, {StatusCode::kInternal, "the stream ended inside a message"});
        return;
    }
    stream.handle_remote_end();
}

void Session::fail_stream(Stream& stream, Status status) {
    stream.failed_ = true;
    stream.held_.clear();
    stream.handle_failure(std::move(status));
}

}  // namespace mesh::rpc::detail
