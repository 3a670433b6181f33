// nghttp2's callbacks of Http2Filter. Nothing is thrown through nghttp2.
#include "serve/l7/http2_callbacks.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace mesh::serve::l7 {

namespace {
Http2Filter& self(void* user) {
    return *static_cast<Http2Filter*>(user);
}
std::string_view view(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}
Http2Stream* stream_of(nghttp2_session* session, std::int32_t id) {
    return static_cast<Http2Stream*>(nghttp2_session_get_stream_user_data(session, id));
}
bool ends_stream(const nghttp2_frame* frame) {
    return (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
}
template <class Call>
int guarded(Call&& call) noexcept {
    try {
        return call();
    } catch (...) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
}
}  // namespace

struct Http2Filter::Callbacks {
    static bool of_client(Http2Filter& filter, nghttp2_session* session) {
        return session == filter.client_.get();
    }

    static int begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
        return guarded([&] {
            Http2Filter& filter = self(user);
            if (frame->hd.type != NGHTTP2_HEADERS || !of_client(filter, session)) return 0;
            filter.head_since_ = filter.host_.now();
            if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) filter.open_stream(frame->hd.stream_id);
            return 0;
        });
    }

    static int header(nghttp2_session* session, const nghttp2_frame* frame,
                      const std::uint8_t* name, std::size_t name_size, const std::uint8_t* value,
                      std::size_t value_size, std::uint8_t flags, void* user) {
        return guarded([&] {
            if (Http2Stream* stream = stream_of(session, frame->hd.stream_id))
                self(user).take_field(*stream, view(name, name_size), view(value, value_size),
                                      (flags & NGHTTP2_NV_FLAG_NO_INDEX) != 0);
            return 0;
        });
    }

    /// nghttp2 would leave the field out, and let the message pass.
    static int invalid_header(nghttp2_session* session, const nghttp2_frame* frame,
                              const std::uint8_t*, std::size_t, const std::uint8_t*, std::size_t,
                              std::uint8_t, void* user) {
        return guarded([&] {
            if (Http2Stream* stream = stream_of(session, frame->hd.stream_id)) {
                stream->verdict =
                    of_client(self(user), session) ? Verdict::kRefused : Verdict::kError;
                stream->reason = text_of(Problem::kHttp2);
            }
            nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                      NGHTTP2_PROTOCOL_ERROR);
            return static_cast<int>(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE);
        });
    }

    static int frame_received(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
        return guarded([&] {
            Http2Filter& filter = self(user);
            const bool of_the_client = of_client(filter, session);
            if (of_the_client && (frame->hd.type == NGHTTP2_HEADERS ||
                                  (frame->hd.type == NGHTTP2_SETTINGS && !filter.settings_seen_))) {
                filter.settings_seen_ = true;
                filter.head_since_ = TimePoint::max();
            }
            if (frame->hd.type == NGHTTP2_GOAWAY && !of_the_client) {
                nghttp2_submit_goaway(filter.client_.get(), NGHTTP2_FLAG_NONE,
                                      nghttp2_session_get_last_proc_stream_id(filter.client_.get()),
                                      NGHTTP2_NO_ERROR, nullptr, 0);
                filter.draining_ = true;
                return 0;
            }
            Http2Stream* stream = stream_of(session, frame->hd.stream_id);
            if (stream == nullptr) return 0;
            if (of_the_client) {
                from_client(filter, *stream, frame);
            } else {
                from_server(filter, *stream, frame);
            }
            return 0;
        });
    }

    static void from_client(Http2Filter& filter, Http2Stream& stream, const nghttp2_frame* frame) {
        switch (frame->hd.type) {
            case NGHTTP2_HEADERS:
                if (ends_stream(frame)) stream.request_ended = true;
                if (!stream.requested) {
                    filter.take_request(stream, ends_stream(frame));
                } else {
                    filter.take_trailers(stream, stream.up, filter.server_.get(), stream.server_id);
                }
                break;
            case NGHTTP2_DATA:
                if (!ends_stream(frame)) break;
                stream.request_ended = true;
                filter.end_pipe(stream.up, filter.server_.get(), stream.server_id);
                break;
            case NGHTTP2_RST_STREAM:
                if (!stream.response_ended) filter.count_reset();
                break;
            default:
                break;
        }
    }

    static void from_server(Http2Filter& filter, Http2Stream& stream, const nghttp2_frame* frame) {
        switch (frame->hd.type) {
            case NGHTTP2_HEADERS:
                if (!stream.answered) {
                    filter.take_response(stream, ends_stream(frame));
                } else {
                    filter.take_trailers(stream, stream.down, filter.client_.get(),
                                         stream.client_id);
                }
                break;
            case NGHTTP2_DATA:
                if (ends_stream(frame))
                    filter.end_pipe(stream.down, filter.client_.get(), stream.client_id);
                break;
            default:
                break;
        }
    }

    static int data_received(nghttp2_session* session, std::uint8_t, std::int32_t id,
                             const std::uint8_t* data, std::size_t size, void* user) {
        return guarded([&] {
            Http2Filter& filter = self(user);
            const bool of_the_client = of_client(filter, session);
            Http2Stream* stream = stream_of(session, id);
            if (stream != nullptr) {
                (of_the_client ? stream->request_bytes : stream->response_bytes) += size;
                const std::int32_t to = of_the_client ? stream->server_id : stream->client_id;
                if (to >= 0) {
                    Http2Pipe& pipe = of_the_client ? stream->up : stream->down;
                    pipe.data.append(view(data, size));
                    if (pipe.deferred) {
                        pipe.deferred = false;
                        nghttp2_session_resume_data(
                            of_the_client ? filter.server_.get() : filter.client_.get(), to);
                    }
                    return 0;
                }
            }
            // Nobody waits for it: thrown away.
            nghttp2_session_consume(session, id, size);
            return 0;
        });
    }

    static int stream_closed(nghttp2_session* session, std::int32_t id, std::uint32_t code,
                             void* user) {
        return guarded([&] {
            Http2Filter& filter = self(user);
            Http2Stream* stream = stream_of(session, id);
            if (stream == nullptr) return 0;
            if (of_client(filter, session)) {
                filter.client_closed(*stream, code);
            } else {
                filter.server_closed(*stream, code);
            }
            return 0;
        });
    }

    static int frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
        return guarded([&] {
            Http2Filter& filter = self(user);
            if (!of_client(filter, session)) return 0;
            if (frame->hd.type == NGHTTP2_RST_STREAM) {
                // A client may make us reset streams instead of doing it itself.
                const Http2Stream* reset = stream_of(session, frame->hd.stream_id);
                if (frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
                    (reset == nullptr || reset->verdict != Verdict::kError)) {
                    filter.count_reset();
                }
                return 0;
            }
            const bool body = frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS;
            Http2Stream* stream = body ? stream_of(session, frame->hd.stream_id) : nullptr;
            if (stream == nullptr || !ends_stream(frame)) return 0;
            stream->response_ended = true;
            // RFC 9113 §8.1: the rest of the request is not wanted.
            if (!stream->request_ended && stream->server_id < 0)
                nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                          NGHTTP2_NO_ERROR);
            return 0;
        });
    }

    /// A request that nghttp2 would not send: the server has said that it goes away.
    static int frame_not_sent(nghttp2_session* session, const nghttp2_frame* frame, int,
                              void* user) {
        return guarded([&] {
            Http2Filter& filter = self(user);
            if (of_client(filter, session) || frame->hd.type != NGHTTP2_HEADERS) return 0;
            if (Http2Stream* stream = stream_of(session, frame->hd.stream_id))
                filter.server_closed(*stream, NGHTTP2_REFUSED_STREAM);
            return 0;
        });
    }

    static ssize_t read_body(nghttp2_session* session, std::int32_t id, std::uint8_t* out,
                             std::size_t room, std::uint32_t* flags, nghttp2_data_source* source,
                             void* user) {
        auto& stream = *static_cast<Http2Stream*>(source->ptr);
        Http2Filter& filter = self(user);
        const bool to_client = of_client(filter, session);
        Http2Pipe& pipe = to_client ? stream.down : stream.up;
        const std::size_t n = std::min(room, pipe.size());
        if (n == 0 && !pipe.ended) {
            pipe.deferred = true;
            return NGHTTP2_ERR_DEFERRED;
        }
        std::memcpy(out, pipe.data.data() + pipe.head, n);
        pipe.head += n;
        if (pipe.head == pipe.data.size()) {
            std::string().swap(pipe.data);
            pipe.head = 0;
        } else if (pipe.head > pipe.data.size() / 2) {
            pipe.data.erase(0, pipe.head);
            pipe.head = 0;
        }
        give_back(filter, stream, to_client, n);
        if (!pipe.ended || pipe.size() > 0) return static_cast<ssize_t>(n);
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (!pipe.trailers.empty()) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            const auto fields = to_nv(pipe.trailers);
            nghttp2_submit_trailer(session, id, fields.data(), fields.size());
        }
        return static_cast<ssize_t>(n);
    }

    /// The other side may send as much again. Our own answers came from nobody.
    static void give_back(Http2Filter& filter, const Http2Stream& stream, bool to_client,
                          std::size_t n) {
        if (n == 0 || (to_client && !stream.server_opened)) return;
        nghttp2_session* from = to_client ? filter.server_.get() : filter.client_.get();
        if (from == nullptr) return;
        const std::int32_t id = to_client ? stream.server_id : stream.client_id;
        if (id >= 0) {
            nghttp2_session_consume(from, id, n);
        } else {
            nghttp2_session_consume_connection(from, n);
        }
    }
};

std::vector<nghttp2_nv> to_nv(const std::vector<Http2Field>& fields) {
    std::vector<nghttp2_nv> out;
    out.reserve(fields.size());
    for (const Http2Field& field : fields) {
        const auto bytes = [](const std::string& text) {
            return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
        };
        out.push_back({bytes(field.name), bytes(field.value), field.name.size(), field.value.size(),
                       static_cast<std::uint8_t>(field.never_index ? NGHTTP2_NV_FLAG_NO_INDEX
                                                                   : NGHTTP2_NV_FLAG_NONE)});
    }
    return out;
}

nghttp2_data_provider Http2Glue::body_of(Http2Stream& stream) {
    nghttp2_data_provider provider{};
    provider.source.ptr = &stream;
    provider.read_callback = Http2Filter::Callbacks::read_body;
    return provider;
}

nghttp2_session* Http2Glue::make_session(Http2Filter& filter, bool server_role) {
    using Calls = Http2Filter::Callbacks;
    nghttp2_session_callbacks* calls = nullptr;
    nghttp2_option* option = nullptr;
    nghttp2_session* session = nullptr;
    if (nghttp2_session_callbacks_new(&calls) != 0) return nullptr;
    if (nghttp2_option_new(&option) != 0) {
        nghttp2_session_callbacks_del(calls);
        return nullptr;
    }
    nghttp2_session_callbacks_set_on_begin_headers_callback(calls, Calls::begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(calls, Calls::header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(calls, Calls::invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(calls, Calls::frame_received);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, Calls::data_received);
    nghttp2_session_callbacks_set_on_stream_close_callback(calls, Calls::stream_closed);
    nghttp2_session_callbacks_set_on_frame_send_callback(calls, Calls::frame_sent);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(calls, Calls::frame_not_sent);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_max_send_header_block_length(option, 256 << 10);
    nghttp2_option_set_no_closed_streams(option, 1);
    if (server_role) {
        nghttp2_session_server_new2(&session, calls, &filter, option);
    } else {
        nghttp2_session_client_new2(&session, calls, &filter, option);
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(calls);
    return session;
}

}  // namespace mesh::serve::l7
