// What `meshctl connectivity test` prints: a table that grows with every case, or one document.
#pragma once

#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "meshctl/connectivity_cases.hpp"
#include "meshctl/connectivity_checks.hpp"

namespace mesh::ctl::connectivity {

/// How a case went.
struct Outcome {
    std::string reason;  ///< why it failed; "" = it passed
    double milliseconds = 0;
};

/// Plain text and values; whoever uses it prints them.
class Report {
  public:
    /// Begins the cases of one routing mode.
    /// @return the table's heading, its columns wide enough for all of them
    [[nodiscard]] std::string begin(std::string_view routing, const std::vector<Case>& cases,
                                    const Network& network);
    /// @return the case's row; with the reason on a second line when it failed
    [[nodiscard]] std::string add(const Case& one, const Network& network, const Outcome& outcome);

    [[nodiscard]] std::size_t passed() const { return cases_.size() - failed_.size(); }
    [[nodiscard]] std::size_t failed() const { return failed_.size(); }
    /// The names of what failed, then "N passed, N failed".
    [[nodiscard]] std::string summary() const;
    /// @param kept sandboxes that are left
    [[nodiscard]] boost::json::object document(const std::vector<std::string>& kept) const;

  private:
    std::string routing_;
    std::array<std::size_t, 4> widths_{};
    boost::json::array cases_;
    std::vector<std::string> failed_;
};

/// A case without its outcome, for --list.
[[nodiscard]] boost::json::object case_document(const Case& one, std::string_view routing);

}  // namespace mesh::ctl::connectivity
