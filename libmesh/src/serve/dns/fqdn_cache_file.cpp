#include "serve/dns/fqdn_cache_file.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <optional>
#include <system_error>

#include "pki/files.hpp"
#include "serve/dns/dns_message.hpp"

namespace mesh::serve::dns {

namespace {

constexpr std::string_view kMagic = "libmesh-fqdn-cache";
constexpr std::string_view kVersion = "1";
constexpr std::int64_t kMaxMilliseconds = std::int64_t{1} << 43;  // the year 2248

using Milliseconds = std::chrono::milliseconds;

/// Steady times in the file's terms, at one moment.
class Epoch {
  public:
    explicit Epoch(const Clock& clock) : now_(clock.now()), wall_(clock.wall_now()) {}
    [[nodiscard]] std::int64_t of(TimePoint at) const {
        return std::chrono::duration_cast<Milliseconds>(wall_.time_since_epoch() + (at - now_))
            .count();
    }
    [[nodiscard]] TimePoint at(std::int64_t milliseconds) const {
        return now_ + (Milliseconds(milliseconds) - wall_.time_since_epoch());
    }
    [[nodiscard]] TimePoint now() const { return now_; }

  private:
    TimePoint now_;
    WallTime wall_;
};

std::string_view take_until(std::string_view& rest, char end) {
    const auto at = rest.find(end);
    const std::string_view part = rest.substr(0, at);
    rest = at == std::string_view::npos ? std::string_view{} : rest.substr(at + 1);
    return part;
}

bool read_number(std::string_view text, std::int64_t limit, std::int64_t& out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc{} && end == text.data() + text.size() && out >= 0 && out <= limit;
}

Result<CacheEntry> parse_line(std::string_view line, const Epoch& epoch) {
    std::array<std::string_view, 6> field;
    for (auto& one : field) one = take_until(line, ' ');
    if (!line.empty()) return invalid_argument("expected 6 fields");
    CacheEntry entry;
    std::int64_t endpoint = 0, learnt = 0, expires = 0, zombie = 0;
    if (!read_number(field[0], 65535, endpoint) || endpoint == 0) {
        return invalid_argument("expected an endpoint's number, 1 to 65535");
    }
    MESH_TRY(entry.name, parse_name(field[1]));
    MESH_TRY(entry.address, model::IpAddress::parse(field[2]));
    if (!read_number(field[3], kMaxMilliseconds, learnt) ||
        !read_number(field[4], kMaxMilliseconds, expires) ||
        (field[5] != "-" && !read_number(field[5], kMaxMilliseconds, zombie))) {
        return invalid_argument("expected times in milliseconds");
    }
    entry.endpoint = static_cast<EndpointId>(endpoint);
    entry.learnt = epoch.at(learnt);
    entry.expires = epoch.at(expires);
    if (field[5] != "-") entry.zombie = epoch.at(zombie);
    return entry;
}

}  // namespace

std::string encode_cache(const FqdnCache& cache, const Clock& clock) {
    const Epoch epoch(clock);
    std::string out = fmt::format("{} {}\n", kMagic, kVersion);
    for (const CacheEntry& entry : cache.entries()) {
        fmt::format_to(std::back_inserter(out), "{} {} {} {} {} {}\n", entry.endpoint,
                       entry.name.empty() ? "." : entry.name, entry.address.to_string(),
                       epoch.of(entry.learnt), epoch.of(entry.expires),
                       entry.zombie ? fmt::format("{}", epoch.of(*entry.zombie)) : "-");
    }
    return out;
}

Result<RestoredCache> decode_cache(std::string_view text, FqdnCache& cache, const Clock& clock) {
    const Epoch epoch(clock);
    std::string_view first = take_until(text, '\n');
    if (take_until(first, ' ') != kMagic || first != kVersion) {
        return Error(Errc::kCorrupt,
                     fmt::format("its first line is not \"{} {}\"", kMagic, kVersion));
    }
    RestoredCache out;
    for (std::size_t number = 2; !text.empty(); ++number) {
        // The last line ends, too, in a file that is whole.
        const bool ends = text.find('\n') != std::string_view::npos;
        const std::string_view line = take_until(text, '\n');
        auto entry = parse_line(line, epoch);
        if (entry && ends) {
            static_cast<void>(cache.restore(*entry, epoch.now()));
            ++out.addresses;
            continue;
        }
        if (out.bad_lines++ > 0) continue;
        out.first_error =
            fmt::format("line {}: {}", number, entry ? "has no end" : entry.error().detail());
    }
    return out;
}

Result<void> save_cache(const std::string& path, const FqdnCache& cache, const Clock& clock) {
    return pki::write_file(path, encode_cache(cache, clock), pki::FileMode::kPrivate);
}

Result<RestoredCache> load_cache(const std::string& path, FqdnCache& cache, const Clock& clock) {
    MESH_TRY(const std::string text, pki::read_file(path, kMaxCacheFileBytes));
    auto restored = decode_cache(text, cache, clock);
    if (restored) return restored;
    std::error_code ignored;
    std::filesystem::rename(path, path + ".bad", ignored);
    return restored.error().with_prefix(path);
}

}  // namespace mesh::serve::dns
