// What policies mean beside what they say: the cluster at hand, and the switches in which versions
// of Cilium differ.
#pragma once

#include <string>
#include <vector>

#include "compile/policy/endpoint_mode.hpp"

namespace mesh::compile {

/// The same for all policies of a node. @thread any thread (a plain value)
struct PolicyOptions {
    std::string cluster;  ///< own name
    Enforcement enforcement = Enforcement::kDefault;
    std::vector<EndpointMode> endpoint_modes{};  ///< of some endpoints; the first that fits counts
    /// Ingress from the node's own host is allowed unless it is denied, and goes past L7 rules that
    /// do not name the host ("allow-localhost: always", which auto comes to under Kubernetes).
    bool allow_localhost = true;
    bool host_firewall = false;  ///< policies of nodes are enforced

    /// A selector of peers without a cluster key means the own cluster
    /// ("policy-default-local-cluster", on from 1.19); else all clusters.
    bool default_local_cluster = true;
    /// A selector with a key of namespace labels is not held to the policy's own namespace (1.19).
    bool namespace_labels_lift_namespace = true;
    /// A present but empty list of peers beside ports means everybody (1.15); else nobody.
    bool empty_peers_match_any = false;
    /// ICMP type 0 means all types (1.15); else echo reply.
    bool icmp_type_zero_is_any = false;
    /// A block with exceptions is the blocks that are left of it (1.15): neither "world" nor an
    /// identity that holds an exception is in them.
    bool cidr_except_splits = false;
    /// Selectors of a NetworkPolicy's peers select pods only; else, with NotIn and DoesNotExist,
    /// whatever has no such label (1.15).
    bool network_policies_select_pods = true;
    /// toServices takes a Service with a selector as that selector in its namespace; else it has no
    /// peers (1.15).
    bool services_with_selector = true;

    [[nodiscard]] static PolicyOptions as_of_1_15() {
        PolicyOptions options;
        options.default_local_cluster = false;
        options.namespace_labels_lift_namespace = false;
        options.empty_peers_match_any = true;
        options.icmp_type_zero_is_any = true;
        options.cidr_except_splits = true;
        options.network_policies_select_pods = false;
        options.services_with_selector = false;
        return options;
    }
};

}  // namespace mesh::compile
