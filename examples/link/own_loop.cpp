// A mesh in a program that has an event loop: no thread is made, all runs on Asio's io_context,
// which only main() runs. Prints how many services and clusters there are, after each change of
// them.
//   own_loop CLUSTER-NAME CLUSTER-ID ETCD-CONFIG [REMOTES-FOLDER]
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <cstdio>
#include <cstdlib>
#include <mesh/mesh.hpp>

namespace {

namespace asio = boost::asio;

/// Tells of what has come, and waits for more.
void follow(mesh::Mesh& mesh, mesh::Subscription& changes, asio::posix::stream_descriptor& fd) {
    fd.async_wait(asio::posix::stream_descriptor::wait_read, [&](boost::system::error_code error) {
        if (error) return;
        while (const auto batch = changes.next(std::chrono::milliseconds(0))) {
            if (batch->empty()) break;
        }
        if (changes.closed()) return;
        std::printf("%zu services, %zu clusters%s\n", mesh.services().size(),
                    mesh.clusters().size(), mesh.ready() ? ", ready" : "");
        std::fflush(stdout);
        follow(mesh, changes, fd);
    });
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::printf("usage: %s CLUSTER-NAME CLUSTER-ID ETCD-CONFIG [REMOTES-FOLDER]\n", argv[0]);
        return argc == 1 ? 0 : 2;
    }
    asio::io_context loop;
    mesh::MeshOptions options;
    options.cluster_name = argv[1];
    options.cluster_id = static_cast<std::uint32_t>(std::strtoul(argv[2], nullptr, 10));
    options.node_name = "example";
    options.etcd_config = argv[3];
    if (argc > 4) options.clustermesh_config = argv[4];
    options.executor = loop.get_executor();
    const auto mesh = mesh::Mesh::open(std::move(options));
    if (!mesh) {
        std::fprintf(stderr, "%s\n", mesh.error().message().c_str());
        return 1;
    }
    auto changes = (*mesh)->subscribe();
    if (!changes) {
        std::fprintf(stderr, "%s\n", changes.error().message().c_str());
        return 1;
    }
    // The descriptor stays the subscription's.
    asio::posix::stream_descriptor fd(loop, changes->fd());
    follow(**mesh, *changes, fd);
    asio::signal_set signals(loop, SIGINT, SIGTERM);
    signals.async_wait([&](boost::system::error_code, int) {
        fd.release();
        (*mesh)->close([] { std::printf("closed\n"); });
    });
    // Until nothing is left to do.
    loop.run();
    return 0;
}
