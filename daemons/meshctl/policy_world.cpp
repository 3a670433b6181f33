#include "meshctl/policy_world.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <variant>

#include "compile/identities/reserved.hpp"
#include "compile/policy/policy_json.hpp"
#include "publish/identities.hpp"
#include "sources/config/document.hpp"
#include "sources/config/field.hpp"
#include "sources/config/manifests.hpp"

namespace mesh::ctl {

namespace k8s = model::k8s;
using compile::TraceSide;
using compile::TraceTarget;
using model::Label;
using model::policy::kClusterKey;
using model::policy::kNamespaceKey;
using model::policy::kSourceK8s;

namespace {

constexpr std::size_t kMaxCandidates = 5;

std::string value_of(const std::vector<Label>& labels, std::string_view key) {
    const auto found = std::ranges::find_if(
        labels, [&](const Label& label) { return label.source == kSourceK8s && label.key == key; });
    return found == labels.end() ? std::string() : found->value.str();
}

bool has_all(const std::vector<Label>& labels, const std::vector<Label>& wanted) {
    return std::ranges::includes(labels, wanted);
}

std::string joined(const std::vector<Label>& labels) {
    std::vector<std::string> texts;
    for (const Label& label : labels) texts.push_back(compile::label_text(label));
    return fmt::format("{}", fmt::join(texts, ","));
}

std::vector<Label> without_source(const model::StringMap& map) {
    std::vector<Label> out;
    for (const auto& [key, value] : map)
        out.push_back({"", std::string_view(key), std::string_view(value)});
    std::ranges::sort(out);
    return out;
}

}  // namespace

PolicyWorld::PolicyWorld(compile::PolicyOptions options)
    : cluster_(options.cluster),
      compiler_(std::move(options)),
      next_local_(compile::kFirstLocalIdentity) {
    for (const auto& one : compile::reserved_identities(false)) {
        identities_.emplace(one.labels, one.id);
        by_id_[one.id] = {one.id, one.labels, one.cidr};
        compiler_.upsert_identity(by_id_[one.id]);
    }
}

std::uint32_t PolicyWorld::identity_of(std::vector<Label> labels) {
    std::ranges::sort(labels);
    const auto [at, added] = identities_.try_emplace(std::move(labels), 0);
    if (!added) return at->second;
    while (by_id_.contains(next_)) ++next_;
    at->second = next_++;
    by_id_[at->second] = {at->second, at->first, {}};
    compiler_.upsert_identity(by_id_[at->second]);
    return at->second;
}

// --- what files hold --------------------------------------------------------------------------

Result<void> PolicyWorld::add_manifests(const std::vector<InputFile>& files) {
    std::vector<k8s::Pod> pods;
    std::map<std::string, k8s::Namespace> namespaces;
    std::vector<k8s::Service> services;
    std::vector<k8s::EndpointSlice> slices;
    for (const InputFile& file : files) {
        const auto parsed = sources::config::parse_manifests(file.text, file.name);
        if (!parsed.errors.empty()) return invalid_argument(parsed.errors.front());
        for (const auto& object : parsed.objects) {
            if (const auto* pod = std::get_if<k8s::Pod>(&*object)) pods.push_back(*pod);
            if (const auto* space = std::get_if<k8s::Namespace>(&*object)) {
                namespaces[space->meta.name] = *space;
            }
            if (const auto* one = std::get_if<k8s::Service>(&*object)) services.push_back(*one);
            if (const auto* one = std::get_if<k8s::EndpointSlice>(&*object)) slices.push_back(*one);
        }
    }
    add_pods(pods, namespaces);
    for (const k8s::Service& service : services) add_service(service, slices);
    return {};
}

void PolicyWorld::add_pods(const std::vector<k8s::Pod>& pods,
                           const std::map<std::string, k8s::Namespace>& namespaces) {
    const publish::LabelFilter filter;
    for (const k8s::Pod& pod : pods) {
        const auto space = namespaces.find(pod.meta.namespace_);
        const std::uint32_t identity = identity_of(publish::identity_labels(
            pod, space == namespaces.end() ? nullptr : &space->second, cluster_, filter));
        pods_[{pod.meta.namespace_, pod.meta.name}] = {pod.ips, identity};
    }
}

void PolicyWorld::add_service(const k8s::Service& service,
                              const std::vector<k8s::EndpointSlice>& slices) {
    compile::PolicyService out;
    out.name = service.meta.name;
    out.namespace_ = service.meta.namespace_;
    out.labels = without_source(service.meta.labels);
    if (service.selector) out.selector = without_source(*service.selector);
    if (out.selector.empty()) {
        for (const k8s::EndpointSlice& slice : slices) {
            if (slice.meta.namespace_ != out.namespace_ || slice.service() != out.name) continue;
            for (const k8s::Endpoint& endpoint : slice.endpoints) {
                out.backends.insert(out.backends.end(), endpoint.addresses.begin(),
                                    endpoint.addresses.end());
            }
        }
    }
    compiler_.upsert_service(out);
}

Result<void> PolicyWorld::add_identities(const InputFile& file) {
    MESH_TRY(const auto documents, sources::config::parse_documents(file.text, file.name));
    std::optional<std::string> mistake;
    for (const auto& document : documents) {
        const sources::config::Field root(document.root, mistake);
        root.each([&](const sources::config::Field& item) {
            compile::PolicyIdentity one;
            one.id = static_cast<std::uint32_t>(
                item["id"].integer(1, std::numeric_limits<std::uint32_t>::max(), std::nullopt));
            item["labels"].each([&](const sources::config::Field& text) {
                auto label = compile::parse_label(text.string());
                if (!label) return text.expected("a label, source:key=value");
                one.labels.push_back(*std::move(label));
            });
            std::ranges::sort(one.labels);
            if (const std::string prefix = item["prefix"].string(); !prefix.empty()) {
                const auto block = model::IpPrefix::parse(prefix);
                if (!block) return item["prefix"].expected("a block of addresses");
                one.cidr = *block;
            }
            if (mistake) return;
            identities_.emplace(one.labels, one.id);
            compiler_.upsert_identity(one);
            by_id_.insert_or_assign(one.id, std::move(one));
        });
    }
    if (mistake) return invalid_argument(fmt::format("{}: {}", file.name, *mistake));
    return {};
}

void PolicyWorld::add_policies(const std::vector<model::policy::PolicyPtr>& policies) {
    for (const auto& policy : policies) compiler_.upsert_policy(policy);
}

void PolicyWorld::add_endpoints() {
    std::uint32_t number = 0;
    const auto add = [&](const std::vector<Label>& labels, std::string name) {
        compiler_.upsert_endpoint(++number, {labels, {}});
        endpoints_.emplace(number, std::move(name));
    };
    for (const auto& [key, pod] : pods_) {
        add(by_id_.at(pod.identity).labels, key.first + "/" + key.second);
    }
    if (pods_.empty()) {
        for (const auto& [id, identity] : by_id_) {
            if (value_of(identity.labels, kClusterKey) == cluster_) {
                add(identity.labels, joined(identity.labels));
            }
        }
    }
    static_cast<void>(compiler_.flush());
}

// --- whom is meant ----------------------------------------------------------------------------

TraceSide PolicyWorld::side_of(const TraceTarget& target, std::uint32_t identity) const {
    TraceSide side;
    side.asked = target.text;
    side.identity = by_id_.at(identity);
    side.cluster = value_of(side.identity.labels, kClusterKey);
    return side;
}

Result<TraceSide> PolicyWorld::find(const TraceTarget& target) {
    switch (target.kind) {
        case TraceTarget::Kind::kIdentity:
            if (!by_id_.contains(target.identity)) {
                return not_found(fmt::format("identity {}: no such identity", target.identity));
            }
            return side_of(target, target.identity);
        case TraceTarget::Kind::kLabels:
            return find_labels(target);
        case TraceTarget::Kind::kAddress:
            for (const auto& [key, pod] : pods_) {
                if (std::ranges::find(pod.ips, target.address) == pod.ips.end()) continue;
                TraceSide side = side_of(target, pod.identity);
                side.pod = key.first + "/" + key.second;
                side.address = target.text;
                return side;
            }
            return find_outside(target);
        case TraceTarget::Kind::kPod:
            break;
    }
    const auto pod = pods_.find({target.namespace_, target.name});
    if (pod == pods_.end() || (!target.cluster.empty() && target.cluster != cluster_)) {
        return not_found(fmt::format(
            "pod {}: not in the files; expected a Pod's manifest, or labels", target.text));
    }
    TraceSide side = side_of(target, pod->second.identity);
    side.pod = target.namespace_ + "/" + target.name;
    if (!pod->second.ips.empty()) side.address = pod->second.ips.front().to_string();
    return side;
}

Result<TraceSide> PolicyWorld::find_labels(const TraceTarget& target) {
    std::vector<std::uint32_t> found;
    for (const auto& [id, identity] : by_id_) {
        if (!has_all(identity.labels, target.labels)) continue;
        // Of a reserved label the one that has nothing else.
        if (identity.labels == target.labels) return side_of(target, id);
        found.push_back(id);
    }
    if (found.size() == 1) return side_of(target, found.front());
    if (found.size() > 1) {
        std::string list;
        for (std::size_t i = 0; i < std::min(found.size(), kMaxCandidates); ++i) {
            list += fmt::format("\n  {} {}", found[i], joined(by_id_.at(found[i]).labels));
        }
        return invalid_argument(fmt::format("{} have the labels {}: expected one identity{}",
                                            found.size(), target.text, list));
    }
    std::vector<Label> labels = target.labels;
    const bool pod =
        std::ranges::all_of(labels, [](const Label& label) { return label.source == kSourceK8s; });
    if (pod && value_of(labels, kNamespaceKey).empty()) {
        labels.push_back({kSourceK8s, kNamespaceKey, "default"});
    }
    if (pod && value_of(labels, kClusterKey).empty()) {
        labels.push_back({kSourceK8s, kClusterKey, cluster_});
    }
    return side_of(target, identity_of(std::move(labels)));
}

TraceSide PolicyWorld::find_outside(const TraceTarget& target) {
    const model::IpPrefix block(target.address, 128);
    compile::PolicyIdentity one;
    one.id = next_local_++;
    one.labels = {compile::cidr_label(block), compile::world_label(target.address.is_v4(), false)};
    std::ranges::sort(one.labels);
    one.cidr = block;
    compiler_.upsert_identity(one);
    by_id_[one.id] = one;
    TraceSide side = side_of(target, one.id);
    side.address = target.text;
    return side;
}

}  // namespace mesh::ctl
