// Asks a library without BPF for the kernel's datapath, and then for what it has.
#include <cstdio>
#include <mesh/mesh.hpp>
#include <string>

int main() {
    mesh::MeshOptions options;
    options.cluster_name = "cluster1";
    options.cluster_id = 1;
    options.node_name = "node1";
    options.etcd = {{"http://127.0.0.1:1"}, {}, {}, {}};
    options.datapath.kind = mesh::DatapathOptions::Kind::kBpf;
    options.datapath.cgroup = "/sys/fs/cgroup";
    const auto refused = mesh::Mesh::open(options);
    if (refused || refused.error().code() != mesh::Errc::kUnavailable) return 1;
    std::printf("%s\n", refused.error().message().c_str());
    options.datapath = {};
    const auto opened = mesh::Mesh::open(options);
    if (!opened) std::printf("in memory: %s\n", opened.error().message().c_str());
    return opened ? 0 : 1;
}
