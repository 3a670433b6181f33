#include "meshctl/output.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace mesh::ctl {
namespace {

constexpr std::chrono::seconds kQuiet{2};

bool colours() {
    static const bool on = ::isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
    return on;
}

// Green for what is well, yellow for what is under way, red for what is not.
std::string_view colour_of(std::string_view cell) {
    static const std::map<std::string_view, std::string_view> known = {
        {"ready", "32"},      {"Running", "32"},   {"yes", "32"},     {"running", "32"},
        {"connecting", "33"}, {"syncing", "33"},   {"Pending", "33"}, {"incomplete", "33"},
        {"stale", "31"},      {"not ready", "31"}, {"Failed", "31"},  {"unreachable", "31"},
        {"disabled", "90"},   {"no", "90"},        {"stopped", "31"}};
    const auto found = known.find(cell);
    return found == known.end() ? std::string_view() : found->second;
}

// Columns that a UTF-8 text takes, near enough: its code points.
std::size_t width_of(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

}  // namespace

int exit_code_of(const Error& error) {
    return error.code() == Errc::kInvalidArgument ? kExitUsage : kExitFailed;
}

int fail(const Error& error) {
    // Not fmt::print, which throws when nobody reads any more.
    std::fputs(fmt::format("meshctl: {}\n", error.detail()).c_str(), stderr);
    return exit_code_of(error);
}

void Table::drop_empty_columns() {
    for (std::size_t i = rows_.front().size(); i-- > 0;) {
        const bool used = std::any_of(rows_.begin() + 1, rows_.end(), [i](const auto& row) {
            return i < row.size() && !row[i].empty();
        });
        if (used || empty()) continue;
        for (auto& row : rows_) {
            if (i < row.size()) row.erase(row.begin() + static_cast<std::ptrdiff_t>(i));
        }
    }
}

std::string Table::text() const {
    std::vector<std::size_t> widths;
    for (const auto& row : rows_) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max(widths[i], width_of(row[i]));
        }
    }
    std::string out;
    for (const auto& row : rows_) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string cell = row[i].empty() ? "-" : row[i];
            const std::string_view colour = colours() ? colour_of(cell) : std::string_view();
            line += colour.empty() ? cell : fmt::format("\033[{}m{}\033[0m", colour, cell);
            if (i + 1 < row.size()) {
                line.append(widths[i] - std::min(widths[i], width_of(cell)) + 2, ' ');
            }
        }
        out += line + "\n";
    }
    return out;
}

void Table::print() const {
    fmt::print("{}", text());
}

namespace {

void write_json(std::string& out, const boost::json::value& value, std::size_t indent) {
    const std::string pad(indent + 2, ' ');
    if (const auto* object = value.if_object(); object != nullptr && !object->empty()) {
        out += "{\n";
        std::size_t left = object->size();
        for (const auto& [key, item] : *object) {
            out += pad + boost::json::serialize(boost::json::string(key)) + ": ";
            write_json(out, item, indent + 2);
            out += --left != 0 ? ",\n" : "\n";
        }
        out += std::string(indent, ' ') + "}";
    } else if (const auto* array = value.if_array(); array != nullptr && !array->empty()) {
        out += "[\n";
        std::size_t left = array->size();
        for (const auto& item : *array) {
            out += pad;
            write_json(out, item, indent + 2);
            out += --left != 0 ? ",\n" : "\n";
        }
        out += std::string(indent, ' ') + "]";
    } else {
        out += boost::json::serialize(value);
    }
}

}  // namespace

void print_json(const boost::json::value& value) {
    std::string out;
    write_json(out, value, 0);
    fmt::print("{}\n", out);
}

void Progress::operator()(std::string_view text) {
    const auto taken = std::chrono::steady_clock::now() - begin_;
    if (taken < kQuiet || text == last_) return;
    last_ = text;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(taken).count();
    std::fputs(fmt::format("  {:>3} s  {}\n", seconds, text).c_str(), stderr);
}

}  // namespace mesh::ctl
