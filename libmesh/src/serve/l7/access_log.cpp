#include "serve/l7/access_log.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <iterator>
#include <utility>

namespace mesh::serve::l7 {

namespace {

void append_number(std::uint64_t value, std::string& out) {
    char text[20];
    const auto end = std::to_chars(std::begin(text), std::end(text), value).ptr;
    out.append(text, static_cast<std::size_t>(end - text));
}

void append_string(std::string_view text, std::string& out) {
    out.push_back('"');
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            out.push_back('\\');
            out.push_back(c);
        } else if (byte < 0x20 || byte >= 0x7f) {
            // Beyond ASCII there may be no UTF-8: as in Latin-1.
            fmt::format_to(std::back_inserter(out), "\\u{:04x}", byte);
        } else {
            out.push_back(c);
        }
    }
    out.push_back('"');
}

void append_time(WallTime time, std::string& out) {
    const auto since = time.time_since_epoch();
    const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
    const auto second = static_cast<std::time_t>(seconds.count());
    // Most lines are of the same second as the one before.
    thread_local std::time_t last = -1;
    thread_local char text[24];
    if (second != last) {
        std::tm parts{};
        ::gmtime_r(&second, &parts);
        std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
        last = second;
    }
    out.append(text);
    const auto micros = static_cast<std::uint64_t>(
        std::chrono::floor<std::chrono::microseconds>(since - seconds).count());
    char digits[8] = ".000000";
    auto rest = micros;
    for (int i = 6; i > 0; --i, rest /= 10) digits[i] = static_cast<char>('0' + rest % 10);
    out.append(digits, 7).push_back('Z');
}

void append_side(std::string_view name, const Endpoint& endpoint, std::uint32_t identity,
                 std::string& out) {
    out.append(name).append("{\"ip\":\"");
    endpoint.address.append_to(out);
    out.append("\",\"port\":");
    append_number(endpoint.port, out);
    if (identity != 0) {
        out.append(",\"identity\":");
        append_number(identity, out);
    }
    out.push_back('}');
}

std::uint64_t micros(Duration duration) {
    return static_cast<std::uint64_t>(
        std::max<std::int64_t>(0, std::chrono::floor<std::chrono::microseconds>(duration).count()));
}

void append_field(std::string_view name, std::string_view text, std::string& out) {
    if (text.empty()) return;
    out.append(name);
    append_string(text, out);
}

}  // namespace

std::string_view to_string(Verdict verdict) noexcept {
    switch (verdict) {
        case Verdict::kForwarded:
            return "forwarded";
        case Verdict::kDenied:
            return "denied";
        case Verdict::kRefused:
            return "refused";
        case Verdict::kError:
            return "error";
    }
    return "";
}

void append_json(const AccessRecord& record, std::string& out) {
    out.append("{\"time\":\"");
    append_time(record.time, out);
    if (record.flow != nullptr) {
        out.append(record.flow->direction == model::policy::Direction::kIngress
                       ? "\",\"direction\":\"ingress\","
                       : "\",\"direction\":\"egress\",");
        append_side("\"source\":", record.flow->source, record.source_identity, out);
        append_side(",\"destination\":", record.flow->destination, record.destination_identity,
                    out);
    }
    append_field(",\"protocol\":", record.protocol, out);
    append_field(",\"method\":", record.method, out);
    append_field(",\"path\":", record.path, out);
    append_field(",\"host\":", record.host, out);
    if (record.status != 0) {
        out.append(",\"status\":");
        append_number(record.status, out);
    }
    out.append(",\"verdict\":\"").append(to_string(record.verdict)).push_back('"');
    append_field(",\"reason\":", record.reason, out);
    append_field(",\"rule\":", record.rule, out);
    append_field(",\"header_mismatch\":", record.mismatched, out);
    out.append(",\"duration_us\":");
    append_number(micros(record.duration), out);
    if (record.until_response > Duration::zero()) {
        out.append(",\"response_after_us\":");
        append_number(micros(record.until_response), out);
    }
    out.append(",\"request_bytes\":");
    append_number(record.request_bytes, out);
    out.append(",\"response_bytes\":");
    append_number(record.response_bytes, out);
    out.append("}\n");
}

AccessLog::AccessLog(AccessLogOptions options, std::function<void(std::string_view)> on_line,
                     Logger log)
    : options_(std::move(options)),
      on_line_(std::move(on_line)),
      log_(std::move(log)),
      enabled_(!options_.file.empty() || options_.recent > 0 || on_line_) {}

AccessLog::~AccessLog() {
    if (file_ >= 0) ::close(file_);
}

Result<void> AccessLog::open() {
    if (options_.file.empty()) return Result<void>{};
    const std::lock_guard lock(mutex_);
    file_ = ::open(options_.file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
                   options_.file_mode);
    struct stat status {};
    if (file_ < 0 || ::fstat(file_, &status) != 0) {
        return unavailable(
            fmt::format("{}: open: {}", options_.file.native(), std::strerror(errno)));
    }
    file_bytes_ = static_cast<std::uint64_t>(status.st_size);
    return Result<void>{};
}

void AccessLog::write(std::string_view lines) {
    const auto each = [&](auto&& call) {
        for (std::string_view rest = lines; !rest.empty();) {
            const auto end = std::min(rest.find('\n'), rest.size() - 1);
            call(rest.substr(0, end));
            rest.remove_prefix(end + 1);
        }
    };
    {
        const std::lock_guard lock(mutex_);
        if (file_ >= 0) write_file(lines);
        if (options_.recent > 0) {
            each([&](std::string_view line) {
                if (ring_.size() < options_.recent) {
                    ring_.emplace_back(line);
                } else {
                    ring_[lines_ % options_.recent].assign(line);
                }
                ++lines_;
            });
        }
    }
    if (on_line_) each(on_line_);
}

void AccessLog::write_file(std::string_view lines) {
    if (file_bytes_ > 0 && file_bytes_ + lines.size() > options_.max_bytes) rotate();
    while (!lines.empty() && file_ >= 0) {
        const ssize_t n = ::write(file_, lines.data(), lines.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            if (!std::exchange(failure_told_, true))
                log_.error("access log {}: {}", options_.file.native(), std::strerror(errno));
            return;
        }
        file_bytes_ += static_cast<std::uint64_t>(n);
        lines.remove_prefix(static_cast<std::size_t>(n));
    }
}

void AccessLog::rotate() {
    const std::string old = options_.file.native() + ".1";
    if (::rename(options_.file.c_str(), old.c_str()) != 0 && !std::exchange(failure_told_, true)) {
        log_.error("access log {}: rename: {}", options_.file.native(), std::strerror(errno));
    }
    const int fresh = ::open(options_.file.c_str(),
                             O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                             options_.file_mode);
    ::close(file_);
    file_ = fresh;
    file_bytes_ = 0;
    if (file_ < 0 && !std::exchange(failure_told_, true))
        log_.error("access log {}: open: {}", options_.file.native(), std::strerror(errno));
}

std::vector<std::string> AccessLog::recent(std::size_t count) const {
    const std::lock_guard lock(mutex_);
    const std::uint64_t held = ring_.size();
    const std::uint64_t n = std::min<std::uint64_t>(count, held);
    std::vector<std::string> out;
    for (std::uint64_t i = lines_ - n; i < lines_; ++i) out.push_back(ring_[i % options_.recent]);
    return out;
}

}  // namespace mesh::serve::l7
