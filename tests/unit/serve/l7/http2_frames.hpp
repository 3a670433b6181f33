// HTTP/2 by hand, so that a test can say what no library would.
#pragma once

#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::serve::l7::test {

inline constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
inline constexpr std::uint8_t kData = 0, kHeaders = 1, kRst = 3, kSettings = 4, kPing = 6,
                              kGoaway = 7, kWindowUpdate = 8, kContinuation = 9;
inline constexpr std::uint8_t kEndStream = 1, kEndHeaders = 4, kAck = 1;

using Fields = std::vector<std::pair<std::string, std::string>>;

inline std::string number(std::uint32_t value) {
    std::string out(4, '\0');
    for (std::size_t i = 0; i < 4; ++i) out[i] = static_cast<char>(value >> (24 - 8 * i));
    return out;
}
inline std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t id,
                         std::string_view payload) {
    std::string out = number(static_cast<std::uint32_t>(payload.size())).substr(1);
    out.push_back(static_cast<char>(type));
    out.push_back(static_cast<char>(flags));
    return out.append(number(id)).append(payload);
}
inline std::string hpack_text(std::string_view text) {
    std::string out;
    if (text.size() < 127) {
        out.push_back(static_cast<char>(text.size()));
    } else {
        out.push_back(127);
        std::size_t rest = text.size() - 127;
        for (; rest >= 128; rest /= 128) out.push_back(static_cast<char>(rest % 128 | 128));
        out.push_back(static_cast<char>(rest));
    }
    return out.append(text);
}
/// Literals that are not indexed: any bytes.
inline std::string hpack(const Fields& fields) {
    std::string out;
    for (const auto& [name, value] : fields)
        out.append(1, '\0').append(hpack_text(name)).append(hpack_text(value));
    return out;
}
inline std::string headers(std::uint32_t id, const Fields& fields, bool end = true) {
    return frame(kHeaders, static_cast<std::uint8_t>(kEndHeaders | (end ? kEndStream : 0)), id,
                 hpack(fields));
}
inline std::string data(std::uint32_t id, std::string_view bytes, bool end = false) {
    return frame(kData, end ? kEndStream : 0, id, bytes);
}
inline Fields request(std::string_view method, std::string_view path, const Fields& more = {}) {
    Fields out{{":method", std::string(method)},
               {":scheme", "http"},
               {":authority", "a"},
               {":path", std::string(path)}};
    out.insert(out.end(), more.begin(), more.end());
    return out;
}

struct Frame {
    std::uint8_t type = 0, flags = 0;
    std::uint32_t id = 0;
    std::string payload;
    Fields fields;  ///< of kHeaders
    [[nodiscard]] bool ends() const { return (flags & kEndStream) != 0; }
    [[nodiscard]] std::uint32_t code(std::size_t at = 0) const {
        std::uint32_t out = 0;
        for (std::size_t i = 0; i < 4; ++i)
            out = out << 8 | static_cast<unsigned char>(payload.at(at + i));
        return out;
    }
    [[nodiscard]] std::string field(std::string_view name) const {
        for (const auto& [key, value] : fields) {
            if (key == name) return value;
        }
        return {};
    }
};

/// Reads one direction of a connection; remembers what it has read.
class FrameReader {
  public:
    FrameReader() { EXPECT_EQ(nghttp2_hd_inflate_new(&inflater_), 0); }
    ~FrameReader() { nghttp2_hd_inflate_del(inflater_); }
    FrameReader(const FrameReader&) = delete;
    FrameReader& operator=(const FrameReader&) = delete;

    void add(std::string& bytes) {
        held_.append(std::exchange(bytes, {}));
        if (held_.starts_with("PRI")) held_.erase(0, kPreface.size());
        while (held_.size() >= 9) {
            const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(held_[i]); };
            const std::size_t size = static_cast<std::size_t>(byte(0)) << 16 |
                                     static_cast<std::size_t>(byte(1)) << 8 | byte(2);
            if (held_.size() < 9 + size) return;
            Frame made{byte(3), byte(4), 0, held_.substr(9, size), {}};
            for (std::size_t i = 5; i < 9; ++i) made.id = made.id << 8 | byte(i);
            held_.erase(0, 9 + size);
            if (made.type == kHeaders) made.fields = inflate(made.payload);
            frames.push_back(std::move(made));
        }
    }
    /// Frames of a stream, but for WINDOW_UPDATE.
    [[nodiscard]] std::vector<Frame> of(std::uint32_t id) const {
        std::vector<Frame> out;
        for (const Frame& one : frames) {
            if (one.id == id && one.type != kWindowUpdate) out.push_back(one);
        }
        return out;
    }
    [[nodiscard]] std::string body(std::uint32_t id) const {
        std::string out;
        for (const Frame& one : of(id)) {
            if (one.type == kData) out.append(one.payload);
        }
        return out;
    }
    [[nodiscard]] const Frame* find(std::uint8_t type, std::uint32_t id) const {
        for (const Frame& one : frames) {
            if (one.type == type && one.id == id) return &one;
        }
        return nullptr;
    }

    std::vector<Frame> frames;

  private:
    Fields inflate(std::string_view block) {
        Fields out;
        while (true) {
            nghttp2_nv field{};
            int flags = 0;
            const ssize_t n = nghttp2_hd_inflate_hd2(
                inflater_, &field, &flags, reinterpret_cast<const std::uint8_t*>(block.data()),
                block.size(), 1);
            if (n < 0) {
                ADD_FAILURE() << "HPACK";
                return out;
            }
            block.remove_prefix(static_cast<std::size_t>(n));
            if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0)
                out.emplace_back(
                    std::string(reinterpret_cast<const char*>(field.name), field.namelen),
                    std::string(reinterpret_cast<const char*>(field.value), field.valuelen));
            if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0) break;
        }
        nghttp2_hd_inflate_end_headers(inflater_);
        return out;
    }

    nghttp2_hd_inflater* inflater_ = nullptr;
    std::string held_;
};

}  // namespace mesh::serve::l7::test
