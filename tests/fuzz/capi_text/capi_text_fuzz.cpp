// Texts that a caller of the C ABI hands on: addresses, names of services, files of remotes, PEM
// texts. The first byte says which. Whatever they are, each call answers with a code of the list.
#include <mesh/mesh.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace {

const char* const kEndpoints[] = {"http://127.0.0.1:1"};

mesh_options make_options() {
    mesh_options options = MESH_OPTIONS_INIT;
    options.cluster_name = "cluster1";
    options.cluster_id = 1;
    options.node_name = "node1";
    options.etcd_endpoints = kEndpoints;
    options.etcd_endpoints_count = 1;
    return options;
}

void check(int code, const mesh_error& error) {
    const bool known =
        code == MESH_OK || code == MESH_ERR_INVALID_ARGUMENT || code == MESH_ERR_NOT_FOUND;
    if (!known || error.code != code || (code != MESH_OK && error.message[0] == '\0')) std::abort();
}

/// One mesh for all inputs: the clusters have no say in how texts are read.
mesh_ctx* shared_mesh() {
    static mesh_ctx* const mesh = [] {
        const mesh_options options = make_options();
        mesh_ctx* made = nullptr;
        if (mesh_open(&options, &made, nullptr) != MESH_OK) std::abort();
        return made;
    }();
    return mesh;
}

void open_with(const mesh_options& options) {
    mesh_error error = MESH_ERROR_INIT;
    mesh_ctx* mesh = nullptr;
    check(mesh_open(&options, &mesh, &error), error);
    if (mesh_close(mesh) != MESH_OK) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    mesh_error error = MESH_ERROR_INIT;
    mesh_batch* batch = nullptr;
    mesh_options options = make_options();
    const mesh_file files[] = {{"cluster2", text.data(), text.size()},
                               {"ca.crt", text.data(), text.size()}};
    const char* const endpoints[] = {text.c_str()};
    switch (data[0] % 6) {
        case 0:
            check(mesh_lookup(shared_mesh(), text.c_str(), &batch, &error), error);
            break;
        case 1:
            check(mesh_get_service(shared_mesh(), text.c_str(), &batch, &error), error);
            break;
        case 2:
            options.remote_files = files;
            options.remote_files_count = 2;
            open_with(options);
            break;
        case 3:
            options.etcd_ca_pem = text.c_str();
            open_with(options);
            break;
        case 4:
            options.etcd_endpoints = endpoints;
            open_with(options);
            break;
        default:
            options.cluster_name = text.c_str();
            options.node_name = text.c_str();
            open_with(options);
            break;
    }
    if (mesh_batch_free(batch) != MESH_OK) std::abort();
    return 0;
}
