// A custom agent: prints the services of the whole mesh and reacts to each change of them, where a
// load balancer would be told. Ends with SIGINT or SIGTERM.
//   agent CLUSTER-NAME CLUSTER-ID ETCD-CONFIG [REMOTES-FOLDER]
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mesh/mesh.hpp>

namespace {

void react(const mesh::Event& event) {
    if (event.kind == mesh::EventKind::kSnapshotBegin) std::printf("snapshot\n");
    if (event.kind == mesh::EventKind::kSnapshotEnd) std::printf("following\n");
    const auto* service = std::get_if<mesh::ServiceView>(&event.object);
    if (service == nullptr) return;
    const bool gone = event.kind == mesh::EventKind::kDelete;
    std::printf("%c %s/%s\n", gone ? '-' : '+', service->namespace_.c_str(), service->name.c_str());
    for (const auto& frontend : service->frontends) {
        std::printf("    %s:%u/%s ->", frontend.address.c_str(), frontend.port,
                    frontend.protocol.c_str());
        for (const auto& backend : frontend.backends) {
            if (!backend.selected) continue;
            std::printf(" %s:%u@%s", backend.address.c_str(), backend.port,
                        backend.cluster.c_str());
        }
        std::printf("\n");
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::printf("usage: %s CLUSTER-NAME CLUSTER-ID ETCD-CONFIG [REMOTES-FOLDER]\n", argv[0]);
        return argc == 1 ? 0 : 2;
    }
    // Before the mesh has threads, which inherit it.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    const int ended = ::signalfd(-1, &signals, SFD_CLOEXEC);

    mesh::MeshOptions options;
    options.cluster_name = argv[1];
    options.cluster_id = static_cast<std::uint32_t>(std::strtoul(argv[2], nullptr, 10));
    options.node_name = "example";
    options.etcd_config = argv[3];
    if (argc > 4) options.clustermesh_config = argv[4];
    auto mesh = mesh::Mesh::open(std::move(options));
    if (!mesh) {
        std::fprintf(stderr, "%s\n", mesh.error().message().c_str());
        return 1;
    }
    auto services = (*mesh)->subscribe({.objects = mesh::Objects::kServices});
    if (!services) {
        std::fprintf(stderr, "%s\n", services.error().message().c_str());
        return 1;
    }
    pollfd wait_for[] = {{ended, POLLIN, 0}, {services->fd(), POLLIN, 0}};
    while (::poll(wait_for, 2, -1) >= 0 && wait_for[0].revents == 0) {
        const auto batch = services->next(std::chrono::milliseconds(0));
        if (!batch) break;
        for (const auto& event : batch->events()) react(event);
        std::fflush(stdout);
    }
    ::close(ended);
    return 0;
}
