// Names and values that belong to a log line, for sinks that write structured lines: whose call it
// was, which method, which revision. The line's text says it all for people; a sink that knows no
// fields loses nothing.
//
//     const LogFields fields({{"client", name}, {"method", method}});
//     log.warn("denied: ...");
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh {

/// The fields of the lines that this thread logs while the object lives. Sinks are called on the
/// thread that logs, so that nothing is shared; not to be held over co_await.
/// @thread any thread; made and destroyed on the same one
class LogFields {
  public:
    using Field = std::pair<std::string_view, std::string>;

    /// @param fields names are literals, in lower case
    LogFields(std::initializer_list<Field> fields);
    ~LogFields();
    LogFields(const LogFields&) = delete;
    LogFields& operator=(const LogFields&) = delete;

    /// For sinks: those of the line that is being logged, of the innermost object alone.
    [[nodiscard]] static std::span<const Field> current() noexcept;

  private:
    std::vector<Field> fields_;
    const LogFields* outer_;
};

}  // namespace mesh
