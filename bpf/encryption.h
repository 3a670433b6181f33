/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Encryption between nodes, for pods.bpf.c. What encrypts is a WireGuard device, and what sends
 * packets there are the node's routes: `ip rule` gives the overlay's UDP packets (with native
 * routing, all) a table of their own, which has a route by the WireGuard device to each node that
 * has a key. These programs decide nothing of that; in strict mode they see to it that nothing of
 * pods goes another way: a device that went away takes its routes with it. */

/* Marks what the WireGuard device decrypted, from there to mesh_from_overlay; neither of the bits
 * that kube-proxy uses is in it. */
#define MARK_DECRYPTED 0x6d650d00U

static __always_inline const struct mesh_encryption* get_encryption(void) {
    const __u32 zero = 0;
    return bpf_map_lookup_elem(&encryption, &zero);
}

static __always_inline bool is_strict(void) {
    const struct mesh_encryption* enc = get_encryption();
    return enc && (enc->flags & MESH_ENCRYPTION_STRICT);
}

static __always_inline bool must_be_encrypted(const struct mesh_address* node) {
    return is_strict() && bpf_map_lookup_elem(&encrypted, node);
}

/* Whether the address is of a pod of a node with which everything is encrypted. */
static __always_inline bool is_of_encrypted_pod(const struct mesh_address* address,
                                                __u32* identity) {
    if (!is_strict()) return false;
    const struct mesh_ipcache_entry* entry = find_ip(address);
    if (!entry || (entry->flags & MESH_IPCACHE_NODE)) return false;
    *identity = entry->identity;
    const struct mesh_address node = entry->tunnel;
    return bpf_map_lookup_elem(&encrypted, &node) != NULL;
}

static __always_inline bool is_v4_mapped(const struct mesh_address* a) {
    return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == bpf_htonl(0xffff);
}

/* Whether a packet to that node must be encrypted, and the routes would not have it so.
 * @param port network order, of the destination; 0: that does not matter */
static __always_inline bool would_leak(struct __sk_buff* skb, const struct mesh_address* node,
                                       const struct mesh_address* source,
                                       const struct mesh_address* destination, __u8 proto,
                                       __u16 port) {
    const struct mesh_encryption* enc = get_encryption();
    if (!enc || !(enc->flags & MESH_ENCRYPTION_STRICT)) return false;
    /* Where a node's record is not known, it is not known either that it has no key. */
    if (!bpf_map_lookup_elem(&encrypted, node)) return !bpf_map_lookup_elem(&nodes, node);
    struct bpf_fib_lookup route = {};
    route.l4_protocol = proto;
    route.dport = port;
    route.ifindex = skb->ifindex;
    if (is_v4_mapped(destination)) {
        route.family = 2; /* AF_INET */
        route.ipv4_src = source->word[3];
        route.ipv4_dst = destination->word[3];
    } else {
        route.family = 10; /* AF_INET6 */
        __builtin_memcpy(route.ipv6_src, source, sizeof route.ipv6_src);
        __builtin_memcpy(route.ipv6_dst, destination, sizeof route.ipv6_dst);
    }
    /* No neighbour, or a packet that is too big: the route is found all the same. */
    if (bpf_fib_lookup(skb, &route, sizeof route, 0) < 0) return true;
    return route.ifindex != enc->wireguard_ifindex;
}

static __always_inline bool would_leak_in_tunnel(struct __sk_buff* skb,
                                                 const struct mesh_pods_settings* set,
                                                 const struct mesh_address* node) {
    const struct mesh_encryption* enc = get_encryption();
    if (!enc || !(enc->flags & MESH_ENCRYPTION_STRICT)) return false;
    return would_leak(skb, node, is_v4_mapped(node) ? &set->node4 : &set->node6, node, IPPROTO_UDP,
                      enc->tunnel_port);
}

/* Whether a packet of the underlay is a tunnel's that should have come encrypted. One in fragments
 * is found by its mark when it is whole. */
static __always_inline bool is_plain_tunnel(struct __sk_buff* skb, struct packet* p) {
    const struct mesh_encryption* enc = get_encryption();
    if (!enc || !(enc->flags & MESH_ENCRYPTION_STRICT) || enc->tunnel_port == 0) return false;
    if (p->proto != IPPROTO_UDP) return false;
    read_ports(skb, p);
    return p->destination_port == enc->tunnel_port && bpf_map_lookup_elem(&encrypted, &p->source);
}
