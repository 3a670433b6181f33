/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tables of services, as layout.h explains them, and how programs read them: included by
 * socklb.bpf.c, which makes the maps, and by pods.bpf.c, which is loaded onto the same ones. */
#ifndef MESH_BPF_SERVICES_H
#define MESH_BPF_SERVICES_H

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __type(key, struct mesh_frontend_key);
    __type(value, __u32);
} frontends SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct mesh_service);
} services SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 524288);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct mesh_slot);
} slots SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 262144);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct mesh_backend);
} backends SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, struct mesh_client_key);
    __type(value, struct mesh_client);
} affinity SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct mesh_balance);
} balances SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct mesh_maglev);
} maglev SEC(".maps");

/* A plain array with a row per CPU rather than a per-CPU map, so that it can be mapped. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct mesh_counters);
} counters SEC(".maps");

/* Not by CPU: connects to one backend are far apart, compared with what a shared counter costs. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} connects SEC(".maps");

static __always_inline bool same_address(const __u32* a, const __u32* b) {
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline void copy_address(__u32* to, const __u32* from) {
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
}

static __always_inline struct mesh_counters* cpu_counters(void) {
    __u32 cpu = bpf_get_smp_processor_id();
    return bpf_map_lookup_elem(&counters, &cpu);
}

/* Atomic, because another program may preempt this one on its CPU. */
#define COUNT(member)                                     \
    do {                                                  \
        struct mesh_counters* row_ = cpu_counters();      \
        if (row_) __sync_fetch_and_add(&row_->member, 1); \
    } while (0)

static __always_inline void count_connect(__u32 backend_id, const struct mesh_backend* backend) {
    __u64* of_backend = bpf_map_lookup_elem(&connects, &backend_id);
    if (of_backend) __sync_fetch_and_add(of_backend, 1);
    COUNT(connects_by_cluster[backend->cluster_id & (MESH_MAX_CLUSTERS - 1)]);
}

static __always_inline struct mesh_service* find_service(const struct mesh_frontend_key* key,
                                                         __u32* id) {
#pragma unroll
    for (int attempt = 0; attempt < 3; ++attempt) {
        __u32* value = bpf_map_lookup_elem(&frontends, key);
        if (!value) return 0;
        *id = *(volatile __u32*)value;
        struct mesh_service* service = bpf_map_lookup_elem(&services, id);
        if (!service) return 0;
        if (same_address(service->frontend.address, key->address) &&
            service->frontend.port == key->port && service->frontend.proto == key->proto)
            return service;
    }
    return 0;
}

/* The backend of an earlier choice if it still is what it was and has all of `flags`. The flags are
 * read first: the writer sets them last, so with the flags of a reused id its new tag is seen. */
static __always_inline struct mesh_backend* chosen_backend(__u64 choice, __u32 service_id,
                                                           __u32 flags) {
    __u32 id = MESH_CHOICE_BACKEND(choice);
    struct mesh_backend* backend = bpf_map_lookup_elem(&backends, &id);
    if (!backend || (*(volatile __u32*)&backend->flags & flags) != flags) return 0;
    if (*(volatile __u32*)&backend->tag != MESH_CHOICE_TAG(choice)) return 0;
    return backend->service == service_id ? backend : 0;
}

#endif
