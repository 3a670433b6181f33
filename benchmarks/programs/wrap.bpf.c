/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Around the programs that are measured: the kernel's test run gives a packet no tunnel key.
 *   empty        what a test run costs by itself
 *   from_tunnel  gives the packet the key of a tunnel, goes on with programs[0] if there is one */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} programs SEC(".maps");

/* The key as it is to be read: its local address is what a receiver sees as the remote one. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bpf_tunnel_key);
} key SEC(".maps");

SEC("tc")
int empty(struct __sk_buff* skb) {
    (void)skb;
    return TC_ACT_OK;
}

SEC("tc")
int from_tunnel(struct __sk_buff* skb) {
    const __u32 zero = 0;
    struct bpf_tunnel_key* tunnel = bpf_map_lookup_elem(&key, &zero);
    if (!tunnel || bpf_skb_set_tunnel_key(skb, tunnel, sizeof *tunnel, 0)) return TC_ACT_STOLEN;
    bpf_tail_call(skb, &programs, 0);
    return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
