/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers to a packet from the program itself, included by lb.h: a TCP reset or an ICMP error, in
 * the name of the packet's destination, out of the device that it came in by. */
#ifndef MESH_BPF_ANSWER_H
#define MESH_BPF_ANSWER_H

#define ANSWER_TTL 64
#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_TIME_EXCEEDED 3

/* How much of the packet an error carries: the IP header and the ports. */
#define ICMP_QUOTE4 28U
#define ICMP_QUOTE6 56U /* with a fragment header */

struct icmp_header {
    __u8 type, code;
    __u16 checksum;
    __be32 rest; /* the MTU of a "too big" */
};

struct icmp_answer4 {
    struct iphdr ip;
    struct icmp_header icmp;
    __u8 quote[ICMP_QUOTE4];
};
struct icmp_answer6 {
    struct ipv6hdr ip;
    struct icmp_header icmp;
    __u8 quote[ICMP_QUOTE6];
};

static __always_inline __u16 fold(__s64 sum) {
    __u32 folded = (__u32)sum;
    folded = (folded & 0xffff) + (folded >> 16);
    folded = (folded & 0xffff) + (folded >> 16);
    return (__u16)~folded;
}

/* Back to where the packet came from. */
static __always_inline int turn_around(struct __sk_buff* skb) {
    __u8 macs[2 * ETH_ALEN], swapped[2 * ETH_ALEN];
    if (bpf_skb_load_bytes(skb, 0, macs, sizeof macs)) return TC_ACT_SHOT;
    __builtin_memcpy(swapped, macs + ETH_ALEN, ETH_ALEN);
    __builtin_memcpy(swapped + ETH_ALEN, macs, ETH_ALEN);
    if (bpf_skb_store_bytes(skb, 0, swapped, sizeof swapped, 0)) return TC_ACT_SHOT;
    return (int)bpf_redirect(skb->ifindex, 0);
}

/* Writes at its place both addresses of the IP header, which sums do not see, and a new TTL. */
static __always_inline int swap_addresses(struct __sk_buff* skb, const struct packet* p) {
    if (p->v4) {
        const __be32 addresses[2] = {p->destination.word[3], p->source.word[3]};
        const __u16 old = bpf_htons((__u16)(p->ttl << 8 | p->proto));
        const __u16 fresh = bpf_htons((__u16)(ANSWER_TTL << 8 | p->proto));
        const __u8 ttl = ANSWER_TTL;
        if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), old, fresh, 2) ||
            bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &ttl, 1, 0))
            return -1;
        return (int)bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), addresses,
                                        sizeof addresses, 0);
    }
    const __u8 limit = ANSWER_TTL;
    if (bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &limit, 1, 0) ||
        bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &p->destination,
                            sizeof p->destination, 0))
        return -1;
    return (int)bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &p->source,
                                    sizeof p->source, 0);
}

/* Turns a TCP segment into a reset of its connection. What data it has stays on: a receiver does
 * not look at it, and the checksum need only follow what changes, whoever computes it. */
__noinline int answer_reset(struct __sk_buff* skb, struct packet* p) {
    struct {
        __be32 seq, ack;
        __u8 offset, flags;
        __be16 window;
    } old, fresh;
    if (!p || p->proto != IPPROTO_TCP || p->fragment ||
        bpf_skb_load_bytes(skb, p->l4_offset + 4, &old, sizeof old))
        return TC_ACT_SHOT;
    const bool acknowledges = old.flags & 0x10, resets = old.flags & 0x04;
    if (resets) return TC_ACT_SHOT;
    /* RFC 9293 §3.5.2; what has no ACK begins a connection. */
    fresh.seq = acknowledges ? old.ack : 0;
    fresh.ack = acknowledges ? 0 : bpf_htonl(bpf_ntohl(old.seq) + 1);
    fresh.offset = old.offset & 0xf0;
    fresh.flags = acknowledges ? 0x04 : 0x14;
    fresh.window = 0;
    const __u16 ports[2] = {p->destination_port, p->source_port};
    const __s64 difference =
        bpf_csum_diff((__be32*)&old, sizeof old, (__be32*)&fresh, sizeof fresh, 0);
    if (bpf_l4_csum_replace(skb, p->l4_offset + 16, 0, (__u64)difference, 0) ||
        bpf_skb_store_bytes(skb, p->l4_offset, ports, sizeof ports, 0) ||
        bpf_skb_store_bytes(skb, p->l4_offset + 4, &fresh, sizeof fresh, 0) ||
        swap_addresses(skb, p))
        return TC_ACT_SHOT;
    return turn_around(skb);
}

static __always_inline int answer_icmp4(struct __sk_buff* skb, struct packet* p,
                                        struct icmp_answer4* out, __u8 type, __u8 code, __u32 mtu) {
    if (bpf_skb_load_bytes(skb, ETH_HLEN, out->quote, sizeof out->quote)) return TC_ACT_SHOT;
    __builtin_memset(out, 0, offsetof(struct icmp_answer4, quote));
    out->ip.version = 4;
    out->ip.ihl = 5;
    out->ip.tot_len = bpf_htons(sizeof *out);
    out->ip.ttl = ANSWER_TTL;
    out->ip.protocol = IPPROTO_ICMP;
    out->ip.saddr = p->destination.word[3];
    out->ip.daddr = p->source.word[3];
    out->ip.check = fold(bpf_csum_diff(0, 0, (__be32*)&out->ip, sizeof out->ip, 0));
    out->icmp.type = type;
    out->icmp.code = code;
    out->icmp.rest = bpf_htonl(mtu);
    out->icmp.checksum =
        fold(bpf_csum_diff(0, 0, (__be32*)&out->icmp, sizeof out->icmp + sizeof out->quote, 0));
    if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof *out, 0) ||
        bpf_skb_store_bytes(skb, ETH_HLEN, out, sizeof *out, 0))
        return TC_ACT_SHOT;
    return turn_around(skb);
}

static __always_inline int answer_icmp6(struct __sk_buff* skb, struct packet* p,
                                        struct icmp_answer6* out, __u8 type, __u8 code, __u32 mtu) {
    if (bpf_skb_load_bytes(skb, ETH_HLEN, out->quote, sizeof out->quote)) {
        __builtin_memset(out->quote, 0, sizeof out->quote);
        if (bpf_skb_load_bytes(skb, ETH_HLEN, out->quote, ICMP_QUOTE6 - 8)) return TC_ACT_SHOT;
    }
    const __u32 length = sizeof out->icmp + sizeof out->quote;
    __builtin_memset(out, 0, offsetof(struct icmp_answer6, quote));
    out->ip.version = 6;
    out->ip.payload_len = bpf_htons((__u16)length);
    out->ip.nexthdr = IPPROTO_ICMPV6;
    out->ip.hop_limit = ANSWER_TTL;
    __builtin_memcpy(&out->ip.saddr, &p->destination, sizeof out->ip.saddr);
    __builtin_memcpy(&out->ip.daddr, &p->source, sizeof out->ip.daddr);
    out->icmp.type = type;
    out->icmp.code = code;
    out->icmp.rest = bpf_htonl(mtu);
    /* Of the pseudo header (RFC 8200 §8.1) the addresses, then length and protocol. */
    __s64 sum =
        bpf_csum_diff(0, 0, (__be32*)&out->ip.saddr, 2 * sizeof out->ip.saddr, bpf_htonl(length));
    __be32 next = bpf_htonl(IPPROTO_ICMPV6);
    sum = bpf_csum_diff(0, 0, &next, sizeof next, (__u32)sum);
    out->icmp.checksum = fold(bpf_csum_diff(0, 0, (__be32*)&out->icmp, length, (__u32)sum));
    if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof *out, 0) ||
        bpf_skb_store_bytes(skb, ETH_HLEN, out, sizeof *out, 0))
        return TC_ACT_SHOT;
    return turn_around(skb);
}

#endif
