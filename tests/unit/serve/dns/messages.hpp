// DNS messages written by hand, also wrong ones.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "serve/dns/dns_message.hpp"

namespace mesh::serve::dns::testing {

/// Appends whatever it is told to; the counts in the header are the caller's.
class Message {
  public:
    Message(std::uint16_t id, std::uint16_t flags, std::vector<std::uint16_t> counts) {
        word(id).word(flags);
        counts.resize(4);
        for (const auto count : counts) word(count);
    }
    Message& byte(unsigned value) {
        bytes_.push_back(static_cast<std::uint8_t>(value));
        return *this;
    }
    Message& word(unsigned value) { return byte(value >> 8).byte(value & 0xff); }
    Message& number(std::uint32_t value) { return word(value >> 16).word(value & 0xffff); }
    /// "Example.com": labels and the root; "" is the root.
    Message& name(std::string_view text) { return labels(text).byte(0); }
    Message& labels(std::string_view text) {
        while (!text.empty()) {
            const auto dot = text.find('.');
            const auto label = text.substr(0, dot);
            byte(static_cast<unsigned>(label.size()));
            for (const char c : label) byte(static_cast<std::uint8_t>(c));
            text = dot == std::string_view::npos ? std::string_view{} : text.substr(dot + 1);
        }
        return *this;
    }
    Message& pointer(std::size_t to) { return word(static_cast<unsigned>(0xc000 | to)); }
    Message& question(std::string_view text, unsigned type = 1, unsigned class_ = 1) {
        return name(text).word(type).word(class_);
    }
    /// What follows an owner in a record, but for the data.
    Message& fixed(unsigned type, std::uint32_t ttl, unsigned size, unsigned class_ = 1) {
        return word(type).word(class_).number(ttl).word(size);
    }
    Message& a(std::string_view owner, std::uint32_t ttl, std::uint32_t address) {
        return name(owner).fixed(1, ttl, 4).number(address);
    }
    Message& cname(std::string_view owner, std::uint32_t ttl, std::string_view target) {
        const auto size = target.empty() ? 1 : target.size() + 2;
        return name(owner).fixed(5, ttl, static_cast<unsigned>(size)).name(target);
    }
    Message& opt(bool dnssec_ok = false) {
        return byte(0).word(41).word(4096).number(dnssec_ok ? 0x8000 : 0).word(0);
    }
    [[nodiscard]] const Bytes& bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }

  private:
    Bytes bytes_;
};

inline constexpr std::uint16_t kAnswerFlags = 0x8180;

inline Bytes query(std::string_view name, unsigned type = 1, std::uint16_t id = 7) {
    return Message(id, 0x0100, {1}).question(name, type).bytes();
}

}  // namespace mesh::serve::dns::testing
