#include "model/fqdn_pattern.hpp"

#include <cstddef>

namespace mesh::model::policy {

namespace {

constexpr bool is_plain(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/// '*' for plain bytes only. Of several stars in a label only the last one ever has to give way,
/// and none reaches over a dot: so the last one is all that is remembered.
bool matches_glob(std::string_view pattern, std::string_view name) noexcept {
    std::size_t p = 0, n = 0;
    std::size_t star = std::string_view::npos, star_end = 0;
    while (n < name.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            star_end = n;
        } else if (p < pattern.size() && pattern[p] == name[n]) {
            ++p;
            ++n;
        } else if (star != std::string_view::npos && is_plain(name[star_end])) {
            n = ++star_end;
            p = star + 1;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
}

}  // namespace

bool matches_pattern(std::string_view pattern, std::string_view name) noexcept {
    if (pattern == "*") return true;
    if (!pattern.starts_with("**.")) return matches_glob(pattern, name);
    const std::string_view rest = pattern.substr(3);
    // Each dot behind one or more labels of plain bytes may be the one behind the stars.
    bool label = false;
    for (std::size_t i = 0; i < name.size(); ++i) {
        if (name[i] != '.') {
            if (!is_plain(name[i])) return false;
            label = true;
            continue;
        }
        if (!label) return false;
        if (matches_glob(rest, name.substr(i + 1))) return true;
        label = false;
    }
    return false;
}

bool matches(const FqdnSelector& selector, std::string_view name) noexcept {
    if (!selector.match_name.empty()) return selector.match_name == name;
    return selector.match_pattern.empty() || matches_pattern(selector.match_pattern, name);
}

}  // namespace mesh::model::policy
