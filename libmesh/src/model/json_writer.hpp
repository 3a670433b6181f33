// Writes JSON as Go's encoding/json does (spec wire.md §1): compact, HTML-safe escapes, \ufffd for
// bytes that are not UTF-8. Used by the codecs of this folder only.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "model/string_map.hpp"

namespace mesh::model {

/// Appends JSON to a buffer. @thread one writer, one thread
class JsonWriter {
  public:
    explicit JsonWriter(std::string& out) : out_(out) {}

    /// Copies as it is: punctuation and names that need no escapes.
    void raw(std::string_view text) { out_ += text; }
    void string(std::string_view text);
    void number(std::int64_t value);
    void boolean(bool value) { out_ += value ? "true" : "false"; }
    /// Text form; "" if there is none.
    void address(const std::optional<IpAddress>& address);
    /// null, or base64.
    void bytes(const std::optional<std::string>& bytes);
    /// null if there is none.
    void map(const OptionalStringMap& map);
    void map(const StringMap& map);

    /// {"key":value,...} of `count` entries, sorted bytewise by key; of equal keys the last stays.
    /// @param key appends entry i's key, unescaped, to a buffer
    /// @param value writes entry i's value
    template <class Key, class Value>
    requires std::invocable<Key&, std::size_t, std::string&>
    void sorted_entries(std::size_t count, Key&& key, Value&& value);

  private:
    std::string& out_;
};

template <class Key, class Value>
requires std::invocable<Key&, std::size_t, std::string&>
void JsonWriter::sorted_entries(std::size_t count, Key&& key, Value&& value) {
    const std::size_t start = out_.size();
    std::string current;
    std::string previous;
    bool sorted = true;
    out_ += '{';
    for (std::size_t i = 0; i < count && sorted; ++i) {
        current.clear();
        key(i, current);
        sorted = i == 0 || previous < current;
        if (i != 0) out_ += ',';
        string(current);
        out_ += ':';
        value(i);
        std::swap(current, previous);
    }
    if (sorted) {
        out_ += '}';
        return;
    }
    // The rare way: all keys at hand, sorted.
    out_.resize(start);
    std::vector<std::string> keys(count);
    std::vector<std::size_t> order(count);
    for (std::size_t i = 0; i < count; ++i) key(i, keys[i]);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, {}, [&](std::size_t i) { return std::string_view(keys[i]); });
    out_ += '{';
    bool first = true;
    for (std::size_t at = 0; at < count; ++at) {
        if (at + 1 < count && keys[order[at]] == keys[order[at + 1]]) continue;
        if (!first) out_ += ',';
        first = false;
        string(keys[order[at]]);
        out_ += ':';
        value(order[at]);
    }
    out_ += '}';
}

}  // namespace mesh::model
