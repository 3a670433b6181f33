#include "publish/identities.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "model/codec.hpp"

namespace mesh::publish {

namespace k8s = model::k8s;

namespace {

constexpr std::string_view kNamespaceLabel = "io.kubernetes.pod.namespace";
constexpr std::string_view kServiceAccountLabel = "io.cilium.k8s.policy.serviceaccount";
constexpr std::string_view kNamespaceLabelsPrefix = "io.cilium.k8s.namespace.labels.";

}  // namespace

bool is_identity_label(std::string_view key) {
    // What changes with every roll-out or is told of nodes must not make an identity each.
    static constexpr std::array<std::string_view, 14> kDroppedPrefixes{
        // Derived by us, never a pod's to claim.
        "io.cilium.k8s.",
        "io.kubernetes",
        "kubernetes.io",
        "k8s.io",
        "topology.kubernetes.io",
        "pod-template-",
        "controller-revision-hash",
        "controller-uid",
        "annotation.",
        "etcd_node",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/controller-uid",
    };
    if (key.starts_with("app.kubernetes.io")) return true;
    if (key.find("beta.kubernetes.io") != std::string_view::npos) return false;
    return std::ranges::none_of(kDroppedPrefixes,
                                [key](std::string_view prefix) { return key.starts_with(prefix); });
}

std::vector<model::Label> identity_labels(const k8s::Pod& pod, const k8s::Namespace* space,
                                          std::string_view cluster) {
    constexpr std::string_view kSource = "k8s";
    std::vector<model::Label> labels;
    std::map<std::string, std::string, std::less<>> own;
    for (const auto& [key, value] : pod.meta.labels) {
        if (is_identity_label(key)) own.insert_or_assign(key.str(), value.str());
    }
    if (space != nullptr) {
        for (const auto& [key, value] : space->meta.labels) {
            own.insert_or_assign(std::string(kNamespaceLabelsPrefix) + key.str(), value.str());
        }
    }
    own.insert_or_assign(std::string(kNamespaceLabel), pod.meta.namespace_);
    own.insert_or_assign(std::string(model::kClusterLabel), std::string(cluster));
    own.insert_or_assign(std::string(kServiceAccountLabel), pod.service_account);
    for (const auto& [key, value] : own) labels.push_back({kSource, key, value});
    model::sort_labels(labels);
    return labels;
}

bool IdentityAllocator::adopt(model::IdentityId id, const std::string& labels, TimePoint now) {
    if (!range_.contains(id) || by_id_.contains(number(id))) return false;
    if (const auto found = by_labels_.find(labels); found != by_labels_.end()) {
        const bool replace = found->second.users == 0 && number(id) < number(found->second.id);
        if (!replace) return false;
        by_id_.erase(number(found->second.id));
        found->second.id = id;
        by_id_.emplace(number(id), labels);
        return true;
    }
    by_labels_.emplace(labels, Entry{id, 0, now});
    by_id_.emplace(number(id), labels);
    return true;
}

Result<IdentityAllocator::Acquired> IdentityAllocator::acquire(const std::string& labels) {
    if (const auto found = by_labels_.find(labels); found != by_labels_.end()) {
        ++found->second.users;
        return Acquired{found->second.id, false};
    }
    const std::uint64_t size = std::uint64_t{range_.last} - range_.first + 1;
    if (by_id_.size() >= size) {
        return Error(Errc::kCapacity, fmt::format("all {} identities of the cluster are in use, "
                                                  "none is free for {}",
                                                  size, labels));
    }
    // A random number, so that one that has just been given up is not soon another's.
    std::uint32_t id = range_.first + static_cast<std::uint32_t>(rng_.below(size));
    while (by_id_.contains(id)) id = id == range_.last ? range_.first : id + 1;
    by_labels_.emplace(labels, Entry{model::IdentityId{id}, 1, {}});
    by_id_.emplace(id, labels);
    return Acquired{model::IdentityId{id}, true};
}

void IdentityAllocator::release(const std::string& labels, TimePoint now) {
    const auto found = by_labels_.find(labels);
    if (found == by_labels_.end() || found->second.users == 0) return;
    if (--found->second.users == 0) found->second.unused_since = now;
}

std::vector<model::IdentityId> IdentityAllocator::collect(TimePoint now, Duration grace) {
    std::vector<model::IdentityId> gone;
    for (auto entry = by_labels_.begin(); entry != by_labels_.end();) {
        if (entry->second.users == 0 && entry->second.unused_since + grace <= now) {
            gone.push_back(entry->second.id);
            by_id_.erase(number(entry->second.id));
            entry = by_labels_.erase(entry);
        } else {
            ++entry;
        }
    }
    return gone;
}

std::optional<TimePoint> IdentityAllocator::next_collection(Duration grace) const {
    std::optional<TimePoint> next;
    for (const auto& [labels, entry] : by_labels_) {
        if (entry.users != 0) continue;
        const TimePoint due = entry.unused_since + grace;
        if (!next || due < *next) next = due;
    }
    return next;
}

}  // namespace mesh::publish
