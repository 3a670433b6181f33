#include "sandbox/encryption.hpp"

#include <fmt/format.h>
#include <signal.h>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <filesystem>
#include <thread>

#include "datapath/wireguard/device.hpp"
#include "datapath/wireguard/keys.hpp"
#include "sandbox/internal.hpp"
#include "sandbox/network.hpp"
#include "serve/status/http_get.hpp"

namespace mesh::sandbox {
namespace {

constexpr const char* kWireguardSockets = "/var/run/wireguard";
constexpr std::chrono::seconds kTakeUp{10};
constexpr std::chrono::milliseconds kPoll{5};
constexpr std::chrono::seconds kAnswer{5};

// The public key that the agent's device has, or "".
std::string key_in_use(const Daemon& agent) {
    const auto reply = serve::http_get(agent.socket, "/v1/status", kAnswer);
    if (!reply || reply->status != 200) return {};
    boost::system::error_code error;
    const boost::json::value document = boost::json::parse(reply->body, error);
    if (error || !document.is_object()) return {};
    const auto* encryption = document.get_object().if_contains("encryption");
    if (encryption == nullptr || !encryption->is_object()) return {};
    const auto* key = encryption->get_object().if_contains("public_key");
    return key != nullptr && key->is_string() ? std::string(key->get_string()) : std::string();
}

}  // namespace

std::uint32_t pod_mtu(const State& state) noexcept {
    const std::uint32_t mtu = state.routing == "tunnel" ? kTunnelPodMtu : kNodeMtu;
    return state.encryption == "wireguard" ? mtu - kWireguardOverhead : mtu;
}

std::string wireguard_key_file(const Paths& paths, std::string_view node) {
    return paths.pki(fmt::format("wireguard-{}.key", node));
}

Result<void> make_wireguard_keys(const Paths& paths, State& state) {
    for (std::uint32_t number = 1; number <= state.nodes; ++number) {
        const std::string node = node_name(number);
        MESH_TRY(const auto key,
                 datapath::load_or_make_private_key(wireguard_key_file(paths, node)));
        MESH_TRY(const auto public_key, key.public_key());
        state.wireguard_keys[node] = public_key.to_string();
    }
    return {};
}

void remove_wireguard_sockets(std::string_view sandbox, std::string_view node) {
    std::error_code ignored;
    std::filesystem::remove(fmt::format("{}/{}.sock", kWireguardSockets,
                                        datapath::wireguard_device_name(sandbox, node)),
                            ignored);
}

Result<void> rotate_wireguard_key(const Environment& environment, std::string_view name,
                                  std::string_view node) {
    MESH_TRY(Opened sandbox, open_locked(environment, name));
    if (sandbox.state.encryption != "wireguard") {
        return invalid_argument(fmt::format("sandbox {} has no encryption", name));
    }
    const Daemon* agent = nullptr;
    for (const Daemon& daemon : sandbox.state.daemons) {
        if (daemon.name == "mesh-agent" && daemon.node == node) agent = &daemon;
    }
    if (agent == nullptr) return not_found(fmt::format("sandbox {} has no node {}", name, node));
    if (!is_running(agent->process)) {
        return unavailable(fmt::format("mesh-agent on {} does not run", node));
    }
    MESH_TRY(const auto key, datapath::WireguardPrivateKey::make());
    MESH_TRY(const auto public_key, key.public_key());
    MESH_CHECK(datapath::write_private_key(wireguard_key_file(sandbox.paths, node), key));
    const std::string wanted = public_key.to_string();
    const TimePoint deadline = environment.clock->now() + kTakeUp;
    (void)signal_process(agent->process, SIGHUP);
    // First the device, then the mesh: peers shake hands with the new key as soon as they know it.
    while (key_in_use(*agent) != wanted) {
        if (environment.clock->now() >= deadline) {
            return Error(Errc::kTimeout, fmt::format("mesh-agent on {} did not take up its new key "
                                                     "within {} s; see {}",
                                                     node, kTakeUp.count(), agent->log));
        }
        std::this_thread::sleep_for(kPoll);
    }
    sandbox.state.wireguard_keys[std::string(node)] = wanted;
    MESH_CHECK(save_state(sandbox.paths, sandbox.state));
    return sync_manifests(sandbox.paths, sandbox.state);
}

}  // namespace mesh::sandbox
