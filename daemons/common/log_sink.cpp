#include "common/log_sink.hpp"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>
#include <utility>

#include "base/log_fields.hpp"

namespace mesh::daemon {
namespace {

std::string json_text(std::string_view text) {
    std::string out;
    out.reserve(text.size() + 2);
    for (const char raw : text) {
        const auto c = static_cast<unsigned char>(raw);
        switch (c) {
            case '"':
                out += "\\\"";
                break;
            case '\\':
                out += "\\\\";
                break;
            case '\n':
                out += "\\n";
                break;
            case '\r':
                out += "\\r";
                break;
            case '\t':
                out += "\\t";
                break;
            default:
                if (c < 0x20) {
                    fmt::format_to(std::back_inserter(out), "\\u{:04x}", c);
                } else {
                    out += raw;
                }
        }
    }
    return out;
}

/// A peer's bytes may reach a log line: they must not forge further lines or move the cursor.
std::string one_line(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (const char raw : text) {
        const auto c = static_cast<unsigned char>(raw);
        if (c == '\n') {
            out += "\\n";
        } else if (c < 0x20 || c == 0x7f) {
            fmt::format_to(std::back_inserter(out), "\\x{:02x}", c);
        } else {
            out += raw;
        }
    }
    return out;
}

spdlog::level::level_enum level_of(LogLevel level) {
    switch (level) {
        case LogLevel::kDebug:
            return spdlog::level::debug;
        case LogLevel::kInfo:
            return spdlog::level::info;
        case LogLevel::kWarn:
            return spdlog::level::warn;
        case LogLevel::kError:
            return spdlog::level::err;
        case LogLevel::kOff:
            break;
    }
    return spdlog::level::off;
}

}  // namespace

Logger make_logger(std::string subsystem, const CommonFlags& flags) {
    auto logger = std::make_shared<spdlog::logger>(
        subsystem, std::make_shared<spdlog::sinks::stderr_sink_mt>());
    const bool json = flags.log_format == LogFormat::kJson;
    logger->set_formatter(std::make_unique<spdlog::pattern_formatter>(
        json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})"
             : "%Y-%m-%dT%H:%M:%S.%eZ %-5l %v",
        spdlog::pattern_time_type::utc));
    logger->set_level(level_of(flags.log_level));
    logger->flush_on(spdlog::level::debug);
    auto sink = [logger = std::move(logger), json](LogLevel level, std::string_view name,
                                                   std::string_view text) {
        if (json) {
            std::string fields;
            for (const auto& [field, value] : LogFields::current())
                fields += fmt::format(",\"{}\":\"{}\"", field, json_text(value));
            logger->log(level_of(level), R"("subsystem":"{}","message":"{}"{})", json_text(name),
                        json_text(text), fields);
        } else {
            logger->log(level_of(level), "[{}] {}", name, one_line(text));
        }
    };
    return Logger(std::move(subsystem), std::move(sink), flags.log_level);
}

}  // namespace mesh::daemon
