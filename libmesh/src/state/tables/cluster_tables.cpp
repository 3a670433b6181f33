#include "state/tables/cluster_tables.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "state/tables/row_codec.hpp"
#include "state/tables/row_table.hpp"
#include "state/tables/string_pool.hpp"

namespace mesh::state {
namespace {

using model::IpAddress;
using model::IpPrefix;

template <class T>
constexpr Kind kKindOf = Kind::kNode;
template <>
constexpr Kind kKindOf<model::Service> = Kind::kService;
template <>
constexpr Kind kKindOf<model::IpIdentityPair> = Kind::kIp;
template <>
constexpr Kind kKindOf<model::Identity> = Kind::kIdentity;
template <>
constexpr Kind kKindOf<model::ServiceExport> = Kind::kExport;
template <>
constexpr Kind kKindOf<model::LocalService> = Kind::kLocalService;
template <>
constexpr Kind kKindOf<model::PolicyRecord> = Kind::kPolicy;
template <>
constexpr Kind kKindOf<model::LocalIp> = Kind::kLocalIp;

/// How many entries there are of each prefix length, longest first when walked.
class PrefixLengths {
  public:
    void add(const IpPrefix& prefix) { ++of(prefix.is_v4())[prefix.length()]; }
    void remove(const IpPrefix& prefix) {
        const auto at = of(prefix.is_v4()).find(prefix.length());
        if (--at->second == 0) of(prefix.is_v4()).erase(at);
    }
    [[nodiscard]] const auto& longest_first(bool v4) const { return v4 ? v4_ : v6_; }

  private:
    using Counts = std::map<std::uint8_t, std::size_t, std::greater<>>;
    Counts& of(bool v4) { return v4 ? v4_ : v6_; }
    Counts v4_, v6_;
};

struct Cluster {
    Cluster(ClusterKey its_key, const SipKey& hash_key)
        : key(std::move(its_key)), tables{RowTable(hash_key), RowTable(hash_key),
                                          RowTable(hash_key), RowTable(hash_key),
                                          RowTable(hash_key), RowTable(hash_key),
                                          RowTable(hash_key), RowTable(hash_key)} {}

    [[nodiscard]] RowTable& table(Kind kind) { return tables[static_cast<std::size_t>(kind)]; }
    [[nodiscard]] const RowTable& table(Kind kind) const {
        return tables[static_cast<std::size_t>(kind)];
    }

    ClusterKey key;
    std::array<RowTable, kKinds> tables;
    PrefixLengths lengths;
};

}  // namespace

struct ClusterTables::State {
    State(std::string own, std::uint64_t seed)
        : own_cluster(std::move(own)),
          hash_key{seed, seed * 0x9e3779b97f4a7c15U + 1},
          pool(hash_key) {}

    std::string own_cluster;
    SipKey hash_key;
    StringPool pool;
    std::vector<std::unique_ptr<Cluster>> clusters;  ///< in the order of preference
    std::string scratch;

    [[nodiscard]] Cluster* find(std::string_view name) const {
        const auto at = std::ranges::find(
            clusters, name, [](const auto& c) -> std::string_view { return c->key.name; });
        return at == clusters.end() ? nullptr : at->get();
    }

    Cluster& find_or_make(const ClusterKey& key) {
        if (Cluster* held = find(key.name)) return *held;
        const auto rank = [this](const ClusterKey& k) {
            return std::tuple(k.name != own_cluster, k.id, std::string_view(k.name));
        };
        const auto at =
            std::ranges::find_if(clusters, [&](const auto& c) { return rank(c->key) > rank(key); });
        return **clusters.insert(at, std::make_unique<Cluster>(key, hash_key));
    }

    template <class T>
    [[nodiscard]] std::optional<T> get(std::string_view cluster, const std::string& key) const {
        const Cluster* held = find(cluster);
        if (held == nullptr) return std::nullopt;
        const auto payload = held->table(kKindOf<T>).find(key);
        if (!payload) return std::nullopt;
        return decode<T>(*payload, pool);
    }

    template <class T>
    void for_each(std::string_view cluster, const std::function<void(const T&)>& call) const {
        const Cluster* held = find(cluster);
        if (held == nullptr) return;
        for (const RowTable::Row& row : held->table(kKindOf<T>).sorted()) {
            call(decode<T>(row.payload, pool));
        }
    }

    template <class T>
    [[nodiscard]] bool upsert(Cluster& cluster, const T& object, const EffectSink& sink) {
        const std::string key = key_of(object);
        RowTable& table = cluster.table(kKindOf<T>);
        scratch.clear();
        encode(object, pool, scratch);
        std::optional<T> before;
        if (const auto held = table.find(key)) {
            if (*held == scratch) {
                static_cast<void>(take<T>(scratch, pool));
                return false;
            }
            before = take<T>(*held, pool);
        } else if constexpr (std::is_same_v<T, model::IpIdentityPair>) {
            cluster.lengths.add(prefix_of(object));
        }
        table.put(key, scratch);
        sink({cluster.key, Changed<T>{before ? &*before : nullptr, &object}});
        return true;
    }

    template <class T>
    [[nodiscard]] bool erase(Cluster& cluster, const std::string& key, const EffectSink& sink) {
        RowTable& table = cluster.table(kKindOf<T>);
        const auto held = table.find(key);
        if (!held) return false;
        const T before = take<T>(*held, pool);
        table.erase(key);
        if constexpr (std::is_same_v<T, model::IpIdentityPair>) {
            cluster.lengths.remove(prefix_of(before));
        }
        sink({cluster.key, Changed<T>{&before, nullptr}});
        return true;
    }

    template <class T>
    [[nodiscard]] std::size_t drain_kind(Cluster& cluster, const EffectSink& sink, KindSet kinds) {
        if (!kinds.contains(kKindOf<T>)) return 0;
        const RowTable drained = std::exchange(cluster.table(kKindOf<T>), RowTable(hash_key));
        if constexpr (std::is_same_v<T, model::IpIdentityPair>) cluster.lengths = {};
        for (const RowTable::Row& row : drained.sorted()) {
            const T before = take<T>(row.payload, pool);
            sink({cluster.key, Changed<T>{&before, nullptr}});
        }
        return drained.size();
    }

    /// @return whether it had an effect; nullopt if refused
    [[nodiscard]] std::optional<bool> apply(Cluster& cluster, const ClusterChange& change,
                                            const EffectSink& sink);
};

namespace {

template <class... Fs>
struct Overloaded : Fs... {
    using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

}  // namespace

std::optional<bool> ClusterTables::State::apply(Cluster& cluster, const ClusterChange& change,
                                                const EffectSink& sink) {
    using Effective = std::optional<bool>;
    const bool own = cluster.key.name == own_cluster;
    return std::visit(
        Overloaded{
            [&](const NodeUpsert& c) -> Effective { return upsert(cluster, c.node, sink); },
            [&](const NodeDelete& c) -> Effective {
                return erase<model::Node>(cluster, key_of(c.name), sink);
            },
            [&](const ServiceUpsert& c) -> Effective { return upsert(cluster, c.service, sink); },
            [&](const ServiceDelete& c) -> Effective {
                return erase<model::Service>(cluster, key_of(c.name.namespace_, c.name.name), sink);
            },
            [&](const IpUpsert& c) -> Effective { return upsert(cluster, c.pair, sink); },
            [&](const IpDelete& c) -> Effective {
                return erase<model::IpIdentityPair>(cluster, key_of(c.prefix), sink);
            },
            [&](const IdentityUpsert& c) -> Effective { return upsert(cluster, c.identity, sink); },
            [&](const IdentityDelete& c) -> Effective {
                return erase<model::Identity>(cluster, key_of(c.id), sink);
            },
            [&](const ExportUpsert& c) -> Effective {
                return upsert(cluster, c.service_export, sink);
            },
            [&](const ExportDelete& c) -> Effective {
                return erase<model::ServiceExport>(cluster, key_of(c.name.namespace_, c.name.name),
                                                   sink);
            },
            [&](const LocalServiceUpsert& c) -> Effective {
                if (!own) return std::nullopt;
                return upsert(cluster, c.service, sink);
            },
            [&](const LocalServiceDelete& c) -> Effective {
                if (!own) return std::nullopt;
                return erase<model::LocalService>(cluster, key_of(c.name.namespace_, c.name.name),
                                                  sink);
            },
            [&](const PolicyUpsert& c) -> Effective {
                if (!own) return std::nullopt;
                return upsert(cluster, c.record, sink);
            },
            [&](const PolicyDelete& c) -> Effective {
                if (!own) return std::nullopt;
                return erase<model::PolicyRecord>(cluster, key_of(c.key), sink);
            },
            [&](const LocalIpUpsert& c) -> Effective {
                if (!own) return std::nullopt;
                return upsert(cluster, c.ip, sink);
            },
            [&](const LocalIpDelete& c) -> Effective {
                if (!own) return std::nullopt;
                return erase<model::LocalIp>(cluster, key_of(IpPrefix(c.address, 128)), sink);
            },
        },
        change);
}

ClusterTables::ClusterTables(std::string own_cluster, std::uint64_t hash_seed)
    : state_(std::make_unique<State>(std::move(own_cluster), hash_seed)) {}
ClusterTables::~ClusterTables() = default;
ClusterTables::ClusterTables(ClusterTables&&) noexcept = default;
ClusterTables& ClusterTables::operator=(ClusterTables&&) noexcept = default;

std::string_view ClusterTables::own_cluster() const noexcept {
    return state_->own_cluster;
}

ApplyCounts ClusterTables::apply(const ClusterBatch& batch, const EffectSink& sink) {
    ApplyCounts counts;
    if (const Cluster* held = state_->find(batch.cluster.name);
        held != nullptr && held->key.id != batch.cluster.id) {
        counts.effective += drain(batch.cluster.name, sink);
    }
    Cluster& cluster = state_->find_or_make(batch.cluster);
    for (const ClusterChange& change : batch.changes) {
        const auto effective = state_->apply(cluster, change, sink);
        ++(!effective ? counts.refused : *effective ? counts.effective : counts.unchanged);
    }
    return counts;
}

std::size_t ClusterTables::drain(std::string_view cluster, const EffectSink& sink, KindSet kinds) {
    Cluster* held = state_->find(cluster);
    if (held == nullptr) return 0;
    std::size_t deleted = 0;
    deleted += state_->drain_kind<model::Node>(*held, sink, kinds);
    deleted += state_->drain_kind<model::Service>(*held, sink, kinds);
    deleted += state_->drain_kind<model::IpIdentityPair>(*held, sink, kinds);
    deleted += state_->drain_kind<model::Identity>(*held, sink, kinds);
    deleted += state_->drain_kind<model::ServiceExport>(*held, sink, kinds);
    deleted += state_->drain_kind<model::LocalService>(*held, sink, kinds);
    deleted += state_->drain_kind<model::PolicyRecord>(*held, sink, kinds);
    deleted += state_->drain_kind<model::LocalIp>(*held, sink, kinds);
    if (kinds == KindSet::all()) {
        std::erase_if(state_->clusters, [&](const auto& c) { return c.get() == held; });
    }
    return deleted;
}

std::vector<ClusterKey> ClusterTables::clusters() const {
    std::vector<ClusterKey> keys;
    keys.reserve(state_->clusters.size());
    for (const auto& cluster : state_->clusters) keys.push_back(cluster->key);
    return keys;
}

ClusterStats ClusterTables::stats(std::string_view cluster) const {
    ClusterStats stats;
    const Cluster* held = state_->find(cluster);
    if (held == nullptr) return stats;
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
        stats[kind] = {held->tables[kind].size(), held->tables[kind].bytes()};
    }
    return stats;
}

std::size_t ClusterTables::shared_bytes() const noexcept {
    return state_->pool.bytes();
}
std::size_t ClusterTables::shared_strings() const noexcept {
    return state_->pool.size();
}

std::optional<model::Node> ClusterTables::find_node(std::string_view cluster,
                                                    std::string_view name) const {
    return state_->get<model::Node>(cluster, key_of(name));
}
std::optional<model::Service> ClusterTables::find_service(std::string_view cluster,
                                                          const ObjectName& name) const {
    return state_->get<model::Service>(cluster, key_of(name.namespace_, name.name));
}
std::optional<model::IpIdentityPair> ClusterTables::find_ip(std::string_view cluster,
                                                            const IpPrefix& prefix) const {
    return state_->get<model::IpIdentityPair>(cluster, key_of(prefix));
}
std::optional<model::Identity> ClusterTables::find_identity(std::string_view cluster,
                                                            model::IdentityId id) const {
    return state_->get<model::Identity>(cluster, key_of(id));
}
std::optional<model::ServiceExport> ClusterTables::find_export(std::string_view cluster,
                                                               const ObjectName& name) const {
    return state_->get<model::ServiceExport>(cluster, key_of(name.namespace_, name.name));
}
std::optional<model::LocalService> ClusterTables::find_local_service(const ObjectName& name) const {
    return state_->get<model::LocalService>(state_->own_cluster,
                                            key_of(name.namespace_, name.name));
}

std::optional<model::PolicyRecord> ClusterTables::find_policy(
    const model::policy::PolicyKey& key) const {
    return state_->get<model::PolicyRecord>(state_->own_cluster, key_of(key));
}

std::optional<model::LocalIp> ClusterTables::find_local_ip(const IpAddress& address) const {
    return state_->get<model::LocalIp>(state_->own_cluster, key_of(IpPrefix(address, 128)));
}

bool ClusterTables::has_local_service(const ObjectName& name) const {
    const Cluster* own = state_->find(state_->own_cluster);
    return own != nullptr &&
           own->table(Kind::kLocalService).find(key_of(name.namespace_, name.name)).has_value();
}

std::optional<IpMatch> ClusterTables::lookup(const IpAddress& address) const {
    const Cluster* best = nullptr;
    IpPrefix best_prefix;
    for (const auto& cluster : state_->clusters) {
        for (const auto& [length, count] : cluster->lengths.longest_first(address.is_v4())) {
            if (best != nullptr && length <= best_prefix.length()) break;
            const IpPrefix prefix(address, length);
            if (!cluster->table(Kind::kIp).find(key_of(prefix))) continue;
            best = cluster.get();
            best_prefix = prefix;
            break;
        }
    }
    if (best == nullptr) return std::nullopt;
    const auto payload = best->table(Kind::kIp).find(key_of(best_prefix));
    return IpMatch{best->key, best_prefix, decode<model::IpIdentityPair>(*payload, state_->pool)};
}

void ClusterTables::for_each_node(std::string_view cluster,
                                  const std::function<void(const model::Node&)>& call) const {
    state_->for_each<model::Node>(cluster, call);
}
void ClusterTables::for_each_service(std::string_view cluster,
                                     const std::function<void(const model::Service&)>& call) const {
    state_->for_each<model::Service>(cluster, call);
}
void ClusterTables::for_each_service_named(
    const ObjectName& name,
    const std::function<void(const ClusterKey&, const model::Service&)>& call) const {
    const std::string key = key_of(name.namespace_, name.name);
    for (const auto& cluster : state_->clusters) {
        const auto payload = cluster->table(Kind::kService).find(key);
        if (payload) call(cluster->key, decode<model::Service>(*payload, state_->pool));
    }
}
void ClusterTables::for_each_ip(
    std::string_view cluster, const std::function<void(const model::IpIdentityPair&)>& call) const {
    state_->for_each<model::IpIdentityPair>(cluster, call);
}
void ClusterTables::for_each_ip_row(std::string_view cluster,
                                    const std::function<void(const IpRow&)>& call) const {
    const auto* held = state_->find(cluster);
    if (held == nullptr) return;
    held->table(Kind::kIp).for_each(
        [&](const RowTable::Row& row) { call(decode_ip_row(row.payload, state_->pool)); });
}
void ClusterTables::for_each_identity(
    std::string_view cluster, const std::function<void(const model::Identity&)>& call) const {
    state_->for_each<model::Identity>(cluster, call);
}
void ClusterTables::for_each_export(
    std::string_view cluster, const std::function<void(const model::ServiceExport&)>& call) const {
    state_->for_each<model::ServiceExport>(cluster, call);
}
void ClusterTables::for_each_local_service(
    const std::function<void(const model::LocalService&)>& call) const {
    state_->for_each<model::LocalService>(state_->own_cluster, call);
}
void ClusterTables::for_each_policy(
    const std::function<void(const model::PolicyRecord&)>& call) const {
    state_->for_each<model::PolicyRecord>(state_->own_cluster, call);
}

}  // namespace mesh::state
