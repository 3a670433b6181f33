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
#include "publish/identities.hpp"
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
};

/// @thread one thread
class ObjectCompiler {
  public:
    /// @param identity_grace how long an identity without pods keeps its number
    ObjectCompiler(ClusterInfo cluster, Rng rng, Duration identity_grace);

    /// What does not hang on objects: the cluster-config.
    [[nodiscard]] Compiled start() const;
    /// Takes over an identity of a former run. Call before the first apply().
    /// @param labels the key's value, as found
    [[nodiscard]] Compiled adopt_identity(model::IdentityId id, const std::string& labels,
                                          TimePoint now);
    [[nodiscard]] Compiled apply(std::span<const model::k8s::ObjectChange> changes, TimePoint now);
    /// Ends identities that have had no pod for the grace time.
    [[nodiscard]] Compiled collect_identities(TimePoint now);
    [[nodiscard]] std::optional<TimePoint> next_collection() const {
        return identities_.next_collection(identity_grace_);
    }
    [[nodiscard]] std::size_t identities() const noexcept { return identities_.size(); }

  private:
    using Name = std::pair<std::string, std::string>;  ///< namespace, name
    /// What a pod has in etcd, and what it holds for that.
    struct PodEntry {
        std::shared_ptr<const model::k8s::Pod> pod;
        std::vector<model::IpAddress> claimed;
        std::string labels;  ///< of the identity it holds; empty = none
        model::IdentityId id{};
    };
    /// Newest pod last: it has the address if several claim it.
    using Owner = std::tuple<std::string, std::string, std::string>;  ///< created, namespace, name
    /// What a round of changes touches.
    struct Round {
        TimePoint now;
        std::set<Name> services;
        std::set<Name> pods;
        std::set<model::IpAddress> ips;
        std::map<std::string, std::optional<std::string>> keys;
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
    void hold_identity(PodEntry& entry, const std::string& labels, Round& round);
    /// Here or (of a local namespace) to the own cluster only.
    [[nodiscard]] bool is_published(const model::k8s::Pod& pod) const;
    [[nodiscard]] static Compiled finish(Round round);

    ClusterInfo cluster_;
    Duration identity_grace_;
    IdentityAllocator identities_;
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
