#include "publish/workload_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <tuple>

#include "model/keys.hpp"
#include "model/utf8.hpp"

namespace mesh::publish {

namespace k8s = model::k8s;
using model::IpAddress;
using model::Workload;

namespace {

constexpr std::string_view kZoneLabel = "topology.kubernetes.io/zone";

/// Addresses that a manifest's object has to itself.
std::vector<IpAddress> addresses_of(const k8s::Object& object) {
    std::vector<IpAddress> found;
    if (const auto* node = std::get_if<k8s::Node>(&object)) {
        for (const auto& candidate : node->addresses) {
            if (auto address = IpAddress::parse(candidate.address)) found.push_back(*address);
        }
    } else if (const auto* pod = std::get_if<k8s::Pod>(&object)) {
        // One that has ended has given its addresses back.
        if (pod->phase != "Succeeded" && pod->phase != "Failed") found = pod->ips;
    } else if (const auto* service = std::get_if<k8s::Service>(&object)) {
        found = service->cluster_ips;
    }
    return found;
}

k8s::ObjectKey pod_key(const Workload& workload) {
    return {k8s::Kind::kPod, workload.namespace_, workload.name};
}
k8s::ObjectKey node_key(const Workload& workload) {
    return {k8s::Kind::kNode, {}, workload.name};
}

k8s::Pod make_pod(const Workload& workload) {
    k8s::Pod pod;
    pod.meta.namespace_ = workload.namespace_;
    pod.meta.name = workload.name;
    pod.meta.labels = workload.labels;
    pod.phase = "Running";
    pod.ips = workload.ips;
    if (workload.node) pod.node = workload.name;
    std::vector<model::NamedPort> ports;
    for (const auto& backend : workload.backends) {
        const bool known = std::ranges::any_of(
            ports, [&](const auto& port) { return port.name == backend.port_name; });
        if (backend.port_name.empty() || known) continue;
        ports.push_back({backend.port_name, backend.protocol, backend.port});
    }
    std::ranges::sort(ports, {}, [](const auto& port) { return port.name.view(); });
    pod.ports = ports;
    return pod;
}

k8s::Node make_node(const Workload& workload) {
    k8s::Node node;
    node.meta.name = workload.name;
    if (!workload.zone.empty()) node.meta.labels.emplace(kZoneLabel, model::Text(workload.zone));
    for (const IpAddress& ip : workload.ips) {
        node.addresses.push_back({"InternalIP", ip.to_string()});
    }
    return node;
}

/// One slice per Service and family, as Kubernetes has them; the names are none that a manifest's
/// could have.
void add_slices(const Workload& workload,
                std::map<k8s::ObjectKey, std::shared_ptr<const k8s::Object>>& objects) {
    std::map<std::string, std::vector<model::ServicePort>> by_service;
    for (const auto& backend : workload.backends) {
        model::ServicePort port;
        port.name = backend.port_name;
        port.protocol = backend.protocol;
        port.port = backend.port;
        by_service[backend.service].push_back(std::move(port));
    }
    for (auto& [service, ports] : by_service) {
        const auto slash = service.find('/');
        std::ranges::sort(ports, {}, [](const auto& port) { return port.name.view(); });
        const model::SharedList<model::ServicePort> shared(ports);
        for (const bool v4 : {true, false}) {
            k8s::EndpointSlice slice;
            slice.meta.namespace_ = service.substr(0, slash);
            slice.meta.name = fmt::format("workload:{}:{}:{}", workload.name,
                                          service.substr(slash + 1), v4 ? "v4" : "v6");
            slice.meta.labels.emplace(k8s::kServiceNameLabel,
                                      model::Text(service.substr(slash + 1)));
            slice.address_type = v4 ? "IPv4" : "IPv6";
            slice.ports = shared;
            k8s::Endpoint endpoint;
            for (const IpAddress& ip : workload.ips) {
                if (ip.is_v4() == v4) endpoint.addresses.push_back(ip);
            }
            if (endpoint.addresses.empty()) continue;
            endpoint.zone = workload.zone;
            if (workload.node) endpoint.node = workload.name;
            slice.endpoints.push_back(std::move(endpoint));
            const k8s::ObjectKey key{k8s::Kind::kEndpointSlice, slice.meta.namespace_,
                                     slice.meta.name};
            objects.emplace(key, std::make_shared<const k8s::Object>(std::move(slice)));
        }
    }
}

std::map<k8s::ObjectKey, std::shared_ptr<const k8s::Object>> make_objects(
    const Workload& workload) {
    std::map<k8s::ObjectKey, std::shared_ptr<const k8s::Object>> objects;
    objects.emplace(pod_key(workload), std::make_shared<const k8s::Object>(make_pod(workload)));
    if (workload.node) {
        objects.emplace(node_key(workload),
                        std::make_shared<const k8s::Object>(make_node(workload)));
    }
    add_slices(workload, objects);
    return objects;
}

}  // namespace

void WorkloadTable::remember(std::string_view name, const model::WorkloadStatus& answer) {
    if (answer.accepted) remembered_.insert_or_assign(std::string(name), answer.revision);
}

void WorkloadTable::index(const Entry& entry, bool add) {
    if (!entry.workload) return;
    const std::string& name = entry.record.name;
    const auto note = [&](auto& map, const auto& key) {
        if (add) {
            map[key].insert(name);
        } else if (const auto at = map.find(key); at != map.end()) {
            at->second.erase(name);
            if (at->second.empty()) map.erase(at);
        }
    };
    for (const IpAddress& ip : entry.workload->ips) note(claimants_, ip);
    for (const auto& backend : entry.workload->backends) {
        note(backends_of_, ServiceName(backend.service_namespace(), backend.service_name()));
    }
}

WorkloadChanges WorkloadTable::apply(std::vector<WorkloadRecord> records,
                                     const std::vector<std::string>& gone) {
    WorkloadChanges changes;
    Names touched;
    for (const std::string& name : gone) {
        const auto at = entries_.find(name);
        if (at == entries_.end()) continue;
        Entry& entry = at->second;
        release(entry, touched);
        diff(entry, changes);
        index(entry, false);
        if (entry.answer) changes.answers[name] = std::nullopt;
        entries_.erase(at);
    }
    for (WorkloadRecord& record : records) {
        Entry& entry = entries_[record.name];
        index(entry, false);
        entry.record = std::move(record);
        auto workload =
            model::parse_workload(model::local_workload_key(entry.record.name), entry.record.value);
        entry.error = workload ? std::string() : workload.error().detail();
        entry.workload.reset();
        if (workload) entry.workload = *std::move(workload);
        index(entry, true);
        touched.insert(entry.record.name);
    }
    settle(std::move(touched), changes);
    remembered_.clear();
    return changes;
}

WorkloadChanges WorkloadTable::note(std::span<const k8s::ObjectChange> manifests) {
    Names touched;
    for (const k8s::ObjectChange& change : manifests) {
        if (change.key.kind == k8s::Kind::kNamespace ||
            change.key.kind == k8s::Kind::kEndpointSlice) {
            continue;
        }
        if (const auto before = manifests_.find(change.key); before != manifests_.end()) {
            for (const IpAddress& ip : before->second) {
                const auto owners = manifest_owners_.find(ip);
                if (owners == manifest_owners_.end()) continue;
                owners->second.erase(change.key);
                if (owners->second.empty()) manifest_owners_.erase(owners);
            }
            touch_concerned(change.key, before->second, touched);
            manifests_.erase(before);
        }
        if (!change.object) continue;
        auto now = addresses_of(*change.object);
        for (const IpAddress& ip : now) manifest_owners_[ip].insert(change.key);
        touch_concerned(change.key, now, touched);
        manifests_.emplace(change.key, std::move(now));
    }
    WorkloadChanges changes;
    settle(std::move(touched), changes);
    return changes;
}

void WorkloadTable::touch_claimants(const std::vector<IpAddress>& ips, Names& touched) const {
    for (const IpAddress& ip : ips) {
        const auto found = claimants_.find(ip);
        if (found != claimants_.end()) touched.insert(found->second.begin(), found->second.end());
    }
}

void WorkloadTable::touch_concerned(const k8s::ObjectKey& key, const std::vector<IpAddress>& ips,
                                    Names& touched) const {
    touch_claimants(ips, touched);
    if (key.kind == k8s::Kind::kService) {
        const auto found = backends_of_.find({key.namespace_, key.name});
        if (found != backends_of_.end()) touched.insert(found->second.begin(), found->second.end());
    } else if (entries_.contains(key.name)) {
        touched.insert(key.name);
    }
}

/// Decides about those that a change concerns: what is free, first to those that wait longest.
void WorkloadTable::settle(Names touched, WorkloadChanges& changes) {
    Names concerned = touched;
    const auto spread = [&](Names more) {
        concerned.insert(more.begin(), more.end());
        touched.merge(more);
    };
    for (const std::string& name : Names(touched)) {
        Names freed;
        if (const auto at = entries_.find(name); at != entries_.end()) {
            release_unclaimed(at->second, freed);
        }
        spread(std::move(freed));
    }
    // One that goes may free what lets another stay, but never the other way round.
    while (!touched.empty()) {
        const auto at = entries_.find(*touched.begin());
        touched.erase(touched.begin());
        if (at == entries_.end() || !at->second.accepted) continue;
        if (objection(at->second).empty()) {
            hold(at->second);
            continue;
        }
        Names freed;
        release(at->second, freed);
        spread(std::move(freed));
    }
    for (Entry* entry : waiting(concerned)) {
        if (objection(*entry).empty()) hold(*entry);
    }
    for (const std::string& name : concerned) {
        const auto at = entries_.find(name);
        if (at != entries_.end() && !at->second.accepted) diff(at->second, changes);
    }
    for (const std::string& name : concerned) {
        const auto at = entries_.find(name);
        if (at == entries_.end()) continue;
        if (at->second.accepted) diff(at->second, changes);
        answer(at->second, changes);
    }
}

std::vector<WorkloadTable::Entry*> WorkloadTable::waiting(const Names& names) {
    std::vector<Entry*> found;
    for (const std::string& name : names) {
        const auto at = entries_.find(name);
        if (at != entries_.end() && !at->second.accepted) found.push_back(&at->second);
    }
    const auto order = [this](const Entry* entry) {
        const auto former = remembered_.find(entry->record.name);
        const bool had =
            former != remembered_.end() && former->second == entry->record.mod_revision;
        return std::tuple(!had, entry->record.create_revision, std::cref(entry->record.name));
    };
    std::ranges::sort(found, [&](const Entry* a, const Entry* b) {
        const auto [a_new, a_created, a_name] = order(a);
        const auto [b_new, b_created, b_name] = order(b);
        return std::tie(a_new, a_created, a_name.get()) < std::tie(b_new, b_created, b_name.get());
    });
    return found;
}

/// What it had and does not claim any more.
void WorkloadTable::release_unclaimed(Entry& entry, Names& touched) {
    std::erase_if(entry.held, [&](const IpAddress& ip) {
        const bool claimed = entry.workload && std::ranges::count(entry.workload->ips, ip) != 0;
        if (claimed) return false;
        holders_.erase(ip);
        touch_claimants({ip}, touched);
        return true;
    });
}

void WorkloadTable::release(Entry& entry, Names& touched) {
    for (const IpAddress& ip : entry.held) holders_.erase(ip);
    touch_claimants(entry.held, touched);
    touched.erase(entry.record.name);
    entry.held.clear();
    entry.accepted = false;
}

void WorkloadTable::hold(Entry& entry) {
    entry.accepted = true;
    entry.held = entry.workload->ips;
    for (const IpAddress& ip : entry.held) holders_.insert_or_assign(ip, entry.record.name);
}

/// From what is in force to what should be.
void WorkloadTable::diff(Entry& entry, WorkloadChanges& changes) const {
    Objects now;
    if (entry.accepted) now = make_objects(*entry.workload);
    for (const auto& [key, object] : entry.objects) {
        if (!now.contains(key)) changes.objects.push_back({key, nullptr});
    }
    for (const auto& [key, object] : now) {
        const auto before = entry.objects.find(key);
        if (before != entry.objects.end() && *before->second == *object) continue;
        changes.objects.push_back({key, object});
    }
    entry.objects = std::move(now);
}

void WorkloadTable::answer(Entry& entry, WorkloadChanges& changes) const {
    const std::string key = model::local_workload_key(entry.record.name);
    model::WorkloadStatus answer;
    answer.revision = entry.record.mod_revision;
    answer.accepted = entry.accepted;
    answer.reason = entry.accepted ? missing(*entry.workload) : objection(entry);
    const bool is_news = !entry.answer || entry.answer->reason != answer.reason;
    if (is_news && !answer.reason.empty()) {
        changes.warnings.push_back(entry.accepted ? fmt::format("{}: {}", key, answer.reason)
                                                  : answer.reason);
    }
    if (entry.answer == answer) return;
    entry.answer = answer;
    // A name that is none cannot be answered to.
    if (model::parse_key(key).kind != model::KeyKind::kLocalWorkload) return;
    changes.answers[entry.record.name] = std::move(answer);
}

std::string WorkloadTable::objection(const Entry& entry) const {
    if (!entry.workload) return entry.error;
    const Workload& workload = *entry.workload;
    const std::string key = model::local_workload_key(workload.name);
    std::vector<k8s::ObjectKey> names{pod_key(workload)};
    if (workload.node) names.push_back(node_key(workload));
    for (const k8s::ObjectKey& name : names) {
        if (!manifests_.contains(name)) continue;
        return fmt::format(
            "{}: name: expected one that nothing else has, but the manifests have {}", key,
            name.to_string());
    }
    for (const IpAddress& ip : workload.ips) {
        std::string owner;
        if (const auto found = manifest_owners_.find(ip); found != manifest_owners_.end()) {
            owner = found->second.begin()->to_string() + " of the manifests";
        } else if (const auto holder = holders_.find(ip);
                   holder != holders_.end() && holder->second != workload.name) {
            owner = "workload " + holder->second;
        }
        if (owner.empty()) continue;
        return fmt::format(
            "{}: ips: expected addresses that nothing else has, but {} is that of {}", key,
            ip.to_string(), owner);
    }
    return {};
}

std::string WorkloadTable::missing(const Workload& workload) const {
    for (const auto& backend : workload.backends) {
        const k8s::ObjectKey key{k8s::Kind::kService, std::string(backend.service_namespace()),
                                 std::string(backend.service_name())};
        if (manifests_.contains(key)) continue;
        return fmt::format("waits for {}, which the cluster does not have", key.to_string());
    }
    return {};
}

std::vector<WorkloadReport> WorkloadTable::report() const {
    std::vector<WorkloadReport> all;
    all.reserve(entries_.size());
    for (const auto& [name, entry] : entries_) {
        WorkloadReport& one = all.emplace_back();
        one.name = model::printable(name, 256);
        one.accepted = entry.accepted;
        if (entry.answer) one.reason = entry.answer->reason;
        if (!entry.workload) continue;
        one.namespace_ = entry.workload->namespace_;
        one.ips = entry.workload->ips;
        one.backends = entry.workload->backends;
        one.node = entry.workload->node;
    }
    return all;
}

std::size_t WorkloadTable::accepted() const noexcept {
    return static_cast<std::size_t>(
        std::ranges::count_if(entries_, [](const auto& entry) { return entry.second.accepted; }));
}

}  // namespace mesh::publish
