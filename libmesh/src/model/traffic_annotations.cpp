#include "model/traffic_annotations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>

#include "model/validate.hpp"

namespace mesh::model {
namespace {

using std::chrono::seconds;

constexpr std::uint16_t kLargestWeight = 1000;
constexpr std::uint32_t kLargestMinimum = 65535;
constexpr seconds kShortestSlowStart{1};
constexpr seconds kLongestSlowStart{3600};
constexpr seconds kShortestClose{10};
constexpr seconds kLongestClose{24 * 3600};
constexpr std::size_t kMaxShown = 100;  ///< of a value, in a warning

constexpr std::string_view kWeightsForm =
    "cluster=weight pairs, each cluster once and weights 0 to 1000, such as "
    "cluster1=80,cluster2=20";
constexpr std::string_view kOrderForm =
    "names of clusters, each once, and at most one * for all others, such as cluster1,cluster2,*";
constexpr std::string_view kMinimumForm = "a number of backends, 1 to 65535";
constexpr std::string_view kSlowStartForm = "a time from 1s to 1h, such as 30s or 1m30s";
constexpr std::string_view kBoolForm = "true or false";
constexpr std::string_view kStaleForm = "static, or close: and a time from 10s to 24h: close:30s";

std::string_view trim(std::string_view text) {
    const auto first = text.find_first_not_of(" \t\n\r");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t\n\r") - first + 1);
}

std::vector<std::string_view> split(std::string_view text) {
    std::vector<std::string_view> parts;
    for (;;) {
        const auto comma = text.find(',');
        parts.push_back(trim(text.substr(0, comma)));
        if (comma == std::string_view::npos) return parts;
        text.remove_prefix(comma + 1);
    }
}

template <class Number>
std::optional<Number> parse_number(std::string_view text, Number least, Number most) {
    Number number{};
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (ec != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    if (number < least || number > most) return std::nullopt;
    return number;
}

/// As Go writes them, in whole seconds: "90s", "1h30m".
std::optional<seconds> parse_time(std::string_view text, seconds least, seconds most) {
    if (text.empty()) return std::nullopt;
    std::uint64_t total = 0;
    while (!text.empty()) {
        std::uint32_t count = 0;
        const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), count);
        text.remove_prefix(static_cast<std::size_t>(end - text.data()));
        if (ec != std::errc{} || text.empty()) return std::nullopt;
        const char unit = text.front();
        if (unit != 's' && unit != 'm' && unit != 'h') return std::nullopt;
        total += std::uint64_t{count} * (unit == 's' ? 1 : unit == 'm' ? 60 : 3600);
        if (total > std::numeric_limits<std::uint32_t>::max()) return std::nullopt;
        text.remove_prefix(1);
    }
    const seconds time{static_cast<seconds::rep>(total)};
    if (time < least || time > most) return std::nullopt;
    return time;
}

std::optional<std::vector<ClusterWeight>> parse_weights(std::string_view text) {
    std::vector<ClusterWeight> weights;
    for (const std::string_view part : split(text)) {
        const auto equals = part.find('=');
        if (equals == std::string_view::npos) return std::nullopt;
        const std::string_view cluster = trim(part.substr(0, equals));
        const auto weight =
            parse_number<std::uint16_t>(trim(part.substr(equals + 1)), 0, kLargestWeight);
        if (!check_cluster_name(cluster) || !weight) return std::nullopt;
        weights.push_back({std::string(cluster), *weight});
    }
    std::ranges::sort(weights, {}, &ClusterWeight::cluster);
    const auto twice = std::ranges::adjacent_find(weights, {}, &ClusterWeight::cluster);
    return twice == weights.end() ? std::optional(std::move(weights)) : std::nullopt;
}

std::optional<std::vector<std::string>> parse_order(std::string_view text) {
    std::vector<std::string> order;
    std::set<std::string_view> seen;
    for (const std::string_view part : split(text)) {
        if (part != "*" && !check_cluster_name(part)) return std::nullopt;
        if (!seen.insert(part).second) return std::nullopt;
        order.emplace_back(part);
    }
    return order;
}

std::optional<bool> parse_bool(std::string_view text) {
    if (text != "true" && text != "false") return std::nullopt;
    return text == "true";
}

/// nullopt = not of the form.
std::optional<std::optional<seconds>> parse_stale_policy(std::string_view text) {
    constexpr std::string_view kClose = "close:";
    if (text == "static") return std::optional<seconds>();
    if (!text.starts_with(kClose)) return std::nullopt;
    const auto time = parse_time(trim(text.substr(kClose.size())), kShortestClose, kLongestClose);
    if (!time) return std::nullopt;
    return time;
}

class Reader {
  public:
    Reader(const StringMap& annotations, std::vector<std::string>& warnings)
        : annotations_(annotations), warnings_(warnings) {}

    /// Sets `out` by what `parse` makes of the annotation; warns if it makes nothing of it.
    template <class Out, class Parse>
    void read(std::string_view name, std::string_view form, Out& out, Parse parse) {
        read_as_written(name, form, out, [&](std::string_view value) {
            std::string text(value);
            std::ranges::transform(text, text.begin(), [](char c) {
                return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
            });
            return parse(std::string_view(text));
        });
    }

    /// The same for a value of which upper case means something.
    template <class Out, class Parse>
    void read_as_written(std::string_view name, std::string_view form, Out& out, Parse parse) {
        const auto value = annotations_.get(name);
        if (!value) return;
        if (auto parsed = parse(trim(*value))) {
            out = *std::move(parsed);
            return;
        }
        warnings_.push_back(fmt::format("annotation {}: \"{}\" is ignored, expected {}", name,
                                        value->substr(0, kMaxShown), form));
    }

  private:
    const StringMap& annotations_;
    std::vector<std::string>& warnings_;
};

}  // namespace

bool has_traffic_annotations(const OptionalStringMap& annotations) noexcept {
    if (!annotations) return false;
    const auto at =
        std::lower_bound(annotations->begin(), annotations->end(), kTrafficPrefix,
                         [](const auto& entry, std::string_view key) { return entry.first < key; });
    return at != annotations->end() && at->first.view().starts_with(kTrafficPrefix);
}

TrafficAnnotations parse_traffic_annotations(const OptionalStringMap& annotations) {
    TrafficAnnotations result;
    if (!has_traffic_annotations(annotations)) return result;
    TrafficPolicy& policy = result.policy;
    Reader reader(*annotations, result.warnings);
    reader.read(kClusterWeightsAnnotation, kWeightsForm, policy.cluster_weights, parse_weights);
    reader.read(kClusterOrderAnnotation, kOrderForm, policy.cluster_order, parse_order);
    reader.read(kMinLocalBackendsAnnotation, kMinimumForm, policy.min_local_backends,
                [](std::string_view text) {
                    return parse_number<std::uint32_t>(text, 1, kLargestMinimum);
                });
    reader.read(kSlowStartAnnotation, kSlowStartForm, policy.slow_start, [](std::string_view text) {
        return parse_time(text, kShortestSlowStart, kLongestSlowStart);
    });
    reader.read(kStalePolicyAnnotation, kStaleForm, policy.close_when_stale, parse_stale_policy);
    reader.read_as_written(kHealthCheckAnnotation, kHealthCheckForm, result.health_check,
                           parse_health_check);
    reader.read(kResetConnectionsAnnotation, kBoolForm, result.reset_connections, parse_bool);
    return result;
}

}  // namespace mesh::model
