// Logging hooks. libmesh writes no file and knows no global logger: whoever makes an object hands
// it a Logger, whose sink the embedder chose. Daemons put spdlog behind it.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace mesh {

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarn, kError, kOff };

/// Takes one finished line. Called on the thread that logs; must not block or throw.
using LogSink =
    std::function<void(LogLevel level, std::string_view subsystem, std::string_view text)>;

/// A named handle on a sink; cheap to copy. A default-made Logger drops everything.
/// @thread as the sink; a Logger itself is immutable
class Logger {
  public:
    Logger() = default;
    Logger(std::string subsystem, LogSink sink, LogLevel level = LogLevel::kInfo)
        : sink_(std::make_shared<const LogSink>(std::move(sink))),
          subsystem_(std::move(subsystem)),
          level_(level) {}

    /// The same sink under another subsystem name.
    [[nodiscard]] Logger named(std::string subsystem) const {
        Logger copy = *this;
        copy.subsystem_ = std::move(subsystem);
        return copy;
    }

    [[nodiscard]] bool enabled(LogLevel level) const noexcept { return sink_ && level >= level_; }

    template <class... Args>
    void debug(fmt::format_string<Args...> format, Args&&... args) const {
        write(LogLevel::kDebug, format, std::forward<Args>(args)...);
    }
    template <class... Args>
    void info(fmt::format_string<Args...> format, Args&&... args) const {
        write(LogLevel::kInfo, format, std::forward<Args>(args)...);
    }
    template <class... Args>
    void warn(fmt::format_string<Args...> format, Args&&... args) const {
        write(LogLevel::kWarn, format, std::forward<Args>(args)...);
    }
    template <class... Args>
    void error(fmt::format_string<Args...> format, Args&&... args) const {
        write(LogLevel::kError, format, std::forward<Args>(args)...);
    }

  private:
    template <class... Args>
    void write(LogLevel level, fmt::format_string<Args...> format, Args&&... args) const {
        if (!enabled(level)) return;
        (*sink_)(level, subsystem_, fmt::format(format, std::forward<Args>(args)...));
    }

    std::shared_ptr<const LogSink> sink_;
    std::string subsystem_;
    LogLevel level_ = LogLevel::kInfo;
};

}  // namespace mesh
