#include "model/annotations.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mesh::model {
namespace {

struct Value {
    std::string_view annotation;
    std::string text;  ///< in lower case
};

std::optional<Value> find(const StringMap& annotations,
                          std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names) {
        const auto found = annotations.find(name);
        if (found == annotations.end()) continue;
        std::string text = found->second;
        std::ranges::transform(text, text.begin(), [](char c) {
            return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        });
        return Value{found->first, std::move(text)};
    }
    return std::nullopt;
}

bool flag(const std::optional<Value>& value, bool by_default, std::vector<std::string>& warnings) {
    if (!value) return by_default;
    if (value->text != "true" && value->text != "false") {
        warnings.push_back(
            fmt::format("annotation {}: \"{}\" is read as false, expected true or false",
                        value->annotation, value->text));
    }
    return value->text == "true";
}

Affinity affinity(const std::optional<Value>& value, std::vector<std::string>& warnings) {
    if (!value || value->text == "none") return Affinity::kNone;
    if (value->text == "local") return Affinity::kLocal;
    if (value->text == "remote") return Affinity::kRemote;
    warnings.push_back(
        fmt::format("annotation {}: \"{}\" is read as none, expected local, remote or none",
                    value->annotation, value->text));
    return Affinity::kNone;
}

}  // namespace

ServiceAnnotations parse_service_annotations(const OptionalStringMap& given, bool headless) {
    static const StringMap kNone;
    const StringMap& annotations = given ? *given : kNone;
    ServiceAnnotations result;
    auto& warnings = result.warnings;
    result.global =
        flag(find(annotations, {kGlobalAnnotation, kGlobalAnnotationAlias}), false, warnings);
    const bool shared =
        flag(find(annotations, {kSharedAnnotation, kSharedAnnotationAlias}), true, warnings);
    const Affinity wanted =
        affinity(find(annotations, {kAffinityAnnotation, kAffinityAnnotationAlias}), warnings);
    const bool sync = flag(find(annotations, {kSyncSlicesAnnotation}), headless, warnings);
    if (result.global) {
        result.shared = shared;
        result.affinity = wanted;
        result.sync_endpoint_slices = sync;
    }
    return result;
}

bool parse_namespace_global(const StringMap& annotations, std::vector<std::string>& warnings) {
    return flag(find(annotations, {kGlobalNamespaceAnnotation}), true, warnings);
}

}  // namespace mesh::model
