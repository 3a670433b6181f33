#include "publish/object_compiler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "model/annotations.hpp"
#include "model/codec.hpp"
#include "model/keys.hpp"
#include "publish/identities.hpp"

namespace mesh::publish {

namespace k8s = model::k8s;
using model::IpAddress;

namespace {

/// The alternative T of an object held by shared_ptr, sharing its ownership.
template <class T>
std::shared_ptr<const T> share(const std::shared_ptr<const k8s::Object>& object) {
    if (!object) return nullptr;
    return {object, &std::get<T>(*object)};
}

}  // namespace

ObjectCompiler::ObjectCompiler(ClusterInfo cluster, LabelFilter labels)
    : cluster_(std::move(cluster)), labels_(std::move(labels)) {}

Compiled ObjectCompiler::start() const {
    model::ClusterConfig config;
    config.id = cluster_.id;
    config.synced_canaries = true;
    config.max_connected_clusters = cluster_.max_clusters;
    // Known and off: a reader then waits for the canary of the exports only, which we write.
    config.service_exports_enabled = false;
    return {{{model::cluster_config_key(cluster_.name), model::encode(config)}}, {}};
}

Compiled ObjectCompiler::apply(std::span<const k8s::ObjectChange> changes) {
    Round round;
    for (const k8s::ObjectChange& change : changes) take(change, round);
    for (const Name& name : round.services) compile_service(name, round);
    for (const Name& name : round.pods) compile_pod(name, round);
    for (const IpAddress& ip : round.ips) compile_ip(ip, round);
    return finish(std::move(round));
}

Compiled ObjectCompiler::number_identity(const std::string& labels, model::IdentityId id) {
    Round round;
    const auto found = identities_.find(labels);
    if (found == identities_.end() || found->second.id == id) return {};
    found->second.id = id;
    for (const Name& name : found->second.pods) {
        for (const IpAddress& ip : pods_.at(name).claimed) round.ips.insert(ip);
    }
    for (const IpAddress& ip : round.ips) compile_ip(ip, round);
    return finish(std::move(round));
}

Compiled ObjectCompiler::finish(Round round) {
    Compiled compiled;
    compiled.changes.reserve(round.keys.size());
    while (!round.keys.empty()) {
        auto node = round.keys.extract(round.keys.begin());
        compiled.changes.push_back({std::move(node.key()), std::move(node.mapped())});
    }
    for (const auto& [labels, wanted_before] : round.identities) {
        const auto found = identities_.find(labels);
        const bool wanted = !found->second.pods.empty();
        if (!wanted) identities_.erase(found);
        if (wanted && !wanted_before) compiled.identities_wanted.push_back(labels);
        if (!wanted && wanted_before) compiled.identities_unwanted.push_back(labels);
    }
    compiled.warnings = std::move(round.warnings);
    return compiled;
}

void ObjectCompiler::take(const k8s::ObjectChange& change, Round& round) {
    const Name name{change.key.namespace_, change.key.name};
    switch (change.key.kind) {
        case k8s::Kind::kNamespace:
            if (change.object) {
                take_namespace(name.second, &std::get<k8s::Namespace>(*change.object), round);
            } else {
                take_namespace(name.second, nullptr, round);
            }
            break;
        case k8s::Kind::kNode:
            take_node(name.second, change.object.get(), round);
            break;
        case k8s::Kind::kPod:
            take_pod(name, change.object, round);
            break;
        case k8s::Kind::kService:
            if (change.object) {
                services_.insert_or_assign(name, std::get<k8s::Service>(*change.object));
            } else {
                services_.erase(name);
            }
            round.services.insert(name);
            break;
        case k8s::Kind::kEndpointSlice:
            take_slice(name, change.object, round);
            break;
    }
}

void ObjectCompiler::take_namespace(const std::string& name, const k8s::Namespace* space,
                                    Round& round) {
    local_namespaces_.erase(name);
    if (space != nullptr) {
        namespaces_.insert_or_assign(name, *space);
        std::vector<std::string> warnings;
        if (!model::parse_namespace_global(space->meta.annotations, warnings)) {
            local_namespaces_.insert(name);
        }
        for (const std::string& text : warnings) {
            round.warnings.push_back(fmt::format("Namespace {}: {}", name, text));
        }
    } else {
        namespaces_.erase(name);
    }
    for (auto pod = pods_.lower_bound({name, ""}); pod != pods_.end() && pod->first.first == name;
         ++pod) {
        round.pods.insert(pod->first);
    }
}

void ObjectCompiler::take_node(const std::string& name, const k8s::Object* object, Round& round) {
    const std::string key = model::node_key(cluster_.name, name);
    if (object != nullptr) {
        const auto& node = std::get<k8s::Node>(*object);
        nodes_.insert_or_assign(name, node);
        round.keys[key] = model::encode(make_node(node, cluster_, round.warnings));
    } else {
        nodes_.erase(name);
        round.keys[key] = std::nullopt;
    }
    if (const auto pods = pods_by_node_.find(name); pods != pods_by_node_.end()) {
        // Their records name the node's address.
        round.pods.insert(pods->second.begin(), pods->second.end());
    }
}

void ObjectCompiler::take_pod(const Name& name, const std::shared_ptr<const k8s::Object>& object,
                              Round& round) {
    PodEntry& entry = pods_[name];
    // The claim is ranked by what the pod says of itself: it must go while that is still known.
    for (const IpAddress& ip : entry.claimed) {
        auto& owners = owners_[ip];
        owners.erase({entry.pod->meta.creation_timestamp, name.first, name.second});
        if (owners.empty()) owners_.erase(ip);
        round.ips.insert(ip);
    }
    entry.claimed.clear();
    if (entry.pod) pods_by_node_[entry.pod->node].erase(name);
    entry.pod = share<k8s::Pod>(object);
    if (entry.pod) pods_by_node_[entry.pod->node].insert(name);
    round.pods.insert(name);
}

void ObjectCompiler::take_slice(const Name& name, const std::shared_ptr<const k8s::Object>& object,
                                Round& round) {
    if (const auto owner = slice_owners_.find(name); owner != slice_owners_.end()) {
        const Name service{name.first, owner->second};
        const auto slices = slices_.find(service);
        slices->second.erase(name.second);
        if (slices->second.empty()) slices_.erase(slices);
        slice_owners_.erase(owner);
        round.services.insert(service);
    }
    auto slice = share<k8s::EndpointSlice>(object);
    if (!slice || slice->service().empty()) return;
    const Name service{name.first, std::string(slice->service())};
    slice_owners_.emplace(name, service.second);
    slices_[service].insert_or_assign(name.second, std::move(slice));
    round.services.insert(service);
}

void ObjectCompiler::compile_service(const Name& name, Round& round) {
    auto& local_value = round.keys[model::local_service_key(name.first, name.second)];
    auto& value = round.keys[model::service_key(cluster_.name, name.first, name.second)];
    local_value.reset();
    value.reset();
    const auto service = services_.find(name);
    if (service == services_.end()) {
        warned_.erase(name);
        return;
    }
    static const Slices kNone;
    const auto slices = slices_.find(name);
    std::vector<std::string> warnings;
    const model::LocalService local = make_local_service(
        service->second, slices == slices_.end() ? kNone : slices->second, warnings);
    warn(name, std::move(warnings), round);
    local_value = model::encode(local);
    if (const auto shared = make_service(local, cluster_)) value = model::encode(*shared);
}

void ObjectCompiler::warn(const Name& name, std::vector<std::string> warnings, Round& round) {
    if (warnings.empty()) {
        warned_.erase(name);
        return;
    }
    auto& told = warned_[name];
    for (const std::string& text : warnings) {
        if (std::ranges::find(told, text) == told.end()) round.warnings.push_back(text);
    }
    told = std::move(warnings);
}

bool ObjectCompiler::is_published(const k8s::Pod& pod) const {
    // A pod on the host's network has the node's address, which is not its own to publish; a pod
    // that has ended has given its address back.
    if (pod.host_network || pod.ips.empty()) return false;
    if (pod.phase == "Succeeded" || pod.phase == "Failed") return false;
    return true;
}

void ObjectCompiler::compile_pod(const Name& name, Round& round) {
    const auto found = pods_.find(name);
    if (found == pods_.end()) return;
    PodEntry& entry = found->second;
    const bool published = entry.pod && is_published(*entry.pod);
    for (const IpAddress& ip : entry.claimed) round.ips.insert(ip);
    if (!published) {
        for (const IpAddress& ip : entry.claimed) {
            auto& owners = owners_[ip];
            owners.erase({entry.pod->meta.creation_timestamp, name.first, name.second});
            if (owners.empty()) owners_.erase(ip);
        }
        entry.claimed.clear();
        hold_identity(name, entry, {}, round);
        if (!entry.pod) pods_.erase(found);
        return;
    }
    const auto space = namespaces_.find(name.first);
    const auto labels = identity_labels(
        *entry.pod, space == namespaces_.end() ? nullptr : &space->second, cluster_.name, labels_);
    hold_identity(name, entry, model::encode_labels(labels), round);
    entry.claimed = entry.pod->ips;
    for (const IpAddress& ip : entry.claimed) {
        auto& owners = owners_[ip];
        const bool added =
            owners.insert({entry.pod->meta.creation_timestamp, name.first, name.second}).second;
        if (added && owners.size() > 1) {
            round.warnings.push_back(fmt::format(
                "Pod {}/{}: its address {} is that of Pod {}/{}, too", name.first, name.second,
                ip.to_string(), std::get<1>(*owners.begin()), std::get<2>(*owners.begin())));
        }
        round.ips.insert(ip);
    }
}

void ObjectCompiler::hold_identity(const Name& name, PodEntry& entry, const std::string& labels,
                                   Round& round) {
    if (entry.labels == labels) return;
    if (const auto former = identities_.find(entry.labels); former != identities_.end()) {
        former->second.pods.erase(name);
        // Another pod of this round may take it, and its number.
        if (former->second.pods.empty()) round.identities.try_emplace(entry.labels, true);
    }
    entry.labels = labels;
    if (labels.empty()) return;
    const auto [now, is_new] = identities_.try_emplace(labels);
    if (is_new) round.identities.try_emplace(labels, false);
    now->second.pods.insert(name);
}

void ObjectCompiler::compile_ip(const IpAddress& ip, Round& round) {
    auto& value = round.keys[model::ip_key(
        model::IpPrefix(ip, std::numeric_limits<std::uint8_t>::max()), cluster_.name)];
    auto& local_value = round.keys[model::local_ip_key(ip)];
    value.reset();
    local_value.reset();
    const auto owners = owners_.find(ip);
    if (owners == owners_.end()) return;
    const Owner& newest = *owners->second.rbegin();
    const PodEntry& entry = pods_.at({std::get<1>(newest), std::get<2>(newest)});
    model::IpIdentityPair pair;
    pair.ip = ip;
    // Without a number it has identity 0, unknown, as an endpoint without an identity (wire.md §6).
    const auto identity = identities_.find(entry.labels);
    if (identity != identities_.end()) pair.id = identity->second.id;
    pair.host_ip = entry.pod->host_ip;
    if (!pair.host_ip) {
        const auto node = nodes_.find(entry.pod->node);
        if (node != nodes_.end()) pair.host_ip = node_address(node->second);
    }
    pair.k8s_namespace = entry.pod->meta.namespace_;
    pair.k8s_pod_name = entry.pod->meta.name;
    pair.k8s_service_account = entry.pod->service_account;
    pair.named_ports = entry.pod->ports;
    // What takes no part in the mesh has policies of its own cluster all the same.
    const bool local = local_namespaces_.contains(entry.pod->meta.namespace_);
    (local ? local_value : value) = model::encode(pair);
}

}  // namespace mesh::publish
