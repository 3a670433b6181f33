// mesh-cni: the CNI plugin. A container runtime calls it for each pod that comes or goes.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "attach/cni.hpp"
#include "attach/cni_config.hpp"
#include "common/flags.hpp"
#include "runtime/clock.hpp"

namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

// What is beyond the bound is left unread, and then the config is no JSON.
std::string read_input() {
    std::string text;
    char buffer[16384];
    while (text.size() < kMaxConfigBytes) {
        const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        text.append(buffer, static_cast<std::size_t>(n));
    }
    return text;
}

}  // namespace

int main(int argc, char** argv) {
    using namespace mesh;
    CLI::App app(
        "mesh-cni: CNI plugin (0.3.1, 0.4.0, 1.0.0): attaches pods to this node's mesh-agent.\n"
        "A container runtime calls it: CNI_COMMAND is ADD, DEL, CHECK or VERSION, the network\n"
        "config comes on standard input, the answer goes to standard output.",
        "mesh-cni");
    app.set_version_flag("-V,--version", "mesh-cni " MESH_VERSION, "Print the version and exit");
    app.footer(
        "Environment: CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS\n"
        "(K8S_POD_NAMESPACE, K8S_POD_NAME), CNI_PATH (for a delegated IPAM plugin).\n\n"
        "ipam.type is mesh-local (addresses of this node's own blocks) or a plugin in CNI_PATH,\n"
        "as host-local. Without agentSocket a pod is not waited for.\n\n"
        "Example, /etc/cni/net.d/10-mesh.conf:\n" +
        std::string(attach::example_network_config()) +
        "\nExample of a call:\n"
        "  CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/c1 CNI_IFNAME=eth0 \\\n"
        "    CNI_PATH=/opt/cni/bin mesh-cni < /etc/cni/net.d/10-mesh.conf");
    if (const auto code = daemon::parse_command_line(app, argc, argv)) return *code;
    if (std::getenv("CNI_COMMAND") == nullptr) {
        std::cerr << app.help();
        return daemon::kExitUsage;
    }
    std::vector<std::string> environment;
    for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
    const SystemClock clock;
    const attach::CniAnswer answer = attach::run_cni(std::move(environment), read_input(), clock);
    std::cout << answer.output << std::flush;
    return std::cout ? answer.exit_code : daemon::kExitFailure;
}
