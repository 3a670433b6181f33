#include "sandbox/node_ports.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "sandbox/objects.hpp"

namespace mesh::sandbox {
namespace {

namespace json = boost::json;

std::string text_of(const json::object& object, std::string_view key, std::string_view otherwise) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr || !value->is_string()) return std::string(otherwise);
    return std::string(value->get_string());
}

std::uint16_t number_of(const json::object& port) {
    const json::value* value = port.if_contains("nodePort");
    return value != nullptr && value->is_int64() ? static_cast<std::uint16_t>(value->get_int64())
                                                 : std::uint16_t{0};
}

/// Calls visit(port) for each of the Service's ports.
template <class Service, class Visit>
void each_port(Service& service, Visit&& visit) {
    auto* spec = service.if_contains("spec");
    if (spec == nullptr || !spec->is_object()) return;
    auto* ports = spec->get_object().if_contains("ports");
    if (ports == nullptr || !ports->is_array()) return;
    for (auto& port : ports->get_array()) {
        if (port.is_object()) visit(port.get_object());
    }
}

NodePort key_of(const json::object& port) {
    return {number_of(port), text_of(port, "protocol", "TCP")};
}

/// The number that the port of that name and protocol had; 0: none.
std::uint16_t number_before(const json::object* before, const json::object& port) {
    std::uint16_t number = 0;
    if (before == nullptr) return number;
    each_port(*before, [&](const json::object& old) {
        if (text_of(old, "name", "") == text_of(port, "name", "") &&
            text_of(old, "protocol", "TCP") == text_of(port, "protocol", "TCP")) {
            number = number_of(old);
        }
    });
    return number;
}

}  // namespace

bool wants_node_ports(const json::object& service) {
    const json::value* type = find_path(service, "spec.type");
    if (type == nullptr) return false;
    if (*type == "NodePort") return true;
    const json::value* allocate = find_path(service, "spec.allocateLoadBalancerNodePorts");
    return *type == "LoadBalancer" && (allocate == nullptr || *allocate != false);
}

std::vector<NodePort> node_ports(const json::object& service) {
    std::vector<NodePort> all;
    each_port(service, [&](const json::object& port) {
        if (number_of(port) != 0) all.push_back(key_of(port));
    });
    return all;
}

Result<void> assign_node_ports(json::object& service, const json::object* before,
                               std::uint64_t& cursor,
                               const std::function<bool(const NodePort&)>& in_use) {
    if (!wants_node_ports(service)) return {};
    std::vector<NodePort> own = node_ports(service);
    for (const NodePort& wanted : own) {
        if (in_use(wanted)) {
            return invalid_argument(fmt::format("spec.ports: nodePort {}/{}: expected a free one",
                                                wanted.first, wanted.second));
        }
    }
    const auto is_free = [&](const NodePort& port) {
        return !in_use(port) && std::find(own.begin(), own.end(), port) == own.end();
    };
    constexpr std::uint64_t kCount = kLastNodePort - kFirstNodePort + 1;
    Result<void> outcome;
    each_port(service, [&](json::object& port) {
        if (number_of(port) != 0 || !outcome) return;
        NodePort found{number_before(before, port), text_of(port, "protocol", "TCP")};
        for (std::uint64_t tried = 0; found.first == 0 || !is_free(found); ++tried) {
            if (tried == kCount) {
                outcome = Error(Errc::kCapacity, "spec.ports: no node port is free");
                return;
            }
            cursor = (cursor + 1) % kCount;
            found.first = static_cast<std::uint16_t>(kFirstNodePort + cursor);
        }
        port["nodePort"] = std::int64_t{found.first};
        own.push_back(found);
    });
    return outcome;
}

}  // namespace mesh::sandbox
