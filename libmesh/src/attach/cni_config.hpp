// What a container runtime tells a CNI plugin: the environment, and the network config on standard
// input. Plain computation. @source CNI specification 1.0.0, sections 1 and 2
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attach/cni_result.hpp"
#include "model/ip.hpp"

namespace mesh::attach {

enum class CniCommand : std::uint8_t { kAdd, kDel, kCheck, kVersion };

/// The environment of a call.
struct CniCall {
    CniCommand command = CniCommand::kVersion;
    std::string container_id;
    std::string netns;   ///< a path; may be empty for DEL
    std::string ifname;  ///< of the pod's device, 1..15 bytes
    std::string path;    ///< CNI_PATH: folders of plugins, ":" between
    /// K8S_POD_NAMESPACE and K8S_POD_NAME of CNI_ARGS: both or none.
    std::string pod_namespace, pod_name;
    std::vector<std::string> environment;  ///< all of it, "NAME=value", for delegated plugins

    /// The id of the pod's endpoint file: "<namespace>.<pod>", with "_<ifname>" for a device other
    /// than eth0; "<container id>.<ifname>" for a container that is no pod.
    [[nodiscard]] std::string endpoint_id() const;
};

/// @param environment "NAME=value"
/// @errors kBadEnvironment naming the variable. Of DEL only what it cannot do without is checked.
[[nodiscard]] CniResult<CniCall> parse_cni_environment(std::vector<std::string> environment);

/// Where addresses come from.
struct IpamConfig {
    std::string type;  ///< kLocalIpam, or the name of a plugin in CNI_PATH
    // Of kLocalIpam only:
    std::vector<model::IpPrefix> subnets{};  ///< one address of each family is given
    std::string data_dir = "/var/lib/libmesh/ipam";
};
inline constexpr std::string_view kLocalIpam = "mesh-local";

/// The network config.
struct NetworkConfig {
    std::string version;  ///< one of kCniVersions
    std::string name;
    std::uint32_t mtu = 1450;  ///< bytes; the default fits all routing modes over a 1500 underlay
    std::string endpoints_dir = "/run/libmesh/endpoints";
    std::string agent_socket{};              ///< "" = the agent is not waited for
    std::chrono::seconds agent_timeout{10};  ///< 0 = nor then
    IpamConfig ipam{};
    boost::json::object dns{};
    std::optional<CniAddResult> prev_result{};
    std::string text;  ///< as it came, for delegated plugins
};

/// @errors kDecode when it is no JSON object; kIncompatibleVersion; kUnsupportedField; kBadConfig
///   naming the field
[[nodiscard]] CniResult<NetworkConfig> parse_network_config(std::string_view text);

/// The version to answer in: the config's if it has one that we speak, else the newest.
[[nodiscard]] std::string answer_version(std::string_view text);

/// A network config of both kinds of IPAM, for --help.
[[nodiscard]] std::string_view example_network_config();

}  // namespace mesh::attach
