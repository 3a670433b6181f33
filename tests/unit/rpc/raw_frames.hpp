// HTTP/2 frames byte by byte, right and wrong, and what a server's session answers to them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sessions.hpp"

namespace mesh::rpc::raw {

enum Type : std::uint8_t {
    kData,
    kHeaders,
    kPriority,
    kReset,
    kSettings,
    kPushPromise,
    kPing,
    kGoAway,
    kWindowUpdate,
    kContinuation
};
enum Flag : std::uint8_t { kNone = 0, kEnd = 1, kAck = 1, kEndHeaders = 4, kPadded = 8 };

inline const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

inline std::string number(std::uint64_t value, int bytes) {
    std::string out;
    for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i)));
    return out;
}

/// @param length of the payload as it is told; -1 = as it is
inline std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream,
                         std::string_view payload = {}, std::int64_t length = -1) {
    const auto told = length < 0 ? payload.size() : static_cast<std::size_t>(length);
    return number(told, 3) + static_cast<char>(type) + static_cast<char>(flags) +
           number(stream, 4) + std::string(payload);
}

inline std::string settings() {
    return frame(kSettings, kNone, 0);
}
inline std::string ping(std::string_view data = "8 bytes.") {
    return frame(kPing, kNone, 0, data);
}
inline std::string reset(std::uint32_t stream, std::uint32_t code = NGHTTP2_CANCEL) {
    return frame(kReset, kNone, stream, number(code, 4));
}
inline std::string window_update(std::uint32_t stream, std::uint32_t by) {
    return frame(kWindowUpdate, kNone, stream, number(by, 4));
}

/// HPACK: a literal field without indexing; names and values shorter than 127 bytes.
inline std::string literal(std::string_view name, std::string_view value) {
    return std::string(1, '\0') + static_cast<char>(name.size()) + std::string(name) +
           static_cast<char>(value.size()) + std::string(value);
}

inline std::string fields(std::string_view path, const Metadata& more = {}) {
    std::string block = literal(":method", "POST") + literal(":scheme", "http") +
                        literal(":path", path) + literal(":authority", "a") +
                        literal("content-type", "application/grpc") + literal("te", "trailers");
    for (const auto& [name, value] : more) block += literal(name, value);
    return block;
}
inline std::string request(std::uint32_t stream, std::string_view path,
                           std::uint8_t flags = kEndHeaders) {
    return frame(kHeaders, flags, stream, fields(path));
}
/// One gRPC message, the last of its stream.
inline std::string message(std::uint32_t stream, std::string_view text, std::uint8_t flags = kEnd) {
    return frame(kData, flags, stream, make_frame(text).wire());
}

struct Received {
    std::uint8_t type = 0;
    std::uint8_t flags = 0;
    std::uint32_t stream = 0;
    std::string payload;
    [[nodiscard]] std::uint32_t code(std::size_t at = 0) const {
        std::uint32_t value = 0;
        for (std::size_t i = at; i < at + 4 && i < payload.size(); ++i)
            value = value << 8 | static_cast<unsigned char>(payload[i]);
        return value;
    }
};

/// A server's session whose client is the test.
class ServerTest : public SessionTest {
  protected:
    struct Answer {
        std::string http;
        std::string grpc;
        std::string text;
        std::string body;
        Metadata headers;
    };

    ServerTest() { nghttp2_hd_inflate_new(&inflater_); }
    ~ServerTest() override { nghttp2_hd_inflate_del(inflater_); }

    void open_raw() {
        add_echo();
        routes_["/t.T/One"].unary = [](const ServerCallPtr& call, std::string_view m) {
            call->reply(make_frame(m));
        };
        routes_["/t.T/Hold"].stream = [this](const ServerCallPtr& call) { held_.push_back(call); };
        open();
        client_.reset();
        give(kPreface + settings());
    }

    /// Forgets what was received: another connection begins.
    void restart() {
        received_.clear();
        answers_.clear();
        unread_.clear();
        nghttp2_hd_inflate_del(inflater_);
        nghttp2_hd_inflate_new(&inflater_);
    }

    /// Bytes to the server, its answer to received_. @return false when the session broke
    bool give(std::string_view bytes) {
        const bool ok = server_->receive(bytes, clock_.now()).has_value();
        take();
        return ok;
    }

    void take() {
        server_->turn();
        std::string out;
        while (server_->produce(out, 1U << 20) && out.size() < (4U << 20)) {
            if (server_->has_work()) server_->turn();
            if (const std::size_t before = out.size();
                server_->produce(out, 4U << 20), before == out.size())
                break;
        }
        unread_ += out;
        parse();
    }

    [[nodiscard]] const Received* last(std::uint8_t type, std::uint32_t stream) const {
        for (auto it = received_.rbegin(); it != received_.rend(); ++it)
            if (it->type == type && it->stream == stream) return &*it;
        return nullptr;
    }
    [[nodiscard]] std::size_t count(std::uint8_t type) const {
        std::size_t n = 0;
        for (const Received& one : received_) n += one.type == type ? 1 : 0;
        return n;
    }
    /// The newest GOAWAY's error code; -1 = none came.
    [[nodiscard]] std::int64_t goaway() const {
        const Received* one = last(kGoAway, 0);
        return one != nullptr ? std::int64_t{one->code(4)} : -1;
    }
    [[nodiscard]] std::string goaway_text() const {
        const Received* one = last(kGoAway, 0);
        return one != nullptr ? one->payload.substr(8) : "";
    }
    [[nodiscard]] const Answer& answer(std::uint32_t stream) { return answers_[stream]; }

    std::vector<ServerCallPtr> held_;
    std::vector<Received> received_;
    std::map<std::uint32_t, Answer> answers_;

  private:
    void parse() {
        while (unread_.size() >= 9) {
            const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(unread_[i]); };
            const std::size_t length = static_cast<std::size_t>(byte(0)) << 16 |
                                       static_cast<std::size_t>(byte(1)) << 8 | byte(2);
            if (unread_.size() < 9 + length) return;
            Received one;
            one.type = byte(3);
            one.flags = byte(4);
            for (std::size_t i = 5; i < 9; ++i) one.stream = one.stream << 8 | byte(i);
            one.payload = unread_.substr(9, length);
            unread_.erase(0, 9 + length);
            if (one.type == kHeaders) inflate(one);
            if (one.type == kData) answers_[one.stream].body += one.payload;
            received_.push_back(std::move(one));
        }
    }

    void inflate(const Received& headers) {
        Answer& answer = answers_[headers.stream];
        const auto* at = reinterpret_cast<const std::uint8_t*>(headers.payload.data());
        std::size_t left = headers.payload.size();
        for (int flags = 0; (flags & NGHTTP2_HD_INFLATE_FINAL) == 0;) {
            nghttp2_nv nv{};
            flags = 0;
            const ssize_t n = nghttp2_hd_inflate_hd2(inflater_, &nv, &flags, at, left, 1);
            ASSERT_GE(n, 0);
            at += n;
            left -= static_cast<std::size_t>(n);
            if ((flags & NGHTTP2_HD_INFLATE_EMIT) == 0) continue;
            std::string name(reinterpret_cast<const char*>(nv.name), nv.namelen);
            std::string value(reinterpret_cast<const char*>(nv.value), nv.valuelen);
            if (name == ":status") answer.http = value;
            if (name == "grpc-status") answer.grpc = value;
            if (name == "grpc-message") answer.text = value;
            answer.headers.emplace_back(std::move(name), std::move(value));
        }
        nghttp2_hd_inflate_end_headers(inflater_);
    }

    std::string unread_;
    nghttp2_hd_inflater* inflater_ = nullptr;
};

}  // namespace mesh::rpc::raw
