// Text: an immutable string of eight bytes, for objects that are held by the hundred thousand.
// Up to seven bytes ("default", "http", "TCP") live inside it; longer ones in one heap block with a
// reference count, so that copies and snapshots share them. Reads like a std::string_view, is built
// from anything that converts to one; str() gives a std::string.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <compare>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iosfwd>
#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace mesh::model {

/// An immutable string of at most 2^32-1 bytes. @thread any thread; copies may be used and dropped
/// by different threads at once, one object as any plain value
class Text {
  public:
    constexpr Text() noexcept = default;
    // Implicit on purpose: a Text stands wherever a string was written.
    template <class S>
    requires(std::convertible_to<const S&, std::string_view> && !std::same_as<S, Text>)
        Text(const S& text) {  // NOLINT(google-explicit-constructor)
        assign(std::string_view(text));
    }
    Text(const Text& other) noexcept : word_(other.word_) { retain(); }
    Text(Text&& other) noexcept : word_(std::exchange(other.word_, kEmpty)) {}
    Text& operator=(const Text& other) noexcept {
        Text copy(other);
        std::swap(word_, copy.word_);
        return *this;
    }
    Text& operator=(Text&& other) noexcept {
        std::swap(word_, other.word_);
        return *this;
    }
    ~Text() { release(); }

    [[nodiscard]] std::string_view view() const noexcept {
        if (is_inline()) return {inline_bytes(), static_cast<std::size_t>((word_ >> 1) & 7)};
        return {block()->bytes(), block()->size};
    }
    operator std::string_view() const noexcept {  // NOLINT(google-explicit-constructor)
        return view();
    }
    operator std::string() const {  // NOLINT(google-explicit-constructor)
        return std::string(view());
    }
    [[nodiscard]] std::string str() const { return std::string(view()); }
    [[nodiscard]] bool empty() const noexcept { return word_ == kEmpty; }
    [[nodiscard]] std::size_t size() const noexcept { return view().size(); }
    [[nodiscard]] const char* data() const noexcept { return view().data(); }
    [[nodiscard]] const char* begin() const noexcept { return view().data(); }
    [[nodiscard]] const char* end() const noexcept { return view().data() + view().size(); }
    /// Bytes on the heap that this text holds (shared with its copies); 0 if it is inside.
    [[nodiscard]] std::size_t heap_bytes() const noexcept {
        return is_inline() ? 0 : sizeof(Block) + block()->size;
    }

    friend bool operator==(const Text& a, const Text& b) noexcept {
        return a.word_ == b.word_ || (!a.is_inline() && !b.is_inline() && a.view() == b.view());
    }
    friend std::strong_ordering operator<=>(const Text& a, const Text& b) noexcept {
        return a.view() <=> b.view();
    }
    template <class S>
    requires(std::convertible_to<const S&, std::string_view> && !std::same_as<S, Text>) friend bool
    operator==(const Text& a, const S& b) noexcept {
        return a.view() == std::string_view(b);
    }
    template <class S>
    requires(std::convertible_to<const S&, std::string_view> &&
             !std::same_as<S, Text>) friend std::strong_ordering
    operator<=>(const Text& a, const S& b) noexcept {
        return a.view() <=> std::string_view(b);
    }
    template <class Traits>
    friend std::basic_ostream<char, Traits>& operator<<(std::basic_ostream<char, Traits>& out,
                                                        const Text& text) {
        return out << text.view();
    }

  private:
    struct Block {
        std::atomic<std::uint32_t> references;
        std::uint32_t size;
        [[nodiscard]] const char* bytes() const noexcept {
            return reinterpret_cast<const char*>(this + 1);
        }
        [[nodiscard]] char* bytes() noexcept { return reinterpret_cast<char*>(this + 1); }
    };
    // A block's address is even, so bit 0 tells the forms apart. The inline form is byte 0 =
    // size * 2 + 1, bytes 1..7 the text, the rest zero: equal texts are equal words.
    static constexpr std::uint64_t kEmpty = 1;
    static constexpr std::size_t kInlineSize = 7;
    static_assert(std::endian::native == std::endian::little);
    static_assert(sizeof(void*) == sizeof(std::uint64_t));

    [[nodiscard]] bool is_inline() const noexcept { return (word_ & 1) != 0; }
    [[nodiscard]] const char* inline_bytes() const noexcept {
        return reinterpret_cast<const char*>(&word_) + 1;
    }
    [[nodiscard]] Block* block() const noexcept { return std::bit_cast<Block*>(word_); }
    void assign(std::string_view text);
    void retain() const noexcept {
        if (!is_inline()) block()->references.fetch_add(1, std::memory_order_relaxed);
    }
    void release() noexcept {
        if (!is_inline() && block()->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            ::operator delete(block());
        }
    }

    std::uint64_t word_ = kEmpty;
};
static_assert(sizeof(Text) == 8);

inline void Text::assign(std::string_view text) {
    if (text.size() <= kInlineSize) {
        word_ = (std::uint64_t{text.size()} << 1) | 1;
        if (!text.empty())
            std::memcpy(reinterpret_cast<char*>(&word_) + 1, text.data(), text.size());
        return;
    }
    if (text.size() > std::numeric_limits<std::uint32_t>::max()) throw std::bad_alloc();
    auto* made = new (::operator new(sizeof(Block) + text.size()))
        Block{{1}, static_cast<std::uint32_t>(text.size())};
    std::memcpy(made->bytes(), text.data(), text.size());
    word_ = std::bit_cast<std::uint64_t>(made);
}

}  // namespace mesh::model

template <>
struct std::hash<mesh::model::Text> {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept {
        return std::hash<std::string_view>{}(text);
    }
};

// Plain "{}" only: the full formatter would bring fmt/format.h into every file that sees a Service.
template <>
struct fmt::formatter<mesh::model::Text> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    template <class Context>
    auto format(const mesh::model::Text& text, Context& context) const {
        return std::copy(text.begin(), text.end(), context.out());
    }
};
