#include "attach/cni_result.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

namespace mesh::attach {
namespace {

namespace json = boost::json;
using model::IpAddress;
using model::IpPrefix;

constexpr std::size_t kMaxIps = 16;  // as many as an endpoint file holds
constexpr std::size_t kMaxItems = 256;

json::object to_json(const CniInterface& interface) {
    json::object object{{"name", interface.name}};
    if (!interface.mac.empty()) object["mac"] = interface.mac;
    if (!interface.sandbox.empty()) object["sandbox"] = interface.sandbox;
    return object;
}

json::object to_json(const CniIp& ip, bool with_version) {
    json::object object;
    if (with_version) object["version"] = ip.address.is_v4() ? "4" : "6";
    if (ip.interface) object["interface"] = *ip.interface;
    object["address"] = fmt::format("{}/{}", ip.address.to_string(), ip.length);
    if (ip.gateway) object["gateway"] = ip.gateway->to_string();
    return object;
}

json::object to_json(const CniRoute& route) {
    json::object object{{"dst", route.destination.to_string()}};
    if (route.gateway) object["gw"] = route.gateway->to_string();
    return object;
}

std::string text_of(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->get_string())
                                                  : std::string();
}

// The objects of a list; an absent list is an empty one.
Result<std::vector<json::object>> list_of(const json::object& object, std::string_view name,
                                          std::size_t most) {
    std::vector<json::object> items;
    const json::value* value = object.if_contains(name);
    if (value == nullptr || value->is_null()) return items;
    const auto refuse = [&] {
        return invalid_argument(
            fmt::format("{}: expected a list of at most {} objects", name, most));
    };
    if (!value->is_array() || value->get_array().size() > most) return refuse();
    for (const json::value& item : value->get_array()) {
        if (!item.is_object()) return refuse();
        items.push_back(item.get_object());
    }
    return items;
}

Result<std::optional<IpAddress>> optional_ip(const json::object& object, std::string_view name) {
    const std::string text = text_of(object, name);
    if (text.empty()) return std::optional<IpAddress>();
    MESH_TRY(const IpAddress address, IpAddress::parse(text));
    return std::optional(address);
}

Result<CniIp> parse_ip(const json::object& object) {
    const std::string text = text_of(object, "address");
    const std::size_t slash = text.find('/');
    if (slash == std::string::npos) {
        return invalid_argument(
            fmt::format("address \"{}\": expected an address and its block's length, as "
                        "10.0.0.5/24",
                        text));
    }
    CniIp ip;
    MESH_TRY(ip.address, IpAddress::parse(std::string_view(text).substr(0, slash)));
    MESH_TRY(const IpPrefix block, IpPrefix::parse(text));
    ip.length = block.length();
    MESH_TRY(ip.gateway, optional_ip(object, "gateway"));
    if (const json::value* index = object.if_contains("interface"); index && index->is_int64()) {
        if (index->get_int64() < 0) return invalid_argument("interface: expected an index");
        ip.interface = static_cast<std::size_t>(index->get_int64());
    }
    return ip;
}

Result<CniRoute> parse_route(const json::object& object) {
    CniRoute route;
    MESH_TRY(route.destination, IpPrefix::parse(text_of(object, "dst")));
    MESH_TRY(route.gateway, optional_ip(object, "gw"));
    return route;
}

}  // namespace

bool is_cni_version(std::string_view version) {
    return std::ranges::find(kCniVersions, version) != kCniVersions.end();
}

std::string encode_result(std::string_view version, const CniAddResult& result) {
    json::array interfaces;
    json::array ips;
    json::array routes;
    for (const CniInterface& interface : result.interfaces) {
        interfaces.push_back(to_json(interface));
    }
    for (const CniIp& ip : result.ips) ips.push_back(to_json(ip, !version.starts_with("1.")));
    for (const CniRoute& route : result.routes) routes.push_back(to_json(route));
    return json::serialize(json::object{{"cniVersion", version},
                                        {"interfaces", std::move(interfaces)},
                                        {"ips", std::move(ips)},
                                        {"routes", std::move(routes)},
                                        {"dns", result.dns}}) +
           "\n";
}

Result<CniAddResult> parse_result(const json::object& object) {
    CniAddResult result;
    MESH_TRY(const auto interfaces, list_of(object, "interfaces", kMaxItems));
    for (const json::object& item : interfaces) {
        result.interfaces.push_back(
            {text_of(item, "name"), text_of(item, "mac"), text_of(item, "sandbox")});
    }
    MESH_TRY(const auto ips, list_of(object, "ips", kMaxIps));
    for (const json::object& item : ips) {
        auto ip = parse_ip(item);
        if (!ip) return ip.error().with_prefix("ips");
        result.ips.push_back(*ip);
    }
    MESH_TRY(const auto routes, list_of(object, "routes", kMaxItems));
    for (const json::object& item : routes) {
        auto route = parse_route(item);
        if (!route) return route.error().with_prefix("routes");
        result.routes.push_back(*route);
    }
    if (const json::value* dns = object.if_contains("dns"); dns != nullptr && dns->is_object()) {
        result.dns = dns->get_object();
    }
    return result;
}

std::string encode_error(std::string_view version, const CniError& error) {
    json::object object{{"cniVersion", version}, {"code", error.code}, {"msg", error.message}};
    if (!error.details.empty()) object["details"] = error.details;
    return json::serialize(object) + "\n";
}

std::optional<CniError> parse_error(std::string_view text) {
    boost::system::error_code ec;
    const json::value document = json::parse(text, ec);
    if (ec || !document.is_object()) return std::nullopt;
    const json::object& object = document.get_object();
    const json::value* code = object.if_contains("code");
    if (code == nullptr || !code->is_int64()) return std::nullopt;
    CniError error;
    error.code = static_cast<std::uint32_t>(code->get_int64());
    error.message = text_of(object, "msg");
    error.details = text_of(object, "details");
    return error;
}

}  // namespace mesh::attach
