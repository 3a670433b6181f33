/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services at tc, included by pods.bpf.c (layout.h, "Services at tc", has the picture). A packet to
 * a frontend gets a backend's address, and where the answer would not come back this way, or not be
 * told apart, a source of this node; the answers get the frontend's and the client's addresses
 * back. TCP and UDP of both families, in fragments if the first comes first, and ICMP errors about
 * them.
 *
 * The choice is a hash of the packet's addresses and ports that is the same on all nodes, over the
 * Maglev table of a frontend for outside clients, else over the service's slots: a flow that
 * another node takes over, or that was forgotten, stays with its backend.
 *
 * The functions that are not static are verified once each, not once for each way to them.
 *
 * A flow whose backend went: TCP is reset, so that the client need not wait; a datagram gets
 * another backend. A packet with IP options is left to the stack. */
#ifndef MESH_BPF_LB_H
#define MESH_BPF_LB_H

/* Set by the loader: whether there are services, and for how long an unused flow is kept. */
const volatile bool services_at_tc = false;
const volatile __u64 flow_tcp_ns = 8000ULL * 1000 * 1000 * 1000;
const volatile __u64 flow_tcp_syn_ns = 60ULL * 1000 * 1000 * 1000;
const volatile __u64 flow_tcp_close_ns = 10ULL * 1000 * 1000 * 1000;
const volatile __u64 flow_udp_ns = 60ULL * 1000 * 1000 * 1000;

#define FLOW_TOUCH_NS 1000000000ULL
#define FLOW_PORT_ATTEMPTS 16

/* What lb_request() and lb_answer() return when it is no verdict: */
#define LB_PASS (-2)    /* not of a service: nothing was changed */
#define LB_FORWARD (-3) /* translated, in `p` too */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define ICMP_PORT_UNREACHABLE(v4) ((v4) ? 0x0303U : 0x0104U)
#define ICMP_PACKET_TOO_BIG(v4) ((v4) ? 0x0304U : 0x0200U)
#define ICMP_TTL_EXPIRED(v4) ((v4) ? 0x0b00U : 0x0300U)

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, struct mesh_flow_key);
    __type(value, struct mesh_flow);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, struct mesh_flow_key);
    __type(value, struct mesh_answer);
} answers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct mesh_flow_filter);
} flow_filter SEC(".maps");

/* What an ICMP error is to carry. */
struct error_fields {
    struct mesh_address inner_source, inner_destination, source, destination;
    __u16 inner_source_port, inner_destination_port;
};

#include "answer.h"

/* What would not fit on the stack. Of one CPU's program; one runs at a time. */
struct lb_state {
    struct mesh_flow_key key;  /* of flows */
    struct mesh_flow_key back; /* of answers */
    struct mesh_flow flow;
    struct mesh_answer answer;
    struct mesh_frontend_key frontend;
    struct mesh_fragment_key datagram;
    struct mesh_client_key client;
    struct l4_fields fields;
    struct error_fields error;
    struct mesh_address old;
    union {
        struct icmp_answer4 icmp4;
        struct icmp_answer6 icmp6;
    };
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct lb_state);
} scratch SEC(".maps");

static __always_inline struct lb_state* lb_scratch(void) {
    const __u32 zero = 0;
    return bpf_map_lookup_elem(&scratch, &zero);
}

/* Replaces the packet by an ICMP error about it. Only the first fragment is answered. */
__noinline int answer_icmp(struct __sk_buff* skb, struct packet* p, __u32 type_and_code,
                           __u32 mtu) {
    const __u8 type = (__u8)(type_and_code >> 8), code = (__u8)type_and_code;
    struct lb_state* s = lb_scratch();
    if (!s || !p || p->fragment || p->options) return TC_ACT_SHOT;
    return p->v4 ? answer_icmp4(skb, p, &s->icmp4, type, code, mtu)
                 : answer_icmp6(skb, p, &s->icmp6, type, code, mtu);
}

static __always_inline struct mesh_flow_filter* get_filter(void) {
    const __u32 zero = 0;
    return bpf_map_lookup_elem(&flow_filter, &zero);
}

static __always_inline __u32 filter_index(const struct mesh_address* address, __u16 port) {
    __u32 h = (address->word[3] ^ (address->word[2] << 1) ^ port) * 0x9e3779b1U;
    return (h >> 16) & (MESH_FLOW_FILTER - 1);
}

static __always_inline void mark_seen(const struct mesh_address* address, __u16 port) {
    struct mesh_flow_filter* filter = get_filter();
    if (!filter) return;
    const __u32 index = filter_index(address, port);
    if (filter->seen[index] == 0) filter->seen[index] = 1;
    if (filter->any == 0) filter->any = 1;
}

static __always_inline bool maybe_seen(const struct mesh_address* address, __u16 port) {
    const struct mesh_flow_filter* filter = get_filter();
    return filter && filter->seen[filter_index(address, port)] != 0;
}

/* MurmurHash3's steps: no seed of this node's own in it. */
static __always_inline __u32 hash_step(__u32 h, __u32 word) {
    word *= 0xcc9e2d51U;
    word = (word << 15) | (word >> 17);
    word *= 0x1b873593U;
    h ^= word;
    h = (h << 13) | (h >> 19);
    return h * 5 + 0xe6546b64U;
}
static __always_inline __u32 hash_end(__u32 h) {
    h ^= h >> 16;
    h *= 0x85ebca6bU;
    h ^= h >> 13;
    h *= 0xc2b2ae35U;
    return h ^ (h >> 16);
}
static __always_inline __u32 hash_flow(const struct mesh_flow_key* key) {
    const __u32* words = (const __u32*)key;
    __u32 h = 0x6d657368U;
#pragma unroll
    for (int i = 0; i < (int)(sizeof *key / 4); ++i) h = hash_step(h, words[i]);
    return hash_end(h);
}

/* A fragment gets the ports of its datagram's first. False: that one was not seen. */
static __always_inline bool ports_of_first(struct packet* p, struct lb_state* s) {
    __builtin_memset(&s->datagram, 0, sizeof s->datagram);
    s->datagram.source = p->source;
    s->datagram.destination = p->destination;
    s->datagram.id = p->fragment_id;
    s->datagram.proto = p->proto;
    const struct mesh_fragment* first = bpf_map_lookup_elem(&datagrams, &s->datagram);
    if (!first) return false;
    p->source_port = first->source_port;
    p->destination_port = first->destination_port;
    return true;
}

/* Ports of TCP and UDP, also of a fragment after the first. */
static __always_inline bool get_ports(struct __sk_buff* skb, struct packet* p, struct lb_state* s) {
    if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP) return false;
    if (p->fragment) return ports_of_first(p, s);
    read_ports(skb, p);
    return true;
}

/* The first fragment's ports are kept for those after it. */
static __always_inline void keep_ports(struct packet* p, struct lb_state* s) {
    if (p->fragment || !p->more_fragments) return;
    __builtin_memset(&s->datagram, 0, sizeof s->datagram);
    s->datagram.source = p->source;
    s->datagram.destination = p->destination;
    s->datagram.id = p->fragment_id;
    s->datagram.proto = p->proto;
    const struct mesh_fragment ports = {p->source_port, p->destination_port};
    bpf_map_update_elem(&datagrams, &s->datagram, &ports, BPF_ANY);
}

static __always_inline void set_fields(const struct packet* p, struct l4_fields* f) {
    f->pseudo = true;
    f->source_port = p->l4_offset;
    f->destination_port = p->l4_offset + 2;
    f->checksum = p->l4_offset + (p->proto == IPPROTO_TCP ? 16U : 6U);
    f->flags = p->proto == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;
}

static __always_inline __u8 tcp_flags(struct __sk_buff* skb, const struct packet* p) {
    __u8 flags = 0;
    if (p->proto == IPPROTO_TCP && !p->fragment)
        (void)bpf_skb_load_bytes(skb, p->l4_offset + 13, &flags, 1);
    return flags;
}

static __always_inline bool is_finished(__u32 flags) {
    const __u32 both = MESH_FLOW_CLIENT_FIN | MESH_FLOW_BACKEND_FIN;
    return (flags & MESH_FLOW_RESET) || (flags & both) == both;
}

/* For how long a flow of MESH_FLOW_* `flags` is kept without a packet. */
static __always_inline __u64 flow_timeout(__u32 flags, __u8 proto) {
    if (proto != IPPROTO_TCP) return flow_udp_ns;
    if (is_finished(flags)) return flow_tcp_close_ns;
    return flags & MESH_FLOW_ANSWERED ? flow_tcp_ns : flow_tcp_syn_ns;
}

static __always_inline bool is_expired(const struct mesh_answer* answer, __u8 proto, __u64 now) {
    return (__s64)(now - answer->last_used_ns) >= (__s64)flow_timeout(answer->flags, proto);
}

static __always_inline void touch(struct mesh_answer* answer, __u32 flags, __u64 now) {
    if ((answer->flags & flags) != flags) __sync_fetch_and_or(&answer->flags, flags);
    if ((__s64)(now - answer->last_used_ns) >= (__s64)FLOW_TOUCH_NS) answer->last_used_ns = now;
}

static __always_inline __u32 maglev_backend(__u64 window, __u32 hash) {
    __u32 index =
        MESH_WINDOW_BASE(window) + (__u32)(((__u64)hash * MESH_WINDOW_COUNT(window)) >> 32);
    const __u32 half = index & 1;
    index >>= 1;
    const struct mesh_maglev* entry = bpf_map_lookup_elem(&maglev, &index);
    if (!entry) return 0;
    return half ? entry->backend[1] : entry->backend[0];
}

static __always_inline __u32 slot_backend(const struct mesh_service* service, __u32 hash) {
    const __u64 window = *(const volatile __u64*)&service->window;
    const __u32 count = MESH_WINDOW_COUNT(window);
    if (count == 0) return 0;
    __u32 index = MESH_WINDOW_BASE(window) + (__u32)(((__u64)hash * count) >> 32);
    const struct mesh_slot* slot = bpf_map_lookup_elem(&slots, &index);
    if (!slot) return 0;
    if (slot->alias != slot->backend && hash_end(hash + 1) >= slot->threshold) return slot->alias;
    return slot->backend;
}

/* The backend of a new flow; 0: there is none, `reason` says why. */
static __always_inline __u32 choose_backend(const struct mesh_service* service, __u32 service_id,
                                            const struct mesh_flow_key* key, bool outside,
                                            int* reason) {
    const struct mesh_balance* balance = bpf_map_lookup_elem(&balances, &service_id);
    const __u32 hash = hash_flow(key);
    *reason = MESH_DROP_NO_BACKEND;
    if (outside && balance) {
        if (balance->flags & MESH_BALANCE_LOCAL) {
            const __u64 here = *(const volatile __u64*)&balance->local_window;
            *reason = MESH_DROP_NO_LOCAL_BACKEND;
            return MESH_WINDOW_COUNT(here) != 0 ? maglev_backend(here, hash) : 0;
        }
        const __u64 window = *(const volatile __u64*)&balance->window;
        if (MESH_WINDOW_COUNT(window) != 0) return maglev_backend(window, hash);
    }
    return slot_backend(service, hash);
}

/* The same with session affinity, which at tc is by the client's address. Fills s->flow. */
static __always_inline int choose(const struct mesh_service* service, __u32 service_id,
                                  struct lb_state* s, bool outside, __u64 now) {
    const __u64 timeout = (__u64)service->affinity_seconds * 1000000000ULL;
    struct mesh_backend* backend = 0;
    struct mesh_client* known = 0;
    int reason = 0;
    if (timeout != 0) {
        const __u32* w = s->key.source.word;
        s->client.client = (__u64)hash_end(hash_step(hash_step(1, w[0]), w[1])) << 32;
        s->client.client ^= ((__u64)w[2] << 32) ^ w[3];
        s->client.service = service_id;
        s->client.kind = MESH_CLIENT_ADDRESS;
        known = bpf_map_lookup_elem(&affinity, &s->client);
        if (known && (__s64)(now - known->last_used_ns) < (__s64)timeout)
            backend = chosen_backend(known->choice, service_id,
                                     MESH_BACKEND_IN_USE | MESH_BACKEND_SELECTABLE);
        if (backend) {
            COUNT(affinity_kept);
            s->flow.choice = known->choice;
            known->last_used_ns = now;
        } else if (known) {
            COUNT(affinity_replaced);
        }
    }
    if (!backend) {
        __u32 id = choose_backend(service, service_id, &s->key, outside, &reason);
        if (id == 0) {
            COUNT(no_backend);
            return reason;
        }
        backend = bpf_map_lookup_elem(&backends, &id);
        if (!backend || backend->service != service_id) return MESH_DROP_NO_BACKEND;
        s->flow.choice = MESH_CHOICE(id, backend->tag);
        if (timeout != 0) {
            struct mesh_client fresh = {.choice = s->flow.choice, .last_used_ns = now};
            bpf_map_update_elem(&affinity, &s->client, &fresh, BPF_ANY);
        }
    }
    copy_address(s->flow.backend.word, backend->address);
    s->flow.backend_port = backend->port;
    s->flow.service = service_id;
    count_connect(MESH_CHOICE_BACKEND(s->flow.choice), backend);
    return 0;
}

/* Which way a packet to the backend goes. */
struct way {
    bool here;    /* a pod of this node, or the node itself */
    bool overlay; /* to the node `entry->tunnel` */
    bool device;  /* through the WireGuard device, which knows nodes by their pods' addresses */
};

static __always_inline bool is_own(const struct mesh_address* a,
                                   const struct mesh_pods_settings* set) {
    return same(a, &set->node4) || same(a, &set->node6) || same(a, &set->router4) ||
           same(a, &set->router6);
}

static __always_inline struct way way_to(const struct mesh_address* address,
                                         const struct mesh_pods_settings* set) {
    struct way way = {};
    if (bpf_map_lookup_elem(&endpoints, address) || is_own(address, set)) {
        way.here = true;
        return way;
    }
    const struct mesh_ipcache_entry* entry = find_ip(address);
    if (!(set->flags & MESH_PODS_TUNNEL)) {
        const struct mesh_encryption* enc = get_encryption();
        way.device = enc && enc->wireguard_ifindex != 0 && entry && is_set(&entry->tunnel) &&
                     !(entry->flags & MESH_IPCACHE_NODE);
        return way;
    }
    way.overlay = entry && is_set(&entry->tunnel) && !same(&entry->tunnel, &set->node4) &&
                  !same(&entry->tunnel, &set->node6);
    return way;
}

/* s->back, of the flow in s->flow. */
static __always_inline void set_back(struct lb_state* s, __u8 proto) {
    s->back.source = s->flow.backend;
    s->back.destination = s->flow.source;
    s->back.source_port = s->flow.backend_port;
    s->back.destination_port = s->flow.source_port;
    s->back.proto = proto;
}

/* Whether the entry of s->back was left by a flow that is over, and went. */
static __always_inline bool reclaim(struct lb_state* s, __u8 proto, __u64 now) {
    const struct mesh_answer* other = bpf_map_lookup_elem(&answers, &s->back);
    if (!other) return true;
    if (!is_expired(other, proto, now) && !is_finished(other->flags)) return false;
    bpf_map_delete_elem(&answers, &s->back);
    return true;
}

/* Enters the way back, with the client's own source or one of this node's. False: no room. */
static __always_inline bool enter_answer(struct lb_state* s, __u8 proto, bool own_source,
                                         const struct mesh_address* node, __u64 now) {
    if (own_source) {
        s->flow.source = s->key.source;
        s->flow.source_port = s->key.source_port;
        set_back(s, proto);
        if (reclaim(s, proto, now) &&
            !bpf_map_update_elem(&answers, &s->back, &s->answer, BPF_NOEXIST))
            return true;
        /* The same client, from the same port, is at that backend by another frontend. */
    }
    if (!is_set(node)) return false;
    s->flow.source = *node;
    __u32 offset = bpf_get_prandom_u32() % MESH_FLOW_PORTS;
    for (int i = 0; i < FLOW_PORT_ATTEMPTS; ++i) {
        s->flow.source_port = bpf_htons((__u16)(MESH_FLOW_FIRST_PORT + offset));
        set_back(s, proto);
        if (reclaim(s, proto, now) &&
            !bpf_map_update_elem(&answers, &s->back, &s->answer, BPF_NOEXIST))
            return true;
        /* A step without a common divisor with the number of ports. */
        offset = (offset + 7919) % MESH_FLOW_PORTS;
    }
    return false;
}

/* Enters a new flow for s->key: 0, or a MESH_DROP_ reason. */
__noinline int enter_flow(struct lb_state* s, const struct mesh_service* service, __u32 service_id,
                          bool outside) {
    const struct mesh_pods_settings* set = get_settings();
    const __u64 now = bpf_ktime_get_ns();
    if (!set || !s || !service) return MESH_DROP_FLOW_TABLE;
    const int reason = choose(service, service_id, s, outside, now);
    if (reason) return reason;
    __builtin_memset(&s->answer, 0, sizeof s->answer);
    s->answer.frontend = s->key.destination;
    s->answer.frontend_port = s->key.destination_port;
    s->answer.client = s->key.source;
    s->answer.client_port = s->key.source_port;
    s->answer.choice = s->flow.choice;
    s->answer.last_used_ns = now;
    const bool v4 = s->key.source.word[2] == bpf_htonl(0xffff) && s->key.source.word[0] == 0 &&
                    s->key.source.word[1] == 0;
    const struct way way = way_to(&s->flow.backend, set);
    const struct mesh_address* node = v4 ? &set->node4 : &set->node6;
    const struct mesh_address* router = v4 ? &set->router4 : &set->router6;
    /* A pod that is its own backend would answer itself without asking us. */
    const bool hairpin = same(&s->flow.backend, &s->key.source);
    const bool own_source = !hairpin && (way.here || !outside);
    if ((hairpin || way.here || way.overlay || way.device) && is_set(router)) node = router;
    if (!enter_answer(s, s->key.proto, own_source, node, now)) return MESH_DROP_FLOW_TABLE;
    mark_seen(&s->flow.backend, s->flow.backend_port);
    mark_seen(&s->key.destination, s->key.destination_port);
    if (bpf_map_update_elem(&flows, &s->key, &s->flow, BPF_ANY)) return MESH_DROP_FLOW_TABLE;
    return 0;
}

/* The flow of s->key as it was entered. 0: in s->flow; 1: there is none; else a MESH_DROP_ reason.
 * @param service 0: it went, and its flows with it */
__noinline int find_flow(struct lb_state* s, __u32 service_id, __u32 tcp) {
    if (!s) return 1;
    const struct mesh_flow* known = bpf_map_lookup_elem(&flows, &s->key);
    if (!known) return 1;
    s->flow = *known;
    set_back(s, s->key.proto);
    const bool opens = (tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    struct mesh_answer* answer = bpf_map_lookup_elem(&answers, &s->back);
    if (answer &&
        (!same(&answer->client, &s->key.source) || answer->client_port != s->key.source_port ||
         !same(&answer->frontend, &s->key.destination) ||
         answer->frontend_port != s->key.destination_port))
        answer = 0;
    if (!chosen_backend(s->flow.choice, s->flow.service, MESH_BACKEND_IN_USE) ||
        s->flow.service != service_id) {
        if (answer) bpf_map_delete_elem(&answers, &s->back);
        bpf_map_delete_elem(&flows, &s->key);
        return s->key.proto == IPPROTO_TCP && !opens ? MESH_DROP_BACKEND_GONE : 1;
    }
    const __u64 now = bpf_ktime_get_ns();
    /* Without its other half it is entered again, and the hash leads to the same backend. */
    if (!answer) return 1;
    if (is_expired(answer, s->key.proto, now) || (opens && is_finished(answer->flags))) {
        bpf_map_delete_elem(&answers, &s->back);
        return 1;
    }
    touch(answer,
          ((tcp & TCP_FIN) ? MESH_FLOW_CLIENT_FIN : 0U) | ((tcp & TCP_RST) ? MESH_FLOW_RESET : 0U),
          now);
    return 0;
}

/* Too big for the way to the backend: tells the client, unless it may be cut into pieces. */
static __always_inline bool is_too_big(struct __sk_buff* skb, const struct packet* p,
                                       const struct mesh_address* backend,
                                       const struct mesh_pods_settings* set, __u32* mtu) {
    if (skb->len < 1280) return false;
    const struct way way = way_to(backend, set);
    const struct mesh_encryption* enc = get_encryption();
    if (!way.overlay && !(way.device && enc)) return false;
    const __u32 ifindex = way.overlay ? set->overlay_ifindex : enc->wireguard_ifindex;
    /* What the WireGuard device takes has no link layer header, for which the kernel allows then.
     * Of segments it looks at what is in them. */
    const bool whole = !way.overlay && skb->gso_segs <= 1;
    if (!bpf_check_mtu(skb, ifindex, mtu, whole ? -ETH_HLEN : 0, whole ? 0 : BPF_MTU_CHK_SEGS))
        return false;
    if (!p->v4) return true;
    __be16 fragment = 0;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, frag_off), &fragment, 2))
        return true;
    return fragment & bpf_htons(0x4000);
}

static __always_inline int rewrite(struct __sk_buff* skb, struct packet* p, struct lb_state* s,
                                   struct mesh_address* source, __u16 source_port,
                                   struct mesh_address* destination, __u16 destination_port) {
    set_fields(p, &s->fields);
    const __u32 from = p->v4 ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr);
    const __u32 to = p->v4 ? offsetof(struct iphdr, daddr) : offsetof(struct ipv6hdr, daddr);
    if (write_port(skb, p, &s->fields, s->fields.source_port, p->source_port, source_port) ||
        write_port(skb, p, &s->fields, s->fields.destination_port, p->destination_port,
                   destination_port))
        return -1;
    if (!same(&p->source, source)) {
        s->old = p->source;
        if (write_address(skb, p, &s->fields, from, &s->old, source)) return -1;
    }
    if (!same(&p->destination, destination)) {
        s->old = p->destination;
        if (write_address(skb, p, &s->fields, to, &s->old, destination)) return -1;
    }
    p->source = *source;
    p->destination = *destination;
    p->source_port = source_port;
    p->destination_port = destination_port;
    return 0;
}

#include "lb_error.h"

static __always_inline void set_key_of(struct lb_state* s, const struct packet* p) {
    s->key.source = p->source;
    s->key.destination = p->destination;
    s->key.source_port = p->source_port;
    s->key.destination_port = p->destination_port;
    s->key.proto = p->proto;
}

/* A reason for which the client is told something; a verdict. */
static __always_inline int refuse(struct __sk_buff* skb, struct packet* p, __u8 point, __u8 reason,
                                  __u32 mtu) {
    tell(skb, p, MESH_EVENT_DROP, point, reason);
    (void)count_drop(skb, reason);
    const bool no_backend = reason == MESH_DROP_NO_BACKEND;
    if (reason == MESH_DROP_BACKEND_GONE || (no_backend && p->proto == IPPROTO_TCP))
        return answer_reset(skb, p);
    if (no_backend) return answer_icmp(skb, p, ICMP_PORT_UNREACHABLE(p->v4), 0);
    if (reason == MESH_DROP_TTL_EXPIRED) return answer_icmp(skb, p, ICMP_TTL_EXPIRED(p->v4), 0);
    if (reason == MESH_DROP_TOO_BIG) return answer_icmp(skb, p, ICMP_PACKET_TOO_BIG(p->v4), mtu);
    return TC_ACT_SHOT;
}

/* A packet to a frontend of a service gets its backend.
 * @param outside not from a pod of this node
 * @return LB_PASS, LB_FORWARD or a verdict */
__noinline int lb_request(struct __sk_buff* skb, struct packet* p, __u32 point, __u32 outside) {
    struct lb_state* s = lb_scratch();
    const struct mesh_pods_settings* set = get_settings();
    if (!services_at_tc || !s || !set || !p || p->options) return LB_PASS;
    if (is_icmp_error(skb, p)) return lb_client_error(skb, p, s);
    if (!get_ports(skb, p, s)) return LB_PASS;
    copy_address(s->frontend.address, p->destination.word);
    s->frontend.port = p->destination_port;
    s->frontend.proto = p->proto;
    s->frontend.pad = 0;
    __u32 service_id = 0;
    const struct mesh_service* service = find_service(&s->frontend, &service_id);
    /* Flows of a service that went are to be reset. */
    if (!service && !maybe_seen(&p->destination, p->destination_port)) return LB_PASS;
    set_key_of(s, p);
    const __u8 tcp = tcp_flags(skb, p);
    int reason = find_flow(s, service ? service_id : 0, tcp);
    if (reason == 1) {
        if (!service) return LB_PASS;
        keep_ports(p, s);
        reason = enter_flow(s, service, service_id, outside != 0);
    } else {
        keep_ports(p, s);
    }
    __u32 mtu = 0;
    if (reason == 0 && p->ttl <= 1) reason = MESH_DROP_TTL_EXPIRED;
    if (reason == 0 && is_too_big(skb, p, &s->flow.backend, set, &mtu)) reason = MESH_DROP_TOO_BIG;
    if (reason) return refuse(skb, p, (__u8)point, (__u8)reason, mtu);
    if (rewrite(skb, p, s, &s->flow.source, s->flow.source_port, &s->flow.backend,
                s->flow.backend_port))
        return drop(skb, p, (__u8)point, MESH_DROP_MALFORMED);
    return LB_FORWARD;
}

/* A packet of a backend to a client of a service gets the frontend's source, and the client's own
 * address if the backend saw another. @return as lb_request() */
__noinline int lb_answer(struct __sk_buff* skb, struct packet* p, __u32 point) {
    const struct mesh_flow_filter* filter = get_filter();
    if (!services_at_tc || !filter || filter->any == 0 || !p || p->options) return LB_PASS;
    struct lb_state* s = lb_scratch();
    if (!s) return LB_PASS;
    if (is_icmp_error(skb, p)) {
        const int translated = lb_backend_error(skb, p, s);
        p->answer = translated == LB_FORWARD;
        return translated;
    }
    if (!get_ports(skb, p, s)) return LB_PASS;
    if (!maybe_seen(&p->source, p->source_port)) return LB_PASS;
    set_key_of(s, p);
    struct mesh_answer* answer = bpf_map_lookup_elem(&answers, &s->key);
    if (!answer) return LB_PASS;
    const __u64 now = bpf_ktime_get_ns();
    if (is_expired(answer, p->proto, now)) return LB_PASS;
    const __u8 tcp = tcp_flags(skb, p);
    touch(answer,
          MESH_FLOW_ANSWERED | ((tcp & TCP_FIN) ? MESH_FLOW_BACKEND_FIN : 0U) |
              ((tcp & TCP_RST) ? MESH_FLOW_RESET : 0U),
          now);
    s->answer = *answer;
    keep_ports(p, s);
    if (rewrite(skb, p, s, &s->answer.frontend, s->answer.frontend_port, &s->answer.client,
                s->answer.client_port))
        return drop(skb, p, (__u8)point, MESH_DROP_MALFORMED);
    p->answer = true;
    return LB_FORWARD;
}

/* Sends a translated packet on its way, which the stack would not: its source is this node's.
 * @return a verdict */
__noinline int lb_forward(struct __sk_buff* skb, struct packet* p, __u32 point) {
    const struct mesh_pods_settings* set = get_settings();
    if (!set || !p) return TC_ACT_SHOT;
    if (is_own(&p->destination, set)) {
        trace(skb, p, set, (__u8)point, MESH_TO_STACK);
        return TC_ACT_OK;
    }
    if (p->ttl <= 1) return drop(skb, p, (__u8)point, MESH_DROP_TTL_EXPIRED);
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, &p->destination);
    if (pod) return deliver(skb, p, set, pod, (__u8)point);
    const struct mesh_ipcache_entry* entry = find_ip(&p->destination);
    p->destination_identity = entry ? entry->identity : IDENTITY_WORLD;
    if (entry && (set->flags & MESH_PODS_TUNNEL) && is_set(&entry->tunnel) &&
        !same(&entry->tunnel, &set->node4) && !same(&entry->tunnel, &set->node6)) {
        const struct mesh_address node = entry->tunnel;
        if (would_leak_in_tunnel(skb, set, &node))
            return drop(skb, p, (__u8)point, MESH_DROP_PLAINTEXT);
        trace(skb, p, set, (__u8)point, MESH_TO_OVERLAY);
        decrement_ttl(skb, p);
        if (set_key(skb, p->source_identity, &node))
            return drop(skb, p, (__u8)point, MESH_DROP_TUNNEL_KEY);
        skb->mark = MARK_ENCAPSULATED;
        return (int)bpf_redirect(set->overlay_ifindex, 0);
    }
    if (entry && !(entry->flags & MESH_IPCACHE_NODE) && is_set(&entry->tunnel)) {
        const struct mesh_address node = entry->tunnel;
        if (would_leak(skb, &node, &p->source, &p->destination, p->proto, 0))
            return drop(skb, p, (__u8)point, MESH_DROP_PLAINTEXT);
    }
    struct bpf_fib_lookup fib = {};
    fib.ifindex = skb->ifindex;
    if (p->v4) {
        fib.family = 2; /* AF_INET */
        fib.ipv4_src = p->source.word[3];
        fib.ipv4_dst = p->destination.word[3];
    } else {
        fib.family = 10; /* AF_INET6 */
        __builtin_memcpy(fib.ipv6_src, &p->source, sizeof p->source);
        __builtin_memcpy(fib.ipv6_dst, &p->destination, sizeof p->destination);
    }
    /* Without a length the kernel takes the link layer header for a part of the packet where the
     * route's device has none. Segments were checked when the packet came. */
    fib.tot_len = skb->gso_segs > 1 ? 0 : (__u16)(skb->len - ETH_HLEN);
    const long found = bpf_fib_lookup(skb, &fib, sizeof fib, 0);
    if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) return drop(skb, p, (__u8)point, MESH_DROP_TOO_BIG);
    if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
        return drop(skb, p, (__u8)point, MESH_DROP_NO_ENDPOINT);
    trace(skb, p, set, (__u8)point, MESH_TO_DEVICE);
    decrement_ttl(skb, p);
    return (int)bpf_redirect_neigh(fib.ifindex, 0, 0, 0);
}

#endif
