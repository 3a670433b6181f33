// Security identities of a cluster's pods: which labels make one, and which number stands for them.
// Plain computation; ObjectCompiler uses it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/kubernetes.hpp"
#include "model/types.hpp"
#include "model/validate.hpp"
#include "runtime/clock.hpp"

namespace mesh::publish {

/// Whether a pod's label takes part in its identity. @source wire.md §16, default filter
[[nodiscard]] bool is_identity_label(std::string_view key);

/// The labels that make a pod's identity, sorted as the wire has them: its own that pass the
/// filter, its namespace, cluster and service account, and its namespace's labels.
/// @param space the pod's Namespace, or nullptr if it is not known
[[nodiscard]] std::vector<model::Label> identity_labels(const model::k8s::Pod& pod,
                                                        const model::k8s::Namespace* space,
                                                        std::string_view cluster);

/// Numbers for label sets, from the cluster's own range. Numbers of a former run are adopted, so
/// that a restart changes none; one that nobody uses any more is kept for a grace time, so that a
/// pod that comes back finds it. @thread one thread
class IdentityAllocator {
  public:
    IdentityAllocator(model::IdentityRange range, Rng rng) : range_(range), rng_(rng) {}

    /// Takes over an identity found in etcd; of two for the same labels the lower number stays.
    /// @param labels as encoded (encode_labels)
    /// @return false if it is not ours to keep: outside the range, or a second one for its labels
    bool adopt(model::IdentityId id, const std::string& labels, TimePoint now);

    struct Acquired {
        model::IdentityId id{};
        bool made = false;  ///< it did not exist before
    };
    /// The number for `labels`; counts one more user.
    /// @errors kCapacity: no number of the range is free
    [[nodiscard]] Result<Acquired> acquire(const std::string& labels);
    /// One user less.
    void release(const std::string& labels, TimePoint now);
    /// Forgets what has had no user for `grace`, and tells it.
    [[nodiscard]] std::vector<model::IdentityId> collect(TimePoint now, Duration grace);
    /// When collect() will have something next, given the same grace.
    [[nodiscard]] std::optional<TimePoint> next_collection(Duration grace) const;
    [[nodiscard]] std::size_t size() const noexcept { return by_labels_.size(); }

  private:
    struct Entry {
        model::IdentityId id{};
        std::size_t users = 0;
        TimePoint unused_since{};
    };
    model::IdentityRange range_;
    Rng rng_;
    std::map<std::string, Entry> by_labels_;
    std::map<std::uint32_t, std::string> by_id_;
};

}  // namespace mesh::publish
