// Cluster-config (wire.md §3), and the RFC 3339 text of heartbeats and canaries (§9, §10).
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <chrono>

#include "model/codec.hpp"
#include "model/json_reader.hpp"
#include "model/json_writer.hpp"
#include "model/utf8.hpp"

namespace mesh::model {
namespace {

constexpr std::array<std::string_view, 2> kFields{"id", "capabilities"};
constexpr std::array<std::string_view, 4> kCapabilities{
    "syncedCanaries", "cached", "maxConnectedClusters", "serviceExportsEnabled"};
constexpr std::int64_t kFirstSecond = -62167219200;  // 0000-01-01T00:00:00Z
constexpr std::int64_t kLastSecond = 253402300799;   // 9999-12-31T23:59:59Z

bool read_capabilities(JsonReader& in, ClusterConfig& config) {
    return in.fields(kCapabilities, [&](int field) {
        switch (field) {
            case 0:
                return in.read(config.synced_canaries);
            case 1:
                return in.read(config.cached);
            case 2:
                return in.read(config.max_connected_clusters);
            default: {
                if (in.take_null()) {
                    config.service_exports_enabled.reset();
                    return true;
                }
                bool enabled = false;
                if (!in.read(enabled)) return false;
                config.service_exports_enabled = enabled;
                return true;
            }
        }
    });
}

/// Takes `count` digits as a number within bounds.
bool take_number(std::string_view& text, std::size_t count, int low, int high, int& out) {
    if (text.size() < count) return false;
    int value = 0;
    for (const char c : text.substr(0, count)) {
        if (c < '0' || c > '9') return false;
        value = value * 10 + (c - '0');
    }
    text.remove_prefix(count);
    out = value;
    return value >= low && value <= high;
}

bool take_character(std::string_view& text, char c) {
    if (text.empty() || text.front() != c) return false;
    text.remove_prefix(1);
    return true;
}

/// "Z" or "+hh:mm". @param out seconds east of UTC
bool take_offset(std::string_view& text, int& out) {
    out = 0;
    if (take_character(text, 'Z')) return true;
    const int sign = !text.empty() && text.front() == '-' ? -1 : 1;
    int hours = 0;
    int minutes = 0;
    if (!take_character(text, sign < 0 ? '-' : '+')) return false;
    if (!take_number(text, 2, 0, 23, hours) || !take_character(text, ':')) return false;
    if (!take_number(text, 2, 0, 59, minutes)) return false;
    out = sign * (hours * 3600 + minutes * 60);
    return true;
}

bool take_fraction(std::string_view& text) {
    if (!take_character(text, '.')) return true;
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    text.remove_prefix(digits);
    return digits != 0;
}

bool parse_rfc3339(std::string_view text, std::int64_t& out) {
    int year = 0;
    int month = 0;
    int day = 0;
    int hour = 0;
    int minute = 0;
    int second = 0;
    int offset = 0;
    const bool ok = take_number(text, 4, 0, 9999, year) && take_character(text, '-') &&
                    take_number(text, 2, 1, 12, month) && take_character(text, '-') &&
                    take_number(text, 2, 1, 31, day) && take_character(text, 'T') &&
                    take_number(text, 2, 0, 23, hour) && take_character(text, ':') &&
                    take_number(text, 2, 0, 59, minute) && take_character(text, ':') &&
                    take_number(text, 2, 0, 59, second) && take_fraction(text) &&
                    take_offset(text, offset) && text.empty();
    const std::chrono::year_month_day date{std::chrono::year(year),
                                           std::chrono::month(static_cast<unsigned>(month)),
                                           std::chrono::day(static_cast<unsigned>(day))};
    if (!ok || !date.ok()) return false;
    const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
    out = ((days * 24 + hour) * 60 + minute) * 60 + second - offset;
    // An offset may lead out of the four-digit years that can be written again.
    return out >= kFirstSecond && out <= kLastSecond;
}

}  // namespace

Result<ClusterConfig> parse_cluster_config(std::string_view key, std::string_view value) {
    ClusterConfig config;
    JsonReader in(key, value);
    const bool ok = in.fields(kFields, [&](int field) {
        return field == 0 ? in.read(config.id) : read_capabilities(in, config);
    });
    if (!ok || !in.finish()) return in.error();
    return config;
}

std::string encode(const ClusterConfig& config) {
    std::string text = "{";
    JsonWriter out(text);
    if (number(config.id) != 0) {
        out.raw("\"id\":");
        out.number(number(config.id));
        out.raw(",");
    }
    out.raw("\"capabilities\":{");
    const std::size_t start = text.size();
    if (config.synced_canaries) out.raw(",\"syncedCanaries\":true");
    if (config.cached) out.raw(",\"cached\":true");
    if (config.max_connected_clusters != 0) {
        out.raw(",\"maxConnectedClusters\":");
        out.number(config.max_connected_clusters);
    }
    if (config.service_exports_enabled) {
        out.raw(",\"serviceExportsEnabled\":");
        out.boolean(*config.service_exports_enabled);
    }
    if (text.size() != start) text.erase(start, 1);
    out.raw("}}");
    return text;
}

Result<std::int64_t> parse_timestamp(std::string_view key, std::string_view value) {
    std::int64_t seconds = 0;
    if (parse_rfc3339(value, seconds)) return seconds;
    return invalid_argument(
        fmt::format("{}: expected an RFC 3339 time like 2026-11-23T11:39:28Z, got \"{}\"",
                    printable(key, 256), printable(value, 40)));
}

std::string encode_timestamp(std::int64_t seconds) {
    const std::chrono::sys_seconds time{std::chrono::seconds(seconds)};
    const auto days = std::chrono::floor<std::chrono::days>(time);
    const std::chrono::year_month_day date(days);
    const std::chrono::hh_mm_ss clock(time - days);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", static_cast<int>(date.year()),
                       static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                       clock.hours().count(), clock.minutes().count(), clock.seconds().count());
}

}  // namespace mesh::model
