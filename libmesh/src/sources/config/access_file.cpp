#include "sources/config/access_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "sources/config/document.hpp"
#include "sources/config/field.hpp"

namespace mesh::sources::config {
namespace {

using Kind = DocumentValue::Kind;

constexpr std::string_view kCluster = "{cluster}";
constexpr std::size_t kMostNameBytes = 1024;

/// What a pattern's text breaks, or empty.
std::string_view wrong_with(std::string_view text) {
    if (text.empty()) return "a text that is not empty, or \"*\" for all";
    if (text.size() > kMostNameBytes) return "at most 1024 bytes";
    const auto star = text.find('*');
    if (star != std::string_view::npos && star + 1 != text.size()) return "\"*\" only at the end";
    for (auto brace = text.find_first_of("{}"); brace != std::string_view::npos;
         brace = text.find_first_of("{}")) {
        if (!text.substr(brace).starts_with(kCluster)) return "{cluster} as the only braces";
        text.remove_prefix(brace + kCluster.size());
    }
    return {};
}

AccessPattern pattern(const Field& field) {
    std::string text = field.required_string();
    if (const auto wrong = wrong_with(text); !wrong.empty()) field.expected(wrong);
    const bool prefix = text.ends_with('*');
    if (prefix) text.pop_back();
    return {std::move(text), prefix};
}

std::optional<std::vector<AccessPattern>> patterns(const Field& field) {
    if (!field.present()) return {};
    std::vector<AccessPattern> out;
    field.each([&](const Field& one) { out.push_back(pattern(one)); });
    return out;
}

std::optional<bool> flag(const Field& field) {
    if (!field.present()) return {};
    return field.boolean(false);
}

/// A number, with Ki, Mi or Gi behind it if it is one of bytes.
std::optional<std::uint64_t> amount(const Field& field, bool bytes = false) {
    if (!field.present()) return {};
    // What is beyond a tera is a mistake, and what can be multiplied by a second's nanoseconds is
    // counted without overflow.
    constexpr std::uint64_t kMost = 1'000'000'000'000;
    static constexpr std::array<std::pair<std::string_view, std::uint64_t>, 3> kUnits{
        {{"Ki", 1U << 10}, {"Mi", 1U << 20}, {"Gi", 1U << 30}}};
    std::string_view text = field.value()->text;
    std::uint64_t unit = 1;
    for (const auto& [name, factor] : kUnits) {
        if (!bytes || field.kind() != Kind::kString || !text.ends_with(name)) continue;
        text.remove_suffix(name.size());
        unit = factor;
    }
    std::uint64_t number = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool scalar = field.kind() == Kind::kNumber || unit != 1;
    if (!scalar || ec != std::errc{} || end != text.data() + text.size() || number > kMost / unit) {
        field.expected(bytes ? "a number of bytes, 0 to 10^12, such as 1000000 or 64Mi (0 = no "
                               "limit)"
                             : "an integer 0 to 10^12 (0 = no limit)");
        return {};
    }
    return number * unit;
}

AccessLimits limits(const Field& field) {
    if (!field.present()) return {};
    field.only({"streams", "watches", "requests-per-second", "request-burst", "waiting-requests",
                "bytes-in-per-second", "bytes-out-per-second"});
    return {.streams = amount(field["streams"]),
            .watches = amount(field["watches"]),
            .requests_per_second = amount(field["requests-per-second"]),
            .request_burst = amount(field["request-burst"]),
            .waiting_requests = amount(field["waiting-requests"]),
            .bytes_in_per_second = amount(field["bytes-in-per-second"], true),
            .bytes_out_per_second = amount(field["bytes-out-per-second"], true)};
}

AccessRole role(const std::string& name, const Field& field) {
    AccessRole out;
    out.name = name;
    if (name.empty() || name.size() > 64) field.expected("a role's name of 1 to 64 bytes");
    if (name == kNoRole) field.expected("another name: \"none\" is the role that may do nothing");
    if (!field.present()) return out;
    field.only({"listeners", "read", "write", "transactions", "status", "maintenance", "limits",
                "limits-per-name"});
    if (const Field listeners = field["listeners"]; listeners.present()) {
        out.listeners.emplace();
        listeners.each([&](const Field& one) {
            out.listeners->push_back(one.choice({"remote", "local"}, {}));
            if (out.listeners->back().empty()) one.expected("remote or local");
        });
    }
    out.read = patterns(field["read"]);
    out.write = patterns(field["write"]);
    out.transactions = flag(field["transactions"]);
    out.status = flag(field["status"]);
    out.maintenance = flag(field["maintenance"]);
    out.limits = limits(field["limits"]);
    out.limits_per_name = limits(field["limits-per-name"]);
    return out;
}

AccessUser user(const Field& field) {
    static constexpr std::array<std::pair<std::string_view, AccessUser::By>, 3> kWays{
        {{"name", AccessUser::By::kName},
         {"dns", AccessUser::By::kDns},
         {"uri", AccessUser::By::kUri}}};
    AccessUser out;
    field.only({"name", "dns", "uri", "role"});
    int ways = 0;
    for (const auto& [name, by] : kWays) {
        const Field way = field[name];
        if (!way.present()) continue;
        ++ways;
        out.by = by;
        out.pattern = pattern(way);
    }
    if (ways != 1) field.expected("exactly one of name, dns, uri");
    out.role = field["role"].required_string();
    return out;
}

/// The places of a document where roles are named must name some.
class Roles {
  public:
    explicit Roles(const std::vector<AccessRole>& described) {
        for (const std::string_view name : {kRemoteRole, kLocalRole, kAdminRole, kNoRole})
            names_.emplace(name);
        for (const AccessRole& one : described) names_.insert(one.name);
    }
    void check(const std::string& name, const Field& field) const {
        if (!names_.contains(name))
            field.expected(fmt::format("one of the roles {}", fmt::join(names_, ", ")));
    }

  private:
    std::set<std::string> names_;
};

void read_users(const Field& list, AccessFile& out) {
    if (!list.present()) return;
    const Roles roles(out.roles);
    std::map<std::tuple<AccessUser::By, std::string, bool>, std::string> seen;
    list.each([&](const Field& field) {
        AccessUser one = user(field);
        roles.check(one.role, field["role"]);
        const auto [before, added] =
            seen.try_emplace({one.by, one.pattern.text, one.pattern.prefix}, one.role);
        if (added)
            out.users.push_back(std::move(one));
        else if (before->second != one.role)
            field.expected(fmt::format("no second role for \"{}{}\", which has role {}",
                                       one.pattern.text, one.pattern.prefix ? "*" : "",
                                       before->second));
    });
}

}  // namespace

Result<AccessFile> parse_access_file(std::string_view text, std::string_view file) {
    MESH_TRY(const auto documents, parse_documents(text, file));
    // An empty file is one that is just being written: it must not end everybody's calls.
    if (documents.size() != 1) {
        return invalid_argument(
            fmt::format("{}: expected one document with a list \"users\", got "
                        "{} documents",
                        file, documents.size()));
    }
    std::optional<std::string> mistake;
    const Field root(documents.front().root, mistake);
    AccessFile out;
    root.only({"users", "roles"});
    if (root.kind() == Kind::kMap && root.value()->find("users") == nullptr)
        root.expected("a list \"users\", be it empty");
    if (const Field roles = root["roles"]; roles.present()) {
        roles.each_member([&](const std::string& name, const Field& field) {
            out.roles.push_back(role(name, field));
        });
    }
    read_users(root["users"], out);
    if (mistake) return invalid_argument(fmt::format("{}: {}", file, *mistake));
    return out;
}

}  // namespace mesh::sources::config
