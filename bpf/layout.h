/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of the socket load balancer, as the BPF programs (C) and their writer (C++) see them.
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d, so that one set of maps serves
 * both families; ports are in network order too, all other numbers in the machine's.
 *
 * How a connect finds its backend:
 *   frontends[address, port, protocol] -> service id
 *   services[service id].window        -> base and count of its range of slots
 *   slots[base + random % count]       -> backend id (alias method: a second random number chooses
 *                                         between the slot's own backend and its alias)
 *   backends[backend id]               -> address and port
 *
 * Why no reader ever sees half of a service. Only one process writes, and it writes in this order:
 *   1. backends and slots that nothing refers to yet,
 *   2. services[id].window: one aligned 8-byte store that moves the service from its old range of
 *      slots to the new one (for a new service: the record, then its entry in frontends),
 *   3. the flags of backends that went (0), for those who remember a backend by its id.
 * A reader that loaded the old window goes on reading the old slots and backends: those are not
 * reused before every program that could hold them has ended (an RCU grace period). A writer that
 * dies between two steps leaves things that nothing refers to; its successor frees them.
 *
 * An element of a hash map may be reused while a program holds a pointer to it. Therefore the
 * record of a service repeats its key, and a program that finds another one looks again.
 *
 * services, slots, backends and the counters are arrays that the writer maps into its memory: a
 * write is a store, not a system call. frontends is written in batches. */
#ifndef MESH_BPF_LAYOUT_H
#define MESH_BPF_LAYOUT_H

#include <linux/types.h>

/* Raised with each change of this file that an older or newer program cannot read. */
#define MESH_LAYOUT_VERSION 2

#define MESH_MAX_CLUSTERS 512

/* mesh_backend.flags */
#define MESH_BACKEND_IN_USE 1U     /* belongs to mesh_backend.service */
#define MESH_BACKEND_SELECTABLE 2U /* is in the service's slots */
#define MESH_BACKEND_TERMINATING 4U

/* mesh_client_key.kind */
#define MESH_CLIENT_NETNS 0U  /* client is a network namespace's cookie: session affinity */
#define MESH_CLIENT_SOCKET 1U /* client is a socket's cookie: flows of unconnected UDP sockets */

/* mesh_socket.flags */
#define MESH_SOCKET_CONNECTED 1U   /* peer and vip are set */
#define MESH_SOCKET_UNCONNECTED 2U /* has entries in reverse */

/* Key of frontends; its value is the service id (__u32). */
struct mesh_frontend_key {
    __u32 address[4]; /* network order */
    __u16 port;       /* network order */
    __u8 proto;       /* IPPROTO_* */
    __u8 pad;
};

/* services, by service id. Id 0 is never used. */
struct mesh_service {
    struct mesh_frontend_key frontend;
    __u32 affinity_seconds; /* 0 = none */
    __u64 window;           /* MESH_WINDOW(base, count) */
};

#define MESH_WINDOW(base, count) (((__u64)(base) << 32) | (__u64)(count))
#define MESH_WINDOW_BASE(window) ((__u32)((window) >> 32))
#define MESH_WINDOW_COUNT(window) ((__u32)(window))

/* slots, by window: a row of an alias table. */
struct mesh_slot {
    __u32 backend;
    __u32 alias;
    __u32 threshold; /* a random number below it chooses backend, else alias */
    __u32 pad;
};

/* backends, by backend id. Id 0 is never used. */
struct mesh_backend {
    __u32 address[4]; /* network order */
    __u16 port;       /* network order */
    __u16 weight;
    __u32 flags;   /* MESH_BACKEND_* ; 0 = free */
    __u32 service; /* service id */
    __u32 tag;     /* raised each time the id is given to another backend */
    __u32 cluster_id;
    __u32 pad;
};

/* affinity: who talked to which backend last. */
struct mesh_client_key {
    __u64 client;
    __u32 service;
    __u32 kind; /* MESH_CLIENT_* */
};
struct mesh_client {
    __u64 choice;       /* MESH_CHOICE(backend id, tag) */
    __u64 last_used_ns; /* CLOCK_MONOTONIC */
};

#define MESH_CHOICE(backend, tag) (((__u64)(backend) << 32) | (__u64)(tag))
#define MESH_CHOICE_BACKEND(choice) ((__u32)((choice) >> 32))
#define MESH_CHOICE_TAG(choice) ((__u32)(choice))

/* sockets: storage of a socket that went through a service.
 * udp_connected, by socket cookie: a copy for connected UDP sockets. The kernel shows the storage
 * of TCP sockets to those who list sockets, that of UDP sockets it does not. */
struct mesh_socket {
    __u32 peer_address[4]; /* network order: the backend of a connected socket */
    __u32 vip_address[4];  /* network order: what the application connected to */
    __u16 peer_port;       /* network order */
    __u16 vip_port;        /* network order */
    __u32 flags;           /* MESH_SOCKET_* */
    __u64 choice;          /* MESH_CHOICE */
};

/* reverse: for datagrams that unconnected sockets get back. */
struct mesh_reverse_key {
    __u64 socket;     /* cookie */
    __u32 address[4]; /* network order: the backend */
    __u16 port;       /* network order */
    __u16 pad[3];
};
struct mesh_reverse {
    __u32 address[4]; /* network order: the service */
    __u16 port;       /* network order */
    __u16 pad;
};

/* connects, by backend id, is a __u64 each. */

/* counters, by CPU. */
struct mesh_counters {
    __u64 connects_by_cluster[MESH_MAX_CLUSTERS];
    __u64 no_backend;
    __u64 affinity_kept;
    __u64 affinity_replaced;
    __u64 flow_table_errors;
};

/* meta, one element: what the pinned maps were made for. */
struct mesh_meta {
    __u32 layout_version;
    __u32 cpus; /* possible CPUs: the dimension of the counters */
    __u32 max_services;
    __u32 max_backends;
    __u32 max_slots;
    __u32 used_backends; /* backend ids from here on were never used */
};

#ifdef __cplusplus
#define MESH_STATIC_ASSERT(condition) static_assert(condition, #condition)
#else
#define MESH_STATIC_ASSERT(condition) _Static_assert(condition, #condition)
#endif
#define MESH_ASSERT_SIZE(type, size) MESH_STATIC_ASSERT(sizeof(struct type) == (size))
#define MESH_ASSERT_OFFSET(type, member, offset) \
    MESH_STATIC_ASSERT(__builtin_offsetof(struct type, member) == (offset))

MESH_ASSERT_SIZE(mesh_frontend_key, 20);
MESH_ASSERT_OFFSET(mesh_frontend_key, port, 16);
MESH_ASSERT_OFFSET(mesh_frontend_key, proto, 18);
MESH_ASSERT_SIZE(mesh_service, 32);
MESH_ASSERT_OFFSET(mesh_service, affinity_seconds, 20);
MESH_ASSERT_OFFSET(mesh_service, window, 24);
MESH_ASSERT_SIZE(mesh_slot, 16);
MESH_ASSERT_OFFSET(mesh_slot, alias, 4);
MESH_ASSERT_OFFSET(mesh_slot, threshold, 8);
MESH_ASSERT_SIZE(mesh_backend, 40);
MESH_ASSERT_OFFSET(mesh_backend, port, 16);
MESH_ASSERT_OFFSET(mesh_backend, weight, 18);
MESH_ASSERT_OFFSET(mesh_backend, flags, 20);
MESH_ASSERT_OFFSET(mesh_backend, service, 24);
MESH_ASSERT_OFFSET(mesh_backend, tag, 28);
MESH_ASSERT_OFFSET(mesh_backend, cluster_id, 32);
MESH_ASSERT_SIZE(mesh_client_key, 16);
MESH_ASSERT_OFFSET(mesh_client_key, kind, 12);
MESH_ASSERT_SIZE(mesh_client, 16);
MESH_ASSERT_OFFSET(mesh_client, last_used_ns, 8);
MESH_ASSERT_SIZE(mesh_socket, 48);
MESH_ASSERT_OFFSET(mesh_socket, vip_address, 16);
MESH_ASSERT_OFFSET(mesh_socket, peer_port, 32);
MESH_ASSERT_OFFSET(mesh_socket, flags, 36);
MESH_ASSERT_OFFSET(mesh_socket, choice, 40);
MESH_ASSERT_SIZE(mesh_reverse_key, 32);
MESH_ASSERT_OFFSET(mesh_reverse_key, port, 24);
MESH_ASSERT_SIZE(mesh_reverse, 20);
MESH_ASSERT_OFFSET(mesh_reverse, port, 16);
MESH_ASSERT_SIZE(mesh_counters, 4128);
MESH_ASSERT_OFFSET(mesh_counters, no_backend, 4096);
MESH_ASSERT_OFFSET(mesh_counters, flow_table_errors, 4120);
MESH_ASSERT_SIZE(mesh_meta, 24);

#endif
