// A pull reader of JSON with the rules of Go's encoding/json (spec wire.md §1), for codecs that
// know what they expect: one pass, no tree, no allocation but for strings with escapes. Every
// reading call returns false after it has noted what was wrong; the first note stays and names the
// field. Used by the codecs of this folder only. Never trusts its input.
#pragma once

#include <array>
#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "model/ip.hpp"
#include "model/string_map.hpp"
#include "model/text.hpp"

namespace mesh::model {

/// Reads one value from left to right. @thread one reader, one thread
class JsonReader {
  public:
    /// @param key named in errors
    /// @param text the whole value; must outlive the reader
    JsonReader(std::string_view key, std::string_view text)
        : key_(key), begin_(text.data()), at_(text.data()), end_(text.data() + text.size()) {}

    /// True if nothing but white space is left; notes an error otherwise.
    [[nodiscard]] bool finish();
    /// The noted error; only after a call returned false.
    [[nodiscard]] Error error() const { return invalid_argument(error_); }
    /// Notes that the value just read, or the one at hand, is not what the field needs.
    /// @return false
    bool refuse(std::string_view expected, std::string_view got);

    /// Takes a null if one is next.
    [[nodiscard]] bool take_null();

    // Scalars. A null leaves `out` as it is, but for addresses.
    [[nodiscard]] bool read(bool& out);
    [[nodiscard]] bool read(std::uint8_t& out) { return read_unsigned(out, 0xff); }
    [[nodiscard]] bool read(std::uint16_t& out) { return read_unsigned(out, 0xffff); }
    [[nodiscard]] bool read(std::uint32_t& out) { return read_unsigned(out, 0xffffffff); }
    [[nodiscard]] bool read(std::int32_t& out);
    [[nodiscard]] bool read(std::string& out);
    [[nodiscard]] bool read(Text& out);
    /// An address without zone; "" and null are no address.
    [[nodiscard]] bool read(std::optional<IpAddress>& out);
    /// A string map: null is nullopt; entries are added to those that are there.
    [[nodiscard]] bool read(OptionalStringMap& out);
    template <class Id>
    requires std::is_enum_v<Id>
    [[nodiscard]] bool read(Id& out) {
        std::uint32_t value = static_cast<std::uint32_t>(out);
        if (!read(value)) return false;
        out = static_cast<Id>(value);
        return true;
    }
    /// Bytes in base64 (or an array of numbers, as Go takes it, too). null is nullopt.
    [[nodiscard]] bool read_bytes(std::optional<std::string>& out);
    /// A string that must not be null. The view holds until the next read.
    [[nodiscard]] bool read_view(std::string_view& out, std::string_view expected = "a string");

    /// Reads an object into fields: on(i) reads the value of names[i]; other names are skipped.
    /// Names match exactly or, failing that, case-insensitively. null reads as {}.
    template <class OnField>
    [[nodiscard]] bool fields(std::span<const std::string_view> names, OnField&& on);
    /// Reads an object as a map: on(key) reads one value; the key must be used before that.
    template <class OnEntry>
    [[nodiscard]] bool entries(OnEntry&& on);
    /// Reads an array: on() reads one element. More than 65536 elements are refused: "{}," is three
    /// bytes of a value, and an object is many times that.
    template <class OnElement>
    [[nodiscard]] bool elements(OnElement&& on);

    // A value often has the very text of the one before it. read_x between mark() and since() gives
    // its text; take_text() passes over the same text again. The text of an object ends itself, so
    // what begins with it is it.
    [[nodiscard]] const char* mark() noexcept {
        skip_space();
        return at_;
    }
    [[nodiscard]] std::string_view since(const char* mark) const noexcept {
        return {mark, static_cast<std::size_t>(at_ - mark)};
    }
    /// @param object the text of an object that was read without an error
    [[nodiscard]] bool take_text(std::string_view object) noexcept {
        skip_space();
        if (!std::string_view(at_, static_cast<std::size_t>(end_ - at_)).starts_with(object)) {
            return false;
        }
        at_ += object.size();
        return true;
    }

    /// To be called before a map is added to one that is there: refuses the 65th time in a value.
    /// Merging costs the size of what is there, and a remote could repeat an empty map at will.
    [[nodiscard]] bool may_merge();

    /// Passes over a value of any kind, checking its syntax.
    [[nodiscard]] bool skip();

  private:
    static constexpr std::size_t kMaxDepth = 10000;  // as encoding/json
    static constexpr std::size_t kMaxElements = 65536;
    static constexpr std::size_t kMaxMerges = 64;
    static constexpr std::size_t kPathDepth = 8;  // deeper than any of our types

    struct PathPart {
        std::string_view name;
        std::size_t index = 0;  // of an array element, if the name is empty
    };

    void skip_space() noexcept {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
    }
    [[nodiscard]] char peek() noexcept {
        skip_space();
        return at_ == end_ ? '\0' : *at_;
    }
    void push(std::string_view name, std::size_t index = 0) noexcept {
        if (path_size_ < kPathDepth) path_[path_size_] = {name, index};
        ++path_size_;
    }
    void pop() noexcept { --path_size_; }

    bool syntax_error(std::string_view expected);
    bool type_error(std::string_view expected);
    [[nodiscard]] std::string where() const;
    [[nodiscard]] std::string_view value_excerpt();
    bool note(std::string text);

    [[nodiscard]] bool open(char bracket, std::string_view expected);
    /// After '{' or a value: takes ',' or the closing bracket. `done` tells which.
    [[nodiscard]] bool next_entry(char close, bool first, bool& done);
    [[nodiscard]] bool entry_name(std::string_view& name, std::string_view& raw);
    [[nodiscard]] bool scan_string(std::string_view& out, std::string& scratch);
    [[nodiscard]] bool unescape(const char* from, std::string& scratch);
    [[nodiscard]] bool unescape_one(const char*& p, std::string& out);
    [[nodiscard]] bool scan_number(std::string_view& literal);
    [[nodiscard]] bool scan_word(std::string_view word);
    [[nodiscard]] bool skip_scalar();
    template <class T>
    [[nodiscard]] bool read_unsigned(T& out, std::uint32_t limit) {
        std::uint32_t value = 0;
        bool is_null = false;
        if (!read_integer(value, limit, is_null)) return false;
        if (!is_null) out = static_cast<T>(value);
        return true;
    }
    [[nodiscard]] bool read_integer(std::uint32_t& out, std::uint32_t limit, bool& is_null);

    std::string_view key_;
    const char* begin_;
    const char* at_;
    const char* end_;
    std::size_t depth_ = 0;
    std::size_t merges_ = 0;
    std::size_t path_size_ = 0;
    std::array<PathPart, kPathDepth> path_{};
    std::string name_scratch_;
    std::string value_scratch_;
    std::vector<StringMap::value_type> pairs_;
    std::string error_;
};

/// The index of a field by Go's rule, or -1. @param hint where to look first
[[nodiscard]] int find_field(std::span<const std::string_view> names, std::string_view name,
                             std::size_t hint) noexcept;

template <class OnField>
bool JsonReader::fields(std::span<const std::string_view> names, OnField&& on) {
    if (take_null()) return true;
    if (!open('{', "an object")) return false;
    std::size_t hint = 0;
    for (bool first = true;; first = false) {
        bool done = false;
        if (!next_entry('}', first, done)) return false;
        if (done) break;
        std::string_view name;
        std::string_view raw;
        if (!entry_name(name, raw)) return false;
        const int index = find_field(names, name, hint);
        if (index < 0) {
            if (!skip()) return false;
            continue;
        }
        hint = static_cast<std::size_t>(index) + 1;
        push(names[static_cast<std::size_t>(index)]);
        if (!on(index)) return false;
        pop();
    }
    --depth_;
    return true;
}

template <class OnEntry>
bool JsonReader::entries(OnEntry&& on) {
    if (!open('{', "an object")) return false;
    for (bool first = true;; first = false) {
        bool done = false;
        if (!next_entry('}', first, done)) return false;
        if (done) break;
        std::string_view name;
        std::string_view raw;
        if (!entry_name(name, raw)) return false;
        push(raw);
        if (!on(name)) return false;
        pop();
    }
    --depth_;
    return true;
}

template <class OnElement>
bool JsonReader::elements(OnElement&& on) {
    if (!open('[', "an array")) return false;
    std::size_t index = 0;
    for (bool first = true;; first = false) {
        bool done = false;
        if (!next_entry(']', first, done)) return false;
        if (done) break;
        if (index == kMaxElements) return refuse("at most 65536 elements", "more");
        push({}, index++);
        if (!on()) return false;
        pop();
    }
    --depth_;
    return true;
}

}  // namespace mesh::model
