/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two ways to find the row of a packet, by themselves: two look-ups of a trie by longest prefix
 * (the packet's identity, any), as Cilium does, and the probes of a hash map by the lengths in use,
 * as bpf/policy.h does. Each run asks for the next of `questions`, so that caches are as cold as
 * with packets of many peers. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bpf/layout.h"

struct lpm_key {
    __u32 length;
    __u32 identity;
    __u8 egress;
    __u8 proto;
    __u16 port; /* network order */
};

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 16384);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct lpm_key);
    __type(value, struct mesh_policy_row);
} trie SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 32768);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct mesh_policy_key);
    __type(value, struct mesh_policy_entry);
} table SEC(".maps");

#define QUESTIONS 4096
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, QUESTIONS);
    __type(key, __u32);
    __type(value, struct mesh_policy_key);
} questions SEC(".maps");

__u32 next = 0;

static __always_inline const struct mesh_policy_key* question(void) {
    __u32 index = next++ & (QUESTIONS - 1);
    return bpf_map_lookup_elem(&questions, &index);
}

SEC("tc")
int none(struct __sk_buff* skb) {
    (void)skb;
    return question() ? TC_ACT_OK : TC_ACT_SHOT;
}

SEC("tc")
int by_trie(struct __sk_buff* skb) {
    (void)skb;
    const struct mesh_policy_key* asked = question();
    if (!asked) return TC_ACT_SHOT;
    struct lpm_key key = {
        .length = 64, .identity = asked->identity, .proto = asked->proto, .port = asked->port};
    const struct mesh_policy_row* own = bpf_map_lookup_elem(&trie, &key);
    key.identity = 0;
    const struct mesh_policy_row* any = bpf_map_lookup_elem(&trie, &key);
    if (any && (!own || any->precedence > own->precedence)) own = any;
    return own && !(own->flags & MESH_POLICY_DENY) ? TC_ACT_OK : TC_ACT_SHOT;
}

static __always_inline const struct mesh_policy_entry* longest(const struct mesh_policy_key* asked,
                                                               __u32 identity, __u32 lengths) {
    struct mesh_policy_key key = {.identity = identity, .proto = asked->proto};
    const __u32 port = bpf_ntohs(asked->port);
    for (__u32 length = 24; length >= 8; --length) {
        if (!(lengths >> length & 1)) continue;
        key.port = bpf_htons((__u16)(port & (0xffffU << (24 - length))));
        key.scope = (__u8)length;
        const struct mesh_policy_entry* found = bpf_map_lookup_elem(&table, &key);
        if (found) return found;
    }
    if (!(lengths & 1)) return 0;
    key.port = 0;
    key.proto = 0;
    key.scope = 0;
    return bpf_map_lookup_elem(&table, &key);
}

SEC("tc")
int by_hash(struct __sk_buff* skb) {
    (void)skb;
    const struct mesh_policy_key* asked = question();
    const struct mesh_policy_key header_key = {.scope = MESH_POLICY_HEADER};
    const struct mesh_policy_entry* header = bpf_map_lookup_elem(&table, &header_key);
    if (!asked || !header) return TC_ACT_SHOT;
    const struct mesh_policy_entry* own =
        longest(asked, asked->identity, header->header.lengths[0]);
    const struct mesh_policy_entry* any = longest(asked, 0, header->header.lengths[1]);
    if (any && (!own || any->row.precedence > own->row.precedence)) own = any;
    return own && !(own->row.flags & MESH_POLICY_DENY) ? TC_ACT_OK : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
