// A gRPC message ready for the wire: five bytes of framing and the payload in one shared,
// immutable buffer. Framed once, it can be queued on any number of calls without a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>

namespace mesh::rpc {

/// Bytes of framing before each message: a flag (compressed or not) and a big-endian length.
inline constexpr std::size_t kFramePrefix = 5;

/// The longest message that is framed: Protobuf takes no longer ones.
inline constexpr std::size_t kLongestMessage = std::numeric_limits<std::int32_t>::max();

/// A framed message. A default-made Frame is empty and must not be written.
/// @thread any thread (immutable)
class Frame {
  public:
    Frame() = default;
    /// The whole frame as it travels, prefix included.
    [[nodiscard]] std::string_view wire() const noexcept { return {data_.get(), size_}; }
    /// The message alone.
    [[nodiscard]] std::string_view message() const noexcept {
        return wire().substr(size_ ? kFramePrefix : 0);
    }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] explicit operator bool() const noexcept { return size_ != 0; }

    /// Room for a message of `length` bytes, which fill(char*) writes.
    /// @return an empty frame, with fill not called, if length is over kLongestMessage
    template <class Fill>
    [[nodiscard]] static Frame make(std::size_t length, Fill&& fill) {
        if (length > kLongestMessage) return {};
        auto buffer = std::make_shared_for_overwrite<char[]>(kFramePrefix + length);
        const auto n = static_cast<std::uint32_t>(length);
        buffer[0] = 0;
        buffer[1] = static_cast<char>(n >> 24);
        buffer[2] = static_cast<char>(n >> 16);
        buffer[3] = static_cast<char>(n >> 8);
        buffer[4] = static_cast<char>(n);
        fill(buffer.get() + kFramePrefix);
        Frame frame;
        frame.size_ = kFramePrefix + length;
        frame.data_ = std::move(buffer);
        return frame;
    }

  private:
    std::shared_ptr<const char[]> data_;
    std::size_t size_ = 0;
};

/// Frames a copy of `message`. @return an empty frame if it is longer than kLongestMessage
[[nodiscard]] inline Frame make_frame(std::string_view message) {
    return Frame::make(message.size(), [message](char* to) {
        if (!message.empty()) std::memcpy(to, message.data(), message.size());
    });
}

/// Frames a Protobuf message, serialised in place.
/// @return an empty frame if it is longer than kLongestMessage
template <class Protobuf>
[[nodiscard]] Frame encode_frame(const Protobuf& message) {
    const std::size_t length = message.ByteSizeLong();
    return Frame::make(length, [&message](char* to) {
        message.SerializeWithCachedSizesToArray(reinterpret_cast<std::uint8_t*>(to));
    });
}

}  // namespace mesh::rpc
