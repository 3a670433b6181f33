#include "model/health_check.hpp"

#include <algorithm>
#include <charconv>

namespace mesh::model {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kShortest{50};
constexpr milliseconds kLongest{60'000};
constexpr std::uint64_t kMostInARow = 10;
constexpr std::size_t kLongestPath = 200;

std::string_view trim(std::string_view text) {
    const auto first = text.find_first_not_of(" \t\n\r");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t\n\r") - first + 1);
}

std::optional<std::uint64_t> parse_number(std::string_view text, std::uint64_t least,
                                          std::uint64_t most) {
    std::uint64_t number = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (ec != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    if (number < least || number > most) return std::nullopt;
    return number;
}

/// "200ms" or "2s".
std::optional<milliseconds> parse_time(std::string_view text) {
    const std::uint64_t unit = text.ends_with("ms") ? 1 : text.ends_with('s') ? 1000 : 0;
    if (unit == 0) return std::nullopt;
    text.remove_suffix(unit == 1 ? 2 : 1);
    const auto count = parse_number(text, 1, 60'000);
    if (!count) return std::nullopt;
    const milliseconds time(static_cast<milliseconds::rep>(*count * unit));
    if (time < kShortest || time > kLongest) return std::nullopt;
    return time;
}

template <class From, class To>
bool set(const std::optional<From>& from, To& to) {
    if (from) to = static_cast<To>(*from);
    return from.has_value();
}

bool read_option(std::string_view part, HealthCheck& check) {
    const auto equals = part.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string_view key = trim(part.substr(0, equals));
    const std::string_view value = trim(part.substr(equals + 1));
    if (key == "interval") return set(parse_time(value), check.interval);
    if (key == "timeout") return set(parse_time(value), check.timeout);
    if (key == "failures") return set(parse_number(value, 1, kMostInARow), check.failures);
    if (key == "successes") return set(parse_number(value, 1, kMostInARow), check.successes);
    if (key == "port") return set(parse_number(value, 1, 65535), check.port);
    return false;
}

/// Printable ASCII without what would end a request line.
bool is_path(std::string_view text) {
    return text.starts_with('/') && text.size() <= kLongestPath &&
           std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f; });
}

bool read_kind(std::string_view part, HealthCheck& check) {
    constexpr std::string_view kHttp = "http:";
    if (part == "tcp") return true;
    if (!part.starts_with(kHttp)) return false;
    part.remove_prefix(kHttp.size());
    check.kind = HealthCheck::Kind::kHttp;
    check.path = std::string(part);
    return is_path(part);
}

}  // namespace

std::string to_string(const HealthCheck& check) {
    return check.kind == HealthCheck::Kind::kTcp ? "tcp" : "http:" + check.path;
}

std::optional<HealthCheck> parse_health_check(std::string_view text) {
    HealthCheck check;
    bool first = true;
    for (;;) {
        const auto comma = text.find(',');
        const std::string_view part = trim(text.substr(0, comma));
        if (!(first ? read_kind(part, check) : read_option(part, check))) return std::nullopt;
        first = false;
        if (comma == std::string_view::npos) return check;
        text.remove_prefix(comma + 1);
    }
}

}  // namespace mesh::model
