// A gRPC message ready for the wire: five bytes of framing and the payload in one shared,
// immutable buffer. Framed once, it can be queued on any number of calls without a copy. Messages
// that begin differently and end alike (watch events for different watch ids) share the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>

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
    /// The whole frame as it travels, framing included. Of one without a tail.
    [[nodiscard]] std::string_view wire() const noexcept { return {head_.get(), head_size_}; }
    /// The message alone. Of one without a tail.
    [[nodiscard]] std::string_view message() const noexcept {
        return wire().substr(head_size_ != 0 ? kFramePrefix : 0);
    }
    [[nodiscard]] std::size_t size() const noexcept { return std::size_t{head_size_} + tail_size_; }
    [[nodiscard]] explicit operator bool() const noexcept { return head_size_ != 0; }
    /// The bytes from offset on that lie together. @param offset < size()
    [[nodiscard]] std::string_view piece(std::size_t offset) const noexcept {
        if (offset < head_size_) return wire().substr(offset);
        return std::string_view(tail_.get(), tail_size_).substr(offset - head_size_);
    }
    /// What it shares with others; empty without a tail.
    [[nodiscard]] std::string_view tail() const noexcept { return {tail_.get(), tail_size_}; }

    /// Room for a message of `length` bytes, which fill(char*) writes.
    /// @return an empty frame, with fill not called, if length is over kLongestMessage
    template <class Fill>
    [[nodiscard]] static Frame make(std::size_t length, Fill&& fill) {
        return make(length, std::forward<Fill>(fill), nullptr, 0);
    }
    /// The same of a message whose last tail_size bytes are those of tail, which are not copied.
    /// @param length of what fill writes
    template <class Fill>
    [[nodiscard]] static Frame make(std::size_t length, Fill&& fill,
                                    std::shared_ptr<const char> tail, std::size_t tail_size) {
        if (length > kLongestMessage || tail_size > kLongestMessage - length) return {};
        auto buffer = std::make_shared_for_overwrite<char[]>(kFramePrefix + length);
        const auto n = static_cast<std::uint32_t>(length + tail_size);
        buffer[0] = 0;
        buffer[1] = static_cast<char>(n >> 24);
        buffer[2] = static_cast<char>(n >> 16);
        buffer[3] = static_cast<char>(n >> 8);
        buffer[4] = static_cast<char>(n);
        fill(buffer.get() + kFramePrefix);
        Frame frame;
        frame.head_ = std::move(buffer);
        frame.head_size_ = static_cast<std::uint32_t>(kFramePrefix + length);
        frame.tail_ = std::move(tail);
        frame.tail_size_ = static_cast<std::uint32_t>(tail_size);
        return frame;
    }

  private:
    std::shared_ptr<const char[]> head_;
    std::shared_ptr<const char> tail_;
    std::uint32_t head_size_ = 0;  // with the framing; fits, as messages are shorter than 2 GiB
    std::uint32_t tail_size_ = 0;
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
