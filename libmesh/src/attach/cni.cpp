#include "attach/cni.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <functional>
#include <utility>

#include "attach/agent_wait.hpp"
#include "attach/cni_ipam.hpp"
#include "attach/container_endpoint.hpp"
#include "attach/pod_link.hpp"

namespace mesh::attach {
namespace {

namespace json = boost::json;
using datapath::Netns;
using datapath::Rtnetlink;
using model::IpAddress;
using model::IpPrefix;

// Steps back, last first, unless all went well. What cannot be undone now, the DEL that follows a
// failed ADD undoes.
class Undo {
  public:
    Undo() = default;
    Undo(const Undo&) = delete;
    Undo& operator=(const Undo&) = delete;
    ~Undo() {
        while (!steps_.empty()) {
            steps_.back()();
            steps_.pop_back();
        }
    }
    void add(std::function<void()> step) { steps_.push_back(std::move(step)); }
    void dismiss() { steps_.clear(); }

  private:
    std::vector<std::function<void()>> steps_;
};

CniResult<Netns> open_node() {
    auto node = Netns::current();
    if (!node) return CniError(CniCode::kLink, node.error());
    return *std::move(node);
}

// Before anything is made: a code that tells so must be true.
CniResult<Netns> open_pod(const CniCall& call, const Netns& node) {
    auto pod = Netns::at(call.netns);
    if (!pod) return CniError(CniCode::kUnknownContainer, pod.error().with_prefix("CNI_NETNS"));
    struct stat inside {};
    struct stat outside {};
    if (::fstat(pod->fd(), &inside) == 0 && ::fstat(node.fd(), &outside) == 0 &&
        inside.st_ino == outside.st_ino && inside.st_dev == outside.st_dev) {
        return CniError(CniCode::kBadEnvironment,
                        fmt::format("CNI_NETNS {}: expected a namespace of the pod's own, found "
                                    "the node's",
                                    call.netns));
    }
    return *std::move(pod);
}

PodLink link_of(const CniCall& call, const NetworkConfig& config, const Netns& node,
                const Netns& pod, const CniAddResult& result) {
    PodLink link;
    link.node = &node;
    link.pod = &pod;
    link.node_device = node_device_of(call.container_id, call.ifname);
    link.pod_device = call.ifname;
    link.mtu = config.mtu;
    for (const CniIp& ip : result.ips) link.ips.push_back(ip.address);
    for (const CniRoute& route : result.routes) {
        // Also a route of a family that the pod has no address of would be refused.
        const bool usable = std::ranges::any_of(
            link.ips, [&](const IpAddress& ip) { return ip.is_v4() == route.destination.is_v4(); });
        const bool known = std::ranges::find(link.routes, route.destination) != link.routes.end();
        if (usable && !known) link.routes.push_back(route.destination);
    }
    return link;
}

// Undoing a second ADD would take what the first one made.
CniResult<void> check_not_added(const CniCall& call, const Netns& node) {
    auto links = Rtnetlink::open(node);
    if (!links) return CniError(CniCode::kLink, links.error());
    const std::string device = node_device_of(call.container_id, call.ifname);
    if (!links->link(device)) return {};
    return CniError(CniCode::kLink,
                    fmt::format("{} has its link {} already: expected DEL before another ADD",
                                call.ifname, device));
}

CniResult<LinkMacs> make_link(const PodLink& link, Undo& undo) {
    undo.add([&link] { (void)!detach_pod(*link.node, link.node_device); });
    auto macs = attach_pod(link);
    if (!macs) return CniError(CniCode::kLink, macs.error());
    return *macs;
}

CniResult<void> tell_agent(const CniCall& call, const NetworkConfig& config, const PodLink& link,
                           const LinkMacs& macs, const Clock& clock, Undo& undo) {
    const bool pod = !call.pod_name.empty();
    const sources::config::EndpointFile endpoint{
        .namespace_ = pod ? call.pod_namespace : config.name,
        .pod = pod ? call.pod_name : call.container_id,
        .container_id = call.container_id,
        .netns = call.netns,
        .device = link.node_device,
        .pod_device = call.ifname,
        .pod_mac = macs.pod,
        .node_mac = macs.node,
        .ips = link.ips};
    const std::string id = call.endpoint_id();
    undo.add([&config, &call, id] {
        (void)!remove_container_endpoint(config.endpoints_dir, id, call.container_id, call.ifname);
    });
    auto written = write_container_endpoint(config.endpoints_dir, id, endpoint);
    if (!written) return CniError(CniCode::kIo, written.error().with_prefix("endpointsDir"));
    if (config.agent_socket.empty() || config.agent_timeout.count() == 0) return {};
    auto attached =
        wait_until_attached(config.agent_socket, id, link.node_device, config.agent_timeout, clock);
    if (!attached) return CniError(CniCode::kTryAgain, attached.error().with_prefix("agentSocket"));
    return {};
}

CniAddResult result_of(const CniCall& call, const NetworkConfig& config, const PodLink& link,
                       const LinkMacs& macs, const CniAddResult& given) {
    CniAddResult result;
    result.interfaces = {{link.node_device, datapath::to_string(macs.node), ""},
                         {link.pod_device, datapath::to_string(macs.pod), call.netns}};
    bool families[2] = {false, false};
    for (const IpAddress& ip : link.ips) {
        const bool v4 = ip.is_v4();
        result.ips.push_back({ip, static_cast<std::uint8_t>(v4 ? 32 : 128), pod_gateway(v4), 1});
        if (std::exchange(families[v4 ? 0 : 1], true)) continue;
        result.routes.push_back(
            {IpPrefix(v4 ? IpAddress::v4(0) : IpAddress(), 0), pod_gateway(v4)});
    }
    for (const IpPrefix& destination : link.routes) {
        if (destination.length() == 0) continue;
        result.routes.push_back({destination, pod_gateway(destination.is_v4())});
    }
    result.dns = config.dns.empty() ? given.dns : config.dns;
    return result;
}

CniResult<std::string> add(const CniCall& call, const NetworkConfig& config, const Clock& clock) {
    MESH_TRY(const Netns node, open_node());
    MESH_TRY(const Netns pod, open_pod(call, node));
    MESH_CHECK(check_not_added(call, node));
    PodLink link;
    Undo undo;
    MESH_TRY(const CniAddResult given, give_addresses(config, call, clock));
    undo.add([&] { (void)!take_addresses_back(config, call, clock); });
    link = link_of(call, config, node, pod, given);
    MESH_TRY(const LinkMacs macs, make_link(link, undo));
    MESH_CHECK(tell_agent(call, config, link, macs, clock, undo));
    undo.dismiss();
    return encode_result(config.version, result_of(call, config, link, macs, given));
}

// Each step although another fails: what is left is less.
CniResult<std::string> del(const CniCall& call, const NetworkConfig& config, const Clock& clock) {
    MESH_TRY(const Netns node, open_node());
    auto told = remove_container_endpoint(config.endpoints_dir, call.endpoint_id(),
                                          call.container_id, call.ifname);
    auto unlinked = detach_pod(node, node_device_of(call.container_id, call.ifname));
    auto given_back = take_addresses_back(config, call, clock);
    if (!told) return CniError(CniCode::kIo, told.error().with_prefix("endpointsDir"));
    if (!unlinked) return CniError(CniCode::kLink, unlinked.error());
    if (!given_back) return given_back.error();
    return std::string();
}

// What the last ADD said of our device; later plugins of a chain may have said more.
CniResult<CniAddResult> own_part(const CniCall& call, const NetworkConfig& config) {
    if (config.version == "0.3.1") {
        return CniError(CniCode::kIncompatibleVersion,
                        "cniVersion \"0.3.1\": has no CHECK, expected 0.4.0 or later");
    }
    if (!config.prev_result) {
        return CniError(CniCode::kBadConfig, "prevResult: expected the result of ADD");
    }
    CniAddResult own = *config.prev_result;
    const auto& interfaces = config.prev_result->interfaces;
    const auto ours = std::ranges::find_if(interfaces, [&](const CniInterface& interface) {
        return interface.name == call.ifname && interface.sandbox == call.netns;
    });
    if (ours == interfaces.end()) {
        return CniError(CniCode::kBadConfig, fmt::format("prevResult.interfaces: expected {} in {}",
                                                         call.ifname, call.netns));
    }
    const auto index = static_cast<std::size_t>(ours - interfaces.begin());
    std::erase_if(own.ips, [&](const CniIp& ip) { return ip.interface && *ip.interface != index; });
    // A route by another gateway is another device's.
    std::erase_if(own.routes, [](const CniRoute& route) {
        return route.gateway && *route.gateway != pod_gateway(route.destination.is_v4());
    });
    if (own.ips.empty()) {
        return CniError(CniCode::kBadConfig,
                        fmt::format("prevResult.ips: expected one of {}", call.ifname));
    }
    return own;
}

CniResult<std::string> check(const CniCall& call, const NetworkConfig& config, const Clock& clock) {
    MESH_TRY(const CniAddResult own, own_part(call, config));
    MESH_TRY(const Netns node, open_node());
    MESH_TRY(const Netns pod, open_pod(call, node));
    const PodLink link = link_of(call, config, node, pod, own);
    if (auto whole = check_pod(link); !whole) return CniError(CniCode::kCheck, whole.error());
    auto endpoint = read_container_endpoint(config.endpoints_dir, call.endpoint_id(),
                                            call.container_id, call.ifname);
    if (!endpoint) return CniError(CniCode::kCheck, endpoint.error().with_prefix("endpointsDir"));
    if (endpoint->ips != link.ips) {
        return CniError(CniCode::kCheck,
                        fmt::format("endpointsDir: {} has other addresses", call.endpoint_id()));
    }
    MESH_CHECK(check_addresses(config, call, link.ips, clock));
    return std::string();
}

std::string versions(std::string_view version) {
    json::array all;
    for (const std::string_view known : kCniVersions) all.emplace_back(known);
    return json::serialize(json::object{{"cniVersion", version}, {"supportedVersions", all}}) +
           "\n";
}

CniResult<std::string> serve(const CniCall& call, std::string_view text, const Clock& clock) {
    if (call.command == CniCommand::kVersion) return versions(answer_version(text));
    MESH_TRY(const NetworkConfig config, parse_network_config(text));
    switch (call.command) {
        case CniCommand::kAdd:
            return add(call, config, clock);
        case CniCommand::kDel:
            return del(call, config, clock);
        case CniCommand::kCheck:
            return check(call, config, clock);
        case CniCommand::kVersion:
            break;
    }
    return std::string();
}

}  // namespace

CniAnswer run_cni(std::vector<std::string> environment, std::string_view config,
                  const Clock& clock) {
    const auto outcome = [&]() -> CniResult<std::string> {
        MESH_TRY(const CniCall call, parse_cni_environment(std::move(environment)));
        return serve(call, config, clock);
    }();
    if (outcome) return {0, *outcome};
    return {1, encode_error(answer_version(config), outcome.error())};
}

}  // namespace mesh::attach
