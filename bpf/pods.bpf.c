/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forwarding of pods' packets, at tc with direct action (layout.h, "Pods", has the picture):
 *   mesh_from_pod      ingress of the node's end of a pod's link
 *   mesh_to_pod        egress of it: what the node's own stack sends to the pod
 *   mesh_from_overlay  ingress of the VXLAN device (collect metadata): identity in the VNI
 *   mesh_to_overlay    egress of it: gives the packets that the node itself, or its IP stack,
 *                      routes there their tunnel key
 *   mesh_from_device   ingress of the device to the other nodes: native routing
 *   mesh_to_device     egress of it: masquerading
 *   mesh_from_wireguard ingress of the WireGuard device (encryption.h)
 *
 * What needs more than forwarding is left to the node's stack, which has a route for every pod CIDR
 * of the mesh: an expired TTL, a packet that is too big for the overlay (fragmented there, or
 * answered with "too big"), IP options, multicast.
 *
 * Needs Linux 5.14: redirect_peer, check_mtu with segments. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"
#include "services.h"

/* Marks a packet that mesh_from_pod gave its tunnel key, or its next hop's address. Nobody else
 * sees it: a pod's own mark does not leave its namespace, and mesh_to_overlay and mesh_to_device
 * clear it. */
#define MARK_ENCAPSULATED 0x6d657368U

#define IDENTITY_WORLD 2U
#define IDENTITY_HOST 1U
#define IDENTITY_REMOTE_NODE 6U
#define IDENTITY_WORLD_IPV4 9U
#define IDENTITY_WORLD_IPV6 10U
#define IDENTITY_RESERVED_END 256U

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 512000);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct mesh_ipcache_key);
    __type(value, struct mesh_ipcache_entry);
} ipcache SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct mesh_address);
    __type(value, struct mesh_node);
} nodes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, struct mesh_address);
    __type(value, struct mesh_endpoint);
} endpoints SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct mesh_pods_settings);
} settings SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, MESH_DROP_REASONS);
    __type(key, __u32);
    __type(value, struct mesh_drop_count);
} drops SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 131072);
    __type(key, struct mesh_nat_key);
    __type(value, struct mesh_nat);
} nat SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, struct mesh_fragment_key);
    __type(value, struct mesh_fragment);
} datagrams SEC(".maps");

/* CIDRs outside of the mesh to which pods go with their own addresses. */
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct mesh_ipcache_key);
    __type(value, __u8);
} non_masquerade SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} events SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct mesh_encryption);
} encryption SEC(".maps");

/* Addresses of the nodes to which this one encrypts. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct mesh_address);
    __type(value, __u8);
} encrypted SEC(".maps");

/* What the programs want to know of a packet. */
struct packet {
    struct mesh_address source, destination;
    __u32 source_identity, destination_identity;
    __u32 l4_offset;
    __u16 source_port, destination_port; /* network order */
    __u8 proto;
    __u8 ttl;
    bool v4;
    bool options;  /* IPv4 options or an IPv6 hop-by-hop header: the stack's business */
    bool fragment; /* not the first: has no ports */
    bool more_fragments;
    bool answer;       /* of a service, and translated */
    bool hairpin;      /* of a pod to itself, by a service */
    bool accepted;     /* of a connection that a proxy of this node has with a client */
    __u32 fragment_id; /* network order */
};

/* RFC 8200 §4.5 */
struct fragment_header {
    __u8 next, reserved;
    __be16 offset; /* in its upper 13 bits, of 8 bytes each; the last bit: more fragments follow */
    __be32 id;
};

enum parsed { kIp, kNotIp, kMalformed };

static __always_inline bool same(const struct mesh_address* a, const struct mesh_address* b) {
    return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
           a->word[3] == b->word[3];
}

static __always_inline bool is_set(const struct mesh_address* a) {
    return (a->word[0] | a->word[1] | a->word[2] | a->word[3]) != 0;
}

static __always_inline void set_v4(struct mesh_address* a, __be32 address) {
    a->word[0] = 0;
    a->word[1] = 0;
    a->word[2] = bpf_htonl(0xffff);
    a->word[3] = address;
}

static __always_inline const struct mesh_pods_settings* get_settings(void) {
    const __u32 zero = 0;
    return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline bool good_checksum(const struct iphdr* ip) {
    const __u16* half = (const __u16*)ip;
    __u32 sum = 0;
#pragma unroll
    for (int i = 0; i < 10; ++i) sum += half[i];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

static __always_inline enum parsed parse_v4(struct __sk_buff* skb, struct packet* p) {
    void* data = (void*)(long)skb->data;
    void* end = (void*)(long)skb->data_end;
    const struct iphdr* ip = data + ETH_HLEN;
    if ((const void*)(ip + 1) > end) {
        if (bpf_skb_pull_data(skb, ETH_HLEN + sizeof *ip)) return kMalformed;
        data = (void*)(long)skb->data;
        end = (void*)(long)skb->data_end;
        ip = data + ETH_HLEN;
        if ((const void*)(ip + 1) > end) return kMalformed;
    }
    const __u32 length = bpf_ntohs(ip->tot_len);
    const __u32 header = ip->ihl * 4U;
    if (ip->version != 4 || header < sizeof *ip) return kMalformed;
    /* With options the stack checks it, who gets such a packet anyway. */
    if (header == sizeof *ip && !good_checksum(ip)) return kMalformed;
    /* An aggregate of more than 64 KiB has no length of its own. */
    if ((length != 0 || skb->gso_segs == 0) && (length < header || length > skb->len - ETH_HLEN))
        return kMalformed;
    p->v4 = true;
    set_v4(&p->source, ip->saddr);
    set_v4(&p->destination, ip->daddr);
    p->proto = ip->protocol;
    p->ttl = ip->ttl;
    p->options = header != sizeof *ip;
    p->fragment = (ip->frag_off & bpf_htons(0x1fff)) != 0;
    p->more_fragments = (ip->frag_off & bpf_htons(0x2000)) != 0;
    p->fragment_id = ip->id;
    p->l4_offset = ETH_HLEN + header;
    return kIp;
}

static __always_inline enum parsed parse_v6(struct __sk_buff* skb, struct packet* p) {
    void* data = (void*)(long)skb->data;
    void* end = (void*)(long)skb->data_end;
    const struct ipv6hdr* ip = data + ETH_HLEN;
    if ((const void*)(ip + 1) > end) {
        if (bpf_skb_pull_data(skb, ETH_HLEN + sizeof *ip)) return kMalformed;
        data = (void*)(long)skb->data;
        end = (void*)(long)skb->data_end;
        ip = data + ETH_HLEN;
        if ((const void*)(ip + 1) > end) return kMalformed;
    }
    if (ip->version != 6 || bpf_ntohs(ip->payload_len) > skb->len - ETH_HLEN - (__u32)sizeof *ip)
        return kMalformed;
    __builtin_memcpy(&p->source, &ip->saddr, sizeof p->source);
    __builtin_memcpy(&p->destination, &ip->daddr, sizeof p->destination);
    p->proto = ip->nexthdr;
    p->ttl = ip->hop_limit;
    p->options = ip->nexthdr == 0;
    p->l4_offset = ETH_HLEN + sizeof *ip;
    if (p->proto == IPPROTO_FRAGMENT) {
        struct fragment_header header;
        if (bpf_skb_load_bytes(skb, p->l4_offset, &header, sizeof header)) return kMalformed;
        p->proto = header.next;
        p->fragment = (header.offset & bpf_htons(0xfff8)) != 0;
        p->more_fragments = (header.offset & bpf_htons(1)) != 0;
        p->fragment_id = header.id;
        p->l4_offset += sizeof header;
    }
    return kIp;
}

static __always_inline enum parsed parse(struct __sk_buff* skb, struct packet* p) {
    if (skb->protocol == bpf_htons(ETH_P_IP)) return parse_v4(skb, p);
    if (skb->protocol == bpf_htons(ETH_P_IPV6)) return parse_v6(skb, p);
    return kNotIp;
}

static __always_inline void read_ports(struct __sk_buff* skb, struct packet* p) {
    if (p->fragment) return;
    if (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP || p->proto == 132 /* SCTP */) {
        __u16 ports[2] = {};
        if (bpf_skb_load_bytes(skb, p->l4_offset, ports, sizeof ports)) return;
        p->source_port = ports[0];
        p->destination_port = ports[1];
    } else if (p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6) {
        (void)bpf_skb_load_bytes(skb, p->l4_offset, &p->destination_port, 2);
    }
}

static __always_inline void fill_event(struct __sk_buff* skb, struct packet* p,
                                       struct mesh_event* event, __u8 kind, __u8 point,
                                       __u8 verdict) {
    read_ports(skb, p);
    event->time_ns = bpf_ktime_get_ns();
    event->source = p->source;
    event->destination = p->destination;
    event->source_identity = p->source_identity;
    event->destination_identity = p->destination_identity;
    event->ifindex = skb->ifindex;
    event->length = skb->len;
    event->source_port = p->source_port;
    event->destination_port = p->destination_port;
    event->kind = kind;
    event->point = point;
    event->verdict = verdict;
    event->proto = p->proto;
    event->cookie = 0;
    event->endpoint = 0;
    event->egress = 0;
    event->reason = 0;
}

static __always_inline void tell(struct __sk_buff* skb, struct packet* p, __u8 kind, __u8 point,
                                 __u8 verdict) {
    struct mesh_event* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
    if (!event) return;
    fill_event(skb, p, event, kind, point, verdict);
    bpf_ringbuf_submit(event, 0);
}

static __noinline int count_drop(struct __sk_buff* skb, __u32 reason) {
    struct mesh_drop_count* count = bpf_map_lookup_elem(&drops, &reason);
    if (count) {
        ++count->packets;
        count->bytes += skb->len;
    }
    return TC_ACT_SHOT;
}

static __always_inline int drop(struct __sk_buff* skb, struct packet* p, __u8 point, __u8 reason) {
    tell(skb, p, MESH_EVENT_DROP, point, reason);
    return count_drop(skb, reason);
}

static __always_inline void trace(struct __sk_buff* skb, struct packet* p,
                                  const struct mesh_pods_settings* set, __u8 point, __u8 to) {
    if (set->flags & MESH_PODS_TRACE) tell(skb, p, MESH_EVENT_TRACE, point, to);
}

static __always_inline const struct mesh_ipcache_entry* find_ip(
    const struct mesh_address* address) {
    struct mesh_ipcache_key key = {.prefix_length = 128, .address = *address};
    return bpf_map_lookup_elem(&ipcache, &key);
}

/* Of a CIDR or a name, which only this node knows by that number. */
static __always_inline bool is_local_scope(__u32 identity) {
    return identity >> 24 != 0;
}

/* Whether an address with that entry, or without one, is nothing of the mesh. */
static __always_inline bool is_outside(const struct mesh_ipcache_entry* entry) {
    /* Such a row inside a pod CIDR of the mesh has that one's cluster and tunnel. */
    return !entry ||
           (is_local_scope(entry->identity) && entry->cluster_id == 0 && !is_set(&entry->tunnel));
}

/* One hop less. The caller has seen that the TTL is above 1. */
static __always_inline void decrement_ttl(struct __sk_buff* skb, const struct packet* p) {
    void* data = (void*)(long)skb->data;
    void* end = (void*)(long)skb->data_end;
    if (p->v4) {
        struct iphdr* ip = data + ETH_HLEN;
        if ((void*)(ip + 1) > end) return;
        /* RFC 1624: the high byte of the word went down by one. */
        __u32 check = ip->check;
        check += bpf_htons(0x0100);
        ip->check = (__u16)(check + (check >= 0xffff));
        --ip->ttl;
    } else {
        struct ipv6hdr* ip = data + ETH_HLEN;
        if ((void*)(ip + 1) > end) return;
        --ip->hop_limit;
    }
}

/* Hands the packet over to a pod of this node, straight into the pod's end of its link. */
static __always_inline int to_pod(struct __sk_buff* skb, const struct packet* p,
                                  const struct mesh_endpoint* pod) {
    const __u32 ifindex = pod->ifindex;
    __u8 macs[2 * ETH_ALEN];
    __builtin_memcpy(macs, pod->pod_mac, ETH_ALEN);
    __builtin_memcpy(macs + ETH_ALEN, pod->node_mac, ETH_ALEN);
    decrement_ttl(skb, p);
    if (bpf_skb_store_bytes(skb, 0, macs, sizeof macs, 0)) return TC_ACT_SHOT;
    return (int)bpf_redirect_peer(ifindex, 0);
}

static __always_inline int set_key(struct __sk_buff* skb, __u32 identity,
                                   const struct mesh_address* node) {
    struct bpf_tunnel_key key = {};
    __u64 flags = BPF_F_ZERO_CSUM_TX;
    key.tunnel_id = is_local_scope(identity) ? IDENTITY_WORLD : identity & 0xffffff;
    key.tunnel_ttl = 64;
    if (node->word[0] == 0 && node->word[1] == 0 && node->word[2] == bpf_htonl(0xffff)) {
        key.remote_ipv4 = bpf_ntohl(node->word[3]);
    } else {
        __builtin_memcpy(key.remote_ipv6, node, sizeof key.remote_ipv6);
        flags |= BPF_F_TUNINFO_IPV6;
    }
    return (int)bpf_skb_set_tunnel_key(skb, &key, sizeof key, flags);
}

#include "encryption.h"

/* An IPv6 address of the link's own business: neighbour discovery, router solicitations. */
static __always_inline bool is_link_scope(const struct packet* p) {
    const __u32 first = bpf_ntohl(p->destination.word[0]);
    return !p->v4 && ((first >> 22) == (0xfe800000U >> 22) || (first >> 24) == 0xff);
}

#include "nat.h"

/* proxy.h */
#define PROXY_NONE 0
#define PROXY_ACCEPTED 1 /* of a client; not given yet */
#define PROXY_GIVEN 2    /* the packet has its socket */
#define PROXY_ALL 1
__noinline int proxy_owns(struct __sk_buff* skb, struct packet* p, __u32 whom);
__noinline int to_proxy(struct __sk_buff* skb, struct packet* p, __u32 port, __u32 point);

/* policy.h */
__noinline int policy_known(struct __sk_buff* skb, struct packet* p, __u32 endpoint, __u32 egress);
__noinline int policy_judge(struct __sk_buff* skb, struct packet* p, __u32 endpoint, __u32 way);

/* What policy_judge() returned, and it was not POLICY_PASS: a verdict for the kernel. */
static __always_inline int end_by_policy(struct __sk_buff* skb, struct packet* p, __u8 point,
                                         int judged) {
    if (judged < 0) return TC_ACT_SHOT;
    return to_proxy(skb, p, (__u32)judged, point);
}

/* Hands the packet over to a pod of this node, if its policy lets it. */
static __always_inline int deliver(struct __sk_buff* skb, struct packet* p,
                                   const struct mesh_pods_settings* set,
                                   const struct mesh_endpoint* pod, __u8 point) {
    p->destination_identity = pod->identity;
    if (set->policy_flags && !p->hairpin) {
        const int judged =
            policy_known(skb, p, pod->id, 0) ? 0 : policy_judge(skb, p, pod->id, point);
        if (judged) return end_by_policy(skb, p, point, judged);
        if (p->accepted && proxy_owns(skb, p, PROXY_ALL) == PROXY_GIVEN) return TC_ACT_OK;
    }
    trace(skb, p, set, point, MESH_TO_POD);
    return to_pod(skb, p, pod);
}

#include "lb.h"

#include "proxy.h"

#include "policy.h"

/* Native routing: by the node's own routes to the device to the other nodes, past its stack. 0: the
 * stack's business, since the next hop is not known yet, or elsewhere, or the packet is too big. */
static __always_inline int to_next_hop(struct __sk_buff* skb, const struct packet* p,
                                       const struct mesh_pods_settings* set) {
    const __u32 device = set->device_ifindex;
    struct bpf_fib_lookup route = {.ifindex = skb->ifindex, .l4_protocol = p->proto};
    __u32 mtu = 0;
    if (p->v4) {
        route.family = 2; /* AF_INET */
        route.ipv4_src = p->source.word[3];
        route.ipv4_dst = p->destination.word[3];
    } else {
        route.family = 10; /* AF_INET6 */
        __builtin_memcpy(route.ipv6_src, &p->source, sizeof route.ipv6_src);
        __builtin_memcpy(route.ipv6_dst, &p->destination, sizeof route.ipv6_dst);
    }
    if (bpf_fib_lookup(skb, &route, sizeof route, 0) || route.ifindex != device ||
        bpf_check_mtu(skb, device, &mtu, 0, BPF_MTU_CHK_SEGS))
        return 0;
    __u8 macs[2 * ETH_ALEN];
    __builtin_memcpy(macs, route.dmac, ETH_ALEN);
    __builtin_memcpy(macs + ETH_ALEN, route.smac, ETH_ALEN);
    decrement_ttl(skb, p);
    if (bpf_skb_store_bytes(skb, 0, macs, sizeof macs, 0)) return TC_ACT_SHOT;
    skb->mark = MARK_ENCAPSULATED;
    return (int)bpf_redirect(device, 0);
}

/* What a pod sends, by the address that it goes to. @return as policy_judge() */
static __always_inline int judge_egress(struct __sk_buff* skb, struct packet* p,
                                        const struct mesh_pods_settings* set,
                                        const struct mesh_endpoint* source) {
    const struct mesh_endpoint* local = bpf_map_lookup_elem(&endpoints, &p->destination);
    /* By a service to itself: nobody's policy forbids that. */
    p->hairpin = local && local->ifindex == source->ifindex;
    if (p->hairpin) return POLICY_PASS;
    p->destination_identity = identity_of(&p->destination, set);
    return policy_judge(skb, p, source->id, MESH_POINT_FROM_POD | MESH_POLICY_EGRESS);
}

/* Whether a server answers a proxy of this node, which has the packet then. */
static __always_inline bool is_answer_to_proxy(struct __sk_buff* skb, struct packet* p,
                                               const struct mesh_pods_settings* set) {
    if (!(set->policy_flags & MESH_POLICY_REDIRECTS)) return false;
    const int owned = proxy_owns(skb, p, PROXY_SERVERS);
    p->accepted = owned == PROXY_ACCEPTED;
    return owned == PROXY_GIVEN;
}

/* What mesh_to_pod sent back to come by a program that may give it a socket. */
static __always_inline int from_turn(struct __sk_buff* skb, struct packet* p) {
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, &p->destination);
    if (!pod) return drop(skb, p, MESH_POINT_TO_POD, MESH_DROP_NO_ENDPOINT);
    p->destination_identity = pod->identity;
    bpf_skb_change_type(skb, PACKET_HOST);
    if (proxy_owns(skb, p, PROXY_SERVERS) == PROXY_GIVEN) return TC_ACT_OK;
    (void)policy_known(skb, p, pod->id, 0);
    const int judged = policy_judge(skb, p, pod->id, MESH_POINT_TO_POD);
    if (judged < 0) return TC_ACT_SHOT;
    return to_proxy(skb, p, (__u32)judged, MESH_POINT_TO_POD);
}

SEC("tc")
int mesh_from_pod(struct __sk_buff* skb) {
    struct packet p = {};
    const enum parsed kind = parse(skb, &p);
    if (kind == kMalformed) return drop(skb, &p, MESH_POINT_FROM_POD, MESH_DROP_MALFORMED);
    if (kind == kNotIp) {
        if (skb->protocol == bpf_htons(ETH_P_ARP)) return TC_ACT_OK;
        return drop(skb, &p, MESH_POINT_FROM_POD, MESH_DROP_UNSUPPORTED);
    }
    const struct mesh_pods_settings* set = get_settings();
    if (!set) return TC_ACT_OK;
    if (is_link_scope(&p)) return TC_ACT_OK;
    if (set->proxy_mark != 0 && skb->mark == set->proxy_mark) return from_turn(skb, &p);
    const struct mesh_endpoint* source = bpf_map_lookup_elem(&endpoints, &p.source);
    if (!source || source->ifindex != skb->ifindex)
        return drop(skb, &p, MESH_POINT_FROM_POD, MESH_DROP_INVALID_SOURCE);
    p.source_identity = source->identity;
    if (is_answer_to_proxy(skb, &p, set)) return TC_ACT_OK;
    const bool judge = set->policy_flags && !policy_known(skb, &p, source->id, MESH_POLICY_EGRESS);
    int service = lb_answer(skb, &p, MESH_POINT_FROM_POD);
    if (service == LB_FORWARD) {
        if (judge) {
            const int judged = judge_egress(skb, &p, set, source);
            if (judged) return end_by_policy(skb, &p, MESH_POINT_FROM_POD, judged);
        }
        return lb_forward(skb, &p, MESH_POINT_FROM_POD);
    }
    if (service != LB_PASS) return service;
    const struct mesh_endpoint* local = bpf_map_lookup_elem(&endpoints, &p.destination);
    const struct mesh_ipcache_entry* entry = 0;
    if (!local) {
        entry = find_ip(&p.destination);
        /* Nobody's pod: it may be a service. */
        if (is_outside(entry) || entry->cluster_id == 0 || (entry->flags & MESH_IPCACHE_NODE)) {
            service = lb_request(skb, &p, MESH_POINT_FROM_POD, 0);
            if (service == LB_FORWARD) {
                local = bpf_map_lookup_elem(&endpoints, &p.destination);
                entry = find_ip(&p.destination);
            } else if (service != LB_PASS) {
                return service;
            }
        }
    }
    if (judge) {
        const int judged = judge_egress(skb, &p, set, source);
        if (judged) return end_by_policy(skb, &p, MESH_POINT_FROM_POD, judged);
    }
    /* Led to a proxy when it began, and the policy lets it pass without one now. */
    if (p.accepted && !local && proxy_owns(skb, &p, PROXY_ALL) == PROXY_GIVEN) return TC_ACT_OK;
    if (p.options || p.ttl <= 1) goto stack;
    if (local) return deliver(skb, &p, set, local, MESH_POINT_FROM_POD);
    p.destination_identity = entry ? entry->identity : IDENTITY_WORLD;
    if (!entry) goto stack;
    const struct mesh_address node = entry->tunnel;
    if (!is_set(&node) || same(&node, &set->node4) || same(&node, &set->node6)) goto stack;
    if (!(set->flags & MESH_PODS_TUNNEL)) {
        if (!(entry->flags & MESH_IPCACHE_NODE) &&
            would_leak(skb, &node, &p.source, &p.destination, p.proto, 0))
            return drop(skb, &p, MESH_POINT_FROM_POD, MESH_DROP_PLAINTEXT);
        const int verdict = to_next_hop(skb, &p, set);
        if (verdict == 0) goto stack;
        trace(skb, &p, set, MESH_POINT_FROM_POD, MESH_TO_DEVICE);
        return verdict;
    }
    if (would_leak_in_tunnel(skb, set, &node))
        return drop(skb, &p, MESH_POINT_FROM_POD, MESH_DROP_PLAINTEXT);
    const __u32 overlay = set->overlay_ifindex;
    __u32 mtu = 0;
    if (bpf_check_mtu(skb, overlay, &mtu, 0, BPF_MTU_CHK_SEGS)) goto stack;
    trace(skb, &p, set, MESH_POINT_FROM_POD, MESH_TO_OVERLAY);
    decrement_ttl(skb, &p);
    if (set_key(skb, p.source_identity, &node))
        return drop(skb, &p, MESH_POINT_FROM_POD, MESH_DROP_TUNNEL_KEY);
    skb->mark = MARK_ENCAPSULATED;
    return (int)bpf_redirect(overlay, 0);
stack:
    trace(skb, &p, set, MESH_POINT_FROM_POD, MESH_TO_STACK);
    return TC_ACT_OK;
}

/* Answers of the node itself, where it is the backend, to a client that has not asked it. */
static __always_inline int lb_node_answer(struct __sk_buff* skb, struct packet* p,
                                          const struct mesh_pods_settings* set, __u8 point) {
    if (!is_own(&p->source, set)) return LB_PASS;
    const int service = lb_answer(skb, p, point);
    return service == LB_FORWARD ? TC_ACT_OK : service;
}

/* Back by mesh_from_pod, which goes on with from_turn(). */
static __always_inline int turn(struct __sk_buff* skb, const struct mesh_pods_settings* set) {
    skb->mark = set->proxy_mark;
    return (int)bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* @return TC_ACT_OK: it passes */
static __always_inline int judge_from_stack(struct __sk_buff* skb, struct packet* p,
                                            const struct mesh_pods_settings* set) {
    const __u32 kind = proxy_kind(skb->mark, set->proxy_mark);
    if (kind == MESH_PROXY_LISTENER && proxy_owns(skb, p, PROXY_ASK) == PROXY_GIVEN)
        return turn(skb, set);
    if (kind == MESH_PROXY_LISTENER || kind == MESH_PROXY_TO_SERVER_OF_INGRESS) return TC_ACT_OK;
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, &p->destination);
    if (!pod) return TC_ACT_OK;
    p->destination_identity = pod->identity;
    if (policy_known(skb, p, pod->id, 0)) return TC_ACT_OK;
    const int judged = policy_judge(skb, p, pod->id, MESH_POINT_TO_POD);
    if (judged == POLICY_PASS) return TC_ACT_OK;
    if (judged < 0) return TC_ACT_SHOT;
    if (set->proxy_mark == 0) return drop(skb, p, MESH_POINT_TO_POD, MESH_DROP_PROXY_GONE);
    return turn(skb, set);
}

SEC("tc")
int mesh_to_pod(struct __sk_buff* skb) {
    struct packet p = {};
    const struct mesh_pods_settings* set = get_settings();
    if (!set || parse(skb, &p) != kIp || is_link_scope(&p)) return TC_ACT_OK;
    if (set->policy_flags) {
        const int verdict = judge_from_stack(skb, &p, set);
        if (verdict != TC_ACT_OK) return verdict;
    }
    /* Of the node itself, of a backend whose packets a WireGuard device decrypted, or an error. */
    const int service = lb_answer(skb, &p, MESH_POINT_TO_POD);
    return service == LB_PASS || service == LB_FORWARD ? TC_ACT_OK : service;
}

/* Who encapsulated the packet, and the identity that it carries. */
static __always_inline bool read_key(struct __sk_buff* skb, struct mesh_address* peer,
                                     __u32* identity) {
    struct bpf_tunnel_key key = {};
    if (!bpf_skb_get_tunnel_key(skb, &key, sizeof key, 0)) {
        set_v4(peer, bpf_htonl(key.remote_ipv4));
    } else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof key, BPF_F_TUNINFO_IPV6)) {
        __builtin_memcpy(peer, key.remote_ipv6, sizeof *peer);
    } else {
        return false;
    }
    *identity = key.tunnel_id;
    return true;
}

SEC("tc")
int mesh_from_overlay(struct __sk_buff* skb) {
    struct packet p = {};
    struct mesh_address peer = {};
    const struct mesh_pods_settings* set = get_settings();
    if (!set || !read_key(skb, &peer, &p.source_identity))
        return drop(skb, &p, MESH_POINT_FROM_OVERLAY, MESH_DROP_UNKNOWN_TUNNEL_PEER);
    const enum parsed kind = parse(skb, &p);
    if (kind != kIp) return drop(skb, &p, MESH_POINT_FROM_OVERLAY, MESH_DROP_MALFORMED);
    const struct mesh_node* node = bpf_map_lookup_elem(&nodes, &peer);
    if (!node) return drop(skb, &p, MESH_POINT_FROM_OVERLAY, MESH_DROP_UNKNOWN_TUNNEL_PEER);
    if (skb->mark != MARK_DECRYPTED && must_be_encrypted(&peer))
        return drop(skb, &p, MESH_POINT_FROM_OVERLAY, MESH_DROP_PLAINTEXT);
    skb->mark = 0;
    if (p.source_identity == IDENTITY_HOST) p.source_identity = IDENTITY_REMOTE_NODE;
    /* A node speaks for its own cluster only: neither another cluster's identities nor addresses.
     */
    if (p.source_identity >= IDENTITY_RESERVED_END &&
        p.source_identity >> set->identity_shift != node->cluster_id)
        return drop(skb, &p, MESH_POINT_FROM_OVERLAY, MESH_DROP_INVALID_IDENTITY);
    const struct mesh_ipcache_entry* claimed = find_ip(&p.source);
    if (claimed && is_local_scope(claimed->identity)) {
        /* Of no cluster: an outside address that this node's policies name. */
        if (p.source_identity == IDENTITY_WORLD) p.source_identity = claimed->identity;
    } else if (claimed && claimed->cluster_id != node->cluster_id)
        return drop(skb, &p, MESH_POINT_FROM_OVERLAY, MESH_DROP_INVALID_SOURCE);
    /* The link layer address in a tunnel is nobody's. */
    bpf_skb_change_type(skb, PACKET_HOST);
    if (is_answer_to_proxy(skb, &p, set)) return TC_ACT_OK;
    const int service = lb_answer(skb, &p, MESH_POINT_FROM_OVERLAY);
    if (service == LB_FORWARD) return lb_forward(skb, &p, MESH_POINT_FROM_OVERLAY);
    if (service != LB_PASS) return service;
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, &p.destination);
    if (pod && !p.options && p.ttl > 1) return deliver(skb, &p, set, pod, MESH_POINT_FROM_OVERLAY);
    if (pod || same(&p.destination, &set->router4) || same(&p.destination, &set->router6)) {
        p.destination_identity = pod ? pod->identity : IDENTITY_HOST;
        trace(skb, &p, set, MESH_POINT_FROM_OVERLAY, MESH_TO_STACK);
        return TC_ACT_OK;
    }
    return drop(skb, &p, MESH_POINT_FROM_OVERLAY, MESH_DROP_NO_ENDPOINT);
}

SEC("tc")
int mesh_to_overlay(struct __sk_buff* skb) {
    if (skb->mark == MARK_ENCAPSULATED) {
        skb->mark = 0;
        return TC_ACT_OK;
    }
    struct packet p = {};
    const enum parsed kind = parse(skb, &p);
    if (kind == kNotIp) return TC_ACT_SHOT; /* ARP has no place in an overlay without broadcast */
    if (kind == kMalformed) return drop(skb, &p, MESH_POINT_TO_OVERLAY, MESH_DROP_MALFORMED);
    const struct mesh_pods_settings* set = get_settings();
    if (!set) return TC_ACT_SHOT;
    if (is_link_scope(&p)) return TC_ACT_SHOT;
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, &p.source);
    if (pod) {
        p.source_identity = pod->identity;
    } else if (same(&p.source, &set->router4) || same(&p.source, &set->router6) ||
               same(&p.source, &set->node4) || same(&p.source, &set->node6)) {
        p.source_identity = IDENTITY_REMOTE_NODE; /* as whom receivers see this node */
    } else {
        p.source_identity = IDENTITY_WORLD;
    }
    const struct mesh_ipcache_entry* entry = find_ip(&p.destination);
    if (!entry || !is_set(&entry->tunnel))
        return drop(skb, &p, MESH_POINT_TO_OVERLAY, MESH_DROP_NO_ENDPOINT);
    p.destination_identity = entry->identity;
    const struct mesh_address node = entry->tunnel;
    if (would_leak_in_tunnel(skb, set, &node))
        return drop(skb, &p, MESH_POINT_TO_OVERLAY, MESH_DROP_PLAINTEXT);
    if (set_key(skb, p.source_identity, &node))
        return drop(skb, &p, MESH_POINT_TO_OVERLAY, MESH_DROP_TUNNEL_KEY);
    trace(skb, &p, set, MESH_POINT_TO_OVERLAY, MESH_TO_OVERLAY);
    return TC_ACT_OK;
}

/* An address of this node on the device to the other nodes. */
static __always_inline bool is_node(const struct mesh_address* address,
                                    const struct mesh_pods_settings* set) {
    return same(address, &set->node4) || same(address, &set->node6);
}

/* Of who sends by the device to the other nodes: nobody of this node does. */
static __always_inline __u32 identity_of_outsider(const struct mesh_address* address,
                                                  const struct mesh_pods_settings* set) {
    const struct mesh_ipcache_entry* entry = find_ip(address);
    if (!entry || entry->identity == 0 || entry->identity == IDENTITY_HOST) return IDENTITY_WORLD;
    if (!set->policy_flags) return entry->identity;
    const bool claims_us = is_own(address, set) || bpf_map_lookup_elem(&endpoints, address);
    return claims_us ? IDENTITY_WORLD : entry->identity;
}

SEC("tc")
int mesh_from_device(struct __sk_buff* skb) {
    struct packet p = {};
    if (parse(skb, &p) != kIp) return TC_ACT_OK;
    const struct mesh_pods_settings* set = get_settings();
    if (!set) return TC_ACT_OK;
    if (is_plain_tunnel(skb, &p)) return drop(skb, &p, MESH_POINT_FROM_DEVICE, MESH_DROP_PLAINTEXT);
    if ((set->flags & MESH_PODS_MASQUERADE) && is_node(&p.destination, set)) {
        if (take_answer(skb, &p)) return drop(skb, &p, MESH_POINT_FROM_DEVICE, MESH_DROP_MALFORMED);
    }
    if (set->overlay_port != 0 && p.proto == IPPROTO_UDP && !p.fragment) {
        /* Of the tunnel: nothing to look for in it before it is decapsulated. */
        read_ports(skb, &p);
        if (p.destination_port == set->overlay_port) return TC_ACT_OK;
    }
    __u32 unused = 0;
    const bool plain = is_of_encrypted_pod(&p.source, &unused);
    if (!plain && is_answer_to_proxy(skb, &p, set)) return TC_ACT_OK;
    bool outside = false; /* a request, else an answer */
    int service = lb_answer(skb, &p, MESH_POINT_FROM_DEVICE);
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, &p.destination);
    if (service == LB_PASS && !pod && !is_link_scope(&p)) {
        outside = true;
        p.source_identity = identity_of_outsider(&p.source, set);
        service = lb_request(skb, &p, MESH_POINT_FROM_DEVICE, 1);
    }
    if (service == LB_FORWARD && plain && !outside)
        return drop(skb, &p, MESH_POINT_FROM_DEVICE, MESH_DROP_PLAINTEXT);
    if (service == LB_FORWARD) return lb_forward(skb, &p, MESH_POINT_FROM_DEVICE);
    if (service != LB_PASS) return service;
    if (!pod) return TC_ACT_OK;
    p.destination_identity = pod->identity;
    if (is_of_encrypted_pod(&p.source, &p.source_identity))
        return drop(skb, &p, MESH_POINT_FROM_DEVICE, MESH_DROP_PLAINTEXT);
    if (p.options || p.ttl <= 1) return TC_ACT_OK;
    if (set->policy_flags || (set->flags & MESH_PODS_TRACE))
        p.source_identity = identity_of_outsider(&p.source, set);
    return deliver(skb, &p, set, pod, MESH_POINT_FROM_DEVICE);
}

/* Whether a packet of a pod leaves the mesh by this device. */
static __always_inline bool leaves_mesh(const struct packet* p,
                                        const struct mesh_pods_settings* set) {
    const struct mesh_ipcache_entry* entry = find_ip(&p->destination);
    /* Where packets are encapsulated, nobody between the nodes need know pods' addresses, nor need
     * those of the mesh that no tunnel leads to: nodes, and hosts that registered themselves. */
    if (!is_outside(entry))
        return (set->flags & MESH_PODS_TUNNEL) &&
               ((entry->flags & MESH_IPCACHE_NODE) || !is_set(&entry->tunnel));
    struct mesh_ipcache_key key = {.prefix_length = 128, .address = p->destination};
    return !bpf_map_lookup_elem(&non_masquerade, &key);
}

SEC("tc")
int mesh_to_device(struct __sk_buff* skb) {
    struct packet p = {};
    if (skb->mark == MARK_ENCAPSULATED) {
        skb->mark = 0;
        return TC_ACT_OK;
    }
    const struct mesh_pods_settings* set = get_settings();
    const bool masquerades = set && (set->flags & MESH_PODS_MASQUERADE);
    if (!set || !(masquerades || is_strict() || services_at_tc)) return TC_ACT_OK;
    if (parse(skb, &p) != kIp || is_link_scope(&p)) return TC_ACT_OK;
    const int service = lb_node_answer(skb, &p, set, MESH_POINT_TO_DEVICE);
    if (service != LB_PASS) return service;
    if (!(masquerades || is_strict())) return TC_ACT_OK;
    if (is_node(&p.source, set)) return TC_ACT_OK; /* most often a packet of the tunnel */
    const struct mesh_endpoint* pod = bpf_map_lookup_elem(&endpoints, &p.source);
    if (!pod) return TC_ACT_OK;
    p.source_identity = pod->identity;
    if (is_of_encrypted_pod(&p.destination, &p.destination_identity))
        return drop(skb, &p, MESH_POINT_TO_DEVICE, MESH_DROP_PLAINTEXT);
    if (!masquerades || !leaves_mesh(&p, set)) return TC_ACT_OK;
    p.destination_identity = IDENTITY_WORLD;
    const int reason = masquerade(skb, &p, p.v4 ? &set->node4 : &set->node6);
    if (reason) return drop(skb, &p, MESH_POINT_TO_DEVICE, (__u8)reason);
    trace(skb, &p, set, MESH_POINT_TO_DEVICE, MESH_TO_DEVICE);
    return TC_ACT_OK;
}

/* What the WireGuard device decrypted has no link layer header. Is it for the node itself? */
static __always_inline bool is_to_node(struct __sk_buff* skb,
                                       const struct mesh_pods_settings* set) {
    struct mesh_address to = {};
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        __be32 v4 = 0;
        if (bpf_skb_load_bytes(skb, offsetof(struct iphdr, daddr), &v4, sizeof v4)) return false;
        set_v4(&to, v4);
    } else if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
               bpf_skb_load_bytes(skb, offsetof(struct ipv6hdr, daddr), &to, sizeof to)) {
        return false;
    }
    return is_own(&to, set);
}

SEC("tc")
int mesh_from_wireguard(struct __sk_buff* skb) {
    const struct mesh_encryption* enc = get_encryption();
    if (enc && (enc->flags & MESH_ENCRYPTION_STRICT) && enc->tunnel_port != 0)
        skb->mark = MARK_DECRYPTED;
    /* Answers of backends that know this node as their client; with a tunnel they come in that. */
    const struct mesh_pods_settings* set = get_settings();
    const struct mesh_flow_filter* filter = get_filter();
    if (!services_at_tc || !set || (set->flags & MESH_PODS_TUNNEL) || !filter || filter->any == 0)
        return TC_ACT_OK;
    if (!is_to_node(skb, set)) return TC_ACT_OK;
    const __be16 protocol = (__be16)skb->protocol;
    if (bpf_skb_change_head(skb, ETH_HLEN, 0) ||
        bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof protocol, 0))
        return TC_ACT_OK;
    struct packet p = {};
    if (parse(skb, &p) != kIp) return TC_ACT_OK;
    const int service = lb_answer(skb, &p, MESH_POINT_FROM_DEVICE);
    if (service == LB_FORWARD) return lb_forward(skb, &p, MESH_POINT_FROM_DEVICE);
    return service == LB_PASS ? TC_ACT_OK : service;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
