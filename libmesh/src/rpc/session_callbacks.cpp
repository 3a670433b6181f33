#include "rpc/session_callbacks.hpp"

#include <algorithm>
#include <new>

namespace mesh::rpc::detail {

std::shared_ptr<Stream> Session::Callbacks::stream_of(nghttp2_session* http2, std::int32_t id) {
    auto* stream = static_cast<Stream*>(nghttp2_session_get_stream_user_data(http2, id));
    return stream != nullptr ? stream->shared_from_this() : nullptr;
}

ssize_t Session::Callbacks::send(nghttp2_session*, const std::uint8_t* data, std::size_t length,
                                 int, void* user) {
    Session& s = self(user);
    if (s.out_->size() >= s.room_) return NGHTTP2_ERR_WOULDBLOCK;
    s.out_->append(reinterpret_cast<const char*>(data), length);
    return static_cast<ssize_t>(length);
}

int Session::Callbacks::send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* head,
                                  std::size_t length, nghttp2_data_source* source, void* user) {
    Session& s = self(user);
    if (s.out_->size() >= s.room_) return NGHTTP2_ERR_WOULDBLOCK;
    Stream& stream = *static_cast<Stream*>(source->ptr);
    // The queue may have been dropped after read_body() promised these bytes.
    if (stream.queued_bytes_ < length) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    constexpr std::size_t kFrameHead = 9;
    s.out_->append(reinterpret_cast<const char*>(head), kFrameHead);
    while (length > 0) {
        const Frame& frame = stream.queue_[stream.head_];
        const std::string_view piece = frame.piece(stream.offset_);
        const std::size_t n = std::min(length, piece.size());
        s.out_->append(piece.data(), n);
        length -= n;
        stream.offset_ += n;
        stream.queued_bytes_ -= n;
        s.queued_ -= n;
        s.data_sent_ += n;
        if (stream.offset_ == frame.size()) {
            stream.queue_[stream.head_] = Frame();
            stream.offset_ = 0;
            ++stream.head_;
        }
    }
    s.pings_.sent();
    // A peer answers data with window updates.
    s.controls_.give(4);
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
    s.relieve();
    return 0;
}

ssize_t Session::Callbacks::read_body(nghttp2_session*, std::int32_t, std::uint8_t*,
                                      std::size_t length, std::uint32_t* flags,
                                      nghttp2_data_source* source, void*) {
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

int Session::Callbacks::begin_headers(nghttp2_session* http2, const nghttp2_frame* frame,
                                      void* user) {
    Session& s = self(user);
    if (s.options_.header_timeout > Duration::zero())
        s.header_by_ = s.last_received_ + s.options_.header_timeout;
    if (!s.options_.server || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    auto stream = s.make_stream();
    if (!stream) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(http2, frame->hd.stream_id, stream.get());
    s.add(frame->hd.stream_id, std::move(stream));
    return 0;
}

int Session::Callbacks::header(nghttp2_session* http2, const nghttp2_frame* frame,
                               const std::uint8_t* name, std::size_t name_length,
                               const std::uint8_t* value, std::size_t value_length, std::uint8_t,
                               void* user) {
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

int Session::Callbacks::frame_received(nghttp2_session* http2, const nghttp2_frame* frame,
                                       void* user) {
    Session& s = self(user);
    const bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    switch (frame->hd.type) {
        case NGHTTP2_HEADERS:
            s.header_by_ = TimePoint::max();
            if (auto stream = stream_of(http2, frame->hd.stream_id)) {
                ++stream->header_blocks_;
                s.events_.push_back(
                    {end ? EventKind::kHeadersAndEnd : EventKind::kHeaders, std::move(stream), {}});
            }
            break;
        case NGHTTP2_DATA:
            if (!end) {
                if (frame->hd.length == frame->data.padlen) s.spend_control();
                break;
            }
            if (auto stream = stream_of(http2, frame->hd.stream_id))
                s.events_.push_back({EventKind::kEnd, std::move(stream), {}});
            break;
        case NGHTTP2_SETTINGS:
            if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) s.ready_ = true;
            s.spend_control();
            break;
        case NGHTTP2_PRIORITY:
        case NGHTTP2_WINDOW_UPDATE:
            s.spend_control();
            break;
        case NGHTTP2_PING:
            s.spend_control();
            s.take_ping((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0, frame->ping.opaque_data);
            break;
        case NGHTTP2_RST_STREAM:
            s.spend_reset();
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

int Session::Callbacks::data(nghttp2_session* http2, std::uint8_t, std::int32_t id,
                             const std::uint8_t* bytes, std::size_t length, void* user) {
    // The view points into what receive() was given, which outlives the dispatch.
    if (auto stream = stream_of(http2, id))
        self(user).events_.push_back(
            {EventKind::kData, std::move(stream), {reinterpret_cast<const char*>(bytes), length}});
    return 0;
}

int Session::Callbacks::stream_closed(nghttp2_session* http2, std::int32_t id, std::uint32_t code,
                                      void* user) {
    if (auto stream = stream_of(http2, id))
        self(user).events_.push_back({EventKind::kClosed, std::move(stream), {}, code});
    return 0;
}

int Session::Callbacks::frame_sent(nghttp2_session* http2, const nghttp2_frame* frame, void* user) {
    Session& s = self(user);
    if (frame->hd.type == NGHTTP2_HEADERS) s.pings_.sent();
    // What the peer made us reset is a reset of its own, by a way round.
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
        frame->rst_stream.error_code != NGHTTP2_CANCEL)
        s.spend_reset();
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
        s.terminated_ = s.abuse_ != nullptr;
        s.failure_ = nghttp2_http2_strerror(frame->goaway.error_code);
        if (frame->goaway.opaque_data_len > 0)
            s.failure_.append(": ").append(reinterpret_cast<const char*>(frame->goaway.opaque_data),
                                           frame->goaway.opaque_data_len);
    }
    // A server that has answered does not wait for a client that keeps its side open.
    if (!s.options_.server || frame->hd.type != NGHTTP2_HEADERS ||
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
        return 0;
    if (nghttp2_session_get_stream_remote_close(http2, frame->hd.stream_id) == 0)
        nghttp2_submit_rst_stream(http2, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

int Session::Callbacks::error_text(nghttp2_session*, int, const char* text, std::size_t length,
                                   void* user) {
    self(user).http2_text_.assign(text, std::min<std::size_t>(length, 200));
    return 0;
}

nghttp2_session_callbacks* Session::Callbacks::make() {
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

}  // namespace mesh::rpc::detail
