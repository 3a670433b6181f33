#include "model/annotations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

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

/// Annotations of services.md §1 that we do not act on: whoever sets one is told. What a warning
/// adds stands behind the name.
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kUnsupported{
    {{"service.cilium.io/lb-algorithm", ""},
     {"service.cilium.io/forwarding-mode", ""},
     {"service.cilium.io/src-ranges-policy", ""},
     {"service.cilium.io/proxy-delegation", ""},
     {"service.kubernetes.io/topology-mode", ": the hints of EndpointSlices are used as they are"},
     {kSyncSlicesAnnotation, ""}}};

bool* exposure_flag(ServiceExposure& exposure, std::string_view type) {
    if (type == "clusterip") return &exposure.cluster_ip;
    if (type == "nodeport") return &exposure.node_port;
    if (type == "loadbalancer") return &exposure.load_balancer;
    if (type == "externalips") return &exposure.external_ips;
    return nullptr;
}

void read_types(const Value& value, ServiceExposure& exposure) {
    ServiceExposure listed;
    listed.cluster_ip = listed.node_port = listed.load_balancer = listed.external_ips = false;
    bool any = false;
    std::string_view rest = value.text;
    while (!rest.empty()) {
        const auto comma = std::min(rest.find(','), rest.size());
        std::string_view type = rest.substr(0, comma);
        rest.remove_prefix(std::min(comma + 1, rest.size()));
        type.remove_prefix(std::min(type.find_first_not_of(' '), type.size()));
        type = type.substr(0, type.find_last_not_of(' ') + 1);
        if (bool* const flag = exposure_flag(listed, type)) {
            *flag = any = true;
        } else {
            exposure.warnings.push_back(
                fmt::format("annotation {}: \"{}\" is ignored, expected a list of ClusterIP, "
                            "NodePort, LoadBalancer and ExternalIPs",
                            value.annotation, type));
        }
    }
    if (!any) return;
    exposure.cluster_ip = listed.cluster_ip;
    exposure.node_port = listed.node_port;
    exposure.load_balancer = listed.load_balancer;
    exposure.external_ips = listed.external_ips;
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
    for (const auto& [name, note] : kUnsupported) {
        if (!annotations.contains(name)) continue;
        warnings.push_back(
            fmt::format("annotation {} is not supported and has no effect{}", name, note));
    }
    return result;
}

bool ServiceExposure::on_node(const StringMap& node_labels) const {
    if (node_selector) return node_selector->matches(node_labels);
    return !node_label_value || node_labels.get(kNodeAnnotation) == *node_label_value;
}

ServiceExposure parse_service_exposure(const OptionalStringMap& annotations) {
    ServiceExposure exposure;
    if (!annotations) return exposure;
    if (const auto types = find(*annotations, {kTypeAnnotation})) read_types(*types, exposure);
    if (const auto value = annotations->get(kNodeAnnotation)) exposure.node_label_value = *value;
    if (const auto text = annotations->get(kNodeSelectorAnnotation)) {
        if (auto selector = LabelSelector::parse(*text)) {
            exposure.node_selector = *std::move(selector);
        } else {
            exposure.node_label_value.reset();
            exposure.warnings.push_back(fmt::format("annotation {} is ignored: {}",
                                                    kNodeSelectorAnnotation,
                                                    selector.error().detail()));
        }
    }
    return exposure;
}

bool parse_namespace_global(const StringMap& annotations, std::vector<std::string>& warnings) {
    return flag(find(annotations, {kGlobalNamespaceAnnotation}), true, warnings);
}

}  // namespace mesh::model
