// How much of a remote is taken, and from where in the address space.
#include <fmt/format.h>

#include <algorithm>

#include "state/clusters/intake.hpp"

namespace mesh::state {

namespace {
/// Identities below are reserved: host, remote-node, health, ... @source spec wire.md
constexpr std::uint32_t kFirstWorkloadIdentity = 256;
}  // namespace

std::vector<model::IpPrefix> pod_cidrs(const model::Node& node) {
    std::vector<model::IpPrefix> out;
    if (node.ipv4_alloc_cidr) out.push_back(*node.ipv4_alloc_cidr);
    if (node.ipv6_alloc_cidr) out.push_back(*node.ipv6_alloc_cidr);
    for (const auto* list : {&node.ipv4_secondary_alloc_cidrs, &node.ipv6_secondary_alloc_cidrs}) {
        if (*list) out.insert(out.end(), (*list)->begin(), (*list)->end());
    }
    return out;
}

std::uint64_t Intake::bytes(bool seen) const {
    const auto of = [seen](const auto& ledger) {
        return seen ? ledger.seen().bytes : ledger.all().bytes;
    };
    return of(nodes_) + of(services_) + of(exports_) + of(local_services_) + of(policies_) +
           of(local_ips_) + of(ips_) + of(identities_);
}

std::string Intake::over_limit(Slot slot, const Step& step) const {
    const auto& limits = policy_.limits;
    std::string over;
    // What is named now is held to the bound; what is still held of before may come on top of it
    // once, so that no series of lists without an end adds up.
    const auto check = [&](std::string_view what, std::uint64_t seen, std::uint64_t all, bool grows,
                           std::uint64_t limit) {
        if (!over.empty()) return;
        if (seen > limit) {
            over = fmt::format("{} {}, the limit is {}", seen, what, limit);
        } else if (grows && all / 2 > limit) {
            over = fmt::format("{} {} with those that are about to go, the limit is {}", all, what,
                               limit);
        }
    };
    const auto check_count = [&](std::string_view what, std::uint64_t limit) {
        check(what, step.seen.count + 1, step.all.count + 1, step.fresh, limit);
    };
    const bool heavier = step.weight > step.held_weight;
    const auto check_weight = [&](std::string_view what, std::uint64_t limit,
                                  const Sums& others_seen, const Sums& others) {
        check(what, step.seen.weight + others_seen.weight + step.weight,
              step.all.weight + others.weight + step.weight, heavier, limit);
    };
    const auto check_one = [&](std::string_view what, std::uint64_t limit) {
        check(what, step.weight, 0, false, limit);
    };
    switch (slot) {
        case Slot::kNodes:
            check_count("nodes", limits.nodes);
            check_one("CIDRs of one node", limits.cidrs_per_node);
            check_weight("CIDRs", limits.cidrs, ips_.seen(), ips_.all());
            break;
        case Slot::kServices:
            check_count("services", limits.services);
            check_one("backends of one service", limits.backends_per_service);
            check_weight("backends", limits.backends, {}, {});
            break;
        case Slot::kIps:
            check_count("ips", limits.ips);
            check_weight("CIDRs", limits.cidrs, nodes_.seen(), nodes_.all());
            break;
        case Slot::kIdentities:
            check_count("identities", limits.identities);
            break;
        case Slot::kServiceExports:
            check_count("service exports", limits.service_exports);
            break;
        case Slot::kLocalServices:
        case Slot::kLocalPolicies:
        case Slot::kLocalIps:
        case Slot::kHeartbeat:
        case Slot::kCanaries:
            break;
    }
    check("bytes of keys and values", bytes(true) - step.seen_bytes + step.bytes,
          bytes(false) - step.held_bytes + step.bytes, step.bytes > step.held_bytes,
          limits.total_bytes);
    return over;
}

bool Intake::in_pod_cidrs(const model::IpPrefix& prefix) const {
    return std::any_of(policy_.pod_cidrs.begin(), policy_.pod_cidrs.end(),
                       [&](const model::IpPrefix& cidr) { return cidr.contains(prefix); });
}

std::string Intake::foreign(const model::Node& node) const {
    if (policy_.pod_cidrs.empty()) return {};
    for (const model::IpPrefix& cidr : pod_cidrs(node)) {
        if (!in_pod_cidrs(cidr)) {
            return fmt::format(
                "announces {}, which is in none of the pod-cidrs of the cluster's "
                "configuration file",
                cidr.to_string());
        }
    }
    return {};
}

std::string Intake::foreign(const model::IpPrefix& ip, model::IdentityId id) const {
    if (policy_.pod_cidrs.empty() || in_pod_cidrs(ip)) return {};
    // Nodes have addresses of their own, which are in nobody's pod CIDR; no workload has them.
    if (model::number(id) < kFirstWorkloadIdentity && announced_.contains(ip)) return {};
    return "in none of the pod-cidrs of the cluster's configuration file";
}

}  // namespace mesh::state
