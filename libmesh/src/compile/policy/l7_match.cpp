#include "compile/policy/l7_match.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <re2/re2.h>

#include <algorithm>
#include <utility>

#include "model/fqdn_pattern.hpp"
#include "model/http_path.hpp"

namespace mesh::compile {

using namespace model::policy;

namespace {

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string lower(std::string_view text) {
    std::string out(text);
    std::ranges::transform(out, out.begin(), [](char c) { return lower(c); });
    return out;
}

bool full_match(const std::string& text, const std::string& pattern) {
    const RE2 expression(pattern, RE2::Quiet);
    return expression.ok() && RE2::FullMatch(text, expression);
}

/// The header is there, and its values, joined as a list, are `value` or that is empty.
bool has_header(const HttpRequest& request, std::string_view name, std::string_view value) {
    bool present = false;
    std::string joined;
    for (const auto& [other, text] : request.headers) {
        if (lower(other) != lower(name)) continue;
        if (std::exchange(present, true)) joined += ',';
        joined += text;
    }
    return present && (value.empty() || joined == value);
}

/// "Name", "Name: value", or as Cilium's parser takes it, "Name value".
bool header_holds(const HttpRequest& request, std::string_view text) {
    const std::size_t end = std::min(text.find_first_of(": "), text.size());
    std::string_view value = text.substr(end);
    const std::string_view before = value.starts_with(':') ? ": " : " ";
    value.remove_prefix(std::min(value.find_first_not_of(before), value.size()));
    while (value.ends_with(' ')) value.remove_suffix(1);
    return has_header(request, text.substr(0, end), value);
}

/// The path passes as sent and as a server may resolve it.
bool path_holds(const std::string& path, const std::string& pattern) {
    if (pattern.empty()) return true;
    std::string resolved;
    model::normalise_path(path, resolved);
    return full_match(path, pattern) && full_match(resolved, pattern);
}

}  // namespace

bool lets_pass(const HttpRule& rule, const HttpRequest& request) {
    if (!rule.method.empty() && !full_match(request.method, rule.method)) return false;
    if (!path_holds(request.path, rule.path)) return false;
    if (!rule.host.empty() && !full_match(request.host, rule.host)) return false;
    return std::ranges::all_of(
               rule.headers,
               [&](const std::string& header) { return header_holds(request, header); }) &&
           std::ranges::all_of(rule.header_matches, [&](const HeaderMatch& match) {
               // Other actions change or log the header and let the request go on.
               return match.mismatch != HeaderMismatch::kDrop ||
                      has_header(request, match.name, match.value);
           });
}

bool lets_pass(const FqdnSelector& rule, std::string_view name) {
    std::string text = lower(name);
    if (text.ends_with('.')) text.pop_back();
    return matches(rule, text);
}

std::string to_string(const HttpRule& rule) {
    std::vector<std::string> parts;
    if (!rule.method.empty()) parts.push_back("method " + rule.method);
    if (!rule.path.empty()) parts.push_back("path " + rule.path);
    if (!rule.host.empty()) parts.push_back("host " + rule.host);
    for (const std::string& header : rule.headers) parts.push_back("header " + header);
    for (const HeaderMatch& match : rule.header_matches) {
        if (match.mismatch != HeaderMismatch::kDrop) continue;
        parts.push_back(fmt::format("header {}: {}", match.name, match.value));
    }
    return parts.empty() ? "everything" : fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace mesh::compile
