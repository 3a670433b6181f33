// Prints the services of the whole mesh as one node sees them, with the backends of every cluster.
//   services CLUSTER-NAME CLUSTER-ID ETCD-CONFIG [REMOTES-FOLDER]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mesh/mesh.hpp>
#include <mesh/version.hpp>

int main(int argc, char** argv) {
    if (argc < 4) {
        std::printf("libmesh %s\nusage: %s CLUSTER-NAME CLUSTER-ID ETCD-CONFIG [REMOTES-FOLDER]\n",
                    mesh::version(), argv[0]);
        return argc == 1 ? 0 : 2;
    }
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
    if (!(*mesh)->wait_ready(std::chrono::seconds(30))) {
        std::fprintf(stderr, "not ready within 30 s:\n%s\n", (*mesh)->status_json().c_str());
        return 3;
    }
    for (const auto& service : (*mesh)->services()) {
        for (const auto& frontend : service.frontends) {
            std::printf("%s/%s %s:%u/%s\n", service.namespace_.c_str(), service.name.c_str(),
                        frontend.address.c_str(), frontend.port, frontend.protocol.c_str());
            for (const auto& backend : frontend.backends) {
                std::printf("  %s:%u %s %s (%s)\n", backend.address.c_str(), backend.port,
                            backend.cluster.c_str(), backend.selected ? "used" : "unused",
                            backend.reason.c_str());
            }
        }
    }
    return 0;
}
