/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Socket load balancing: where a socket of the cgroup connects or sends to a service, its address
 * is replaced by a backend's before a packet exists; what the application reads back (recvmsg,
 * getpeername) is the service again. No packet is rewritten, and nothing is done per packet of a
 * connected socket. Tables: layout.h.
 *
 * A service without a backend answers connect() and sendmsg() with EHOSTUNREACH.
 *
 * Unconnected UDP sockets stay with the backend they got for a service until it goes or the socket
 * was silent for udp_idle_ns, as they would behind a connection-tracking load balancer: a protocol
 * with sessions over such a socket (QUIC) works.
 *
 * Needs Linux 5.18: bpf_set_retval, socket storage in these hooks, 64-bit compare-and-exchange. */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"
#include "services.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum { kReject = 0, kProceed = 1 };

/* Set by the loader. */
const volatile __u64 udp_idle_ns = 120ULL * 1000 * 1000 * 1000;

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct mesh_socket);
} sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, struct mesh_reverse_key);
    __type(value, struct mesh_reverse);
} reverse SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, __u64);
    __type(value, struct mesh_socket);
} udp_connected SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct mesh_meta);
} meta SEC(".maps");

struct choice {
    __u32 address[4];
    __u16 port;
    __u64 choice; /* MESH_CHOICE */
};

static __always_inline struct mesh_backend* pick_backend(const struct mesh_service* service,
                                                         __u32* id) {
    const __u64 window = *(const volatile __u64*)&service->window;
    const __u32 count = MESH_WINDOW_COUNT(window);
    if (count == 0) return 0;
    __u32 index = MESH_WINDOW_BASE(window) + (__u32)(((__u64)bpf_get_prandom_u32() * count) >> 32);
    const struct mesh_slot* slot = bpf_map_lookup_elem(&slots, &index);
    if (!slot) return 0;
    *id = slot->backend;
    if (slot->alias != slot->backend && bpf_get_prandom_u32() >= slot->threshold) *id = slot->alias;
    return bpf_map_lookup_elem(&backends, id);
}

/* Fills `out`. 0: a new choice, 1: an earlier one was kept, -EHOSTUNREACH: no backend. */
static __always_inline int choose(const struct mesh_service* service, __u32 service_id,
                                  const struct mesh_client_key* client, __u64 timeout_ns,
                                  __u32 flags_to_keep, struct choice* out) {
    struct mesh_backend* backend = 0;
    struct mesh_client* known = 0;
    __u64 old = 0, now = 0;
    if (client) {
        now = bpf_ktime_get_ns();
        known = bpf_map_lookup_elem(&affinity, client);
        if (known) {
            old = *(volatile __u64*)&known->choice;
            /* Signed: another CPU may have used it after `now` was read. */
            if ((__s64)(now - *(volatile __u64*)&known->last_used_ns) < (__s64)timeout_ns)
                backend = chosen_backend(old, service_id, flags_to_keep);
            if (backend) {
                known->last_used_ns = now;
                out->choice = old;
                copy_address(out->address, backend->address);
                out->port = backend->port;
                return 1;
            }
            COUNT(affinity_replaced);
        }
    }
    __u32 id = 0;
    backend = pick_backend(service, &id);
    if (!backend) return -EHOSTUNREACH;
    out->choice = MESH_CHOICE(id, backend->tag);
    if (client) {
        /* Two first connects of a client at once must agree: the loser takes the winner's. */
        __u64 winner = out->choice;
        if (known) {
            const __u64 seen = __sync_val_compare_and_swap(&known->choice, old, winner);
            if (seen != old) winner = seen;
            /* Not before: it would make the choice that is replaced look like one in use. */
            known->last_used_ns = now;
        } else {
            struct mesh_client fresh = {.choice = winner, .last_used_ns = now};
            if (bpf_map_update_elem(&affinity, client, &fresh, BPF_NOEXIST)) {
                known = bpf_map_lookup_elem(&affinity, client);
                if (known) winner = *(volatile __u64*)&known->choice;
            }
        }
        if (winner != out->choice) {
            struct mesh_backend* other = chosen_backend(winner, service_id, flags_to_keep);
            if (other) {
                backend = other;
                out->choice = winner;
            }
        }
    }
    copy_address(out->address, backend->address);
    out->port = backend->port;
    count_connect(MESH_CHOICE_BACKEND(out->choice), backend);
    return 0;
}

/* Affinity of the client's network namespace, if the service asks for it. */
static __always_inline int choose_for_connect(struct bpf_sock_addr* ctx,
                                              const struct mesh_service* service, __u32 service_id,
                                              struct choice* out) {
    const __u32 seconds = service->affinity_seconds;
    if (seconds == 0) return choose(service, service_id, 0, 0, 0, out);
    struct mesh_client_key client = {
        .client = bpf_get_netns_cookie(ctx), .service = service_id, .kind = MESH_CLIENT_NETNS};
    const int result = choose(service, service_id, &client, (__u64)seconds * 1000000000ULL,
                              MESH_BACKEND_IN_USE | MESH_BACKEND_SELECTABLE, out);
    if (result == 1) {
        __u32 id = MESH_CHOICE_BACKEND(out->choice);
        struct mesh_backend* backend = bpf_map_lookup_elem(&backends, &id);
        if (backend) count_connect(id, backend);
        COUNT(affinity_kept);
    }
    return result;
}

/* An unconnected socket: the client's affinity if the service asks for it, else the socket's own.
 */
static __always_inline int choose_for_send(struct bpf_sock_addr* ctx,
                                           const struct mesh_service* service, __u32 service_id,
                                           __u64 cookie, struct choice* out) {
    const __u32 seconds = service->affinity_seconds;
    struct mesh_client_key client = {
        .client = cookie, .service = service_id, .kind = MESH_CLIENT_SOCKET};
    __u64 timeout = udp_idle_ns;
    __u32 flags = MESH_BACKEND_IN_USE;
    if (seconds != 0) {
        client.client = bpf_get_netns_cookie(ctx);
        client.kind = MESH_CLIENT_NETNS;
        timeout = (__u64)seconds * 1000000000ULL;
        flags |= MESH_BACKEND_SELECTABLE;
    }
    return choose(service, service_id, &client, timeout, flags, out);
}

static __always_inline void read_key4(const struct bpf_sock_addr* ctx,
                                      struct mesh_frontend_key* key) {
    key->address[2] = bpf_htonl(0xffff);
    key->address[3] = ctx->user_ip4;
    key->port = (__u16)ctx->user_port;
}

static __always_inline void read_key6(const struct bpf_sock_addr* ctx,
                                      struct mesh_frontend_key* key) {
    key->address[0] = ctx->user_ip6[0];
    key->address[1] = ctx->user_ip6[1];
    key->address[2] = ctx->user_ip6[2];
    key->address[3] = ctx->user_ip6[3];
    key->port = (__u16)ctx->user_port;
}

static __always_inline __u8 protocol_of(const struct bpf_sock_addr* ctx) {
    const __u32 protocol = ctx->protocol;
    return protocol == IPPROTO_MPTCP ? IPPROTO_TCP : (__u8)protocol;
}

static __always_inline int refuse(int error) {
    bpf_set_retval(error);
    return kReject;
}

static __always_inline void forget_connected(__u8 proto, __u64 cookie) {
    if (proto != IPPROTO_TCP) bpf_map_delete_elem(&udp_connected, &cookie);
}

/* Replaces key's address and port by a backend's. kProceed also when it is no service. */
static __always_inline int on_connect(struct bpf_sock_addr* ctx, struct mesh_frontend_key* key,
                                      bool* translated) {
    __u32 service_id = 0;
    struct bpf_sock* sk = ctx->sk;
    if (!sk) return kProceed;
    key->proto = protocol_of(ctx);
    const struct mesh_service* service = find_service(key, &service_id);
    if (!service) {
        /* A UDP socket may connect again, elsewhere. */
        struct mesh_socket* before = bpf_sk_storage_get(&sockets, sk, 0, 0);
        if (before && (before->flags & MESH_SOCKET_CONNECTED)) {
            before->flags &= ~MESH_SOCKET_CONNECTED;
            forget_connected(key->proto, bpf_get_socket_cookie(ctx));
        }
        return kProceed;
    }
    struct choice chosen = {};
    if (choose_for_connect(ctx, service, service_id, &chosen) < 0) {
        COUNT(no_backend);
        return refuse(-EHOSTUNREACH);
    }
    struct mesh_socket* socket = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (socket) {
        copy_address(socket->peer_address, chosen.address);
        copy_address(socket->vip_address, key->address);
        socket->peer_port = chosen.port;
        socket->vip_port = key->port;
        socket->choice = chosen.choice;
        socket->flags |= MESH_SOCKET_CONNECTED;
        if (key->proto != IPPROTO_TCP) {
            const __u64 cookie = bpf_get_socket_cookie(ctx);
            bpf_map_update_elem(&udp_connected, &cookie, socket, BPF_ANY);
        }
    } else {
        COUNT(flow_table_errors);
        /* TCP only loses getpeername; a UDP application would see answers from a stranger. */
        if (key->proto != IPPROTO_TCP) return refuse(-ENOMEM);
    }
    copy_address(key->address, chosen.address);
    key->port = chosen.port;
    *translated = true;
    return kProceed;
}

/* True if the socket is connected to a backend of the service at `key`, which is there still. */
static __always_inline bool is_connected_to(const struct mesh_socket* socket,
                                            const struct mesh_frontend_key* key, __u32 service_id) {
    return (socket->flags & MESH_SOCKET_CONNECTED) && socket->vip_port == key->port &&
           same_address(socket->vip_address, key->address) &&
           chosen_backend(socket->choice, service_id, MESH_BACKEND_IN_USE);
}

static __always_inline int on_send(struct bpf_sock_addr* ctx, struct mesh_frontend_key* key,
                                   bool* translated) {
    __u32 service_id = 0;
    struct bpf_sock* sk = ctx->sk;
    if (!sk) return kProceed;
    key->proto = protocol_of(ctx);
    const __u64 cookie = bpf_get_socket_cookie(ctx);
    struct mesh_reverse_key back = {.socket = cookie};
    const struct mesh_service* service = find_service(key, &service_id);
    if (!service) {
        struct mesh_socket* before = bpf_sk_storage_get(&sockets, sk, 0, 0);
        if (before && (before->flags & MESH_SOCKET_UNCONNECTED)) {
            /* The application now talks to this address as such: answers keep it. */
            copy_address(back.address, key->address);
            back.port = key->port;
            bpf_map_delete_elem(&reverse, &back);
        }
        return kProceed;
    }
    const struct mesh_socket* own = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (own && is_connected_to(own, key, service_id)) {
        /* A connected socket gets answers of its peer only. */
        copy_address(key->address, own->peer_address);
        key->port = own->peer_port;
        *translated = true;
        return kProceed;
    }
    struct choice chosen = {};
    if (choose_for_send(ctx, service, service_id, cookie, &chosen) < 0) {
        COUNT(no_backend);
        return refuse(-EHOSTUNREACH);
    }
    copy_address(back.address, chosen.address);
    back.port = chosen.port;
    const struct mesh_reverse* known = bpf_map_lookup_elem(&reverse, &back);
    if (!known || !same_address(known->address, key->address) || known->port != key->port) {
        struct mesh_reverse vip = {.port = key->port};
        copy_address(vip.address, key->address);
        struct mesh_socket* socket =
            bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
        if (!socket || bpf_map_update_elem(&reverse, &back, &vip, BPF_ANY)) {
            COUNT(flow_table_errors);
            return refuse(-ENOMEM);
        }
        socket->flags |= MESH_SOCKET_UNCONNECTED;
    }
    copy_address(key->address, chosen.address);
    key->port = chosen.port;
    *translated = true;
    return kProceed;
}

/* Replaces the backend in `key` by the service that the application knows. */
static __always_inline void restore(struct bpf_sock_addr* ctx, struct mesh_frontend_key* key,
                                    bool datagram, bool* translated) {
    struct bpf_sock* sk = ctx->sk;
    if (!sk) return;
    const struct mesh_socket* socket = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (!socket) return;
    if ((socket->flags & MESH_SOCKET_CONNECTED) && socket->peer_port == key->port &&
        same_address(socket->peer_address, key->address)) {
        copy_address(key->address, socket->vip_address);
        key->port = socket->vip_port;
        *translated = true;
        return;
    }
    if (!datagram || !(socket->flags & MESH_SOCKET_UNCONNECTED)) return;
    struct mesh_reverse_key back = {.socket = bpf_get_socket_cookie(ctx), .port = key->port};
    copy_address(back.address, key->address);
    const struct mesh_reverse* vip = bpf_map_lookup_elem(&reverse, &back);
    if (!vip) return;
    copy_address(key->address, vip->address);
    key->port = vip->port;
    *translated = true;
}

#define WRITE4(ctx, key)                    \
    do {                                    \
        (ctx)->user_ip4 = (key).address[3]; \
        (ctx)->user_port = (key).port;      \
    } while (0)
#define WRITE6(ctx, key)                       \
    do {                                       \
        (ctx)->user_ip6[0] = (key).address[0]; \
        (ctx)->user_ip6[1] = (key).address[1]; \
        (ctx)->user_ip6[2] = (key).address[2]; \
        (ctx)->user_ip6[3] = (key).address[3]; \
        (ctx)->user_port = (key).port;         \
    } while (0)

SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key4(ctx, &key);
    const int verdict = on_connect(ctx, &key, &translated);
    if (translated) WRITE4(ctx, key);
    return verdict;
}

SEC("cgroup/connect6")
int mesh_connect6(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key6(ctx, &key);
    const int verdict = on_connect(ctx, &key, &translated);
    if (translated) WRITE6(ctx, key);
    return verdict;
}

SEC("cgroup/sendmsg4")
int mesh_sendmsg4(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key4(ctx, &key);
    const int verdict = on_send(ctx, &key, &translated);
    if (translated) WRITE4(ctx, key);
    return verdict;
}

SEC("cgroup/sendmsg6")
int mesh_sendmsg6(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key6(ctx, &key);
    const int verdict = on_send(ctx, &key, &translated);
    if (translated) WRITE6(ctx, key);
    return verdict;
}

SEC("cgroup/recvmsg4")
int mesh_recvmsg4(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key4(ctx, &key);
    restore(ctx, &key, true, &translated);
    if (translated) WRITE4(ctx, key);
    return kProceed;
}

SEC("cgroup/recvmsg6")
int mesh_recvmsg6(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key6(ctx, &key);
    restore(ctx, &key, true, &translated);
    if (translated) WRITE6(ctx, key);
    return kProceed;
}

SEC("cgroup/getpeername4")
int mesh_peername4(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key4(ctx, &key);
    restore(ctx, &key, false, &translated);
    if (translated) WRITE4(ctx, key);
    return kProceed;
}

SEC("cgroup/getpeername6")
int mesh_peername6(struct bpf_sock_addr* ctx) {
    struct mesh_frontend_key key = {};
    bool translated = false;
    read_key6(ctx, &key);
    restore(ctx, &key, false, &translated);
    if (translated) WRITE6(ctx, key);
    return kProceed;
}

SEC("cgroup/sock_release")
int mesh_release(struct bpf_sock* sk) {
    const struct mesh_socket* socket = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (socket && (socket->flags & MESH_SOCKET_CONNECTED))
        forget_connected((__u8)sk->protocol, bpf_get_socket_cookie(sk));
    return kProceed;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
