/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Network policy of this node's pods, included by pods.bpf.c (layout.h, "Policy", has the picture).
 *
 * A packet is judged where a pod sends it (mesh_from_pod, after services were translated) and where
 * a pod gets it (before it is handed over to the pod; mesh_to_pod, if it comes by the node's
 * stack). Answers of flows that were let pass, and ICMP errors about them, pass; all other packets
 * are judged, each of them, so that another policy holds for flows that exist.
 *
 * A flow is remembered when its endpoint is enforced; of one that began before that, the first
 * packet that is seen is taken for one of the client. A fragment is judged by the ports of its
 * datagram's first; if that one was not seen, by identity and protocol alone.
 *
 * The functions that are not static are verified once each, not once for each way to them. */
#ifndef MESH_BPF_POLICY_H
#define MESH_BPF_POLICY_H

#define POLICY_PASS 0
#define POLICY_DROP (-1) /* counted and told */

#define ROW_ATTEMPTS 8

#define IDENTITY_INIT 5U

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, MESH_MAX_ENDPOINT_IDS);
    __type(key, __u32);
    __type(value, __u32);
    __array(
        values, struct {
            __uint(type, BPF_MAP_TYPE_HASH);
            __uint(max_entries, 16384);
            __uint(map_flags, BPF_F_NO_PREALLOC);
            __uint(key_size, sizeof(struct mesh_policy_key));
            __uint(value_size, sizeof(struct mesh_policy_entry));
        });
} policies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 131072);
    __type(key, struct mesh_policy_flow_key);
    __type(value, struct mesh_policy_flow);
} policy_flows SEC(".maps");

/* What is found out of a packet for a verdict. Of one CPU's program; one runs at a time. */
struct policy_state {
    struct mesh_policy_header header;
    struct mesh_policy_flow_key flow, other;
    struct mesh_policy_key key;
    struct mesh_policy_row row, row_of_any;
    __u32 identity; /* of the peer */
    __u32 lengths;  /* bits of those that may be compared */
    __u16 port;     /* network order: of the destination, or the ICMP type */
    __u8 proto;
    __u8 egress;
    bool tracked; /* `flow` is set */
    bool error;   /* an ICMP error */
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct policy_state);
} policy_scratch SEC(".maps");

static __always_inline struct policy_state* get_policy_state(void) {
    const __u32 zero = 0;
    return bpf_map_lookup_elem(&policy_scratch, &zero);
}

static __always_inline bool same_policy_key(const struct mesh_policy_key* a,
                                            const volatile struct mesh_policy_key* b) {
    return a->identity == b->identity && a->port == b->port && a->proto == b->proto &&
           a->scope == b->scope;
}

/* The header of a map of rows. False: there is none, or it changes all the time. */
static __always_inline bool read_header(void* rows, struct mesh_policy_header* to) {
    const struct mesh_policy_key key = {.scope = MESH_POLICY_HEADER};
    for (int attempt = 0; attempt < 3; ++attempt) {
        const struct mesh_policy_entry* found = bpf_map_lookup_elem(rows, &key);
        if (!found) return false;
        __builtin_memcpy(to, &found->header, sizeof *to);
        asm volatile("" ::: "memory");
        if (same_policy_key(&key, &found->key)) return true;
    }
    return false;
}

/* s->header: how the endpoint is enforced. @return its rows; 0: there are none */
static __always_inline void* find_policy(struct policy_state* s, __u32 endpoint) {
    const struct mesh_pods_settings* set = get_settings();
    s->header.enforcement = !set || (set->policy_flags & MESH_POLICY_REQUIRED) ? MESH_ENFORCE_LOCKED
                                                                               : MESH_ENFORCE_NONE;
    void* rows = endpoint != 0 ? bpf_map_lookup_elem(&policies, &endpoint) : 0;
    if (!rows) return 0;
    if (read_header(rows, &s->header)) return rows;
    s->header.enforcement = MESH_ENFORCE_LOCKED;
    return 0;
}

/* Ports of a datagram, also of a fragment after the first. False: not known. */
static __always_inline bool policy_ports(struct __sk_buff* skb, struct packet* p) {
    struct lb_state* lb = lb_scratch();
    if (!lb) return false;
    if (p->fragment) {
        /* With services, lb.h knows them already, as they are after translation. */
        return p->source_port != 0 || p->destination_port != 0 || ports_of_first(p, lb);
    }
    read_ports(skb, p);
    keep_ports(p, lb);
    return true;
}

static __always_inline void policy_icmp(struct __sk_buff* skb, const struct packet* p,
                                        struct policy_state* s) {
    struct {
        __u8 type, code;
        __u16 checksum, id;
    } icmp;
    if (p->fragment || bpf_skb_load_bytes(skb, p->l4_offset, &icmp, 6)) return;
    s->port = bpf_htons(icmp.type);
    s->lengths = ~0U;
    s->error = is_icmp_error(skb, p);
    const bool v4 = p->proto == IPPROTO_ICMP;
    if (icmp.type == (v4 ? ICMP_ECHO_REQUEST : ICMP6_ECHO_REQUEST)) {
        s->flow.source_port = icmp.id;
        s->tracked = true;
    } else if (icmp.type == (v4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY)) {
        s->flow.destination_port = icmp.id;
        s->tracked = true;
    }
}

/* The packet's flow, and what of it rows may name. */
static __always_inline void find_policy_flow(struct __sk_buff* skb, struct packet* p,
                                             struct policy_state* s, __u32 egress) {
    s->flow.source = p->source;
    s->flow.destination = p->destination;
    s->flow.source_port = s->flow.destination_port = 0;
    s->flow.proto = p->proto;
    s->flow.egress = egress != 0;
    s->proto = p->proto;
    s->egress = egress != 0;
    s->port = 0;
    s->lengths = 0x1ff; /* all, or the protocol */
    s->tracked = false;
    s->error = false;
    if (p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6) {
        policy_icmp(skb, p, s);
    } else if (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP || p->proto == IPPROTO_SCTP) {
        if (!policy_ports(skb, p)) return;
        s->flow.source_port = p->source_port;
        s->flow.destination_port = p->destination_port;
        s->port = p->destination_port;
        s->lengths = ~0U;
        s->tracked = true;
    }
}

static __always_inline void turn_policy_flow(struct mesh_policy_flow_key* to,
                                             const struct mesh_address* source, __u16 source_port,
                                             const struct mesh_address* destination,
                                             __u16 destination_port, __u8 proto, __u32 egress) {
    to->source = *destination;
    to->destination = *source;
    to->source_port = destination_port;
    to->destination_port = source_port;
    to->proto = proto;
    to->egress = egress != 0;
}

static __always_inline bool policy_flow_is_over(const struct mesh_policy_flow* flow, __u8 proto,
                                                __u64 now) {
    return (__s64)(now - flow->last_used_ns) >= (__s64)flow_timeout(flow->flags, proto);
}

static __always_inline void touch_policy_flow(struct mesh_policy_flow* flow, __u32 flags,
                                              __u64 now) {
    if ((flow->flags & flags) != flags) __sync_fetch_and_or(&flow->flags, flags);
    if ((__s64)(now - flow->last_used_ns) >= (__s64)FLOW_TOUCH_NS) flow->last_used_ns = now;
}

/* Whether s->other is a flow that was let pass. */
static __always_inline bool is_policy_flow(struct policy_state* s, __u32 flags, __u64 now) {
    struct mesh_policy_flow* flow = bpf_map_lookup_elem(&policy_flows, &s->other);
    if (!flow || policy_flow_is_over(flow, s->other.proto, now)) return false;
    if (flags) touch_policy_flow(flow, flags, now);
    return true;
}

/* Whether an ICMP error is about a packet of a flow that was let pass. `lb->key` is that packet. */
static __always_inline bool is_related(struct policy_state* s, const struct lb_state* lb,
                                       __u32 egress) {
    const __u64 now = bpf_ktime_get_coarse_ns();
    turn_policy_flow(&s->other, &lb->key.destination, lb->key.destination_port, &lb->key.source,
                     lb->key.source_port, lb->key.proto, !egress);
    if (is_policy_flow(s, 0, now)) return true;
    turn_policy_flow(&s->other, &lb->key.source, lb->key.source_port, &lb->key.destination,
                     lb->key.destination_port, lb->key.proto, egress);
    return is_policy_flow(s, 0, now);
}

static __always_inline bool is_related_error(struct __sk_buff* skb, const struct packet* p,
                                             struct policy_state* s, __u32 egress) {
    struct lb_state* lb = lb_scratch();
    if (!lb) return false;
    __u32 inner_l4 = 0;
    if (!read_inner(skb, p, lb, &inner_l4)) {
        struct {
            __u8 type, code;
            __u16 checksum, id;
        } icmp;
        if (inner_l4 == 0 || lb->key.proto != p->proto ||
            bpf_skb_load_bytes(skb, inner_l4, &icmp, 6))
            return false;
        const bool request =
            icmp.type == (p->proto == IPPROTO_ICMP ? ICMP_ECHO_REQUEST : ICMP6_ECHO_REQUEST);
        lb->key.source_port = request ? icmp.id : 0;
        lb->key.destination_port = request ? 0 : icmp.id;
    }
    return is_related(s, lb, egress);
}

/* Whether an endpoint's packet passes without a verdict: it is not enforced, or the packet answers
 * one that was let pass. Else policy_judge() is to follow. */
__noinline int policy_known(struct __sk_buff* skb, struct packet* p, __u32 endpoint, __u32 egress) {
    struct policy_state* s = get_policy_state();
    if (!s || !p) return 0;
    (void)find_policy(s, endpoint);
    if (s->header.enforcement == MESH_ENFORCE_NONE) return 1;
    find_policy_flow(skb, p, s, egress);
    const struct lb_state* lb = lb_scratch();
    if (!lb) return 0;
    if (s->error)
        return p->answer ? is_related(s, lb, egress) : is_related_error(skb, p, s, egress);
    if (!s->tracked) return 0;
    const __u8 tcp = tcp_flags(skb, p);
    if ((tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN) return 0; /* begins a flow of its own */
    if (p->answer) {
        /* Of a service: the flow is that with the backend, as the packet was before lb_answer(). */
        turn_policy_flow(&s->other, &lb->key.source, lb->key.source_port, &lb->key.destination,
                         lb->key.destination_port, lb->key.proto, !egress);
    } else {
        turn_policy_flow(&s->other, &p->source, s->flow.source_port, &p->destination,
                         s->flow.destination_port, p->proto, !egress);
    }
    const __u32 flags = MESH_FLOW_ANSWERED | ((tcp & TCP_FIN) ? MESH_FLOW_BACKEND_FIN : 0U) |
                        ((tcp & TCP_RST) ? MESH_FLOW_RESET : 0U);
    return is_policy_flow(s, flags, bpf_ktime_get_coarse_ns());
}

/* A row of s->key: into `to`. */
static __always_inline bool probe_row(void* rows, struct policy_state* s,
                                      struct mesh_policy_row* to) {
    for (int attempt = 0; attempt < 3; ++attempt) {
        const struct mesh_policy_entry* found = bpf_map_lookup_elem(rows, &s->key);
        if (!found) return false;
        __builtin_memcpy(to, &found->row, sizeof *to);
        asm volatile("" ::: "memory");
        if (same_policy_key(&s->key, &found->key)) return true;
    }
    return false;
}

/* The longest row of an identity: its length, -1: there is none. */
static __always_inline int longest_row(void* rows, struct policy_state* s, __u32 identity,
                                       __u32 lengths, struct mesh_policy_row* to) {
    const __u8 egress = s->egress ? MESH_POLICY_EGRESS : 0;
    const __u32 port = bpf_ntohs(s->port);
    lengths &= s->lengths;
    s->key.identity = identity;
    s->key.proto = s->proto;
    for (__u32 length = 24; length >= 8; --length) {
        if (!(lengths >> length & 1)) continue;
        s->key.port = bpf_htons((__u16)(port & (0xffffU << (24 - length))));
        s->key.scope = (__u8)(length | egress);
        if (probe_row(rows, s, to)) return (int)length;
    }
    if (!(lengths & 1)) return -1;
    s->key.port = 0;
    s->key.proto = 0;
    s->key.scope = egress;
    return probe_row(rows, s, to) ? 0 : -1;
}

#define ROW_NONE 0
#define ROW_FOUND 1
#define ROW_CHANGED 2 /* the rows did meanwhile: to be asked again */

/* s->row: the row for the packet; s->header: of the same policy. @return ROW_ */
__noinline int find_row(struct policy_state* s, __u32 endpoint) {
    if (!s) return ROW_NONE;
    void* rows = find_policy(s, endpoint);
    if (!rows) return ROW_NONE;
    const __u32 of_own = s->egress ? s->header.lengths[MESH_POLICY_LENGTHS(1, 0)]
                                   : s->header.lengths[MESH_POLICY_LENGTHS(0, 0)];
    const __u32 of_any = s->egress ? s->header.lengths[MESH_POLICY_LENGTHS(1, 1)]
                                   : s->header.lengths[MESH_POLICY_LENGTHS(0, 1)];
    const int own = s->identity ? longest_row(rows, s, s->identity, of_own, &s->row) : -1;
    const int any = longest_row(rows, s, 0, of_any, &s->row_of_any);
    /* The rows were read one after the other. */
    struct mesh_policy_header after;
    if (!read_header(rows, &after) || after.version != s->header.version) return ROW_CHANGED;
    if (any < 0) return own >= 0 ? ROW_FOUND : ROW_NONE;
    if (own < 0 || s->row_of_any.precedence > s->row.precedence ||
        (s->row_of_any.precedence == s->row.precedence && any > own))
        s->row = s->row_of_any;
    return ROW_FOUND;
}

static __always_inline void tell_policy(struct __sk_buff* skb, struct packet* p,
                                        struct policy_state* s, __u8 point, __u32 endpoint,
                                        __u8 verdict, __u8 reason) {
    struct mesh_event* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
    if (!event) return;
    fill_event(skb, p, event, MESH_EVENT_POLICY, point, verdict);
    event->cookie = s->row.cookie;
    event->endpoint = (__u16)endpoint;
    event->egress = s->egress;
    event->reason = reason;
    bpf_ringbuf_submit(event, 0);
}

/* Remembers the flow of a packet that is let pass. True: it is a new one. */
static __always_inline bool keep_policy_flow(struct __sk_buff* skb, const struct packet* p,
                                             struct policy_state* s) {
    if (!s->tracked) return true;
    const __u8 tcp = tcp_flags(skb, p);
    const __u64 now = bpf_ktime_get_coarse_ns();
    const bool opens = (tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    const __u32 flags =
        ((tcp & TCP_FIN) ? MESH_FLOW_CLIENT_FIN : 0U) | ((tcp & TCP_RST) ? MESH_FLOW_RESET : 0U);
    struct mesh_policy_flow* known = bpf_map_lookup_elem(&policy_flows, &s->flow);
    if (known && !policy_flow_is_over(known, p->proto, now) &&
        !(opens && is_finished(known->flags))) {
        touch_policy_flow(known, flags, now);
        return false;
    }
    const struct mesh_policy_flow fresh = {.last_used_ns = now, .flags = flags};
    bpf_map_update_elem(&policy_flows, &s->flow, &fresh, BPF_ANY);
    return true;
}

static __always_inline int deny(struct __sk_buff* skb, struct packet* p, struct policy_state* s,
                                __u32 endpoint, __u8 point, __u8 reason) {
    tell_policy(skb, p, s, point, endpoint, MESH_VERDICT_DENIED, reason);
    (void)count_drop(skb, reason);
    return POLICY_DROP;
}

/* The identity of an address as this node sees it. */
static __always_inline __u32 identity_of(const struct mesh_address* address,
                                         const struct mesh_pods_settings* set) {
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, address);
    if (pod) return pod->identity ? pod->identity : IDENTITY_INIT;
    if (is_own(address, set)) return IDENTITY_HOST;
    const struct mesh_ipcache_entry* entry = find_ip(address);
    return entry && entry->identity ? entry->identity : IDENTITY_WORLD;
}

/* What the endpoint's rows say of a packet of which policy_known() knew nothing.
 * @param way MESH_POINT_*, and MESH_POLICY_EGRESS if the endpoint sends the packet
 * @return POLICY_PASS, POLICY_DROP, or the port of a proxy, network order */
__noinline int policy_judge(struct __sk_buff* skb, struct packet* p, __u32 endpoint, __u32 way) {
    const struct mesh_pods_settings* set = get_settings();
    struct policy_state* s = get_policy_state();
    if (!set || !s || !p) return POLICY_DROP;
    const __u32 egress = way & MESH_POLICY_EGRESS;
    const __u8 point = (__u8)(way & (MESH_POLICY_EGRESS - 1));
    __builtin_memset(&s->row, 0, sizeof s->row);
    /* Services may have been translated since. */
    if (egress) {
        find_policy_flow(skb, p, s, egress);
        if (s->error && is_related_error(skb, p, s, egress)) return POLICY_PASS;
    }
    if (p->source_identity == 0) p->source_identity = identity_of(&p->source, set);
    s->identity = egress ? p->destination_identity : p->source_identity;
    /* To policies the world is one of each family. */
    if (s->identity == IDENTITY_WORLD)
        s->identity = p->v4 ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;
    int found = ROW_CHANGED;
    for (int i = 0; i < ROW_ATTEMPTS && found == ROW_CHANGED; ++i) found = find_row(s, endpoint);
    if (s->header.enforcement == MESH_ENFORCE_NONE) return POLICY_PASS;
    if (s->header.enforcement == MESH_ENFORCE_LOCKED)
        return deny(skb, p, s, endpoint, point, MESH_DROP_POLICY_UNKNOWN);
    if (found != ROW_FOUND || (s->row.flags & MESH_POLICY_DENY)) {
        if (s->header.enforcement != MESH_ENFORCE_AUDIT)
            return deny(skb, p, s, endpoint, point, MESH_DROP_POLICY_DENIED);
        if (keep_policy_flow(skb, p, s))
            tell_policy(skb, p, s, point, endpoint, MESH_VERDICT_AUDITED, 0);
        return POLICY_PASS;
    }
    const __u16 proxy = s->row.proxy_port;
    if (keep_policy_flow(skb, p, s) && (set->policy_flags & MESH_POLICY_EVENTS))
        tell_policy(skb, p, s, point, endpoint,
                    proxy ? MESH_VERDICT_REDIRECTED : MESH_VERDICT_ALLOWED, 0);
    return proxy;
}

#endif
