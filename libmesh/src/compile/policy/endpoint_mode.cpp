#include "compile/policy/endpoint_mode.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "compile/policy/trace.hpp"

namespace mesh::compile {

std::string_view to_string(Enforcement enforcement) noexcept {
    switch (enforcement) {
        case Enforcement::kDefault:
            return "default";
        case Enforcement::kAlways:
            return "always";
        case Enforcement::kNever:
            return "never";
    }
    return "";
}

Result<EndpointMode> parse_endpoint_mode(std::string_view text) {
    const std::size_t colon = text.find(':');
    const std::string_view mode = text.substr(0, colon);
    EndpointMode result;
    if (mode == "always") {
        result.enforcement = Enforcement::kAlways;
    } else if (mode == "never") {
        result.enforcement = Enforcement::kNever;
    } else if (mode == "audit") {
        result.audit = true;
    } else if (mode != "default") {
        return invalid_argument(fmt::format(
            "\"{}\": expected default, always, never or audit, then \":\" and labels", text));
    }
    if (colon == std::string_view::npos || colon + 1 == text.size()) {
        return invalid_argument(
            fmt::format("\"{}\": expected \":\" and labels after \"{}\"", text, mode));
    }
    auto labels = parse_labels(text.substr(colon + 1));
    if (!labels) return labels.error().with_prefix(std::string(text));
    result.labels = *std::move(labels);
    return result;
}

const EndpointMode* find_mode(const std::vector<EndpointMode>& modes,
                              model::policy::LabelArray labels) {
    const auto found = std::ranges::find_if(modes, [&](const EndpointMode& mode) {
        return std::ranges::includes(labels, mode.labels);
    });
    return found == modes.end() ? nullptr : &*found;
}

}  // namespace mesh::compile
