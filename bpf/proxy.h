/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that a policy leads to a proxy of this node, included by pods.bpf.c. They are given the
 * proxy's socket and a mark, by which the node's routes take them for its own
 * (datapath/netlink/proxy_routes.hpp); their addresses stay. The socket is that of the connection,
 * or one that listens at the row's port on 127.0.0.1, ::1 or all addresses. Without one the packet
 * is dropped.
 *
 * Sockets to servers have clients' addresses. So as long as a row leads to a proxy, packets to and
 * from pods are asked for whether they belong to a proxy's connection; by the mark of the socket
 * they are answers of servers, which pass, or of clients, whose packets are judged as others are.
 *
 * A socket can be given at tc ingress only. What the node's stack sends to a pod and is to go to a
 * proxy makes a turn: back into the device that it would go out by, with the mark. So do a proxy's
 * answers to another one of this node, which has the pod's address as a client. (From the node's
 * own IPv4 addresses a packet comes in by a device only where that has accept_local.) */
#ifndef MESH_BPF_PROXY_H
#define MESH_BPF_PROXY_H

#define TCP_STATE_TIME_WAIT 6
#define TCP_STATE_LISTEN 10

/* Which connections of proxies are given a packet that belongs to them. */
#define PROXY_SERVERS 0 /* those to servers */
#define PROXY_ALL 1
#define PROXY_ASK 2 /* none: PROXY_GIVEN says that it is of one to a server */

/* Length of the tuple for the packet's sockets; 0: it has no ports. */
static __always_inline __u32 socket_tuple(struct __sk_buff* skb, struct packet* p,
                                          struct bpf_sock_tuple* tuple) {
    if ((p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP) || p->fragment || p->more_fragments)
        return 0;
    read_ports(skb, p);
    if (p->v4) {
        tuple->ipv4.saddr = p->source.word[3];
        tuple->ipv4.daddr = p->destination.word[3];
        tuple->ipv4.sport = p->source_port;
        tuple->ipv4.dport = p->destination_port;
        return sizeof tuple->ipv4;
    }
    __builtin_memcpy(tuple->ipv6.saddr, &p->source, sizeof tuple->ipv6.saddr);
    __builtin_memcpy(tuple->ipv6.daddr, &p->destination, sizeof tuple->ipv6.daddr);
    tuple->ipv6.sport = p->source_port;
    tuple->ipv6.dport = p->destination_port;
    return sizeof tuple->ipv6;
}

/* The socket's MESH_PROXY_ kind; 0: it is none of a proxy. */
static __always_inline __u32 proxy_kind(__u32 mark, __u32 proxy_mark) {
    return proxy_mark != 0 && (mark & ~MESH_PROXY_SOCKETS) == proxy_mark ? mark & MESH_PROXY_SOCKETS
                                                                         : 0;
}

static __always_inline int give_socket(struct __sk_buff* skb, struct bpf_sock* socket,
                                       __u32 proxy_mark) {
    if (bpf_sk_assign(skb, socket, 0)) return PROXY_NONE;
    skb->mark = proxy_mark;
    return PROXY_GIVEN;
}

/* @param whom PROXY_SERVERS.. */
static __always_inline int give_tcp(struct __sk_buff* skb, struct bpf_sock_tuple* tuple,
                                    __u32 length, __u32 proxy_mark, __u32 whom) {
    int given = PROXY_NONE;
    struct bpf_sock* socket = bpf_skc_lookup_tcp(skb, tuple, length, (__u64)BPF_F_CURRENT_NETNS, 0);
    if (!socket) return PROXY_NONE;
    if (socket->state != TCP_STATE_LISTEN && socket->state != TCP_STATE_TIME_WAIT) {
        /* What has no whole socket yet is being accepted. */
        const struct bpf_sock* whole = bpf_sk_fullsock(socket);
        const __u32 kind = whole ? proxy_kind(whole->mark, proxy_mark) : MESH_PROXY_LISTENER;
        if (kind == MESH_PROXY_LISTENER && whom != PROXY_ALL) {
            given = PROXY_ACCEPTED;
        } else if (kind && whom == PROXY_ASK) {
            given = PROXY_GIVEN;
        } else if (kind) {
            given = give_socket(skb, socket, proxy_mark);
        }
    }
    bpf_sk_release(socket);
    return given;
}

/* A UDP socket to a server is bound to the client's address. */
static __always_inline int give_udp(struct __sk_buff* skb, struct bpf_sock_tuple* tuple,
                                    __u32 length, __u32 proxy_mark, __u32 whom) {
    int given = PROXY_NONE;
    struct bpf_sock* socket = bpf_sk_lookup_udp(skb, tuple, length, (__u64)BPF_F_CURRENT_NETNS, 0);
    if (!socket) return PROXY_NONE;
    const __u32 kind = proxy_kind(socket->mark, proxy_mark);
    if (kind && kind != MESH_PROXY_LISTENER)
        given = whom == PROXY_ASK ? PROXY_GIVEN : give_socket(skb, socket, proxy_mark);
    bpf_sk_release(socket);
    return given;
}

/* Gives a packet to the proxy's connection that it belongs to. @return PROXY_NONE.. */
__noinline int proxy_owns(struct __sk_buff* skb, struct packet* p, __u32 whom) {
    struct bpf_sock_tuple tuple = {};
    const struct mesh_pods_settings* set = get_settings();
    if (!set || !p || set->proxy_mark == 0 || is_own(&p->destination, set)) return PROXY_NONE;
    const __u32 length = socket_tuple(skb, p, &tuple);
    if (length == 0) return PROXY_NONE;
    if (p->proto == IPPROTO_TCP) return give_tcp(skb, &tuple, length, set->proxy_mark, whom);
    return give_udp(skb, &tuple, length, set->proxy_mark, whom);
}

/* The socket that listens at a port of this node. */
static __always_inline int give_listener(struct __sk_buff* skb, const struct packet* p,
                                         struct bpf_sock_tuple* tuple, __u32 length, __u16 port,
                                         __u32 proxy_mark) {
    if (p->v4) {
        tuple->ipv4.daddr = bpf_htonl(0x7f000001);
        tuple->ipv4.dport = port;
    } else {
        __builtin_memset(tuple->ipv6.daddr, 0, sizeof tuple->ipv6.daddr);
        tuple->ipv6.daddr[3] = bpf_htonl(1);
        tuple->ipv6.dport = port;
    }
    struct bpf_sock* socket = 0;
    int given = PROXY_NONE;
    if (p->proto == IPPROTO_TCP) {
        socket = bpf_skc_lookup_tcp(skb, tuple, length, (__u64)BPF_F_CURRENT_NETNS, 0);
        if (!socket) return PROXY_NONE;
        if (socket->state == TCP_STATE_LISTEN) given = give_socket(skb, socket, proxy_mark);
    } else {
        socket = bpf_sk_lookup_udp(skb, tuple, length, (__u64)BPF_F_CURRENT_NETNS, 0);
        if (!socket) return PROXY_NONE;
        given = give_socket(skb, socket, proxy_mark);
    }
    bpf_sk_release(socket);
    return given;
}

/* Leads a packet to the proxy at `port`, network order. @return a verdict */
__noinline int to_proxy(struct __sk_buff* skb, struct packet* p, __u32 port, __u32 point) {
    struct bpf_sock_tuple tuple = {};
    const struct mesh_pods_settings* set = get_settings();
    if (!set || !p) return TC_ACT_SHOT;
    if (proxy_owns(skb, p, PROXY_ALL) == PROXY_GIVEN) return TC_ACT_OK;
    const __u32 length = socket_tuple(skb, p, &tuple);
    if (set->proxy_mark != 0 && length != 0 &&
        give_listener(skb, p, &tuple, length, (__u16)port, set->proxy_mark) == PROXY_GIVEN)
        return TC_ACT_OK;
    return drop(skb, p, (__u8)point, MESH_DROP_PROXY_GONE);
}

#endif
