// StringMap: string → string, sorted bytewise by key in one block; labels, selectors, annotations.
// The usual std::map calls work, with Text (see text.hpp) as key and value; inserting is O(size).
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "model/text.hpp"

namespace mesh::model {

/// A small sorted map. @thread any thread (a plain value)
class StringMap {
  public:
    using value_type = std::pair<Text, Text>;
    using const_iterator = std::vector<value_type>::const_iterator;

    StringMap() = default;
    StringMap(std::initializer_list<value_type> entries) {
        for (const auto& [key, value] : entries) emplace(key, value);
    }
    /// From pairs in any order; of equal keys the last one stays. @complexity O(n log n)
    [[nodiscard]] static StringMap from_pairs(std::vector<value_type> pairs);

    [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    [[nodiscard]] const_iterator begin() const noexcept { return entries_.begin(); }
    [[nodiscard]] const_iterator end() const noexcept { return entries_.end(); }
    [[nodiscard]] const_iterator find(std::string_view key) const noexcept {
        const auto at = lower_bound(key);
        return at != entries_.end() && at->first == key ? at : entries_.end();
    }
    [[nodiscard]] bool contains(std::string_view key) const noexcept { return find(key) != end(); }
    [[nodiscard]] std::size_t count(std::string_view key) const noexcept {
        return contains(key) ? 1 : 0;
    }
    /// The value, or std::nullopt.
    [[nodiscard]] std::optional<std::string_view> get(std::string_view key) const noexcept {
        const auto at = find(key);
        if (at == end()) return std::nullopt;
        return at->second.view();
    }
    /// The value under `key`, made empty if there is none.
    Text& operator[](std::string_view key) { return at_or_make(key); }
    void insert_or_assign(std::string_view key, Text value) { at_or_make(key) = std::move(value); }
    /// Inserts unless the key is there. @return true if inserted
    bool emplace(std::string_view key, Text value) {
        if (contains(key)) return false;
        at_or_make(key) = std::move(value);
        return true;
    }
    std::size_t erase(std::string_view key) {
        const auto at = find(key);
        if (at == end()) return 0;
        entries_.erase(at);
        return 1;
    }
    void clear() noexcept { entries_.clear(); }

    friend bool operator==(const StringMap&, const StringMap&) = default;

  private:
    [[nodiscard]] const_iterator lower_bound(std::string_view key) const noexcept {
        return std::lower_bound(
            entries_.begin(), entries_.end(), key,
            [](const value_type& entry, std::string_view wanted) { return entry.first < wanted; });
    }
    Text& at_or_make(std::string_view key) {
        const auto at = entries_.begin() + (lower_bound(key) - entries_.cbegin());
        if (at != entries_.end() && at->first == key) return at->second;
        return entries_.insert(at, {Text(key), Text()})->second;
    }

    std::vector<value_type> entries_;
};

inline StringMap StringMap::from_pairs(std::vector<value_type> pairs) {
    const auto less = [](const value_type& a, const value_type& b) { return a.first < b.first; };
    if (!std::is_sorted(pairs.begin(), pairs.end(), less)) {
        std::stable_sort(pairs.begin(), pairs.end(), less);
    }
    StringMap map;
    // Of each run of equal keys the last one was written last.
    std::size_t kept = 0;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (i + 1 < pairs.size() && pairs[i].first == pairs[i + 1].first) continue;
        if (kept != i) pairs[kept] = std::move(pairs[i]);
        ++kept;
    }
    pairs.resize(kept);
    map.entries_ = std::move(pairs);
    return map;
}

/// Absent or null on the wire = std::nullopt.
using OptionalStringMap = std::optional<StringMap>;

}  // namespace mesh::model
