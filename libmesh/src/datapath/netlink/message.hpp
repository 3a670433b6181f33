// One netlink message under construction, and the walk over the attributes of a received one.
// Internal to datapath.
#pragma once

#include <linux/netlink.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace mesh::datapath::detail {

inline constexpr std::size_t aligned(std::size_t size) {
    return (size + 3U) & ~std::size_t{3};
}

class Message {
  public:
    Message(std::uint16_t type, std::uint16_t flags) {
        nlmsghdr header{};
        header.nlmsg_type = type;
        header.nlmsg_flags = static_cast<std::uint16_t>(flags | NLM_F_REQUEST);
        append(&header, sizeof header);
    }

    /// The family's fixed header, e.g. ifinfomsg.
    template <class T>
    void body(const T& value) {
        append(&value, sizeof value);
    }
    void attribute(std::uint16_t type, const void* data, std::size_t size) {
        const nlattr header{static_cast<std::uint16_t>(sizeof(nlattr) + size), type};
        append(&header, sizeof header);
        append(data, size);
    }
    void attribute(std::uint16_t type, std::uint32_t value) {
        attribute(type, &value, sizeof value);
    }
    /// With the final zero that the kernel expects.
    void attribute(std::uint16_t type, std::string_view text) {
        std::vector<char> bytes(text.begin(), text.end());
        bytes.push_back('\0');
        attribute(type, bytes.data(), bytes.size());
    }
    /// Everything that `fill` appends becomes the value of one attribute.
    void nest(std::uint16_t type, const std::function<void()>& fill) {
        const std::size_t start = bytes_.size();
        const nlattr empty{sizeof(nlattr), static_cast<std::uint16_t>(type | NLA_F_NESTED)};
        append(&empty, sizeof empty);
        fill();
        const auto size = static_cast<std::uint16_t>(bytes_.size() - start);
        std::memcpy(bytes_.data() + start + offsetof(nlattr, nla_len), &size, sizeof size);
    }

    /// The bytes to send, with the length and this sequence number filled in.
    std::span<const std::byte> finish(std::uint32_t sequence) {
        const auto size = static_cast<std::uint32_t>(bytes_.size());
        std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &size, sizeof size);
        std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
        return bytes_;
    }

  private:
    void append(const void* data, std::size_t size) {
        const std::size_t start = bytes_.size();
        bytes_.resize(start + aligned(size));
        if (size != 0) std::memcpy(bytes_.data() + start, data, size);
    }
    std::vector<std::byte> bytes_;
};

/// Calls on(type without flags, value) for each attribute; stops at the first that does not fit.
template <class On>
void for_each_attribute(std::span<const std::byte> bytes, On&& on) {
    while (bytes.size() >= sizeof(nlattr)) {
        nlattr header{};
        std::memcpy(&header, bytes.data(), sizeof header);
        if (header.nla_len < sizeof header || header.nla_len > bytes.size()) return;
        on(static_cast<std::uint16_t>(header.nla_type & NLA_TYPE_MASK),
           bytes.subspan(sizeof header, header.nla_len - sizeof header));
        bytes = bytes.subspan(std::min(aligned(header.nla_len), bytes.size()));
    }
}

/// A fixed-size value at the start of the bytes; zero when they are too short.
template <class T>
T read_as(std::span<const std::byte> bytes) {
    T value{};
    if (bytes.size() >= sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
}

}  // namespace mesh::datapath::detail
