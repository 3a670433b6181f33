// nghttp2's callbacks of a Session: they record what happened and never act, so that a handler,
// which runs after nghttp2 has returned, may do anything. Internal to rpc/; session.cpp only.
#pragma once

#include "rpc/session.hpp"

namespace mesh::rpc::detail {

struct Session::Callbacks {
    /// All of them. @return the caller's to delete
    [[nodiscard]] static nghttp2_session_callbacks* make();
    /// Where the body of a message comes from; the source is a Stream.
    static ssize_t read_body(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t length,
                             std::uint32_t* flags, nghttp2_data_source* source, void*);

  private:
    static Session& self(void* user) { return *static_cast<Session*>(user); }
    static std::shared_ptr<Stream> stream_of(nghttp2_session* http2, std::int32_t id);
    static ssize_t send(nghttp2_session*, const std::uint8_t* data, std::size_t length, int,
                        void* user);
    static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* head,
                         std::size_t length, nghttp2_data_source* source, void* user);
    static int begin_headers(nghttp2_session* http2, const nghttp2_frame* frame, void* user);
    static int header(nghttp2_session* http2, const nghttp2_frame* frame, const std::uint8_t* name,
                      std::size_t name_length, const std::uint8_t* value, std::size_t value_length,
                      std::uint8_t, void* user);
    static int frame_received(nghttp2_session* http2, const nghttp2_frame* frame, void* user);
    static int data(nghttp2_session* http2, std::uint8_t, std::int32_t id,
                    const std::uint8_t* bytes, std::size_t length, void* user);
    static int stream_closed(nghttp2_session* http2, std::int32_t id, std::uint32_t code,
                             void* user);
    static int frame_sent(nghttp2_session* http2, const nghttp2_frame* frame, void* user);
    static int error_text(nghttp2_session*, int, const char* text, std::size_t length, void* user);
};

}  // namespace mesh::rpc::detail
