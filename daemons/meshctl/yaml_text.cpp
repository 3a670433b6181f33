#include "meshctl/yaml_text.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <string_view>

namespace mesh::ctl {

namespace json = boost::json;

namespace {

/// Letters, digits and a few signs, nothing that YAML reads as a number, a boolean or null.
bool is_plain(std::string_view text) {
    static constexpr std::array<std::string_view, 10> kWords{"true", "false", "yes", "no", "on",
                                                             "off",  "null",  "y",   "n",  "~"};
    const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    if (text.empty() || !(letter(text.front()) || text.front() == '/')) return false;
    std::string lower(text);
    std::ranges::transform(lower, lower.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    if (std::ranges::find(kWords, lower) != kWords.end()) return false;
    return std::ranges::all_of(text, [&](char c) {
        return letter(c) || (c >= '0' && c <= '9') ||
               std::string_view("-_./").find(c) != std::string_view::npos;
    });
}

std::string scalar(std::string_view text) {
    return is_plain(text) ? std::string(text) : json::serialize(json::string(text));
}

bool is_block(const json::value& value) {
    return (value.is_object() && !value.get_object().empty()) ||
           (value.is_array() && !value.get_array().empty());
}

/// @param first whether the first line stands behind something, "- " or nothing, and is indented
void write(std::string& out, const json::value& value, std::size_t indent, bool first) {
    const auto pad = [&] {
        if (!first) out.append(indent, ' ');
        first = false;
    };
    if (const auto* object = value.if_object(); object != nullptr && !object->empty()) {
        for (const auto& [key, item] : *object) {
            pad();
            out += scalar(std::string_view(key)) + ":";
            if (is_block(item)) {
                out += "\n";
                write(out, item, indent + (item.is_object() ? 2 : 0), false);
            } else {
                out += " ";
                write(out, item, 0, true);
            }
        }
    } else if (const auto* array = value.if_array(); array != nullptr && !array->empty()) {
        for (const auto& item : *array) {
            pad();
            out += "- ";
            write(out, item, indent + 2, true);
        }
    } else if (const auto* text = value.if_string()) {
        out += scalar(std::string_view(*text)) + "\n";
    } else {
        out += json::serialize(value) + "\n";
    }
}

}  // namespace

std::string yaml_text(const json::value& value) {
    std::string out;
    write(out, value, 0, false);
    return out;
}

}  // namespace mesh::ctl
