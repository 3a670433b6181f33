#include "attach/cni_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <map>
#include <utility>

namespace mesh::attach {
namespace {

namespace json = boost::json;
using model::IpPrefix;

constexpr std::size_t kMaxDevice = 15;  // IFNAMSIZ without the final zero
constexpr std::size_t kMaxId = 200;     // leaves room in a file's name
constexpr std::size_t kMaxSubnets = 16;
constexpr std::uint32_t kMinMtu = 1280;  // RFC 8200, section 5
constexpr std::uint32_t kMaxMtu = 65535;
constexpr std::int64_t kMaxAgentTimeout = 300;

bool is_alphanumeric(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// What the specification allows of container ids and network names; also safe as a file's name.
bool is_word(std::string_view text, std::size_t most) {
    return !text.empty() && text.size() <= most && is_alphanumeric(text.front()) &&
           std::ranges::all_of(
               text, [](char c) { return is_alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

constexpr std::string_view kWordRule =
    "expected letters, digits, \".\", \"_\" and \"-\", a letter or digit first";

CniError bad_environment(std::string_view name, std::string_view value, std::string_view rule) {
    return {CniCode::kBadEnvironment, fmt::format("{} \"{}\": {}", name, value, rule)};
}

CniError bad_config(std::string_view field, std::string_view what) {
    return {CniCode::kBadConfig, fmt::format("{}: expected {}", field, what)};
}

// "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=echo-1"
CniResult<void> parse_args(std::string_view args, CniCall& call) {
    std::map<std::string, std::string, std::less<>> pairs;
    while (!args.empty()) {
        const std::string_view pair = args.substr(0, args.find(';'));
        args.remove_prefix(std::min(pair.size() + 1, args.size()));
        if (pair.empty()) continue;
        const std::size_t equal = pair.find('=');
        if (equal == std::string_view::npos || equal == 0) {
            return bad_environment("CNI_ARGS", pair, "expected KEY=VALUE;KEY=VALUE");
        }
        pairs[std::string(pair.substr(0, equal))] = pair.substr(equal + 1);
    }
    const std::string& space = pairs["K8S_POD_NAMESPACE"];
    const std::string& pod = pairs["K8S_POD_NAME"];
    if (space.empty() || pod.empty()) return {};
    if (!is_word(space, 253)) {
        return bad_environment("CNI_ARGS: K8S_POD_NAMESPACE", space, kWordRule);
    }
    if (!is_word(pod, 253)) return bad_environment("CNI_ARGS: K8S_POD_NAME", pod, kWordRule);
    call.pod_namespace = space;
    call.pod_name = pod;
    return {};
}

CniResult<std::string> text_field(const json::object& object, std::string_view name,
                                  std::string_view shown, std::string fallback) {
    const json::value* value = object.if_contains(name);
    if (value == nullptr) return fallback;
    if (!value->is_string() || value->get_string().empty()) return bad_config(shown, "a text");
    return std::string(value->get_string());
}

CniResult<std::string> path_field(const json::object& object, std::string_view name,
                                  std::string_view shown, std::string fallback) {
    auto path = text_field(object, name, shown, std::move(fallback));
    if (path && !path->empty() && path->front() != '/') {
        return bad_config(shown, "a path that begins with \"/\"");
    }
    return path;
}

CniResult<std::int64_t> number_field(const json::object& object, std::string_view name,
                                     std::int64_t least, std::int64_t most, std::int64_t fallback) {
    const json::value* value = object.if_contains(name);
    if (value == nullptr) return fallback;
    if (!value->is_int64() || value->get_int64() < least || value->get_int64() > most) {
        return bad_config(name, fmt::format("a number from {} to {}", least, most));
    }
    return value->get_int64();
}

CniResult<std::vector<IpPrefix>> parse_subnets(const json::object& ipam) {
    const json::value* value = ipam.if_contains("subnets");
    if (value == nullptr || !value->is_array() || value->get_array().empty() ||
        value->get_array().size() > kMaxSubnets) {
        return bad_config("ipam.subnets",
                          fmt::format("a list of 1 to {} blocks, as 10.10.1.0/24", kMaxSubnets));
    }
    std::vector<IpPrefix> subnets;
    for (const json::value& item : value->get_array()) {
        if (!item.is_string()) return bad_config("ipam.subnets", "blocks as text");
        auto block = IpPrefix::parse(std::string_view(item.get_string()));
        if (!block) return CniError(CniCode::kBadConfig, block.error().with_prefix("ipam.subnets"));
        // The first two and the last of IPv4 are never given.
        const int longest = block->is_v4() ? 30 : 126;
        if (block->length() > longest) {
            return bad_config("ipam.subnets", fmt::format("a block of at most /{}, found {}",
                                                          longest, block->to_string()));
        }
        for (const IpPrefix& other : subnets) {
            if (!other.contains(*block) && !block->contains(other)) continue;
            return bad_config("ipam.subnets", fmt::format("blocks apart, found {} and {}",
                                                          other.to_string(), block->to_string()));
        }
        subnets.push_back(*block);
    }
    return subnets;
}

CniResult<IpamConfig> parse_ipam(const json::object& object) {
    const json::value* value = object.if_contains("ipam");
    if (value == nullptr || !value->is_object()) {
        return bad_config("ipam", "an object, as {\"type\":\"host-local\", ...}");
    }
    const json::object& ipam = value->get_object();
    IpamConfig config;
    MESH_TRY(config.type, text_field(ipam, "type", "ipam.type", ""));
    // It names a file in CNI_PATH.
    if (!is_word(config.type, kMaxId)) {
        return bad_config("ipam.type", fmt::format("the name of a plugin or \"{}\", found \"{}\"",
                                                   kLocalIpam, config.type));
    }
    if (config.type != kLocalIpam) return config;
    MESH_TRY(config.subnets, parse_subnets(ipam));
    MESH_TRY(config.data_dir, path_field(ipam, "dataDir", "ipam.dataDir", config.data_dir));
    return config;
}

CniResult<json::object> parse_document(std::string_view text) {
    boost::system::error_code ec;
    json::value document = json::parse(text, ec);
    if (ec || !document.is_object()) {
        return CniError(CniCode::kDecode,
                        fmt::format("network config on standard input: expected a JSON object{}",
                                    ec ? ": " + ec.message() : ""));
    }
    return std::move(document).as_object();
}

CniResult<std::string> parse_version(const json::object& object) {
    MESH_TRY(std::string version, text_field(object, "cniVersion", "cniVersion", ""));
    if (is_cni_version(version)) return version;
    return CniError(CniCode::kIncompatibleVersion,
                    fmt::format("cniVersion \"{}\": expected one of {}", version,
                                fmt::join(kCniVersions, ", ")));
}

CniResult<std::optional<CniAddResult>> parse_previous(const json::object& object) {
    const json::value* value = object.if_contains("prevResult");
    if (value == nullptr || value->is_null()) return std::optional<CniAddResult>();
    if (!value->is_object()) return bad_config("prevResult", "an object");
    auto result = parse_result(value->get_object());
    if (!result) return CniError(CniCode::kBadConfig, result.error().with_prefix("prevResult"));
    return std::optional(*std::move(result));
}

}  // namespace

std::string CniCall::endpoint_id() const {
    const std::string pod = ifname == "eth0"
                                ? fmt::format("{}.{}", pod_namespace, pod_name)
                                : fmt::format("{}.{}_{}", pod_namespace, pod_name, ifname);
    if (pod_name.empty() || pod.size() > kMaxId) return fmt::format("{}.{}", container_id, ifname);
    return pod;
}

CniResult<CniCall> parse_cni_environment(std::vector<std::string> environment) {
    CniCall call;
    std::map<std::string, std::string, std::less<>> variables;
    for (const std::string& entry : environment) {
        const std::size_t equal = entry.find('=');
        if (equal != std::string::npos) variables[entry.substr(0, equal)] = entry.substr(equal + 1);
    }
    call.environment = std::move(environment);
    const std::string& command = variables["CNI_COMMAND"];
    if (command == "VERSION") return call;
    if (command == "ADD") {
        call.command = CniCommand::kAdd;
    } else if (command == "DEL") {
        call.command = CniCommand::kDel;
    } else if (command == "CHECK") {
        call.command = CniCommand::kCheck;
    } else {
        return bad_environment("CNI_COMMAND", command, "expected ADD, DEL, CHECK or VERSION");
    }
    call.container_id = variables["CNI_CONTAINERID"];
    if (!is_word(call.container_id, kMaxId)) {
        return bad_environment("CNI_CONTAINERID", call.container_id, kWordRule);
    }
    call.ifname = variables["CNI_IFNAME"];
    if (!is_word(call.ifname, kMaxDevice)) {
        return bad_environment(
            "CNI_IFNAME", call.ifname,
            fmt::format("expected the name of a device, 1 to {} bytes: letters, digits, \".\", "
                        "\"_\" and \"-\"",
                        kMaxDevice));
    }
    call.netns = variables["CNI_NETNS"];
    const bool removes = call.command == CniCommand::kDel;
    if (!removes && call.netns.empty()) {
        return bad_environment("CNI_NETNS", "", "expected the path of a network namespace");
    }
    call.path = variables["CNI_PATH"];
    auto args = parse_args(variables["CNI_ARGS"], call);
    // What is to go is found by its container: nothing of it may stay for a bad argument.
    if (!args && !removes) return args.error();
    return call;
}

CniResult<NetworkConfig> parse_network_config(std::string_view text) {
    MESH_TRY(const json::object object, parse_document(text));
    NetworkConfig config;
    config.text = text;
    MESH_TRY(config.version, parse_version(object));
    MESH_TRY(config.name, text_field(object, "name", "name", ""));
    if (!is_word(config.name, kMaxId)) {
        return CniError(CniCode::kBadConfig,
                        fmt::format("name \"{}\": {}", config.name, kWordRule));
    }
    if (const json::value* masquerade = object.if_contains("ipMasq");
        masquerade != nullptr && *masquerade == json::value(true)) {
        return CniError(CniCode::kUnsupportedField,
                        "ipMasq: mesh-cni does not masquerade; mesh-agent --masquerade does");
    }
    MESH_TRY(const std::int64_t mtu, number_field(object, "mtu", kMinMtu, kMaxMtu, config.mtu));
    config.mtu = static_cast<std::uint32_t>(mtu);
    MESH_TRY(config.endpoints_dir,
             path_field(object, "endpointsDir", "endpointsDir", config.endpoints_dir));
    MESH_TRY(config.agent_socket, path_field(object, "agentSocket", "agentSocket", ""));
    MESH_TRY(const std::int64_t seconds,
             number_field(object, "agentTimeoutSeconds", 0, kMaxAgentTimeout,
                          config.agent_timeout.count()));
    config.agent_timeout = std::chrono::seconds(seconds);
    MESH_TRY(config.ipam, parse_ipam(object));
    if (const json::value* dns = object.if_contains("dns"); dns != nullptr) {
        if (!dns->is_object()) return bad_config("dns", "an object");
        config.dns = dns->get_object();
    }
    MESH_TRY(config.prev_result, parse_previous(object));
    return config;
}

std::string answer_version(std::string_view text) {
    if (auto object = parse_document(text)) {
        if (auto version = parse_version(*object)) return *version;
    }
    return std::string(kCniVersions.back());
}

std::string_view example_network_config() {
    return R"({
  "cniVersion": "1.0.0",
  "name": "mesh",
  "type": "mesh-cni",
  "mtu": 1450,
  "endpointsDir": "/run/libmesh/endpoints",
  "agentSocket": "/run/libmesh/agent.sock",
  "agentTimeoutSeconds": 10,
  "ipam": {
    "type": "mesh-local",
    "subnets": ["10.10.1.0/24", "fd00:10:0:1::/64"],
    "dataDir": "/var/lib/libmesh/ipam"
  }
}
)";
}

}  // namespace mesh::attach
