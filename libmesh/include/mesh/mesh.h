/** @file
 * libmesh's C ABI: link it from C, or load it from any language. The C++ API (mesh/mesh.hpp) says
 * the same with richer types.
 *
 * Results: each function returns 0 or a negative MESH_ERR_*. Results go to out-parameters; a handle
 * is set to NULL on failure. The last parameter of most is a mesh_error of the caller, or NULL,
 * that takes the code and one sentence: there is no errno, no last-error of a thread and no other
 * hidden state.
 *
 * Handles are opaque and never dereferenced as given: NULL, a handle of another kind, one that was
 * closed, or one of a parent process is answered with MESH_ERR_INVALID_ARGUMENT. Other pointers are
 * the caller's word.
 *
 * Threads: every function may be called from any thread, also at once with the same handle, and
 * closing a handle while others use it is safe. Each mesh_ctx has a thread of its own; several in
 * one process share nothing.
 *
 * Memory: options and texts given are copied before a function returns. Texts received are UTF-8 as
 * the clusters published them, end with NUL, are never NULL, and live as long as the batch or the
 * callback that showed them.
 *
 * fork(): a child that does not exec has no mesh: all handles of the parent are refused there, none
 * of its memory is freed. It may open its own, as far as the libraries below (the C library,
 * OpenSSL) work in a child of a process with threads. File descriptors are close-on-exec.
 *
 * Signals: no handler is installed and SIGPIPE is never raised. The library's threads inherit the
 * mask of the thread that opens a mesh: block there what they shall not take.
 *
 * Structures only grow at their end. Those that a caller fills begin with their size: set them with
 * MESH_OPTIONS_INIT and the like. Those received come by pointer, also in arrays, save mesh_pair
 * and mesh_ip_record, whose stride the caller gives. A field of a newer library is simply not seen
 * by an older program. Zero means default.
 *
 * Since 0.1; stable unless a function says "experimental".
 */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <stddef.h>
#include <stdint.h>

#ifndef MESH_API
#if defined(__GNUC__)
#define MESH_API __attribute__((visibility("default")))
#else
#define MESH_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Raised when something is added; a program needs at least that of the header it was built with.
 */
#define MESH_ABI_VERSION 2

/** @addtogroup c_errors
 *  @{ */
/* What the caller should do; the values never change. */
#define MESH_OK 0                      /**< it worked */
#define MESH_ERR_INVALID_ARGUMENT (-1) /**< the input or handle is wrong; do not retry */
#define MESH_ERR_NOT_FOUND (-2)        /**< no such object */
#define MESH_ERR_UNAVAILABLE (-3)      /**< the other side cannot be reached; retry */
#define MESH_ERR_COMPACTED (-4)        /**< the revision is gone; list again */
#define MESH_ERR_CONFLICT (-5)         /**< somebody else was first */
#define MESH_ERR_CAPACITY (-6)         /**< a bound was reached: reduce, or raise the bound */
#define MESH_ERR_PERMISSION (-7)       /**< refused; do not retry with the same credentials */
#define MESH_ERR_CORRUPT (-8)          /**< stored or received bytes make no sense */
#define MESH_ERR_CANCELLED (-9)        /**< the mesh or the subscription is closed */
#define MESH_ERR_TIMEOUT (-10)         /**< the deadline passed first */
#define MESH_ERR_INTERNAL (-11)        /**< a defect of libmesh */
#define MESH_ERR_NO_MEMORY (-12)       /**< an allocation failed; nothing was changed */
#define MESH_ERR_BUSY (-13)            /**< not from this thread: see the function */

/** The caller's place for what went wrong; made with MESH_ERROR_INIT, usable for many calls. */
typedef struct mesh_error {
    size_t struct_size;
    int32_t code; /**< 0 after success */
    uint32_t reserved;
    char message[496]; /**< "" after success; cut at its end, NUL-terminated */
} mesh_error;
/* clang-format off */
/** An empty mesh_error. */
#define MESH_ERROR_INIT \
    { sizeof(mesh_error), 0, 0, {0} }
/* clang-format on */

/** @} */

/** @addtogroup c_mesh
 *  @{ */
/** A mesh: mesh_open() to mesh_close(). */
typedef struct mesh_ctx mesh_ctx;
/** Follows a mesh: mesh_subscribe() to mesh_subscription_close(). */
typedef struct mesh_subscription mesh_subscription;
/** Events and the memory they live in, until mesh_batch_free(). */
typedef struct mesh_batch mesh_batch;
/** A workload that is registered: mesh_publish() to mesh_publication_close(). */
typedef struct mesh_publication mesh_publication;

/** @} */

/* ---- What is read ---------------------------------------------------------------------------- */

/** @addtogroup c_objects
 *  @{ */

/* Kinds of objects, as bits. */
#define MESH_OBJECT_NODE 1u     /**< mesh_node */
#define MESH_OBJECT_SERVICE 2u  /**< mesh_service */
#define MESH_OBJECT_IP 4u       /**< mesh_ip */
#define MESH_OBJECT_IDENTITY 8u /**< mesh_identity */
#define MESH_OBJECT_CLUSTER 16u /**< mesh_cluster */
#define MESH_OBJECT_ALL 31u     /**< all of these */

/** Two texts. This structure never grows. */
typedef struct mesh_pair {
    const char* key;
    const char* value;
} mesh_pair;

/** A node of some cluster. Its key is cluster and name. */
typedef struct mesh_node {
    const char* cluster;
    const char* name;
    const char* wireguard_public_key; /**< base64; "" = none */
    const mesh_pair* addresses;       /**< key = type, such as "InternalIP"; value = IP text */
    size_t addresses_count;
    const char* const* pod_cidrs;
    size_t pod_cidrs_count;
    const mesh_pair* labels;
    size_t labels_count;
    uint32_t cluster_id;
    uint32_t encryption_key; /**< index; 0 = none */
} mesh_node;

/** A backend of a frontend, as this node sees it. */
typedef struct mesh_backend {
    const char* address; /**< IP text */
    const char* cluster;
    const char* state;  /**< "active", "terminating", "quarantined", "maintenance" */
    const char* reason; /**< why it is selected, or why not: one sentence */
    uint32_t port;
    uint32_t weight;   /**< among the selected ones of the frontend; relative */
    uint32_t selected; /**< 1 = new connections may go there */
    uint32_t reserved;
} mesh_backend;

/** An address of a service with the backends behind it. */
typedef struct mesh_frontend {
    const char* address;  /**< IP text */
    const char* protocol; /**< "TCP", "UDP", "SCTP" */
    const char* port_name;
    const mesh_backend* const* backends;
    size_t backends_count;
    uint32_t port;
    uint32_t node_port; /**< 1 = at this node's own address */
} mesh_frontend;

/** A service of the own cluster with the backends of all. Its key is namespace and name; of a
 *  deleted one nothing else is told. */
typedef struct mesh_service {
    const char* namespace_;
    const char* name;
    const char* affinity; /**< "none", "local", "remote" */
    const mesh_frontend* const* frontends;
    size_t frontends_count;
    const char* const* notes; /**< what has no effect and why, a sentence each */
    size_t notes_count;
    uint32_t global;
    uint32_t shared;
} mesh_service;

/** What stands behind a prefix: a pod, or a block. Its key is cluster and prefix. */
typedef struct mesh_ip {
    const char* prefix; /**< "10.1.2.3/32" */
    const char* cluster;
    const char* host; /**< IP text of the node that has it; "" = not told */
    const char* k8s_namespace;
    const char* k8s_pod_name;
    uint32_t cluster_id;
    uint32_t identity;
    uint32_t encryption_key; /**< index; 0 = none */
    uint32_t reserved;
} mesh_ip;

/** A security identity. Its key is cluster and id. */
typedef struct mesh_identity {
    const char* cluster;
    const char* const* labels; /**< "source:key=value" */
    size_t labels_count;
    uint32_t cluster_id;
    uint32_t id;
} mesh_identity;

/** The own cluster or a remote, and how fresh what is known of it is. Its key is name. An event
 *  comes when state, id, ready or connected change, not for the counts and ages: ask again. */
typedef struct mesh_cluster {
    const char* name;
    const char* state; /**< "disabled", "connecting", "syncing", "ready", "stale" */
    const char* last_failure;
    uint64_t nodes, services, ips, identities;
    int64_t revision;              /**< of its etcd, up to which all is known */
    int64_t lag_revisions;         /**< known to exist and not seen yet */
    int64_t lag_ns;                /**< since when behind, or without proof of life */
    int64_t last_proof_of_life_ns; /**< ago; -1 = never */
    uint32_t id;
    uint32_t own; /**< 1 = the cluster this node belongs to */
    uint32_t ready;
    uint32_t connected;
} mesh_cluster;

/* Kinds of events. */
#define MESH_EVENT_SNAPSHOT_BEGIN 1u /**< forget everything held: a snapshot follows */
#define MESH_EVENT_UPSERT 2u         /**< the object is new, or is now this */
#define MESH_EVENT_DELETE 3u         /**< the object is gone */
#define MESH_EVENT_SNAPSHOT_END 4u   /**< what was told since the begin is all there is */

/** One event. Exactly one of the pointers is set with upsert and delete, none with the others. */
typedef struct mesh_event {
    uint32_t kind;
    uint32_t object;   /**< MESH_OBJECT_*; 0 without one */
    uint64_t sequence; /**< grows with each change of this mesh; equal within a snapshot */
    const mesh_node* node;
    const mesh_service* service;
    const mesh_ip* ip;
    const mesh_identity* identity;
    const mesh_cluster* cluster;
} mesh_event;

/** What of an ip has a fixed size, for reading very many at once. */
typedef struct mesh_ip_record {
    uint8_t address[16]; /**< network order; IPv4 as IPv4-mapped IPv6; host bits are zero */
    uint8_t host[16];    /**< node that has it, likewise; all zero = not told */
    uint32_t identity;
    uint32_t cluster_id;
    uint8_t prefix_length; /**< 0..32 for IPv4, 0..128 for IPv6 */
    uint8_t family;        /**< 4 or 6 */
    uint8_t encryption_key;
    uint8_t reserved[5];
} mesh_ip_record;

/** @} */

/* ---- A mesh ---------------------------------------------------------------------------------- */

/** @addtogroup c_mesh
 *  @{ */

/** A log line. Called on the mesh's own thread, or on one that calls a function of this header, for
 *  one line after the other; must not block. It may list and look up, but not wait, close, or read
 *  subscriptions (MESH_ERR_BUSY). @p severity 0 debug, 1 info, 2 warning, 3 error. */
typedef void (*mesh_log_fn)(void* user_data, int32_t severity, const char* subsystem,
                            const char* text);

/** A file in memory. This structure never grows. */
typedef struct mesh_file {
    const char* name;
    const void* data;
    size_t size;
} mesh_file;

/** How to open a mesh; made with MESH_OPTIONS_INIT. */
typedef struct mesh_options {
    size_t struct_size;
    const char* cluster_name;        /**< required; spec wire.md section 17 */
    const char* node_name;           /**< required; this node, as its cluster publishes it */
    uint32_t cluster_id;             /**< required; 1..max_connected_clusters */
    uint32_t max_connected_clusters; /**< 255 or 511, equal in all clusters; 0 = 255 */
    /** The own cluster's etcd: the path of an etcd client YAML, or endpoints with PEM texts. */
    const char* etcd_config;
    const char* const* etcd_endpoints; /**< "https://host:port" or "http://host:port" */
    size_t etcd_endpoints_count;
    const char* etcd_ca_pem;                  /**< NULL = the system's roots */
    const char *etcd_cert_pem, *etcd_key_pem; /**< both or neither */
    /** Remotes: a directory that is watched, and files in memory as such a directory (or Secret
     *  cilium-clustermesh) holds them; see MeshOptions::remote_files. */
    const char* clustermesh_config;
    const mesh_file* remote_files;
    size_t remote_files_count;
    uint32_t sync_timeout_seconds;         /**< 0 = 60 */
    uint32_t remote_max_stale_age_seconds; /**< 0 = what is known of a remote stays */
    mesh_log_fn log;                       /**< NULL = no log */
    void* log_user_data;
} mesh_options;
/* clang-format off */
/** Empty mesh_options, with their size. */
#define MESH_OPTIONS_INIT \
    { sizeof(mesh_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
/* clang-format on */

/** The library's MESH_ABI_VERSION. @thread any */
MESH_API uint32_t mesh_abi_version(void);
/** The library's version, "0.1.0"; static. @thread any */
MESH_API const char* mesh_version(void);
/** The name of a code, such as "not_found"; static, never NULL. @thread any */
MESH_API const char* mesh_strerror(int code);

/** Starts to follow the own cluster and the remotes, on a thread of its own, with services kept in
 *  memory: no privileges are needed. Returns at once; nothing needs to be reachable yet.
 *  @param out takes a handle; end it with mesh_close()
 *  @errors INVALID_ARGUMENT names the option, NO_MEMORY */
MESH_API int mesh_open(const mesh_options* options, mesh_ctx** out, mesh_error* error);
/** Ends it and its thread. Its subscriptions answer CANCELLED from now on and are closed on their
 *  own; calls of other threads are finished first. NULL is accepted.
 *  @errors INVALID_ARGUMENT; BUSY from within its own log callback */
MESH_API int mesh_close(mesh_ctx* mesh);

/** Waits until the own cluster and every remote are read in full.
 *  @param timeout_ms 0 = only look, negative = no limit
 *  @errors TIMEOUT; CANCELLED if it is closed meanwhile; BUSY from within its own log callback */
MESH_API int mesh_wait_ready(mesh_ctx* mesh, int64_t timeout_ms, mesh_error* error);
/** The status document of `meshctl status -o json`. @param out end it with mesh_text_free() */
MESH_API int mesh_status_json(mesh_ctx* mesh, char** out, mesh_error* error);
/** Metrics in Prometheus' text format. @param out end it with mesh_text_free() */
MESH_API int mesh_metrics_text(mesh_ctx* mesh, char** out, mesh_error* error);
/** Other remotes than mesh_options.remote_files had, or the last call: those that are new, other
 *  than before or gone are connected to, configured or drained, the others notice nothing. Returns
 *  at once.
 *  @param files may be NULL with count 0: none
 *  @errors INVALID_ARGUMENT names the file; nothing is changed then */
MESH_API int mesh_set_remote_files(mesh_ctx* mesh, const mesh_file* files, size_t count,
                                   mesh_error* error);
/** Frees a text that a function of this header returned; NULL is accepted. */
MESH_API void mesh_text_free(char* text);

/** @} */

/* ---- Reading --------------------------------------------------------------------------------- */

/** @addtogroup c_reading
 *  @{ */

/** All objects of some kinds, as they are at one moment: clusters, nodes, identities, ips,
 * services.
 *  @param objects MESH_OBJECT_* bits
 *  @param out a batch of upserts, in the order of kinds and keys; end it with mesh_batch_free()
 *  @complexity O(objects) */
MESH_API int mesh_list(mesh_ctx* mesh, uint32_t objects, mesh_batch** out, mesh_error* error);
/** The ip with the longest prefix that holds the address; between clusters that claim the same, the
 *  own one goes first, then the lowest id.
 *  @param address IPv4 or IPv6 text
 *  @param out a batch of one upsert
 *  @errors NOT_FOUND */
MESH_API int mesh_lookup(mesh_ctx* mesh, const char* address, mesh_batch** out, mesh_error* error);
/** One service with its backends.
 *  @param name "namespace/name"
 *  @param out a batch of one upsert
 *  @errors NOT_FOUND */
MESH_API int mesh_get_service(mesh_ctx* mesh, const char* name, mesh_batch** out,
                              mesh_error* error);
/** All ips of all clusters at one moment, in the order of address, length and cluster, into the
 *  caller's array: no allocation for each, and no conversion.
 *  @param records may be NULL with capacity 0, to learn the count
 *  @param record_size sizeof(mesh_ip_record) of the caller, the array's stride
 *  @param capacity in records
 *  @param count always set: how many there are. More than before may be there at the next call.
 *  @errors CAPACITY if there are more than capacity; nothing is written then */
MESH_API int mesh_read_ips(mesh_ctx* mesh, void* records, size_t record_size, size_t capacity,
                           size_t* count, mesh_error* error);

/** The events of a batch.
 *  @param events an array of pointers, all valid until mesh_batch_free() */
MESH_API int mesh_batch_events(mesh_batch* batch, const mesh_event* const** events, size_t* count,
                               mesh_error* error);
/** Ends a batch and all that it showed. NULL is accepted. @errors INVALID_ARGUMENT */
MESH_API int mesh_batch_free(mesh_batch* batch);

/** @} */

/* ---- Policies -------------------------------------------------------------------------------- */

/** @addtogroup c_policies
 *  @{ */

/** A packet to be explained. */
typedef struct mesh_policy_query {
    size_t struct_size;
    /** Both required: "[cluster/][namespace/]pod", an address, labels ("app=web,..."), an entity
     *  ("world") or an identity's number. */
    const char* source;
    const char* destination;
    const char* dport;          /**< required; "80/TCP" */
    const char* http;           /**< "GET /a" or "GET http://host/a"; NULL = no request */
    const char* const* headers; /**< of the request, "Name: value" */
    size_t headers_count;
    const char* dns; /**< a name that is asked for; NULL = none */
} mesh_policy_query;
/* clang-format off */
/** An empty mesh_policy_query, with its size. */
#define MESH_POLICY_QUERY_INIT \
    { sizeof(mesh_policy_query), 0, 0, 0, 0, 0, 0, 0 }
/* clang-format on */

/** Whether a packet passes, by which rules of both its ends, where each is written, who the ends
 *  are, and by which cluster this is known: the document of GET /v1/policy/trace. By the policies
 *  of the own cluster, as a node of it enforces them.
 *  @param out JSON text; end it with mesh_text_free()
 *  @errors INVALID_ARGUMENT names what cannot be understood; NOT_FOUND: no such pod or identity;
 *          UNAVAILABLE: the own cluster is not known yet
 *  @complexity O(objects of all clusters) if it was not asked for a minute, else O(identities) */
MESH_API int mesh_explain_json(mesh_ctx* mesh, const mesh_policy_query* query, char** out,
                               mesh_error* error);
/** Which packets of the own cluster's pods other policies would let pass or not, in groups of peers
 *  and ports: the document of GET /v1/policy/diff.
 *  @param policies YAML or JSON text, in place of those of the same names
 *  @param prune 1 = policies that are not among them would go
 *  @param out JSON text; end it with mesh_text_free()
 *  @errors INVALID_ARGUMENT: mistakes in the text, a line each; UNAVAILABLE as above
 *  @complexity O(objects of all clusters) */
MESH_API int mesh_policy_diff_json(mesh_ctx* mesh, const char* policies, uint32_t prune, char** out,
                                   mesh_error* error);

/** @} */

/* ---- Subscriptions --------------------------------------------------------------------------- */

/** @addtogroup c_subscriptions
 *  @{ */

/** Events, on a thread of the subscription's own. They live only for the call. It may block: others
 *  are not held up, and this subscription falls back to a new snapshot if it gets too slow. It may
 *  call every function of this header, also close its own subscription or mesh. A C++ exception
 *  that leaves it ends the subscription. */
typedef void (*mesh_events_fn)(void* user_data, const mesh_event* const* events, size_t count);

/** What to follow; made with MESH_SUBSCRIBE_OPTIONS_INIT. */
typedef struct mesh_subscribe_options {
    size_t struct_size;
    uint32_t objects; /**< MESH_OBJECT_* bits; 0 = all */
    uint32_t reserved;
    /** Changes that wait to be read, in bytes; beyond, they are dropped and a new snapshot comes
     *  (MESH_EVENT_SNAPSHOT_BEGIN). 0 = 16 MiB. */
    uint64_t max_queued_bytes;
    mesh_events_fn on_events; /**< NULL = read with mesh_subscription_next() */
    void* user_data;
    /** Called once with user_data when on_events will not be called again; may be NULL. */
    void (*destroy)(void* user_data);
} mesh_subscribe_options;
/* clang-format off */
/** Empty mesh_subscribe_options, with their size. */
#define MESH_SUBSCRIBE_OPTIONS_INIT \
    { sizeof(mesh_subscribe_options), 0, 0, 0, 0, 0, 0 }
/* clang-format on */

/** Follows changes: a snapshot first, then every change of it in order.
 *  @param options NULL = all objects, read with mesh_subscription_next()
 *  @param out end it with mesh_subscription_close() */
MESH_API int mesh_subscribe(mesh_ctx* mesh, const mesh_subscribe_options* options,
                            mesh_subscription** out, mesh_error* error);
/** A file descriptor that is readable while mesh_subscription_next() has something to tell. Only
 *  poll it; it belongs to the subscription. */
MESH_API int mesh_subscription_fd(mesh_subscription* subscription, int* fd, mesh_error* error);
/** The next events, some thousand at most.
 *  @param timeout_ms 0 = only look, negative = no limit
 *  @param out a batch; end it with mesh_batch_free(), which may be after the subscription's end
 *  @errors TIMEOUT: there is nothing; CANCELLED: closed, nothing will come;
 *          INVALID_ARGUMENT: it has a callback; BUSY from within the mesh's log callback */
MESH_API int mesh_subscription_next(mesh_subscription* subscription, int64_t timeout_ms,
                                    mesh_batch** out, mesh_error* error);
/** Ends it. After its return no callback runs or begins, unless this is called from within it.
 *  NULL is accepted. @errors INVALID_ARGUMENT; BUSY from within the mesh's log callback */
MESH_API int mesh_subscription_close(mesh_subscription* subscription);

/** @} */

/* ---- Publishing ------------------------------------------------------------------------------ */

/** @addtogroup c_publishing
 *  @{ */

/** A port of a workload that serves a Service of its cluster. This structure never grows. */
typedef struct mesh_workload_backend {
    const char* service;   /**< "namespace/name" */
    const char* port_name; /**< that of the Service's port; NULL or "": its only one, without one */
    const char* protocol;  /**< "TCP", "UDP", "SCTP"; NULL = "TCP" */
    uint32_t port;         /**< 1..65535 */
    uint32_t reserved;
} mesh_workload_backend;

/** What a workload that no Kubernetes object describes says of itself. */
typedef struct mesh_workload_options {
    size_t struct_size;
    const char* name;       /**< required; a DNS label that no other workload has */
    const char* namespace_; /**< NULL = "default" */
    const char* const*
        ips; /**< required; 1 to 16 texts: addresses of this host, and of none else */
    size_t ips_count;
    const mesh_pair* labels; /**< make its security identity, as a pod's do */
    size_t labels_count;
    const mesh_workload_backend* backends;
    size_t backends_count;
    const char* zone; /**< topology.kubernetes.io/zone; NULL = not told */
    uint32_t node;    /**< 1 = it is a node of the cluster, too; see WorkloadOptions::node */
    /** How long it stays when this process ends without a word, 2 to 86400; 0 = 15. */
    uint32_t lease_ttl_seconds;
} mesh_workload_options;
/* clang-format off */
/** Empty mesh_workload_options, with their size. */
#define MESH_WORKLOAD_OPTIONS_INIT \
    { sizeof(mesh_workload_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
/* clang-format on */

/* States of a publication. */
#define MESH_PUBLICATION_PENDING 1u   /**< etcd or the operator has not answered yet */
#define MESH_PUBLICATION_PUBLISHED 2u /**< the cluster has it as the options say */
#define MESH_PUBLICATION_REFUSED 3u   /**< not in the mesh; tried again by itself */
#define MESH_PUBLICATION_CLOSED 4u    /**< it has left */

/** Registers a workload in the own cluster, until the publication or the mesh is closed; of a
 *  process that is killed, until its lease ends. Returns at once.
 *  @param out end it with mesh_publication_close()
 *  @errors INVALID_ARGUMENT names the field */
MESH_API int mesh_publish(mesh_ctx* mesh, const mesh_workload_options* options,
                          mesh_publication** out, mesh_error* error);
/** How it stands.
 *  @param state MESH_PUBLICATION_*
 *  @param reason NULL, or takes a sentence, "" if there is none; end it with mesh_text_free() */
MESH_API int mesh_publication_state(mesh_publication* publication, uint32_t* state, char** reason,
                                    mesh_error* error);
/** Waits until it is published.
 *  @param timeout_ms 0 = only look, negative = no limit
 *  @errors CONFLICT: refused by the cluster's operator, or another process has the name;
 *          PERMISSION: refused by etcd; TIMEOUT: neither yet; CANCELLED: closed, or its mesh;
 *          BUSY from within the mesh's log callback. The message is the reason. */
MESH_API int mesh_publication_wait(mesh_publication* publication, int64_t timeout_ms,
                                   mesh_error* error);
/** Says something else from now on, in place: what does not change is not interrupted.
 *  @param options in full; the name must be the same, the lease's time is not looked at
 *  @errors INVALID_ARGUMENT names the field; CANCELLED: closed, or its mesh */
MESH_API int mesh_publication_update(mesh_publication* publication,
                                     const mesh_workload_options* options, mesh_error* error);
/** Leaves, at once if etcd answers within some 3 seconds, else when its lease ends. NULL is
 *  accepted. @errors INVALID_ARGUMENT; BUSY from within the mesh's log callback */
MESH_API int mesh_publication_close(mesh_publication* publication);

/** @} */

#ifdef __cplusplus
}
#endif

#endif
