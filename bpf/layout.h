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
#define MESH_LAYOUT_VERSION 3

#define MESH_MAX_CLUSTERS 512

/* mesh_backend.flags */
#define MESH_BACKEND_IN_USE 1U     /* belongs to mesh_backend.service */
#define MESH_BACKEND_SELECTABLE 2U /* is in the service's slots */
#define MESH_BACKEND_TERMINATING 4U
#define MESH_BACKEND_HERE 8U /* on this node */

/* mesh_client_key.kind */
#define MESH_CLIENT_NETNS 0U   /* client is a network namespace's cookie: session affinity */
#define MESH_CLIENT_SOCKET 1U  /* client is a socket's cookie: flows of unconnected UDP sockets */
#define MESH_CLIENT_ADDRESS 2U /* client is (a hash of) an address: session affinity at tc */

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

/* balances, by service id: how packets of clients that socket load balancing does not see are
 * distributed. Windows move as mesh_service.window does. */
struct mesh_balance {
    __u64 window;       /* MESH_WINDOW of maglev; count 0: none, the service's slots serve */
    __u64 local_window; /* the same of this node's backends only */
    __u32 flags;        /* MESH_BALANCE_* */
    __u32 digest;       /* of what the tables were made of: for the writer */
};

/* mesh_balance.flags */
#define MESH_BALANCE_LOCAL 1U   /* externalTrafficPolicy Local: outsiders get local_window only */
#define MESH_BALANCE_OUTSIDE 2U /* has outsiders at all: for the writer */

/* maglev, by half of a window's index: look-up tables of consistent hashing, of backend ids. Two
 * in an entry, because the kernel gives an entry 8 bytes anyway; bases are even. */
struct mesh_maglev {
    __u32 backend[2];
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

/* ---- Pods: pods.bpf.c --------------------------------------------------------------------------
 * Forwarding between pods, and between pods and the rest of the world. A packet of a pod:
 *   endpoints[source]      must be the pod's own device (else it is spoofed); gives its identity
 *   endpoints[destination] a pod of this node: handed over to that pod's device
 *   ipcache[destination]   has a tunnel endpoint: into the overlay device, the identity as VNI
 *   else                   the node's routes decide
 * A packet from the overlay or from another node: endpoints[destination], likewise.
 * One set of maps per node; the writer fills ipcache and nodes in batches. */

/* Raised with each change of this part that an older or newer program cannot read. */
#define MESH_PODS_LAYOUT_VERSION 3

/* An address in network order, IPv4 as ::ffff:a.b.c.d. */
struct mesh_address {
    __u32 word[4];
};

/* ipcache, by longest prefix. */
struct mesh_ipcache_key {
    __u32 prefix_length;         /* bits of address: an IPv4 prefix's own length + 96 */
    struct mesh_address address; /* host bits zero */
};

/* mesh_ipcache_entry.flags */
#define MESH_IPCACHE_NODE 1U /* an address of a node, not of a pod */
#define MESH_IPCACHE_CIDR 2U /* a node's pod CIDR: which pod it is, is not known */

struct mesh_ipcache_entry {
    __u32 identity;             /* numeric identity, wire.md section 15 */
    __u32 cluster_id;           /* that announced it; 0: none */
    struct mesh_address tunnel; /* the node to encapsulate to; all zero: none */
    __u8 encryption_key;
    __u8 flags; /* MESH_IPCACHE_* */
    __u16 pad;
};

/* nodes, by address in network order: who may send to the overlay device. */
struct mesh_node {
    __u32 cluster_id;
};

/* endpoints, by address in network order: the pods of this node. */
struct mesh_endpoint {
    __u32 ifindex;    /* the node's end of the pod's link */
    __u32 identity;   /* 0: not known yet */
    __u8 pod_mac[6];  /* of the pod's end */
    __u8 node_mac[6]; /* of the node's end */
    __u16 id;         /* index of policies; 0: none yet */
    __u16 pad;
};

/* mesh_pods_settings.flags */
#define MESH_PODS_TUNNEL 1U     /* encapsulate; else the node's routes decide */
#define MESH_PODS_MASQUERADE 2U /* what leaves the mesh gets the node's address */
#define MESH_PODS_TRACE 4U      /* an event for each packet, not only for drops */

/* settings, one element. */
struct mesh_pods_settings {
    __u32 layout_version;
    __u32 flags;                      /* MESH_PODS_* */
    __u32 overlay_ifindex;            /* 0: none */
    __u32 device_ifindex;             /* to the other nodes */
    struct mesh_address node4, node6; /* this node's addresses there; all zero: none */
    /* This node's own addresses out of its pod CIDRs. */
    struct mesh_address router4, router6;
    __u32 identity_shift; /* bits of an identity below its cluster id: 16 or 15 */
    __u16 overlay_port;   /* network order, UDP between nodes; 0: none */
    __u16 pad;
    __u32 policy_flags; /* MESH_POLICY_*; 0: no packet is judged */
    __u32 proxy_mark;   /* of packets to this node's proxies; 0: none */
};

/* mesh_encryption.flags */
#define MESH_ENCRYPTION_STRICT 1U /* nothing of pods goes to or comes from `encrypted` in plain */

/* encryption, one element; all zero: there is none. */
struct mesh_encryption {
    __u32 flags; /* MESH_ENCRYPTION_* */
    __u32 wireguard_ifindex;
    __u16 tunnel_port; /* network order; UDP, of the overlay; 0: none */
    __u16 pad;
};

/* nat: what leaves the mesh, by the packet as it is before; and the answers, likewise. */
struct mesh_nat_key {
    struct mesh_address source, destination;
    __u16 source_port; /* network order; the identifier of an ICMP echo, then the other is 0 */
    __u16 destination_port;
    __u8 proto;
    __u8 answer; /* 1: of a packet that comes back */
    __u16 pad;
};
/* The source after translation; of an answer the destination. */
struct mesh_nat {
    struct mesh_address address;
    __u16 port; /* network order */
    __u16 pad;
};

/* datagrams: the ports of one that comes in fragments, of which only the first has them. */
struct mesh_fragment_key {
    struct mesh_address source, destination;
    __u32 id; /* network order, as it is: 16 bits of IPv4, 32 of IPv6 */
    __u8 proto;
    __u8 pad[3];
};
struct mesh_fragment {
    __u16 source_port, destination_port; /* network order; as in mesh_nat_key */
};

/* ---- Services at tc: lb.h ----------------------------------------------------------------------
 * What the socket load balancer cannot translate: packets of outside clients, forwarded ones, those
 * of pods out of its cgroup. A flow has an entry each way:
 *   flows[client -> frontend]                    the backend, and the source that it sees
 *   answers[backend -> source that it sees]      the frontend and the client, and the flow's state
 * The source is the client's own, or an address of the node and a port of its range where answers
 * would not come back here, or not be told apart. Both are LRU maps: what is unused longest goes
 * when there is no room; what has timed out is taken for absent, and deleted by the agent. */
struct mesh_flow_key {
    struct mesh_address source, destination;
    __u16 source_port, destination_port; /* network order */
    __u8 proto;
    __u8 pad[3];
};
struct mesh_flow {
    struct mesh_address backend, source;
    __u16 backend_port, source_port; /* network order */
    __u32 service;
    __u64 choice; /* MESH_CHOICE */
};
struct mesh_answer {
    struct mesh_address frontend, client;
    __u16 frontend_port, client_port; /* network order */
    __u32 flags;                      /* MESH_FLOW_* */
    __u64 last_used_ns;               /* CLOCK_MONOTONIC, to a second */
    __u64 choice;                     /* MESH_CHOICE */
};

/* mesh_answer.flags */
#define MESH_FLOW_ANSWERED 1U
#define MESH_FLOW_CLIENT_FIN 2U
#define MESH_FLOW_BACKEND_FIN 4U
#define MESH_FLOW_RESET 8U

/* flow_filter, one element: whether an address and port may be of a flow at all, so that packets
 * of others need no look-up. Bits stay set. */
#define MESH_FLOW_FILTER 16384U
struct mesh_flow_filter {
    __u64 any;
    __u8 seen[MESH_FLOW_FILTER];
};

/* ---- Policy: policy.h --------------------------------------------------------------------------
 * policies[endpoint id] is a hash map of the endpoint's rows, which is exchanged as a whole: each
 * packet meets the rows of one map. A row is for the packets of an identity (or any), a direction
 * and a prefix of protocol and port (0, 8, or 9 to 24 bits); a program looks for the longest one
 * of the packet's identity and of any, probing the lengths only that are in use. The element with
 * the key MESH_POLICY_HEADER says which these are, and how the endpoint is enforced.
 *
 * An element's memory may be another's while a program looks at it: it repeats its key, which is
 * written first and read last. */

/* mesh_policy_key.scope: the length, and */
#define MESH_POLICY_EGRESS 0x80U
#define MESH_POLICY_HEADER 0x40U /* with all else zero */

struct mesh_policy_key {
    __u32 identity; /* of the peer; 0: any */
    __u16 port;     /* network order; bits beyond the length are zero */
    __u8 proto;
    __u8 scope; /* length 0..24 | MESH_POLICY_EGRESS */
};

/* mesh_policy_row.flags */
#define MESH_POLICY_DENY 1U

struct mesh_policy_row {
    __u32 precedence;
    __u32 cookie;
    __u16 proxy_port; /* network order; 0: none */
    __u8 flags;       /* MESH_POLICY_DENY */
    __u8 pad;
};

/* mesh_policy_header.enforcement; names: EndpointEnforcement of datapath/policy.hpp */
#define MESH_ENFORCE_NONE 0U
#define MESH_ENFORCE_RULES 1U
#define MESH_ENFORCE_AUDIT 2U
#define MESH_ENFORCE_LOCKED 3U

#define MESH_POLICY_LENGTHS(egress, any) (((egress) ? 2U : 0U) + ((any) ? 1U : 0U))
struct mesh_policy_header {
    /* By MESH_POLICY_LENGTHS: bit n is set if there may be rows of length n. */
    __u32 lengths[4];
    __u32 enforcement; /* MESH_ENFORCE_* */
    __u32 version; /* raised before each step of a change: what was read meanwhile is not used */
};

struct mesh_policy_entry {
    struct mesh_policy_key key;
    union {
        struct mesh_policy_row row;
        struct mesh_policy_header header;
    };
};

#define MESH_MAX_ENDPOINT_IDS 65536U

/* mesh_pods_settings.policy_flags */
#define MESH_POLICY_REQUIRED 1U  /* an endpoint without a map is locked */
#define MESH_POLICY_ACTIVE 2U    /* an endpoint is enforced, or may be */
#define MESH_POLICY_REDIRECTS 4U /* a row leads to a proxy, or may */
#define MESH_POLICY_EVENTS 8U    /* an event for each new flow that passes */

/* Beside mesh_pods_settings.proxy_mark in the marks of the proxies' sockets; names: ProxySocket of
 * datapath/policy.hpp */
#define MESH_PROXY_SOCKETS 3U /* bits */
#define MESH_PROXY_LISTENER 1U
#define MESH_PROXY_TO_SERVER_OF_INGRESS 2U
#define MESH_PROXY_TO_SERVER_OF_EGRESS 3U

/* policy_flows: flows that endpoints' policies let pass, by their first packet as the endpoint
 * sends or gets it, so that answers are known. An LRU map: what is unused longest goes when there
 * is no room; what has timed out is taken for absent. */
struct mesh_policy_flow_key {
    struct mesh_address source, destination;
    __u16 source_port, destination_port; /* network order; as in mesh_nat_key */
    __u8 proto;
    __u8 egress; /* 1: the endpoint is the source */
    __u16 pad;
};
struct mesh_policy_flow {
    __u64 last_used_ns; /* CLOCK_MONOTONIC, to a second */
    __u32 flags;        /* MESH_FLOW_* */
    __u32 pad;
};

/* Node ports for the sources that backends see, host order: below Kubernetes' node ports. */
#define MESH_FLOW_FIRST_PORT 10000U
#define MESH_FLOW_PORTS 20000U

/* Node ports for masquerading, host order: above those that Linux gives to sockets by default. */
#define MESH_NAT_FIRST_PORT 61000U
#define MESH_NAT_PORTS 4536U

/* Why a packet was dropped; index of drops. Names: datapath/pods.hpp. */
#define MESH_DROP_MALFORMED 1U           /* truncated, bad header length, version or checksum */
#define MESH_DROP_INVALID_SOURCE 2U      /* not one of the pod's own addresses */
#define MESH_DROP_NO_ENDPOINT 3U         /* to a pod that this node does not have */
#define MESH_DROP_UNKNOWN_TUNNEL_PEER 4U /* encapsulated by an address that is no node's */
#define MESH_DROP_INVALID_IDENTITY 5U    /* of another cluster than the node that encapsulated it */
#define MESH_DROP_TUNNEL_KEY 6U          /* the kernel did not take the tunnel key */
#define MESH_DROP_NO_NAT_PORT 7U         /* masquerading: no port left to that destination */
#define MESH_DROP_UNSUPPORTED 8U         /* a protocol that is not forwarded, or not masqueraded */
#define MESH_DROP_PLAINTEXT 9U           /* not encrypted, to or from a node that encrypts */
#define MESH_DROP_NO_BACKEND 10U         /* the service has none; the client is told */
#define MESH_DROP_NO_LOCAL_BACKEND 11U   /* externalTrafficPolicy Local, and none on this node */
#define MESH_DROP_BACKEND_GONE 12U       /* of a flow; the client is sent a reset */
#define MESH_DROP_FLOW_TABLE 13U         /* no room to remember the flow, or no port left for it */
#define MESH_DROP_TOO_BIG 14U            /* for the way to the backend; the client is told */
#define MESH_DROP_TTL_EXPIRED 15U        /* to a service; the client is told */
#define MESH_DROP_POLICY_DENIED 16U      /* by a rule, or no rule lets it pass */
#define MESH_DROP_POLICY_UNKNOWN 17U     /* the endpoint is locked: its policy is not known yet */
#define MESH_DROP_PROXY_GONE 18U         /* a rule leads to a proxy that does not listen */
#define MESH_DROP_REASONS 19U

struct mesh_drop_count { /* by reason; a row per CPU */
    __u64 packets;
    __u64 bytes;
};

/* mesh_event.kind */
#define MESH_EVENT_DROP 1U
#define MESH_EVENT_TRACE 2U
#define MESH_EVENT_POLICY 3U /* what a policy decided */

/* mesh_event.point: where the packet was seen. */
#define MESH_POINT_FROM_POD 1U
#define MESH_POINT_FROM_OVERLAY 2U
#define MESH_POINT_TO_OVERLAY 3U
#define MESH_POINT_FROM_DEVICE 4U
#define MESH_POINT_TO_DEVICE 5U
#define MESH_POINT_TO_POD 6U

/* mesh_event.verdict of a trace: where it went. */
#define MESH_TO_POD 1U
#define MESH_TO_OVERLAY 2U
#define MESH_TO_STACK 3U
#define MESH_TO_DEVICE 4U

/* mesh_event.verdict of a policy. */
#define MESH_VERDICT_ALLOWED 1U
#define MESH_VERDICT_DENIED 2U     /* `reason` says why; also counted as a drop */
#define MESH_VERDICT_REDIRECTED 3U /* to a proxy */
#define MESH_VERDICT_AUDITED 4U    /* it would have been denied, and passes */

/* An element of the ring buffer `events`. */
struct mesh_event {
    __u64 time_ns; /* CLOCK_MONOTONIC */
    struct mesh_address source, destination;
    __u32 source_identity;
    __u32 destination_identity;
    __u32 ifindex;
    __u32 length;      /* bytes of the packet, with its Ethernet header */
    __u16 source_port; /* network order; 0: none, or ICMP's type and code */
    __u16 destination_port;
    __u8 kind;    /* MESH_EVENT_* */
    __u8 point;   /* MESH_POINT_* */
    __u8 verdict; /* MESH_DROP_*, MESH_TO_* or MESH_VERDICT_* */
    __u8 proto;   /* IPPROTO_* */
    /* Of a policy's verdict only: */
    __u32 cookie;   /* of the row; 0: there is none */
    __u16 endpoint; /* whose policy */
    __u8 egress;    /* 1: a packet that the endpoint sends */
    __u8 reason;    /* MESH_DROP_* of a denied one */
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
MESH_ASSERT_SIZE(mesh_balance, 24);
MESH_ASSERT_OFFSET(mesh_balance, flags, 16);
MESH_ASSERT_SIZE(mesh_maglev, 8);
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

MESH_ASSERT_SIZE(mesh_address, 16);
MESH_ASSERT_SIZE(mesh_ipcache_key, 20);
MESH_ASSERT_SIZE(mesh_ipcache_entry, 28);
MESH_ASSERT_OFFSET(mesh_ipcache_entry, tunnel, 8);
MESH_ASSERT_OFFSET(mesh_ipcache_entry, encryption_key, 24);
MESH_ASSERT_OFFSET(mesh_ipcache_entry, flags, 25);
MESH_ASSERT_SIZE(mesh_node, 4);
MESH_ASSERT_SIZE(mesh_endpoint, 24);
MESH_ASSERT_OFFSET(mesh_endpoint, pod_mac, 8);
MESH_ASSERT_OFFSET(mesh_endpoint, node_mac, 14);
MESH_ASSERT_OFFSET(mesh_endpoint, id, 20);
MESH_ASSERT_SIZE(mesh_pods_settings, 96);
MESH_ASSERT_OFFSET(mesh_pods_settings, node4, 16);
MESH_ASSERT_OFFSET(mesh_pods_settings, router6, 64);
MESH_ASSERT_OFFSET(mesh_pods_settings, policy_flags, 88);
MESH_ASSERT_SIZE(mesh_encryption, 12);
MESH_ASSERT_OFFSET(mesh_encryption, tunnel_port, 8);
MESH_ASSERT_SIZE(mesh_nat_key, 40);
MESH_ASSERT_OFFSET(mesh_nat_key, answer, 37);
MESH_ASSERT_SIZE(mesh_nat, 20);
MESH_ASSERT_SIZE(mesh_flow_key, 40);
MESH_ASSERT_OFFSET(mesh_flow_key, proto, 36);
MESH_ASSERT_SIZE(mesh_flow, 48);
MESH_ASSERT_OFFSET(mesh_flow, choice, 40);
MESH_ASSERT_SIZE(mesh_answer, 56);
MESH_ASSERT_OFFSET(mesh_answer, last_used_ns, 40);
MESH_ASSERT_SIZE(mesh_flow_filter, 16392);
MESH_ASSERT_SIZE(mesh_fragment_key, 40);
MESH_ASSERT_OFFSET(mesh_fragment_key, proto, 36);
MESH_ASSERT_SIZE(mesh_fragment, 4);
MESH_ASSERT_SIZE(mesh_policy_key, 8);
MESH_ASSERT_OFFSET(mesh_policy_key, scope, 7);
MESH_ASSERT_SIZE(mesh_policy_row, 12);
MESH_ASSERT_SIZE(mesh_policy_header, 24);
MESH_ASSERT_SIZE(mesh_policy_entry, 32);
MESH_ASSERT_OFFSET(mesh_policy_entry, row, 8);
MESH_ASSERT_SIZE(mesh_policy_flow_key, 40);
MESH_ASSERT_OFFSET(mesh_policy_flow_key, egress, 37);
MESH_ASSERT_SIZE(mesh_policy_flow, 16);
MESH_ASSERT_SIZE(mesh_drop_count, 16);
MESH_ASSERT_SIZE(mesh_event, 72);
MESH_ASSERT_OFFSET(mesh_event, source_identity, 40);
MESH_ASSERT_OFFSET(mesh_event, kind, 60);
MESH_ASSERT_OFFSET(mesh_event, cookie, 64);

#endif
