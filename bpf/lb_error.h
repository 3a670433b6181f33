/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors about packets of flows, included by lb.h: the packet in the error gets the addresses
 * and ports that its sender knows, and the error goes to that sender. */
#ifndef MESH_BPF_LB_ERROR_H
#define MESH_BPF_LB_ERROR_H

/* s->key of the packet in the error, and where its ports are. */
static __always_inline bool read_inner(struct __sk_buff* skb, const struct packet* p,
                                       struct lb_state* s, __u32* inner_l4) {
    const __u32 inner = p->l4_offset + 8;
    __u16 ports[2] = {};
    if (p->v4) {
        struct iphdr ip;
        if (bpf_skb_load_bytes(skb, inner, &ip, sizeof ip)) return false;
        if (ip.frag_off & bpf_htons(0x1fff)) return false;
        set_v4(&s->key.source, ip.saddr);
        set_v4(&s->key.destination, ip.daddr);
        s->key.proto = ip.protocol;
        *inner_l4 = inner + ip.ihl * 4U;
    } else {
        __u8 next = 0;
        if (bpf_skb_load_bytes(skb, inner + offsetof(struct ipv6hdr, saddr), &s->key.source,
                               2 * sizeof s->key.source) ||
            bpf_skb_load_bytes(skb, inner + offsetof(struct ipv6hdr, nexthdr), &next, 1))
            return false;
        *inner_l4 = inner + sizeof(struct ipv6hdr);
        if (next == IPPROTO_FRAGMENT) {
            if (bpf_skb_load_bytes(skb, *inner_l4, &next, 1)) return false;
            *inner_l4 += sizeof(struct fragment_header);
        }
        s->key.proto = next;
    }
    if (s->key.proto != IPPROTO_TCP && s->key.proto != IPPROTO_UDP) return false;
    if (bpf_skb_load_bytes(skb, *inner_l4, ports, sizeof ports)) return false;
    s->key.source_port = ports[0];
    s->key.destination_port = ports[1];
    return true;
}

/* Writes an address of the packet in the error. */
static __always_inline int write_inner(struct __sk_buff* skb, const struct packet* p, __u32 offset,
                                       struct mesh_address* from, struct mesh_address* to) {
    const __u32 inner = p->l4_offset + 8;
    if (p->v4) {
        /* The inner header's checksum takes up what its address changes: the ICMP sum stays. */
        return bpf_l3_csum_replace(skb, inner + offsetof(struct iphdr, check), from->word[3],
                                   to->word[3], 4) ||
               bpf_skb_store_bytes(skb, inner + offset, &to->word[3], 4, 0);
    }
    const __s64 difference = bpf_csum_diff(from->word, sizeof *from, to->word, sizeof *to, 0);
    return bpf_l4_csum_replace(skb, p->l4_offset + 2, 0, (__u64)difference, 0) ||
           bpf_skb_store_bytes(skb, inner + offset, to->word, sizeof *to, 0);
}

/* s->key is what the inner packet had. */
__noinline int write_error(struct __sk_buff* skb, struct packet* p, __u32 inner_l4,
                           struct error_fields* to) {
    struct lb_state* s = lb_scratch();
    if (!s || !p || !to) return TC_ACT_SHOT;
    const __u32 checksum = p->l4_offset + 2;
    const __u32 from_source =
        p->v4 ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr);
    const __u32 from_destination =
        p->v4 ? offsetof(struct iphdr, daddr) : offsetof(struct ipv6hdr, daddr);
    const __u16 ports[2] = {to->inner_source_port, to->inner_destination_port};
    if (bpf_l4_csum_replace(skb, checksum, s->key.source_port, ports[0], 2) ||
        bpf_l4_csum_replace(skb, checksum, s->key.destination_port, ports[1], 2) ||
        bpf_skb_store_bytes(skb, inner_l4, ports, sizeof ports, 0) ||
        write_inner(skb, p, from_source, &s->key.source, &to->inner_source) ||
        write_inner(skb, p, from_destination, &s->key.destination, &to->inner_destination))
        return TC_ACT_SHOT;
    s->fields.checksum = checksum;
    s->fields.pseudo = !p->v4;
    s->fields.flags = 0;
    s->old = p->source;
    if (write_address(skb, p, &s->fields, from_source, &s->old, &to->source)) return TC_ACT_SHOT;
    s->old = p->destination;
    if (write_address(skb, p, &s->fields, from_destination, &s->old, &to->destination))
        return TC_ACT_SHOT;
    p->source = to->source;
    p->destination = to->destination;
    return LB_FORWARD;
}

/* From a backend, or from the way to it, about a packet of the client: lb_answer()'s. */
static __always_inline int lb_backend_error(struct __sk_buff* skb, struct packet* p,
                                            struct lb_state* s) {
    __u32 inner_l4 = 0;
    if (!read_inner(skb, p, s, &inner_l4)) return LB_PASS;
    s->back.source = s->key.destination;
    s->back.destination = s->key.source;
    s->back.source_port = s->key.destination_port;
    s->back.destination_port = s->key.source_port;
    s->back.proto = s->key.proto;
    const struct mesh_answer* answer = bpf_map_lookup_elem(&answers, &s->back);
    if (!answer) return LB_PASS;
    s->error.inner_source = answer->client;
    s->error.inner_source_port = answer->client_port;
    s->error.inner_destination = answer->frontend;
    s->error.inner_destination_port = answer->frontend_port;
    s->error.source = same(&p->source, &s->back.source) ? answer->frontend : p->source;
    s->error.destination = answer->client;
    return write_error(skb, p, inner_l4, &s->error);
}

/* From a client, or from the way to it, about an answer: lb_request()'s. */
static __always_inline int lb_client_error(struct __sk_buff* skb, struct packet* p,
                                           struct lb_state* s) {
    __u32 inner_l4 = 0;
    if (!read_inner(skb, p, s, &inner_l4)) return LB_PASS;
    s->back.source = s->key.destination;
    s->back.destination = s->key.source;
    s->back.source_port = s->key.destination_port;
    s->back.destination_port = s->key.source_port;
    s->back.proto = s->key.proto;
    const struct mesh_flow* flow = bpf_map_lookup_elem(&flows, &s->back);
    if (!flow) return LB_PASS;
    s->error.inner_source = flow->backend;
    s->error.inner_source_port = flow->backend_port;
    s->error.inner_destination = flow->source;
    s->error.inner_destination_port = flow->source_port;
    /* Where the backend would not answer to the client's side, it hears of this node only. */
    s->error.source = same(&flow->source, &s->back.source) ? p->source : flow->source;
    s->error.destination = flow->backend;
    return write_error(skb, p, inner_l4, &s->error);
}

#endif
