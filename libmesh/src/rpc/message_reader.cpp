#include "rpc/message_reader.hpp"

#include <algorithm>
#include <utility>

#include "rpc/frame.hpp"

namespace mesh::rpc::detail {

namespace {
constexpr std::size_t kKeepCapacity = 4096;

std::size_t length_of(std::string_view prefix) noexcept {
    const auto byte = [&](std::size_t i) {
        return static_cast<std::uint32_t>(static_cast<unsigned char>(prefix[i]));
    };
    return (byte(1) << 24) | (byte(2) << 16) | (byte(3) << 8) | byte(4);
}
}  // namespace

MessageReader::Outcome MessageReader::next(std::string_view& data, std::string_view& message,
                                           std::size_t limit) {
    release();
    const bool direct = buffer_.empty() && data.size() >= kFramePrefix;
    if (!direct) {
        const std::size_t missing = kFramePrefix - std::min(kFramePrefix, buffer_.size());
        const std::size_t taken = std::min(missing, data.size());
        buffer_.append(data.substr(0, taken));
        data.remove_prefix(taken);
        if (buffer_.size() < kFramePrefix) return Outcome::kNeedMore;
    }
    const std::string_view prefix = direct ? data : std::string_view(buffer_);
    if (prefix[0] == 1) return Outcome::kCompressed;
    if (prefix[0] != 0) return Outcome::kBadFlag;
    const std::size_t length = length_of(prefix);
    if (length > limit) return Outcome::kTooLarge;
    const std::size_t whole = kFramePrefix + length;
    if (direct && data.size() >= whole) {
        message = data.substr(kFramePrefix, length);
        data.remove_prefix(whole);
        return Outcome::kMessage;
    }
    // Grown as bytes arrive: a prefix alone, which costs a peer nothing, reserves nothing.
    const std::size_t taken = std::min(whole - buffer_.size(), data.size());
    buffer_.append(data.substr(0, taken));
    data.remove_prefix(taken);
    if (buffer_.size() < whole) return Outcome::kNeedMore;
    message = std::string_view(buffer_).substr(kFramePrefix);
    delivered_ = true;
    return Outcome::kMessage;
}

std::size_t MessageReader::buffered() const noexcept {
    return buffer_.capacity() > kKeepCapacity ? buffer_.capacity() : buffer_.size();
}

std::string MessageReader::take(std::string_view message) {
    if (!delivered_) return std::string(message);
    delivered_ = false;
    std::string out = std::exchange(buffer_, {});
    out.erase(0, kFramePrefix);
    return out;
}

void MessageReader::release() noexcept {
    if (!delivered_) return;
    delivered_ = false;
    if (buffer_.capacity() > kKeepCapacity) std::string().swap(buffer_);
    buffer_.clear();
}

}  // namespace mesh::rpc::detail
