// What meshctl prints: tables, JSON, errors, and what a long command is busy with.
#pragma once

#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::ctl {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;    ///< something failed; stderr says what
inline constexpr int kExitUsage = 2;     ///< the command line or a manifest is wrong
inline constexpr int kExitNotReady = 3;  ///< all went well, but not everything is ready

/// kExitUsage for kInvalidArgument, else kExitFailed.
[[nodiscard]] int exit_code_of(const Error& error);
/// Prints "meshctl: <message>" to stderr. @return the exit code
int fail(const Error& error);

/// Aligned columns under capital headings; no trailing blanks.
class Table {
  public:
    explicit Table(std::vector<std::string> headings) : rows_{std::move(headings)} {}
    void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
    /// Takes out columns that no row has anything in.
    void drop_empty_columns();
    [[nodiscard]] bool empty() const { return rows_.size() == 1; }
    /// With colours where a cell is a known state and standard output is a terminal.
    [[nodiscard]] std::string text() const;
    void print() const;

  private:
    std::vector<std::vector<std::string>> rows_;
};

void print_json(const boost::json::value& value);

/// Tells on stderr what a command is busy with, once it has taken more than two seconds.
class Progress {
  public:
    void operator()(std::string_view text);

  private:
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
    std::string last_;
};

}  // namespace mesh::ctl
