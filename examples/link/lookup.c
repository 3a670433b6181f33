/* Tells what stands behind IP addresses: identity, cluster, node, pod. In C, with mesh/mesh.h
 * alone. lookup CLUSTER-NAME CLUSTER-ID ETCD-CONFIG REMOTES-FOLDER ADDRESS... */
#include <mesh/mesh.h>
#include <stdio.h>
#include <stdlib.h>

static int lookup(mesh_ctx* mesh, const char* address) {
    mesh_error error = MESH_ERROR_INIT;
    mesh_batch* batch;
    const mesh_event* const* events;
    size_t count;
    if (mesh_lookup(mesh, address, &batch, &error) != MESH_OK ||
        mesh_batch_events(batch, &events, &count, &error) != MESH_OK) {
        fprintf(stderr, "%s: %s\n", mesh_strerror(error.code), error.message);
        return 1;
    }
    const mesh_ip* ip = events[0]->ip;
    printf("%s identity %u cluster %s node %s pod %s/%s\n", ip->prefix, ip->identity, ip->cluster,
           ip->host, ip->k8s_namespace, ip->k8s_pod_name);
    mesh_batch_free(batch);
    return 0;
}

int main(int argc, char** argv) {
    if (argc < 6) {
        printf(
            "libmesh %s\nusage: %s CLUSTER-NAME CLUSTER-ID ETCD-CONFIG REMOTES-FOLDER ADDRESS...\n",
            mesh_version(), argv[0]);
        return argc == 1 ? 0 : 2;
    }
    mesh_options options = MESH_OPTIONS_INIT;
    options.cluster_name = argv[1];
    options.cluster_id = (uint32_t)strtoul(argv[2], NULL, 10);
    options.node_name = "example";
    options.etcd_config = argv[3];
    options.clustermesh_config = argv[4];

    mesh_error error = MESH_ERROR_INIT;
    mesh_ctx* mesh;
    if (mesh_open(&options, &mesh, &error) != MESH_OK ||
        mesh_wait_ready(mesh, 60000, &error) != MESH_OK) {
        fprintf(stderr, "%s: %s\n", mesh_strerror(error.code), error.message);
        mesh_close(mesh);
        return 1;
    }
    int failed = 0;
    for (int i = 5; i < argc; ++i) failed |= lookup(mesh, argv[i]);
    mesh_close(mesh);
    return failed;
}
