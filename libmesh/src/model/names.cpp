#include "model/names.hpp"

#include <algorithm>

namespace mesh::model {

bool is_dns_name(std::string_view name, std::size_t limit, bool dots) {
    if (name.empty() || name.size() > limit) return false;
    std::size_t start = 0;
    while (start <= name.size()) {
        const auto dot = name.find('.', start);
        const std::string_view label = name.substr(start, dot - start);
        const bool good =
            !label.empty() && is_lower_alnum(label.front()) && is_lower_alnum(label.back()) &&
            std::ranges::all_of(label, [](char c) { return is_lower_alnum(c) || c == '-'; });
        if (!good) return false;
        if (dot == std::string_view::npos) return true;
        if (!dots) return false;
        start = dot + 1;
    }
    return false;
}

bool is_label_text(std::string_view text) {
    return text.size() <= 63 &&
           (text.empty() || (is_alnum(text.front()) && is_alnum(text.back()))) &&
           std::ranges::all_of(
               text, [](char c) { return is_alnum(c) || c == '-' || c == '_' || c == '.'; });
}

bool is_qualified_name(std::string_view name) {
    if (const auto slash = name.find('/'); slash != std::string_view::npos) {
        if (!is_dns_name(name.substr(0, slash), 253, true)) return false;
        name.remove_prefix(slash + 1);
    }
    return !name.empty() && is_label_text(name);
}

bool is_port_name(std::string_view name) {
    if (name.empty() || name.size() > 15 || name.front() == '-' || name.back() == '-') return false;
    if (name.find("--") != std::string_view::npos) return false;
    const auto is_letter = [](char c) { return is_alnum(c) && (c < '0' || c > '9'); };
    return std::ranges::any_of(name, is_letter) &&
           std::ranges::all_of(name, [](char c) { return is_alnum(c) || c == '-'; });
}

}  // namespace mesh::model
