#include "sandbox/names.hpp"

#include <fmt/format.h>

#include <charconv>

#include "sources/config/etcd_yaml.hpp"

namespace mesh::sandbox {
namespace {

constexpr std::string_view kPrefix = "mesh-";

}  // namespace

Result<Names> Names::make(std::string_view sandbox) {
    MESH_CHECK(sources::config::check_cluster_name(sandbox));
    return Names(std::string(sandbox));
}

std::string Names::prefix() const {
    return fmt::format("{}{}.", kPrefix, sandbox_);
}
std::string Names::node(std::string_view node) const {
    return prefix().append(node);
}
std::string Names::pins_prefix() const {
    return fmt::format("{}{}_", kPrefix, sandbox_);
}
std::string Names::pins(std::string_view node) const {
    return pins_prefix().append(node);
}
std::string Names::pods_of(std::string_view node) const {
    return this->node(node).append(".");
}
std::string Names::pod(std::string_view node, std::string_view namespace_,
                       std::string_view pod) const {
    return fmt::format("{}{}.{}", pods_of(node), namespace_, pod);
}

std::string node_name(std::uint32_t number) {
    return fmt::format("node{}", number);
}

std::optional<std::string> sandbox_of(std::string_view name) {
    if (!name.starts_with(kPrefix)) return std::nullopt;
    name.remove_prefix(kPrefix.size());
    const std::size_t dot = name.find('.');
    if (dot == std::string_view::npos ||
        !sources::config::check_cluster_name(name.substr(0, dot))) {
        return std::nullopt;
    }
    return std::string(name.substr(0, dot));
}

std::string underlay_port(std::uint32_t slot, std::uint32_t node) {
    return fmt::format("p{}n{}", slot, node);
}

std::optional<std::uint32_t> slot_of_port(std::string_view port) {
    if (!port.starts_with('p')) return std::nullopt;
    std::uint32_t slot = 0;
    const auto [end, error] = std::from_chars(port.data() + 1, port.data() + port.size(), slot);
    if (error != std::errc() || end == port.data() + port.size() || *end != 'n') {
        return std::nullopt;
    }
    return slot;
}

model::IpAddress node_address4(std::uint32_t slot, std::uint32_t node) {
    return model::IpAddress::v4((172U << 24) | ((18U << 16) + (slot << 8)) | node);
}

model::IpAddress node_address6(std::uint32_t slot, std::uint32_t node) {
    model::IpAddress::Bytes bytes{0xfd, 0x6d, 0x65, 0x73, 0x68};
    bytes[12] = static_cast<std::uint8_t>(slot >> 8);
    bytes[13] = static_cast<std::uint8_t>(slot);
    bytes[15] = static_cast<std::uint8_t>(node);
    return model::IpAddress(bytes);
}

Result<void> check_label_name(std::string_view what, std::string_view name) {
    bool ok = !name.empty() && name.size() <= 63 && name.front() != '-' && name.back() != '-';
    for (const char c : name) {
        ok = ok && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
    }
    if (!ok) {
        return invalid_argument(fmt::format(
            "{}: \"{}\": expected 1 to 63 of a-z, 0-9 and \"-\", first and last alphanumeric", what,
            name));
    }
    return {};
}

}  // namespace mesh::sandbox
