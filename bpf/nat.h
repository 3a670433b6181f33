/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Masquerading, included by pods.bpf.c: packets of pods to outside of the mesh get the node's
 * address and a port of its own range; answers, and ICMP errors about such packets, find the way
 * back. For TCP, UDP and ICMP echo of both families, also in fragments if the first comes first;
 * what else there is is dropped as unsupported.
 *
 * A flow is an entry each way in an LRU map: what is unused longest goes when there is no room. */
#ifndef MESH_BPF_NAT_H
#define MESH_BPF_NAT_H

#define NAT_ATTEMPTS 16

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP_ECHO_REQUEST 8
#define ICMP_ECHO_REPLY 0
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129

/* Where the fields to translate are. */
struct l4_fields {
    __u32 checksum;         /* offset in the packet */
    __u32 source_port;      /* or identifier */
    __u32 destination_port; /* or identifier */
    bool pseudo;            /* the checksum covers the addresses */
    __u64 flags;            /* for bpf_l4_csum_replace */
};

/* The ports of a fragment: the first's are kept, those after it get them. */
static __always_inline int share_ports(struct packet* p) {
    const struct mesh_fragment_key key = {.source = p->source,
                                          .destination = p->destination,
                                          .id = p->fragment_id,
                                          .proto = p->proto};
    if (!p->fragment) {
        const struct mesh_fragment ports = {p->source_port, p->destination_port};
        bpf_map_update_elem(&datagrams, &key, &ports, BPF_ANY);
        return 0;
    }
    const struct mesh_fragment* first = bpf_map_lookup_elem(&datagrams, &key);
    if (!first) return MESH_DROP_UNSUPPORTED;
    p->source_port = first->source_port;
    p->destination_port = first->destination_port;
    return 0;
}

/* 0: known, else a MESH_DROP_ reason. Fills the ports of `p` too. */
static __always_inline int find_fields(struct __sk_buff* skb, struct packet* p, bool answer,
                                       struct l4_fields* f) {
    f->flags = 0;
    f->pseudo = true;
    f->source_port = p->l4_offset;
    f->destination_port = p->l4_offset + 2;
    if (p->proto == IPPROTO_TCP) {
        f->checksum = p->l4_offset + 16;
        read_ports(skb, p);
    } else if (p->proto == IPPROTO_UDP) {
        f->checksum = p->l4_offset + 6;
        f->flags = BPF_F_MARK_MANGLED_0;
        read_ports(skb, p);
    } else if (p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6) {
        f->checksum = p->l4_offset + 2;
        f->source_port = f->destination_port = p->l4_offset + 4;
        f->pseudo = !p->v4;
        if (p->fragment) return share_ports(p);
        __u8 type = 0;
        if (bpf_skb_load_bytes(skb, p->l4_offset, &type, 1)) return MESH_DROP_UNSUPPORTED;
        const bool request = p->v4 ? type == ICMP_ECHO_REQUEST : type == ICMP6_ECHO_REQUEST;
        const bool reply = p->v4 ? type == ICMP_ECHO_REPLY : type == ICMP6_ECHO_REPLY;
        if (answer ? !reply : !request) return MESH_DROP_UNSUPPORTED;
        __u16 id = 0;
        if (bpf_skb_load_bytes(skb, p->l4_offset + 4, &id, 2)) return MESH_DROP_MALFORMED;
        p->source_port = answer ? 0 : id;
        p->destination_port = answer ? id : 0;
    } else {
        return MESH_DROP_UNSUPPORTED;
    }
    return p->fragment || p->more_fragments ? share_ports(p) : 0;
}

/* Writes the address at `offset` of the IP header, and the checksums that cover it. */
static __always_inline int write_address(struct __sk_buff* skb, const struct packet* p,
                                         const struct l4_fields* f, __u32 offset,
                                         struct mesh_address* from, struct mesh_address* to) {
    const bool has_l4 = !p->fragment;
    if (p->v4) {
        if (has_l4 && f->pseudo &&
            bpf_l4_csum_replace(skb, f->checksum, from->word[3], to->word[3],
                                BPF_F_PSEUDO_HDR | f->flags | 4))
            return -1;
        if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), from->word[3],
                                to->word[3], 4))
            return -1;
        return (int)bpf_skb_store_bytes(skb, ETH_HLEN + offset, &to->word[3], 4, 0);
    }
    const __s64 difference = bpf_csum_diff(from->word, sizeof *from, to->word, sizeof *to, 0);
    if (has_l4 &&
        bpf_l4_csum_replace(skb, f->checksum, 0, (__u64)difference, BPF_F_PSEUDO_HDR | f->flags))
        return -1;
    return (int)bpf_skb_store_bytes(skb, ETH_HLEN + offset, to->word, sizeof *to, 0);
}

static __always_inline int write_port(struct __sk_buff* skb, const struct packet* p,
                                      const struct l4_fields* f, __u32 offset, __u16 from,
                                      __u16 to) {
    if (p->fragment || from == to) return 0;
    if (bpf_l4_csum_replace(skb, f->checksum, from, to, f->flags | 2)) return -1;
    return (int)bpf_skb_store_bytes(skb, offset, &to, sizeof to, 0);
}

/* Finds or makes the flow's port. @return false: none is free */
static __always_inline bool nat_port(const struct mesh_nat_key* out,
                                     const struct mesh_address* node, __u16* port) {
    struct mesh_nat_key back = {.source = out->destination,
                                .destination = *node,
                                .source_port = out->destination_port,
                                .proto = out->proto,
                                .answer = 1};
    struct mesh_nat pod = {.address = out->source, .port = out->source_port};
    const struct mesh_nat* known = bpf_map_lookup_elem(&nat, out);
    if (known && same(&known->address, node)) {
        *port = known->port;
        back.destination_port = *port;
        /* Looked at, so that both ways stay; made again if it went alone. */
        const struct mesh_nat* way_back = bpf_map_lookup_elem(&nat, &back);
        if (way_back && same(&way_back->address, &pod.address) && way_back->port == pod.port)
            return true;
        if (!way_back && !bpf_map_update_elem(&nat, &back, &pod, BPF_NOEXIST)) return true;
    }
    __u32 offset = bpf_get_prandom_u32() % MESH_NAT_PORTS;
    for (int i = 0; i < NAT_ATTEMPTS; ++i) {
        *port = bpf_htons((__u16)(MESH_NAT_FIRST_PORT + offset));
        back.destination_port = *port;
        if (!bpf_map_update_elem(&nat, &back, &pod, BPF_NOEXIST)) {
            struct mesh_nat entry = {.address = *node, .port = *port};
            return !bpf_map_update_elem(&nat, out, &entry, BPF_ANY);
        }
        /* A step without a common divisor with the number of ports. */
        offset = (offset + 1009) % MESH_NAT_PORTS;
    }
    return false;
}

/* 0: translated, else a MESH_DROP_ reason. */
static __always_inline int masquerade(struct __sk_buff* skb, struct packet* p,
                                      const struct mesh_address* node_address) {
    struct l4_fields fields = {};
    struct mesh_address node = *node_address;
    if (!is_set(&node) || p->options) return MESH_DROP_UNSUPPORTED;
    const int reason = find_fields(skb, p, false, &fields);
    if (reason) return reason;
    struct mesh_nat_key key = {.source = p->source,
                               .destination = p->destination,
                               .source_port = p->source_port,
                               .destination_port = p->destination_port,
                               .proto = p->proto};
    __u16 port = 0;
    if (!nat_port(&key, &node, &port)) return MESH_DROP_NO_NAT_PORT;
    const __u32 offset = p->v4 ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr);
    if (write_port(skb, p, &fields, fields.source_port, p->source_port, port) ||
        write_address(skb, p, &fields, offset, &p->source, &node))
        return MESH_DROP_MALFORMED;
    return 0;
}

static __always_inline bool is_icmp_error(struct __sk_buff* skb, const struct packet* p) {
    __u8 type = 0;
    if (p->proto != (p->v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) || p->fragment ||
        bpf_skb_load_bytes(skb, p->l4_offset, &type, 1))
        return false;
    if (!p->v4) return type >= 1 && type <= 4;
    return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/* An ICMP error about a packet that was masqueraded: the packet in it gets its own source back,
 * and the error goes there. 0 also when it is about something else; -1: it could not be written. */
static __always_inline int take_error(struct __sk_buff* skb, struct packet* p) {
    const __u32 inner = p->l4_offset + 8;
    const __u32 checksum = p->l4_offset + 2;
    struct mesh_nat_key key = {.answer = 1};
    __u32 inner_l4 = inner + sizeof(struct ipv6hdr);
    if (p->v4) {
        struct iphdr ip;
        if (bpf_skb_load_bytes(skb, inner, &ip, sizeof ip)) return 0;
        set_v4(&key.source, ip.daddr);
        set_v4(&key.destination, ip.saddr);
        key.proto = ip.protocol;
        inner_l4 = inner + ip.ihl * 4U;
    } else {
        struct ipv6hdr ip;
        if (bpf_skb_load_bytes(skb, inner, &ip, sizeof ip)) return 0;
        __builtin_memcpy(&key.source, &ip.daddr, sizeof key.source);
        __builtin_memcpy(&key.destination, &ip.saddr, sizeof key.destination);
        key.proto = ip.nexthdr;
    }
    __u32 port_offset = inner_l4;
    __u16 ports[2] = {};
    if (key.proto == IPPROTO_ICMP || key.proto == IPPROTO_ICMPV6) {
        port_offset = inner_l4 + 4;
        if (bpf_skb_load_bytes(skb, port_offset, &ports[0], 2)) return 0;
    } else if (bpf_skb_load_bytes(skb, inner_l4, ports, sizeof ports)) {
        return 0;
    }
    key.source_port = ports[1];
    key.destination_port = ports[0];
    const struct mesh_nat* found = bpf_map_lookup_elem(&nat, &key);
    if (!found) return 0;
    struct mesh_nat pod = *found;
    struct l4_fields outer = {.checksum = checksum, .pseudo = !p->v4};
    if (bpf_l4_csum_replace(skb, checksum, ports[0], pod.port, 2) ||
        bpf_skb_store_bytes(skb, port_offset, &pod.port, 2, 0))
        return -1;
    if (p->v4) {
        /* The inner header's checksum takes up what its address changes: the ICMP sum stays. */
        if (bpf_l3_csum_replace(skb, inner + offsetof(struct iphdr, check), key.destination.word[3],
                                pod.address.word[3], 4) ||
            bpf_skb_store_bytes(skb, inner + offsetof(struct iphdr, saddr), &pod.address.word[3], 4,
                                0))
            return -1;
        if (write_address(skb, p, &outer, offsetof(struct iphdr, daddr), &p->destination,
                          &pod.address))
            return -1;
    } else {
        const __s64 difference = bpf_csum_diff(key.destination.word, sizeof key.destination,
                                               pod.address.word, sizeof pod.address, 0);
        if (bpf_l4_csum_replace(skb, checksum, 0, (__u64)difference, 0) ||
            bpf_skb_store_bytes(skb, inner + offsetof(struct ipv6hdr, saddr), pod.address.word,
                                sizeof pod.address, 0) ||
            write_address(skb, p, &outer, offsetof(struct ipv6hdr, daddr), &p->destination,
                          &pod.address))
            return -1;
    }
    p->destination = pod.address;
    return 0;
}

/* What comes back to the node: if it answers a masqueraded packet, it gets the pod's address, in
 * `p` too. 0 also when it is the node's own; -1: it could not be written. */
static __always_inline int take_answer(struct __sk_buff* skb, struct packet* p) {
    struct l4_fields fields = {};
    if (p->options) return 0;
    if (is_icmp_error(skb, p)) return take_error(skb, p);
    if (find_fields(skb, p, true, &fields)) return 0;
    /* Masquerading gives ports of a range of its own: what is to another, as each packet of the
     * tunnel, is no answer. */
    if (bpf_ntohs(p->destination_port) < MESH_NAT_FIRST_PORT) return 0;
    struct mesh_nat_key key = {.source = p->source,
                               .destination = p->destination,
                               .source_port = p->source_port,
                               .destination_port = p->destination_port,
                               .proto = p->proto,
                               .answer = 1};
    const struct mesh_nat* found = bpf_map_lookup_elem(&nat, &key);
    if (!found) return 0;
    struct mesh_nat pod = *found;
    const __u32 offset = p->v4 ? offsetof(struct iphdr, daddr) : offsetof(struct ipv6hdr, daddr);
    if (write_port(skb, p, &fields, fields.destination_port, p->destination_port, pod.port) ||
        write_address(skb, p, &fields, offset, &p->destination, &pod.address))
        return -1;
    p->destination = pod.address;
    p->destination_port = pod.port;
    return 0;
}

#endif
