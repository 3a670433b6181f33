#include "compile/services/health_state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <variant>

#include "model/usable.hpp"

namespace mesh::compile {
namespace {

using model::HealthCheck;
using model::IpAddress;
using state::ObjectName;

constexpr std::size_t kMostNotes = 20;  ///< of unhealthy nodes and backends, each

model::IpPrefix host_prefix(const IpAddress& address) {
    return {address, static_cast<std::uint8_t>(address.is_v4() ? 32 : 128)};
}

template <class T>
void sort_and_unite(std::vector<T>& list) {
    std::ranges::sort(list);
    list.erase(std::unique(list.begin(), list.end()), list.end());
}

std::vector<IpAddress> internal_ips(const model::Node* node) {
    std::vector<IpAddress> found;
    if (node == nullptr || !node->addresses) return found;
    for (const model::NodeAddress& address : *node->addresses) {
        IpAddress ip;
        if (address.type != "InternalIP" || !IpAddress::parse_into(address.ip, ip)) continue;
        found.push_back(ip);
    }
    sort_and_unite(found);
    return found;
}

/// Whether probes are of use for a backend that was not chosen.
bool is_candidate(const BackendRow& backend) {
    return backend.programmed || backend.reason == Reason::kPrefersLocal ||
           backend.reason == Reason::kPrefersRemote;
}

std::optional<std::uint16_t> probed_port(const HealthCheck& check, std::uint16_t port,
                                         Protocol protocol) {
    if (check.port != 0) return check.port;
    if (protocol != Protocol::kTcp) return std::nullopt;
    return port;
}

std::string endpoint_text(const IpAddress& address, std::uint16_t port) {
    return address.is_v4() ? fmt::format("{}:{}", address.to_string(), port)
                           : fmt::format("[{}]:{}", address.to_string(), port);
}

}  // namespace

HealthState::HealthState(const state::ClusterTables& tables, std::string own_cluster,
                         std::string node)
    : tables_(tables), own_(std::move(own_cluster)), node_(std::move(node)) {
    Marks nothing;
    for (const state::ClusterKey& cluster : tables_.clusters()) {
        tables_.for_each_node(cluster.name, [&](const model::Node& found) {
            note_node(cluster.name, nullptr, &found, nothing);
        });
    }
}

// --- what the tables say ----------------------------------------------------------------------

void HealthState::note(const state::Effect& effect, Marks& marks) {
    if (const auto* node = std::get_if<state::Changed<model::Node>>(&effect.change)) {
        note_node(effect.cluster.name, node->before, node->after, marks);
    } else if (const auto* ip =
                   std::get_if<state::Changed<model::IpIdentityPair>>(&effect.change)) {
        note_ip(effect.cluster.name, ip->before, ip->after, marks);
    }
    marks.merge(late_marks_);
    late_marks_.clear();
}

void HealthState::note_node(const std::string& cluster, const model::Node* before,
                            const model::Node* after, Marks& marks) {
    const std::vector<IpAddress> had = internal_ips(before);
    const std::vector<IpAddress> has = internal_ips(after);
    for (const IpAddress& ip : has) {
        if (!std::ranges::binary_search(had, ip)) add_node({cluster, ip}, after->name, marks);
    }
    for (const IpAddress& ip : had) {
        if (!std::ranges::binary_search(has, ip)) remove_node({cluster, ip}, before->name, marks);
    }
}

void HealthState::add_node(const HostProbe& host, const std::string& node, Marks& marks) {
    const auto at = hosts_.try_emplace(host).first;
    const bool was_bad = at->second.bad();
    at->second.nodes.insert(node);
    at->second.lost = false;
    node_addresses_[host.address].insert(host.cluster);
    set_bad(at->second, was_bad, marks);
    review(host.address);
}

void HealthState::remove_node(const HostProbe& host, const std::string& node, Marks& marks) {
    const auto at = hosts_.find(host);
    if (at == hosts_.end() || at->second.nodes.erase(node) == 0) return;
    if (at->second.nodes.empty()) {
        const bool was_bad = at->second.bad();
        at->second.lost = !at->second.services.empty();
        set_bad(at->second, was_bad, marks);
        const auto clusters = node_addresses_.find(host.address);
        clusters->second.erase(host.cluster);
        if (clusters->second.empty()) node_addresses_.erase(clusters);
    }
    review(host.address);
    review(at);
}

void HealthState::note_ip(const std::string& cluster, const model::IpIdentityPair* before,
                          const model::IpIdentityPair* after, Marks& marks) {
    if (after == nullptr) return;
    if (const auto waiting = unplaced_.find(after->ip); waiting != unplaced_.end()) {
        marks.insert(waiting->second.begin(), waiting->second.end());
    }
    if (before == nullptr || !before->host_ip || before->host_ip == after->host_ip) return;
    // An address moved: whose it is among the services of its former node is not kept.
    const auto host = hosts_.find({cluster, *before->host_ip});
    if (host == hosts_.end()) return;
    for (const ObjectName* name : host->second.services) marks.insert(*name);
}

// --- what probes say --------------------------------------------------------------------------

void HealthState::set_bad(Host& host, bool was_bad, Marks& marks) {
    if (host.bad() == was_bad) return;
    host.bad() ? ++bad_hosts_ : --bad_hosts_;
    for (const ObjectName* name : host.services) marks.insert(*name);
}

void HealthState::note_host(const HostProbe& probe, const Finding& finding, Marks& marks) {
    const auto at = hosts_.find(probe);
    if (at == hosts_.end() || !at->second.probed) return;
    const bool was_bad = at->second.bad();
    at->second.finding = finding;
    set_bad(at->second, was_bad, marks);
}

void HealthState::note_backend(const BackendProbe& probe, const Finding& finding, Marks& marks) {
    const auto at = backends_.find(probe);
    if (at == backends_.end()) return;
    const bool was_healthy = std::exchange(at->second.finding, finding).healthy;
    if (was_healthy == finding.healthy) return;
    finding.healthy ? --bad_backends_ : ++bad_backends_;
    marks.insert(at->second.services.begin(), at->second.services.end());
}

std::optional<Reason> HealthState::verdict(std::string_view cluster, const IpAddress& address,
                                           std::uint16_t port, Protocol protocol,
                                           const HealthCheck* check) const {
    if (bad_hosts_ > 0) {
        const std::string name(cluster);
        if (const auto host = host_of(name, address)) {
            const auto at = hosts_.find({name, *host});
            if (at != hosts_.end() && at->second.lost) return Reason::kNodeGone;
            if (at != hosts_.end() && !at->second.finding.healthy) return Reason::kNodeUnreachable;
        }
    }
    if (bad_backends_ == 0 || check == nullptr) return std::nullopt;
    const auto at_port = probed_port(*check, port, protocol);
    if (!at_port) return std::nullopt;
    const auto at = backends_.find({address, *at_port, *check});
    if (at == backends_.end() || at->second.finding.healthy) return std::nullopt;
    return Reason::kFailsProbe;
}

// --- what is to be probed ---------------------------------------------------------------------

std::optional<IpAddress> HealthState::host_of(const std::string& cluster,
                                              const IpAddress& address) const {
    if (const auto pair = tables_.find_ip(cluster, host_prefix(address))) {
        if (pair->host_ip) return pair->host_ip;
    }
    // A pod in its node's network.
    if (hosts_.contains({cluster, address})) return address;
    return std::nullopt;
}

bool HealthState::is_node(const IpAddress& address) const {
    return node_addresses_.contains(address);
}

bool HealthState::goes_first(std::string_view cluster, const IpAddress& address) const {
    const auto claimed = node_addresses_.find(address);
    if (claimed == node_addresses_.end()) return true;
    for (const state::ClusterKey& key : tables_.clusters()) {
        if (claimed->second.contains(key.name)) return key.name == cluster;
    }
    return false;
}

bool HealthState::is_trusted(std::string_view cluster, const IpAddress& address) const {
    if (!is_usable(address) || !goes_first(cluster, address)) return false;
    const auto match = tables_.lookup(address);
    if (match) return match->cluster.name == cluster && match->prefix.is_host();
    return is_node(address);
}

bool HealthState::is_own_node(const HostProbe& host, const Host& held) const {
    return host.cluster == own_ && held.nodes.contains(node_);
}

void HealthState::review(const IpAddress& address) {
    std::vector<Hosts::iterator> found;
    for (const state::ClusterKey& key : tables_.clusters()) {
        if (const auto at = hosts_.find({key.name, address}); at != hosts_.end()) {
            found.push_back(at);
        }
    }
    for (const auto at : found) {
        if (!at->second.nodes.empty()) review(at);
    }
}

/// Decides whether the host is probed, and forgets it if nothing refers to it.
void HealthState::review(Hosts::iterator at) {
    Host& host = at->second;
    const bool wanted = !host.nodes.empty() && !host.services.empty() &&
                        !is_own_node(at->first, host) &&
                        is_trusted(at->first.cluster, at->first.address);
    if (wanted != host.probed) {
        host.probed = wanted;
        (wanted ? changes_.hosts_added : changes_.hosts_removed).push_back(at->first);
        if (!wanted) {
            // Of what is not probed nothing is known.
            if (host.bad() && !host.lost) {
                --bad_hosts_;
                for (const ObjectName* name : host.services) late_marks_.insert(*name);
            }
            host.finding = {};
        }
    }
    if (!host.nodes.empty() || !host.services.empty()) return;
    if (host.bad()) --bad_hosts_;
    hosts_.erase(at);
}

void HealthState::place(const ObjectName* name, Placed& placed,
                        std::vector<const HostProbe*> hosts) {
    if (placed.hosts == hosts) return;
    const auto had = std::exchange(placed.hosts, std::move(hosts));
    for (const HostProbe* host : placed.hosts) {
        if (std::ranges::binary_search(had, host)) continue;
        const auto at = hosts_.find(*host);
        at->second.services.insert(name);
        review(at);
    }
    for (const HostProbe* host : had) {
        if (std::ranges::binary_search(placed.hosts, host)) continue;
        const auto at = hosts_.find(*host);
        at->second.services.erase(name);
        review(at);
    }
}

void HealthState::set_probes(const ObjectName& name, Placed& placed,
                             std::vector<BackendProbe> probes) {
    if (placed.probes == probes) return;
    const auto had = std::exchange(placed.probes, std::move(probes));
    for (const BackendProbe& probe : placed.probes) {
        if (std::ranges::binary_search(had, probe)) continue;
        const auto [at, added] = backends_.try_emplace(probe);
        if (added) changes_.backends_added.push_back(probe);
        at->second.services.insert(name);
    }
    for (const BackendProbe& probe : had) {
        if (std::ranges::binary_search(placed.probes, probe)) continue;
        const auto at = backends_.find(probe);
        at->second.services.erase(name);
        if (!at->second.services.empty()) continue;
        if (!at->second.finding.healthy) --bad_backends_;
        changes_.backends_removed.push_back(probe);
        backends_.erase(at);
    }
}

void HealthState::set_unplaced(const ObjectName& name, Placed& placed,
                               std::vector<IpAddress> addresses) {
    const auto had = std::exchange(placed.unplaced, std::move(addresses));
    for (const IpAddress& address : had) {
        const auto at = unplaced_.find(address);
        at->second.erase(name);
        if (at->second.empty()) unplaced_.erase(at);
    }
    for (const IpAddress& address : placed.unplaced) unplaced_[address].insert(name);
}

void HealthState::settle(const ObjectName& name, const HealthCheck* check,
                         const std::vector<FrontendRow>& rows) {
    std::vector<std::pair<const std::string*, IpAddress>> backends;
    std::vector<std::pair<const std::string*, BackendProbe>> checked;
    for (const FrontendRow& row : rows) {
        for (const BackendRow& backend : row.backends) {
            if (!is_candidate(backend)) continue;
            backends.emplace_back(&backend.cluster.name, backend.address);
            if (check == nullptr) continue;
            const auto port = probed_port(*check, backend.port, row.key.protocol);
            if (!port) continue;
            checked.emplace_back(&backend.cluster.name,
                                 BackendProbe{backend.address, *port, *check});
        }
    }
    // Ports and protocols of one pod are one backend here.
    const auto by_content = [](const auto& a, const auto& b) {
        return std::tie(a.second, *a.first) < std::tie(b.second, *b.first);
    };
    const auto same = [](const auto& a, const auto& b) {
        return a.second == b.second && *a.first == *b.first;
    };
    std::ranges::sort(backends, by_content);
    backends.erase(std::unique(backends.begin(), backends.end(), same), backends.end());
    std::ranges::sort(checked, by_content);
    checked.erase(std::unique(checked.begin(), checked.end(), same), checked.end());

    const auto held = services_.try_emplace(name).first;
    std::vector<const HostProbe*> hosts;
    std::vector<IpAddress> unplaced;
    for (const auto& [cluster, address] : backends) {
        if (const auto host = host_of(*cluster, address)) {
            hosts.push_back(&hosts_.try_emplace({*cluster, *host}).first->first);
        } else {
            unplaced.push_back(address);
        }
    }
    std::vector<BackendProbe> probes;
    for (const auto& [cluster, probe] : checked) {
        if (is_trusted(*cluster, probe.address)) probes.push_back(probe);
    }
    sort_and_unite(hosts);
    sort_and_unite(unplaced);
    sort_and_unite(probes);
    place(&held->first, held->second, std::move(hosts));
    set_probes(name, held->second, std::move(probes));
    set_unplaced(name, held->second, std::move(unplaced));
}

void HealthState::forget(const ObjectName& name) {
    const auto at = services_.find(name);
    if (at == services_.end()) return;
    place(&at->first, at->second, {});
    set_probes(name, at->second, {});
    set_unplaced(name, at->second, {});
    services_.erase(at);
}

ProbeChanges HealthState::take_changes() {
    return std::exchange(changes_, {});
}

// --- what people are told ---------------------------------------------------------------------

std::vector<std::string> HealthState::notes(const HealthCheck* check,
                                            const std::vector<FrontendRow>& rows) const {
    std::vector<std::string> notes;
    std::set<HostProbe> hosts;
    std::map<BackendProbe, std::string> backends;
    for (const FrontendRow& row : rows) {
        const bool open = std::ranges::any_of(
            row.backends, [](const auto& b) { return b.reason == Reason::kAllUnhealthy; });
        if (open) {
            notes.push_back(fmt::format("{}/{}: all backends are unhealthy, so that all are used",
                                        endpoint_text(row.key.address, row.key.port),
                                        to_string(row.key.protocol)));
        }
        if (check != nullptr && !probed_port(*check, row.key.port, row.key.protocol)) {
            notes.push_back(fmt::format("{}/{}: {} has no port=, so that only nodes are probed",
                                        endpoint_text(row.key.address, row.key.port),
                                        to_string(row.key.protocol),
                                        model::kHealthCheckAnnotation));
        }
        for (const BackendRow& backend : row.backends) {
            if (const auto host = host_of(backend.cluster.name, backend.address)) {
                hosts.insert({backend.cluster.name, *host});
            }
            if (check == nullptr) continue;
            if (const auto port = probed_port(*check, backend.port, row.key.protocol)) {
                backends.emplace(BackendProbe{backend.address, *port, *check},
                                 backend.cluster.name);
            }
        }
    }
    std::size_t told = 0;
    for (const HostProbe& host : hosts) {
        const auto at = hosts_.find(host);
        if (at == hosts_.end() || !at->second.bad() || ++told > kMostNotes) continue;
        const std::string where = host.address.to_string();
        notes.push_back(
            at->second.lost
                ? fmt::format("{}: the record of the node at {} is gone", host.cluster, where)
                : fmt::format("{}: the node at {} does not answer probes: {}", host.cluster, where,
                              at->second.finding.error));
    }
    told = 0;
    for (const auto& [probe, cluster] : backends) {
        const auto at = backends_.find(probe);
        const std::string where = endpoint_text(probe.address, probe.port);
        if (at == backends_.end() || at->second.finding.healthy || ++told > kMostNotes) continue;
        notes.push_back(fmt::format("{} {}: fails {} {}: {}", cluster, where,
                                    model::kHealthCheckAnnotation, to_string(probe.check),
                                    at->second.finding.error));
    }
    return notes;
}

}  // namespace mesh::compile
