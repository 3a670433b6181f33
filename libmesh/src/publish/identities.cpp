#include "publish/identities.hpp"

#include <map>

#include "model/codec.hpp"
#include "model/validate.hpp"

namespace mesh::publish {

namespace k8s = model::k8s;

namespace {

constexpr std::string_view kDerivedPrefix = "io.cilium.k8s.";
constexpr std::string_view kNamespaceLabel = "io.kubernetes.pod.namespace";
constexpr std::string_view kServiceAccountLabel = "io.cilium.k8s.policy.serviceaccount";
constexpr std::string_view kNamespaceLabelsPrefix = "io.cilium.k8s.namespace.labels.";

}  // namespace

std::vector<model::Label> identity_labels(const k8s::Pod& pod, const k8s::Namespace* space,
                                          std::string_view cluster, const LabelFilter& filter) {
    constexpr std::string_view kSource = "k8s";
    std::vector<model::Label> labels;
    std::map<std::string, std::string, std::less<>> own;
    for (const auto& [key, value] : pod.meta.labels) {
        // Derived by us, never a pod's to claim.
        if (key.view().starts_with(kDerivedPrefix)) continue;
        own.insert_or_assign(key.str(), value.str());
    }
    if (space != nullptr) {
        for (const auto& [key, value] : space->meta.labels) {
            own.insert_or_assign(std::string(kNamespaceLabelsPrefix) + key.str(), value.str());
        }
    }
    own.insert_or_assign(std::string(kNamespaceLabel), pod.meta.namespace_);
    own.insert_or_assign(std::string(model::kClusterLabel), std::string(cluster));
    own.insert_or_assign(std::string(kServiceAccountLabel), pod.service_account);
    for (const auto& [key, value] : own) {
        if (filter.keeps(kSource, key)) labels.push_back({kSource, key, value});
    }
    model::sort_labels(labels);
    return labels;
}

}  // namespace mesh::publish
