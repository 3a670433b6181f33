/* What an embedder pays, in C and with nothing but mesh/mesh.h: it loads the library, opens a mesh,
 * reads all ips and services, and follows changes. One JSON line to stdout.
 *
 *   embed_client snapshot LIBRARY ETCD-CONFIG REMOTES-FOLDER
 *       times from dlopen() to the first full snapshot, and memory
 *   embed_client memory LIBRARY ETCD-CONFIG REMOTES-FOLDER ROUNDS
 *       all objects from the library's memory to a callback, ROUNDS times
 *   embed_client follow LIBRARY ETCD-CONFIG REMOTES-FOLDER EVENTS
 *       says "ready", then counts changes of ips in a callback
 *   embed_client records LIBRARY ETCD-CONFIG REMOTES-FOLDER
 *       all ips in records */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <malloc.h>
#include <mesh/mesh.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kPatienceMs = 600000 }; /* an etcd lists a million keys slowly */

static struct {
    int (*open)(const mesh_options*, mesh_ctx**, mesh_error*);
    int (*close)(mesh_ctx*);
    int (*wait_ready)(mesh_ctx*, int64_t, mesh_error*);
    int (*list)(mesh_ctx*, uint32_t, mesh_batch**, mesh_error*);
    int (*batch_events)(mesh_batch*, const mesh_event* const**, size_t*, mesh_error*);
    int (*batch_free)(mesh_batch*);
    int (*read_ips)(mesh_ctx*, void*, size_t, size_t, size_t*, mesh_error*);
    int (*subscribe)(mesh_ctx*, const mesh_subscribe_options*, mesh_subscription**, mesh_error*);
    int (*subscription_close)(mesh_subscription*);
} api;

static double clock_seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}
static double wall(void) {
    return clock_seconds(CLOCK_MONOTONIC);
}
static double cpu(void) {
    return clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

/* A line of /proc/self/status in KiB. */
static long memory_kib(const char* field) {
    FILE* in = fopen("/proc/self/status", "r");
    char line[256];
    long kib = 0;
    while (in != NULL && fgets(line, sizeof line, in) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0) kib = strtol(line + strlen(field), NULL, 10);
    }
    if (in != NULL) fclose(in);
    return kib;
}

static void load(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct {
        const char* name;
        void* to;
    } symbols[] = {{"mesh_open", &api.open},
                   {"mesh_close", &api.close},
                   {"mesh_wait_ready", &api.wait_ready},
                   {"mesh_list", &api.list},
                   {"mesh_batch_events", &api.batch_events},
                   {"mesh_batch_free", &api.batch_free},
                   {"mesh_read_ips", &api.read_ips},
                   {"mesh_subscribe", &api.subscribe},
                   {"mesh_subscription_close", &api.subscription_close}};
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; ++i) {
        void* symbol = library != NULL ? dlsym(library, symbols[i].name) : NULL;
        if (symbol == NULL) {
            fprintf(stderr, "embed_client: %s\n", dlerror());
            exit(1);
        }
        memcpy(symbols[i].to, &symbol, sizeof symbol);
    }
}

static void check(int code, const mesh_error* error, const char* what) {
    if (code == MESH_OK) return;
    fprintf(stderr, "embed_client: %s: %s\n", what, error->message);
    exit(1);
}

static mesh_ctx* open_mesh(const char* etcd_config, const char* remotes) {
    mesh_options options = MESH_OPTIONS_INIT;
    options.cluster_name = "cluster1";
    options.cluster_id = 1;
    options.node_name = "bench";
    options.etcd_config = etcd_config;
    options.clustermesh_config = remotes;
    mesh_error error = MESH_ERROR_INIT;
    mesh_ctx* mesh = NULL;
    check(api.open(&options, &mesh, &error), &error, "open");
    return mesh;
}

static void wait_ready(mesh_ctx* mesh) {
    mesh_error error = MESH_ERROR_INIT;
    check(api.wait_ready(mesh, kPatienceMs, &error), &error, "wait_ready");
}

static void snapshot(char** argv) {
    const double begin = wall();
    load(argv[2]);
    const double loaded = wall();
    const long empty = memory_kib("VmRSS:");
    mesh_ctx* mesh = open_mesh(argv[3], argv[4]);
    const double opened = wall();
    wait_ready(mesh);
    const double ready = wall(), ready_cpu = cpu();
    const long rss = memory_kib("VmRSS:"), peak = memory_kib("VmHWM:");
    mesh_error error = MESH_ERROR_INIT;
    mesh_batch* batch = NULL;
    const mesh_event* const* events = NULL;
    size_t count = 0, ips = 0, services = 0, backends = 0;
    check(api.list(mesh, MESH_OBJECT_IP | MESH_OBJECT_SERVICE, &batch, &error), &error, "list");
    check(api.batch_events(batch, &events, &count, &error), &error, "batch_events");
    for (size_t i = 0; i < count; ++i) {
        if (events[i]->ip != NULL) ++ips;
        if (events[i]->service == NULL) continue;
        ++services;
        if (events[i]->service->frontends_count > 0) {
            backends += events[i]->service->frontends[0]->backends_count;
        }
    }
    const double read = wall(), read_cpu = cpu();
    const long holding = memory_kib("VmRSS:");
    api.batch_free(batch);
    const long freed = memory_kib("VmRSS:");
    malloc_trim(0);
    const long trimmed = memory_kib("VmRSS:"), file = memory_kib("RssFile:");
    printf(
        "{\"ips\":%zu,\"services\":%zu,\"backends\":%zu,\"dlopen_seconds\":%.6f,\"open_seconds\":%"
        ".6f,\"ready_seconds\":%.6f,\"snapshot_seconds\":%.6f,\"seconds\":%.6f,\"ready_cpu\":%.6f,"
        "\"cpu_seconds\":%.6f,\"empty_kib\":%ld,\"rss_kib\":%ld,\"peak_kib\":%ld,\"holding_kib\":%"
        "ld,\"freed_kib\":%ld,\"trimmed_kib\":%ld,\"file_kib\":%ld}\n",
        ips, services, backends, loaded - begin, opened - loaded, ready - opened, read - ready,
        read - begin, ready_cpu, read_cpu, empty, rss, peak, holding, freed, trimmed, file);
    api.close(mesh);
}

/* What the callback has seen; the fields below the mutex are guarded by it. */
typedef struct counter {
    uint64_t wanted; /* upserts, after the first snapshot; 0 = a snapshot only */
    uint64_t seen;
    uint64_t checksum;
    int following;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int snapshots, done;
    double end, end_cpu;
} counter;

static void on_events(void* user_data, const mesh_event* const* events, size_t count) {
    counter* to = user_data;
    int snapshots = 0;
    for (size_t i = 0; i < count; ++i) {
        const mesh_event* event = events[i];
        if (event->kind == MESH_EVENT_SNAPSHOT_END) {
            ++snapshots;
            to->following = 1;
        }
        if (event->kind != MESH_EVENT_UPSERT || (to->wanted != 0 && !to->following)) continue;
        ++to->seen;
        if (event->ip != NULL) to->checksum += event->ip->identity;
    }
    const int done = to->wanted != 0 && to->seen >= to->wanted;
    if (snapshots == 0 && !done) return;
    pthread_mutex_lock(&to->mutex);
    to->snapshots += snapshots;
    if (done || to->wanted == 0) {
        to->end = wall();
        to->end_cpu = cpu();
        to->done = 1;
    }
    pthread_cond_broadcast(&to->changed);
    pthread_mutex_unlock(&to->mutex);
}

static mesh_subscription* subscribe(mesh_ctx* mesh, uint32_t objects, counter* to) {
    mesh_subscribe_options options = MESH_SUBSCRIBE_OPTIONS_INIT;
    options.objects = objects;
    options.max_queued_bytes = (uint64_t)1 << 30;
    options.on_events = on_events;
    options.user_data = to;
    mesh_error error = MESH_ERROR_INIT;
    mesh_subscription* subscription = NULL;
    check(api.subscribe(mesh, &options, &subscription, &error), &error, "subscribe");
    return subscription;
}

static void wait_for(counter* of, const int* flag) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += kPatienceMs / 1000;
    pthread_mutex_lock(&of->mutex);
    while (*flag == 0) {
        if (pthread_cond_timedwait(&of->changed, &of->mutex, &end) != 0) {
            fprintf(stderr, "embed_client: %" PRIu64 " of %" PRIu64 " events after %d s\n",
                    of->seen, of->wanted, kPatienceMs / 1000);
            exit(1);
        }
    }
    pthread_mutex_unlock(&of->mutex);
}

static void memory(char** argv) {
    load(argv[2]);
    mesh_ctx* mesh = open_mesh(argv[3], argv[4]);
    wait_ready(mesh);
    printf("[");
    const int rounds = (int)strtol(argv[5], NULL, 10);
    for (int round = 0; round < rounds; ++round) {
        counter to = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
        const double begin = wall(), begin_cpu = cpu();
        mesh_subscription* subscription = subscribe(mesh, MESH_OBJECT_IP, &to);
        wait_for(&to, &to.done);
        printf("%s{\"events\":%" PRIu64 ",\"seconds\":%.6f,\"cpu_seconds\":%.6f}",
               round > 0 ? "," : "", to.seen, to.end - begin, to.end_cpu - begin_cpu);
        api.subscription_close(subscription);
    }
    printf("]\n");
    api.close(mesh);
}

static void follow(char** argv) {
    load(argv[2]);
    mesh_ctx* mesh = open_mesh(argv[3], argv[4]);
    wait_ready(mesh);
    counter to = {.wanted = (uint64_t)strtoll(argv[5], NULL, 10),
                  .mutex = PTHREAD_MUTEX_INITIALIZER,
                  .changed = PTHREAD_COND_INITIALIZER};
    mesh_subscription* subscription = subscribe(mesh, MESH_OBJECT_IP, &to);
    wait_for(&to, &to.snapshots);
    const double begin = wall(), begin_cpu = cpu();
    printf("ready\n");
    fflush(stdout);
    wait_for(&to, &to.done);
    printf("{\"events\":%" PRIu64 ",\"seconds\":%.6f,\"cpu_seconds\":%.6f}\n", to.seen,
           to.end - begin, to.end_cpu - begin_cpu);
    api.subscription_close(subscription);
    api.close(mesh);
}

static void records(char** argv) {
    load(argv[2]);
    mesh_ctx* mesh = open_mesh(argv[3], argv[4]);
    wait_ready(mesh);
    mesh_error error = MESH_ERROR_INIT;
    printf("[");
    for (int round = 0; round < 3; ++round) {
        const double begin = wall();
        size_t count = 0, read = 0;
        api.read_ips(mesh, NULL, sizeof(mesh_ip_record), 0, &count, &error);
        mesh_ip_record* all = malloc((count + 1) * sizeof *all);
        if (all == NULL) exit(1);
        check(api.read_ips(mesh, all, sizeof *all, count, &read, &error), &error, "read_ips");
        printf("%s{\"ips\":%zu,\"seconds\":%.6f}", round > 0 ? "," : "", read, wall() - begin);
        free(all);
    }
    printf("]\n");
    api.close(mesh);
}

int main(int argc, char** argv) {
    const char* mode = argc > 4 ? argv[1] : "";
    if (argc == 5 && strcmp(mode, "snapshot") == 0) {
        snapshot(argv);
    } else if (argc == 5 && strcmp(mode, "records") == 0) {
        records(argv);
    } else if (argc == 6 && strcmp(mode, "memory") == 0) {
        memory(argv);
    } else if (argc == 6 && strcmp(mode, "follow") == 0) {
        follow(argv);
    } else {
        fprintf(stderr,
                "usage: %s snapshot|records|memory|follow LIBRARY ETCD-CONFIG REMOTES-FOLDER"
                " [ROUNDS|EVENTS]\n",
                argv[0]);
        return 2;
    }
    return 0;
}
