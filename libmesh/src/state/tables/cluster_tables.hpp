// What the engine keeps of every cluster: nodes, services, ips, identities, service exports, and of
// the own cluster its local services and policies. Typed changes go in, the changes that had an
// effect come out with the objects before and after; nothing is ever taken from another cluster's
// table.
//
// Objects are kept as compact rows (row_codec.hpp) and converted on demand: 100,000 ips cost about
// 7 MiB, 10,000 services of 10 backends about 3 MiB; see README.md for the measured figures.
//
// Used by engine (one writer, the control thread); compile reads it while it compiles.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/ip.hpp"
#include "model/types.hpp"
#include "state/tables/changes.hpp"

namespace mesh::state {

/// The kinds of objects, as indices of ClusterStats.
enum class Kind : std::uint8_t {
    kNode,
    kService,
    kIp,
    kIdentity,
    kExport,
    kLocalService,
    kPolicy,
    kLocalIp
};
inline constexpr std::size_t kKinds = 8;

/// A set of kinds.
class KindSet {
  public:
    constexpr KindSet(std::initializer_list<Kind> kinds) {
        for (const Kind kind : kinds) bits_ |= 1U << static_cast<unsigned>(kind);
    }
    [[nodiscard]] static constexpr KindSet all() {
        return {Kind::kNode,   Kind::kService,      Kind::kIp,     Kind::kIdentity,
                Kind::kExport, Kind::kLocalService, Kind::kPolicy, Kind::kLocalIp};
    }
    friend constexpr bool operator==(const KindSet&, const KindSet&) = default;
    [[nodiscard]] constexpr bool contains(Kind kind) const {
        return (bits_ >> static_cast<unsigned>(kind) & 1U) != 0;
    }

  private:
    unsigned bits_ = 0;
};

/// One object's change: before is null for a new one, after for a deleted one, and they differ
/// otherwise. The objects live only while the sink runs.
template <class T>
struct Changed {
    const T* before = nullptr;
    const T* after = nullptr;
};

/// A change that had an effect on the tables.
struct Effect {
    const ClusterKey& cluster;
    std::variant<Changed<model::Node>, Changed<model::Service>, Changed<model::IpIdentityPair>,
                 Changed<model::Identity>, Changed<model::ServiceExport>,
                 Changed<model::LocalService>, Changed<model::PolicyRecord>,
                 Changed<model::LocalIp>>
        change;
};

/// Called for each effect, in order, after the tables hold it. Must not change the tables.
using EffectSink = std::function<void(const Effect&)>;

struct ApplyCounts {
    std::size_t effective = 0;
    std::size_t unchanged = 0;  ///< equal re-upserts and deletes of what is not there
    std::size_t refused = 0;    ///< a local object in a remote's batch
    friend bool operator==(const ApplyCounts&, const ApplyCounts&) = default;
};

struct KindStats {
    std::size_t count = 0;
    std::size_t bytes = 0;  ///< rows and index; strings shared by rows are in shared_bytes()
};
using ClusterStats = std::array<KindStats, kKinds>;

/// An entry found by lookup().
struct IpMatch {
    ClusterKey cluster;
    model::IpPrefix prefix;
    model::IpIdentityPair pair;
};

/// What of an ip is of fixed size.
struct IpRow {
    model::IpPrefix prefix;
    std::optional<model::IpAddress> host;
    model::IdentityId id{};
    std::uint8_t key = 0;
};

/// The tables of all clusters.
/// @thread same object not concurrently
class ClusterTables {
  public:
    /// @param own_cluster name of the cluster this process belongs to
    /// @param hash_seed keys the hash tables, so that no remote can choose colliding keys; takes it
    ///        from an Rng. Results do not depend on it.
    ClusterTables(std::string own_cluster, std::uint64_t hash_seed);
    ~ClusterTables();
    ClusterTables(ClusterTables&&) noexcept;
    ClusterTables& operator=(ClusterTables&&) noexcept;

    [[nodiscard]] std::string_view own_cluster() const noexcept;

    /// Applies a batch in order. An upsert equal to what is held and a delete of nothing have no
    /// effect. If the cluster is held under another id, it is drained first (protocol.md §8).
    /// @return how many changes had an effect (deletes of such a drain included), had none, or were
    ///         refused
    ApplyCounts apply(const ClusterBatch& batch, const EffectSink& sink);

    /// Deletes what is held of a cluster, in the order of Kind and then of keys; with
    /// KindSet::all() the cluster itself is forgotten. A remote whose configured age has passed is
    /// drained of services and exports only (protocol.md §8).
    /// @return the number of objects deleted
    std::size_t drain(std::string_view cluster, const EffectSink& sink,
                      KindSet kinds = KindSet::all());

    /// The clusters held: the own one first, then by id, then by name. This order is the order of
    /// preference wherever two clusters claim the same thing.
    [[nodiscard]] std::vector<ClusterKey> clusters() const;
    /// Counts and bytes per kind; zeros for an unknown cluster.
    [[nodiscard]] ClusterStats stats(std::string_view cluster) const;
    /// Bytes of the strings that rows of all clusters share.
    [[nodiscard]] std::size_t shared_bytes() const noexcept;
    [[nodiscard]] std::size_t shared_strings() const noexcept;

    [[nodiscard]] std::optional<model::Node> find_node(std::string_view cluster,
                                                       std::string_view name) const;
    [[nodiscard]] std::optional<model::Service> find_service(std::string_view cluster,
                                                             const ObjectName& name) const;
    [[nodiscard]] std::optional<model::IpIdentityPair> find_ip(std::string_view cluster,
                                                               const model::IpPrefix& prefix) const;
    [[nodiscard]] std::optional<model::Identity> find_identity(std::string_view cluster,
                                                               model::IdentityId id) const;
    [[nodiscard]] std::optional<model::ServiceExport> find_export(std::string_view cluster,
                                                                  const ObjectName& name) const;
    /// Of the own cluster.
    [[nodiscard]] std::optional<model::LocalService> find_local_service(
        const ObjectName& name) const;
    [[nodiscard]] bool has_local_service(const ObjectName& name) const;
    /// Of the own cluster.
    [[nodiscard]] std::optional<model::PolicyRecord> find_policy(
        const model::policy::PolicyKey& key) const;

    /// The entry with the longest prefix that holds the address, over all clusters; between equal
    /// prefixes the order of clusters() decides.
    /// @complexity clusters × prefix lengths in use
    [[nodiscard]] std::optional<IpMatch> lookup(const model::IpAddress& address) const;

    /// Each calls for every object of one cluster, in the order of keys. The callback must not
    /// change the tables.
    void for_each_node(std::string_view cluster,
                       const std::function<void(const model::Node&)>& call) const;
    void for_each_service(std::string_view cluster,
                          const std::function<void(const model::Service&)>& call) const;
    /// The service of that name in each cluster that has one, in the order of clusters().
    void for_each_service_named(
        const ObjectName& name,
        const std::function<void(const ClusterKey&, const model::Service&)>& call) const;
    void for_each_ip(std::string_view cluster,
                     const std::function<void(const model::IpIdentityPair&)>& call) const;
    /// Likewise, but in an order that means nothing, and without an allocation for each.
    void for_each_ip_row(std::string_view cluster,
                         const std::function<void(const IpRow&)>& call) const;
    void for_each_identity(std::string_view cluster,
                           const std::function<void(const model::Identity&)>& call) const;
    void for_each_export(std::string_view cluster,
                         const std::function<void(const model::ServiceExport&)>& call) const;
    void for_each_local_service(const std::function<void(const model::LocalService&)>& call) const;
    /// Of the own cluster.
    [[nodiscard]] std::optional<model::LocalIp> find_local_ip(
        const model::IpAddress& address) const;
    void for_each_policy(const std::function<void(const model::PolicyRecord&)>& call) const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mesh::state
