#include "meshctl/connectivity_report.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mesh::ctl::connectivity {
namespace {

namespace json = boost::json;

std::array<std::string, 4> cells_of(const Case& one, const Network& network) {
    return {one.scope(), from_text(one, network), to_text(one, network), one.protocol_name()};
}

std::string row(const std::array<std::string, 4>& cells, const std::array<std::size_t, 4>& widths,
                std::string_view family, std::string_view result, std::string_view time) {
    return fmt::format("{:<{}}  {:<{}}  {:<{}}  {:<6}  {:<{}}  {:<6}  {:>10}\n", cells[0],
                       widths[0], cells[1], widths[1], cells[2], widths[2], family, cells[3],
                       widths[3], result, time);
}

}  // namespace

std::string Report::begin(std::string_view routing, const std::vector<Case>& cases,
                          const Network& network) {
    routing_ = routing;
    const std::array<std::string, 4> headings{"WHAT", "FROM", "TO", "PROTOCOL"};
    for (std::size_t i = 0; i < headings.size(); ++i) widths_.at(i) = headings.at(i).size();
    for (const Case& one : cases) {
        const auto cells = cells_of(one, network);
        for (std::size_t i = 0; i < cells.size(); ++i) {
            widths_.at(i) = std::max(widths_.at(i), cells.at(i).size());
        }
    }
    return fmt::format("{} routing, {} cases\n", routing_, cases.size()) +
           row(headings, widths_, "FAMILY", "RESULT", "TIME");
}

std::string Report::add(const Case& one, const Network& network, const Outcome& outcome) {
    const std::string name = one.name(routing_);
    json::object document = case_document(one, routing_);
    document["from"] = from_text(one, network);
    document["to"] = to_text(one, network);
    document["passed"] = outcome.reason.empty();
    document["milliseconds"] = outcome.milliseconds;
    if (!outcome.reason.empty()) {
        document["reason"] = outcome.reason;
        failed_.push_back(name);
    }
    cases_.push_back(std::move(document));
    std::string out = row(cells_of(one, network), widths_, to_string(one.family),
                          outcome.reason.empty() ? "passed" : "FAILED",
                          fmt::format("{:.1f} ms", outcome.milliseconds));
    if (!outcome.reason.empty()) out += fmt::format("    {}: {}\n", name, outcome.reason);
    return out;
}

std::string Report::summary() const {
    std::string out;
    for (const std::string& name : failed_) out += fmt::format("failed: {}\n", name);
    return out + fmt::format("{} passed, {} failed\n", passed(), failed());
}

json::object Report::document(const std::vector<std::string>& kept) const {
    json::array names;
    for (const std::string& name : kept) names.emplace_back(name);
    return {{"passed", passed()}, {"failed", failed()}, {"kept", names}, {"cases", cases_}};
}

json::object case_document(const Case& one, std::string_view routing) {
    return {{"name", one.name(routing)},
            {"routing", routing},
            {"what", one.scope()},
            {"family", to_string(one.family)},
            {"protocol", one.protocol_name()}};
}

}  // namespace mesh::ctl::connectivity
