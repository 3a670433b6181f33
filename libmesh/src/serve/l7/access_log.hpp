// What the proxy did with each request, as lines of JSON: a file of bounded size, the latest ones
// in memory, a callback. Never bodies, and of headers only Host and the names that a rule looked
// for.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "serve/l7/options.hpp"

namespace mesh::serve::l7 {

enum class Verdict : std::uint8_t {
    kForwarded,
    kDenied,   ///< by policy
    kRefused,  ///< malformed, or beyond a limit
    kError,    ///< the server could not be reached, or did not answer properly
};
[[nodiscard]] std::string_view to_string(Verdict verdict) noexcept;

/// One request. The texts live for the call they are given to.
struct AccessRecord {
    WallTime time{};  ///< its end
    const Flow* flow = nullptr;
    std::uint32_t source_identity = 0, destination_identity = 0;
    std::string_view protocol;  ///< "HTTP/1.1", "HTTP/1.0", "HTTP/2"
    std::string_view method, path, host;
    unsigned status = 0;  ///< told to the client; 0: none
    Verdict verdict = Verdict::kForwarded;
    std::string_view reason;      ///< of what did not pass
    std::string_view rule;        ///< that let it pass
    std::string_view mismatched;  ///< names of headers, comma-separated
    Duration duration{};          ///< first byte of the request to the end
    Duration until_response{};    ///< to the response's first byte; 0: none came
    std::uint64_t request_bytes = 0, response_bytes = 0;  ///< with headers
};

/// Appends a line with its end. Times are RFC 3339 in UTC, durations microseconds.
void append_json(const AccessRecord& record, std::string& out);

/// Takes lines of all loops. @thread any thread
class AccessLog {
  public:
    /// @param on_line for each line, on the loop that made it; may be empty
    AccessLog(AccessLogOptions options, std::function<void(std::string_view line)> on_line,
              Logger log);
    ~AccessLog();
    AccessLog(const AccessLog&) = delete;
    AccessLog& operator=(const AccessLog&) = delete;

    /// Opens the file. @errors kUnavailable with the path and the system's words
    [[nodiscard]] Result<void> open();
    [[nodiscard]] bool enabled() const noexcept { return enabled_; }
    [[nodiscard]] bool wants(Verdict verdict) const noexcept {
        return enabled_ && (options_.allowed || verdict != Verdict::kForwarded);
    }
    [[nodiscard]] const AccessLogOptions& options() const noexcept { return options_; }
    /// Takes whole lines. A file that cannot be written to is told once, and lines are lost.
    void write(std::string_view lines);
    /// The latest lines, oldest first, at most `count`.
    [[nodiscard]] std::vector<std::string> recent(std::size_t count) const;

  private:
    void write_file(std::string_view lines);
    void rotate();

    const AccessLogOptions options_;
    const std::function<void(std::string_view)> on_line_;
    const Logger log_;
    const bool enabled_;
    mutable std::mutex mutex_;  // guards all below
    int file_ = -1;
    std::uint64_t file_bytes_ = 0;
    bool failure_told_ = false;
    std::vector<std::string> ring_;
    std::uint64_t lines_ = 0;  // ever
};

}  // namespace mesh::serve::l7
