// A cluster's Kubernetes objects → the key-values of its etcd, incrementally: changes of objects
// in, changes of keys out. A change costs what hangs on it: a slice its Service, a pod its
// addresses, a node or namespace its pods. No I/O. EtcdPublisher runs it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "model/kubernetes.hpp"
#include "model/types.hpp"
#include "publish/label_filter.hpp"
#include "publish/records.hpp"

namespace mesh::publish {

/// A key's new value, or its end.
struct KeyChange {
    std::string key;
    std::optional<std::string> value;
    friend bool operator==(const KeyChange&, const KeyChange&) = default;
};

struct Compiled {
    std::vector<KeyChange> changes;  ///< each key at most once; values may equal the former ones
    std::vector<std::string> warnings;
    /// Label sets (encode_labels) that begin or cease to need a number, each at most once. Pods
    /// have identity 0 until number_identity(): write nothing before that is settled.
    std::vector<std::string> identities_wanted, identities_unwanted;
};

/// @thread one thread
class ObjectCompiler {
  public:
    /// @param labels which of pods' labels make an identity
    explicit ObjectCompiler(ClusterInfo cluster, LabelFilter labels = {});

    /// What does not hang on objects: the cluster-config.
    [[nodiscard]] Compiled start() const;
    [[nodiscard]] Compiled apply(std::span<const model::k8s::ObjectChange> changes);
    /// A label set has this number now; 0: none.
    /// @complexity its pods
    [[nodiscard]] Compiled number_identity(const std::string& labels, model::IdentityId id);
    /// Label sets in use.
    [[nodiscard]] std::size_t identities() const noexcept { return identities_.size(); }

  private:
    using Name = std::pair<std::string, std::string>;  ///< namespace, name
    /// What a pod has in etcd, and what it holds for that.
    struct PodEntry {
        std::shared_ptr<const model::k8s::Pod> pod;
        std::vector<model::IpAddress> claimed;
        std::string labels;  ///< of its identity; empty = none
    };
    /// A label set, and who has it.
    struct Identity {
        model::IdentityId id{};  ///< 0: not known
        std::set<Name> pods;
    };
    /// Newest pod last: it has the address if several claim it.
    using Owner = std::tuple<std::string, std::string, std::string>;  ///< created, namespace, name
    /// What a round of changes touches.
    struct Round {
        std::set<Name> services;
        std::set<Name> pods;
        std::set<model::IpAddress> ips;
        std::map<std::string, std::optional<std::string>> keys;
        std::map<std::string, bool> identities;  ///< label sets: wanted before it
        std::vector<std::string> warnings;
    };

    void take(const model::k8s::ObjectChange& change, Round& round);
    void take_namespace(const std::string& name, const model::k8s::Namespace* space, Round& round);
    void take_node(const std::string& name, const model::k8s::Object* object, Round& round);
    void take_pod(const Name& name, const std::shared_ptr<const model::k8s::Object>& object,
                  Round& round);
    void take_slice(const Name& name, const std::shared_ptr<const model::k8s::Object>& object,
                    Round& round);
    void compile_service(const Name& name, Round& round);
    /// Tells each warning of a Service once, as long as it stands.
    void warn(const Name& name, std::vector<std::string> warnings, Round& round);
    void compile_pod(const Name& name, Round& round);
    void compile_ip(const model::IpAddress& ip, Round& round);
    void hold_identity(const Name& name, PodEntry& entry, const std::string& labels, Round& round);
    /// Here or (of a local namespace) to the own cluster only.
    [[nodiscard]] bool is_published(const model::k8s::Pod& pod) const;
    [[nodiscard]] Compiled finish(Round round);

    ClusterInfo cluster_;
    LabelFilter labels_;
    std::map<std::string, Identity> identities_;
    std::map<std::string, model::k8s::Node> nodes_;
    std::map<std::string, model::k8s::Namespace> namespaces_;
    std::set<std::string> local_namespaces_;  ///< whose pods take no part in the mesh
    std::map<Name, model::k8s::Service> services_;
    std::map<Name, std::vector<std::string>> warned_;  ///< Services with warnings
    std::map<Name, Slices> slices_;                    ///< by Service
    std::map<Name, std::string> slice_owners_;         ///< slice → its Service's name
    std::map<Name, PodEntry> pods_;
    std::map<std::string, std::set<Name>> pods_by_node_;
    std::map<model::IpAddress, std::set<Owner>> owners_;
};

}  // namespace mesh::publish
