#include "model/http_path.hpp"

#include <algorithm>
#include <cstddef>

namespace mesh::model {

namespace {

constexpr bool is_alnum(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

constexpr int hex(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/// The character that an escape stands for if servers may take it for itself, or 0.
char unescaped(std::string_view text) noexcept {
    if (text.size() < 3 || text[0] != '%') return 0;
    const int high = hex(text[1]), low = hex(text[2]);
    if (high < 0 || low < 0) return 0;
    const char c = static_cast<char>(high * 16 + low);
    const bool decoded =
        is_alnum(c) || std::string_view("-._~/\\;").find(c) != std::string_view::npos;
    return decoded ? c : '\0';
}

}  // namespace

void normalise_path(std::string_view path, std::string& out) {
    const auto question = std::min(path.find('?'), path.size());
    const std::string_view query = path.substr(question);
    std::string decoded;
    decoded.reserve(question);
    for (std::size_t i = 0; i < question; ++i) {
        char c = path[i];
        if (const char plain = unescaped(path.substr(i, std::min<std::size_t>(3, question - i)));
            plain != 0) {
            c = plain;
            i += 2;
        }
        decoded.push_back(c == '\\' ? '/' : c);
    }
    out.clear();
    std::string_view rest = decoded;
    while (!rest.empty()) {
        rest.remove_prefix(1);  // the slash before the segment
        const auto slash = std::min(rest.find('/'), rest.size());
        const std::string_view segment = rest.substr(0, slash);
        rest.remove_prefix(slash);
        // Some servers drop ";parameters" before they look for dots.
        const std::string_view bare = segment.substr(0, segment.find(';'));
        const bool last = rest.empty();
        if (bare == "..") {
            out.resize(out.empty() ? 0 : out.rfind('/'));
            if (last) out.push_back('/');
        } else if (bare == ".") {
            if (last) out.push_back('/');
        } else if (!segment.empty() || last) {
            out.push_back('/');
            out.append(segment);
        }
    }
    if (out.empty()) out.push_back('/');
    out.append(query);
}

}  // namespace mesh::model
