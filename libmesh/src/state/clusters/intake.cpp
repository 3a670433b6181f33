#include "state/clusters/intake.hpp"

#include <fmt/format.h>

#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "model/codec.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::state {

// One struct per kind of object: how it is parsed, checked, named, weighed, and told.

namespace {

std::string joined(std::string_view namespace_name, std::string_view name) {
    return std::string(namespace_name).append("/").append(name);
}

/// As much of a long key as leaves room for the reason behind it.
constexpr std::size_t kShownKeyBytes = 96;

ObjectName split(const std::string& joined_name) {
    // A name holds no slash unless an old writer's value says so: the namespace never does.
    const auto slash = joined_name.find('/');
    return {joined_name.substr(0, slash), joined_name.substr(slash + 1)};
}

std::uint32_t clamp(std::size_t n) {
    return static_cast<std::uint32_t>(
        std::min<std::size_t>(n, std::numeric_limits<std::uint32_t>::max()));
}

}  // namespace

struct NodeKind {
    using Object = model::Node;
    using Key = std::string;
    static constexpr Slot kSlot = Slot::kNodes;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kNode;
    static auto& ledger(Intake& in) { return in.nodes_; }
    static auto& aliases(Intake& in) { return in.names_[index(kSlot)]; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        return model::parse_node(key, value);
    }
    static Result<void> validate(const model::Connection& c, const model::ParsedKey& key,
                                 Object& o) {
        return model::validate_node(c, key, o);
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) { return Key(key.name); }
    static Key key_of(const Object& o) { return o.name; }
    static std::uint32_t weight(const Object& o) { return clamp(pod_cidrs(o).size()); }
    static bool offered(const Object&, bool) { return true; }
    static ClusterChange upsert(Object&& o) { return NodeUpsert{std::move(o)}; }
    static ClusterChange erase(const Key& key) { return NodeDelete{key}; }
};

struct ServiceKind {
    using Object = model::Service;
    using Key = std::string;
    static constexpr Slot kSlot = Slot::kServices;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kService;
    static auto& ledger(Intake& in) { return in.services_; }
    static auto& aliases(Intake& in) { return in.names_[index(kSlot)]; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        return model::parse_service(key, value);
    }
    static Result<void> validate(const model::Connection& c, const model::ParsedKey& key,
                                 Object& o) {
        return model::validate_service(c, key, o);
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) {
        return joined(key.namespace_name, key.name);
    }
    static Key key_of(const Object& o) { return joined(o.namespace_, o.name); }
    static std::uint32_t weight(const Object& o) { return clamp(o.backends.size()); }
    // 1.15 looks at one flag; the apiserver of 1.12 published services of every kind (wire.md §5).
    static bool offered(const Object& o, bool k115) {
        return o.shared && (k115 || o.include_external);
    }
    static ClusterChange upsert(Object&& o) { return ServiceUpsert{std::move(o)}; }
    static ClusterChange erase(const Key& key) { return ServiceDelete{split(key)}; }
};

struct IpKind {
    using Object = model::IpIdentityPair;
    using Key = IpName;
    static constexpr Slot kSlot = Slot::kIps;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kIp;
    static auto& ledger(Intake& in) { return in.ips_; }
    static auto& aliases(Intake& in) { return in.ip_names_; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        return model::parse_ip(key, value);
    }
    static Result<void> validate(const model::Connection& c, const model::ParsedKey& key,
                                 Object& o) {
        return model::validate_ip(c, key, o);
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) {
        return IpName::parse(key.tail);
    }
    static Key key_of(const Object& o) { return IpName::of(o); }
    static std::uint32_t weight(const Object& o) { return o.prefix_length ? 1 : 0; }
    static bool offered(const Object&, bool) { return true; }
    static ClusterChange upsert(Object&& o) { return IpUpsert{std::move(o)}; }
    static ClusterChange erase(const Key& key) { return IpDelete{key.row()}; }
};

struct IdentityKind {
    using Object = model::Identity;
    using Key = std::uint32_t;
    static constexpr Slot kSlot = Slot::kIdentities;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kIdentity;
    static auto& ledger(Intake& in) { return in.identities_; }
    static auto& aliases(Intake& in) { return in.ids_; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        return model::parse_identity(key, value);
    }
    static Result<void> validate(const model::Connection& c, const model::ParsedKey& key,
                                 Object& o) {
        return model::validate_identity(c, key, o);
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) {
        const auto id = model::parse_identity_id(key.tail);
        return id ? std::optional(model::number(*id)) : std::nullopt;
    }
    static Key key_of(const Object& o) { return model::number(o.id); }
    static std::uint32_t weight(const Object&) { return 0; }
    static bool offered(const Object&, bool) { return true; }
    static ClusterChange upsert(Object&& o) { return IdentityUpsert{std::move(o)}; }
    static ClusterChange erase(Key key) { return IdentityDelete{model::IdentityId{key}}; }
};

struct ExportKind {
    using Object = model::ServiceExport;
    using Key = std::string;
    static constexpr Slot kSlot = Slot::kServiceExports;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kServiceExport;
    static auto& ledger(Intake& in) { return in.exports_; }
    static auto& aliases(Intake& in) { return in.names_[index(kSlot)]; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        return model::parse_service_export(key, value);
    }
    static Result<void> validate(const model::Connection& c, const model::ParsedKey& key,
                                 Object& o) {
        return model::validate_service_export(c, key, o);
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) {
        return joined(key.namespace_name, key.name);
    }
    static Key key_of(const Object& o) { return joined(o.namespace_, o.name); }
    static std::uint32_t weight(const Object&) { return 0; }
    static bool offered(const Object&, bool) { return true; }
    static ClusterChange upsert(Object&& o) { return ExportUpsert{std::move(o)}; }
    static ClusterChange erase(const Key& key) { return ExportDelete{split(key)}; }
};

struct LocalServiceKind {
    using Object = model::LocalService;
    using Key = std::string;
    static constexpr Slot kSlot = Slot::kLocalServices;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kLocalService;
    static auto& ledger(Intake& in) { return in.local_services_; }
    static auto& aliases(Intake& in) { return in.names_[index(kSlot)]; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        return model::parse_local_service(key, value);
    }
    static Result<void> validate(const model::Connection&, const model::ParsedKey& key, Object& o) {
        if (o.namespace_ == key.namespace_name && o.name == key.name) return {};
        return invalid_argument(
            fmt::format("{}: fields namespace and name: expected those of the key", key.full));
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) {
        return joined(key.namespace_name, key.name);
    }
    static Key key_of(const Object& o) { return joined(o.namespace_, o.name); }
    static std::uint32_t weight(const Object&) { return 0; }
    static bool offered(const Object&, bool) { return true; }
    static ClusterChange upsert(Object&& o) { return LocalServiceUpsert{std::move(o)}; }
    static ClusterChange erase(const Key& key) { return LocalServiceDelete{split(key)}; }
};

/// By key, which says of a policy all that its name does.
struct LocalPolicyKind {
    using Object = model::PolicyRecord;
    using Key = std::string;
    static constexpr Slot kSlot = Slot::kLocalPolicies;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kLocalPolicy;
    static auto& ledger(Intake& in) { return in.policies_; }
    static auto& aliases(Intake& in) { return in.names_[index(kSlot)]; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        return model::parse_policy_record(key, value);
    }
    static Result<void> validate(const model::Connection&, const model::ParsedKey&, Object& o) {
        const auto policy =
            sources::config::read_policy(o, sources::config::PolicyFeatures::enforced());
        if (!policy) return policy.error();
        return {};
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) {
        return model::policy_key_of(key) ? std::optional(Key(key.full)) : std::nullopt;
    }
    static Key key_of(const Object& o) { return model::local_policy_key(o.key); }
    static std::uint32_t weight(const Object&) { return 0; }
    static bool offered(const Object&, bool) { return true; }
    static ClusterChange upsert(Object&& o) { return PolicyUpsert{std::move(o)}; }
    static ClusterChange erase(const Key& key) {
        return PolicyDelete{*model::policy_key_of(model::parse_key(key))};
    }
};

struct LocalIpKind {
    using Object = model::LocalIp;
    using Key = std::string;
    static constexpr Slot kSlot = Slot::kLocalIps;
    static constexpr model::KeyKind kKeyKind = model::KeyKind::kLocalIp;
    static auto& ledger(Intake& in) { return in.local_ips_; }
    static auto& aliases(Intake& in) { return in.names_[index(kSlot)]; }
    static Result<Object> parse(std::string_view key, std::string_view value) {
        auto pair = model::parse_ip(key, value);
        if (!pair) return pair.error();
        return model::LocalIp{*std::move(pair)};
    }
    static Result<void> validate(const model::Connection&, const model::ParsedKey& key, Object& o) {
        if (!o.pair.prefix_length && o.pair.ip.to_string() == key.tail) return {};
        return invalid_argument(fmt::format("{}: field IP: expected that of the key", key.full));
    }
    static std::optional<Key> key_of(const model::ParsedKey& key) { return Key(key.tail); }
    static Key key_of(const Object& o) { return o.pair.ip.to_string(); }
    static std::uint32_t weight(const Object&) { return 0; }
    static bool offered(const Object&, bool) { return true; }
    static ClusterChange upsert(Object&& o) { return LocalIpUpsert{std::move(o)}; }
    static ClusterChange erase(const Key& key) {
        return LocalIpDelete{*model::IpAddress::parse(key)};
    }
};

Intake::Intake(std::uint64_t seed, Refusals& refusals)
    : refusals_(refusals),
      nodes_(seed),
      services_(seed),
      exports_(seed),
      local_services_(seed),
      policies_(seed),
      local_ips_(seed),
      ips_(seed),
      identities_(seed) {}

template <class Visitor>
decltype(auto) Intake::visit(Slot slot, Visitor&& visitor) {
    switch (slot) {
        case Slot::kServices:
            return visitor(std::type_identity<ServiceKind>{});
        case Slot::kIps:
            return visitor(std::type_identity<IpKind>{});
        case Slot::kIdentities:
            return visitor(std::type_identity<IdentityKind>{});
        case Slot::kServiceExports:
            return visitor(std::type_identity<ExportKind>{});
        case Slot::kLocalServices:
            return visitor(std::type_identity<LocalServiceKind>{});
        case Slot::kLocalPolicies:
            return visitor(std::type_identity<LocalPolicyKind>{});
        case Slot::kLocalIps:
            return visitor(std::type_identity<LocalIpKind>{});
        case Slot::kNodes:
        case Slot::kHeartbeat:
        case Slot::kCanaries:
            break;
    }
    return visitor(std::type_identity<NodeKind>{});
}

void Intake::set_remote(model::Connection connection, const sources::config::RemotePolicy& policy) {
    connection_ = std::move(connection);
    if (policy.needs_nodes() != policy_.needs_nodes()) {
        // Filled again by the list of nodes that follows.
        announced_by_.clear();
        announced_.clear();
        lengths_v4_.clear();
        lengths_v6_.clear();
    }
    policy_ = policy;
}

void Intake::begin_list(Slot slot) {
    waiting_[index(slot)] = false;
    worth_a_list_[index(slot)] = false;
    visit(slot, [&]<class Kind>(std::type_identity<Kind>) {
        Kind::ledger(*this).begin_list();
        Kind::aliases(*this).clear();
    });
}

void Intake::refuse(TimePoint now, Slot slot, std::string_view key, Refusal why,
                    std::string_view text) {
    if (why == Refusal::kLimit || why == Refusal::kForeignIp) waiting_[index(slot)] = true;
    refusals_.add(now, key, why, text);
}

void Intake::refuse_rate(TimePoint now, Slot slot, std::string_view key) {
    refuse(
        now, slot, key, Refusal::kRate,
        fmt::format("{}: more than {} events per second", key, policy_.limits.events_per_second));
}

void Intake::refuse_keys(TimePoint now, Slot slot, const etcd::RefusedKeys& refused) {
    using Reason = etcd::KeyRefusal;
    switch (refused.reason) {
        case Reason::kOutside:
            return refusals_.add(now, refused.last, Refusal::kKey,
                                 fmt::format("{}: no key of {}, which were asked for", refused.last,
                                             to_string(slot)),
                                 refused.count);
        case Reason::kTooLong:
            return refusals_.add(
                now, refused.last, Refusal::kTooLarge,
                fmt::format("{}...: the key is longer than those of {} can be",
                            refused.last.substr(0, kShownKeyBytes), to_string(slot)),
                refused.count);
        case Reason::kTooMany:
            waiting_[index(slot)] = true;
            return refusals_.add(
                now, refused.last, Refusal::kLimit,
                fmt::format("{}: more {} than the limit allows", refused.last, to_string(slot)),
                refused.count);
    }
}

void Intake::put(TimePoint now, Slot slot, std::string_view key, std::string_view value,
                 Changes& out) {
    visit(slot, [&]<class Kind>(std::type_identity<Kind>) { put_as<Kind>(now, key, value, out); });
}

void Intake::erase(Slot slot, std::string_view key, Changes& out) {
    visit(slot, [&]<class Kind>(std::type_identity<Kind>) { erase_as<Kind>(key, out); });
}

template <class Kind>
void Intake::put_as(TimePoint now, std::string_view key, std::string_view value, Changes& out) {
    constexpr Slot kSlot = Kind::kSlot;
    const model::ParsedKey parsed = model::parse_key(key);
    auto& ledger = Kind::ledger(*this);
    const auto refuse_entry = [&](Refusal why, std::string_view text) {
        // The key is still there: what was good under it stays, also over a new list. 1.15 sweeps
        // it. What is beyond a bound, or in another's address space, goes with the next list.
        const bool stays = why != Refusal::kLimit && why != Refusal::kForeignIp;
        if (!k115() && stays && parsed.kind == Kind::kKeyKind) {
            const auto known = Kind::key_of(parsed);
            const auto* held = known ? ledger.find(*known) : nullptr;
            if (held != nullptr &&
                over_limit(kSlot, step<Kind>(*known, held->weight, held->bytes)).empty()) {
                ledger.touch(*known);
            }
        }
        refuse(now, kSlot, key, why, text);
    };
    if (parsed.kind != Kind::kKeyKind) {
        return refuse_entry(Refusal::kKey, fmt::format("{}: no key of {}", key, to_string(kSlot)));
    }
    if (value.size() > policy_.limits.value_bytes) {
        return refuse_entry(Refusal::kTooLarge,
                            fmt::format("{}: value of {} bytes, at most {} are taken", key,
                                        value.size(), policy_.limits.value_bytes));
    }
    auto object = Kind::parse(key, value);
    if (!object) return refuse_entry(Refusal::kValue, object.error().detail());
    if (const auto valid = Kind::validate(connection_, parsed, *object); !valid) {
        return refuse_entry(Refusal::kForeign, valid.error().detail());
    }
    const typename Kind::Key name = Kind::key_of(*object);
    const auto* held = ledger.find(name);
    const std::uint32_t weight = Kind::weight(*object);
    const std::uint32_t bytes = clamp(key.size() + value.size());
    const std::string over = over_limit(kSlot, step<Kind>(name, weight, bytes));
    if (!over.empty()) return refuse_entry(Refusal::kLimit, fmt::format("{}: {}", key, over));
    if constexpr (std::is_same_v<Kind, IpKind>) {
        if (policy_.refuse_foreign_ips && !announced(name.row())) {
            return refuse_entry(
                Refusal::kForeignIp,
                fmt::format("{}: in no CIDR that a node of the cluster announces", key));
        }
        const std::string outside = foreign(name.row(), object->id);
        if (!outside.empty()) {
            return refuse_entry(Refusal::kForeignIp, fmt::format("{}: {}", key, outside));
        }
    }
    if constexpr (std::is_same_v<Kind, NodeKind>) {
        const std::string outside = foreign(*object);
        if (!outside.empty()) {
            // On its way out already: what it announced counts no more for the ips that follow.
            if (held != nullptr && !ledger.is_seen(*held)) withdraw(name);
            return refuse_entry(Refusal::kForeignIp, fmt::format("{}: {}", key, outside));
        }
        if (policy_.needs_nodes()) announce(*object);
    }
    if (k115()) {
        Kind::aliases(*this).insert_or_assign(std::string(key), name);
    }
    const bool was_emitted = held != nullptr && held->emitted;
    const bool offered = Kind::offered(*object, k115());
    ledger.set(name, {.weight = weight, .bytes = bytes, .emitted = offered});
    if (offered) {
        if constexpr (std::is_same_v<Kind, IpKind>) {
            ip_rows_.put(name, *std::move(object), plain_held(name), out);
        } else {
            out.push_back(Kind::upsert(*std::move(object)));
        }
        return;
    }
    refusals_.add(now, key, Refusal::kNotShared, "not shared");
    if (was_emitted) out.push_back(Kind::erase(name));
}

template <class Kind>
void Intake::erase_as(std::string_view key, Changes& out) {
    if (k115()) {
        auto& aliases = Kind::aliases(*this);
        const auto at = aliases.find(key);
        if (at == aliases.end()) return;
        const typename Kind::Key name = at->second;
        aliases.erase(at);
        return forget<Kind>(name, out);
    }
    const model::ParsedKey parsed = model::parse_key(key);
    if (parsed.kind != Kind::kKeyKind) return;
    if (const auto name = Kind::key_of(parsed)) forget<Kind>(*name, out);
}

template <class Kind>
void Intake::forget(const typename Kind::Key& key, Changes& out) {
    auto& ledger = Kind::ledger(*this);
    const auto* held = ledger.find(key);
    if (held == nullptr) return;
    const bool emitted = held->emitted;
    ledger.erase(key);
    constexpr std::size_t kIndex = index(Kind::kSlot);
    if (waiting_[kIndex]) worth_a_list_[kIndex] = true;
    if constexpr (std::is_same_v<Kind, NodeKind>) withdraw(key);
    if constexpr (std::is_same_v<Kind, IpKind>) {
        ip_rows_.erase(key, plain_held(key), out);
    } else if (emitted) {
        out.push_back(Kind::erase(key));
    }
}

void Intake::sweep(Slot slot, Changes& out) {
    visit(slot, [&]<class Kind>(std::type_identity<Kind>) {
        auto& ledger = Kind::ledger(*this);
        for (const auto& key : ledger.unseen()) forget<Kind>(key, out);
    });
}

void Intake::drain(Slot slot, Changes& out) {
    visit(slot, [&]<class Kind>(std::type_identity<Kind>) {
        for (const auto& key : Kind::ledger(*this).keys()) forget<Kind>(key, out);
        Kind::aliases(*this).clear();
    });
}

std::size_t Intake::count(Slot slot) const {
    if (k115()) {  // counts keys, of which several may hold the same object
        if (slot == Slot::kIps) return ip_names_.size();
        if (slot == Slot::kIdentities) return ids_.size();
        return names_[index(slot)].size();
    }
    switch (slot) {
        case Slot::kNodes:
            return nodes_.size();
        case Slot::kServices:
            return services_.size();
        case Slot::kIps:
            return ips_.size();
        case Slot::kIdentities:
            return identities_.size();
        case Slot::kServiceExports:
            return exports_.size();
        case Slot::kLocalServices:
            return local_services_.size();
        case Slot::kLocalPolicies:
            return policies_.size();
        case Slot::kLocalIps:
            return local_ips_.size();
        case Slot::kHeartbeat:
        case Slot::kCanaries:
            break;
    }
    return 0;
}

bool Intake::take_worth_a_list(Slot slot) {
    return std::exchange(worth_a_list_[index(slot)], false);
}

template <class Kind>
Intake::Step Intake::step(const typename Kind::Key& key, std::uint32_t weight,
                          std::uint32_t bytes) {
    const auto& ledger = Kind::ledger(*this);
    const auto* held = ledger.find(key);
    Step step;
    step.seen = ledger.seen();
    step.all = ledger.all();
    step.weight = weight;
    step.bytes = bytes;
    step.fresh = held == nullptr;
    if (held == nullptr) return step;
    step.held_weight = held->weight;
    step.held_bytes = held->bytes;
    step.all.remove(held->weight, held->bytes);
    if (ledger.is_seen(*held)) {
        step.seen.remove(held->weight, held->bytes);
        step.seen_bytes = held->bytes;
    }
    return step;
}

void Intake::announce(const model::Node& node) {
    std::vector<model::IpPrefix> prefixes = pod_cidrs(node);
    const auto add = [&](const model::IpAddress& address) {
        prefixes.emplace_back(address, address.is_v4() ? 32 : 128);
    };
    if (node.addresses) {
        for (const auto& entry : *node.addresses) {
            if (const auto address = model::IpAddress::parse(entry.ip)) add(*address);
        }
    }
    for (const auto* extra : {&node.ipv4_health_ip, &node.ipv6_health_ip, &node.ipv4_ingress_ip,
                              &node.ipv6_ingress_ip}) {
        if (*extra) add(**extra);
    }
    if (const auto before = announced_by_.find(node.name);
        before != announced_by_.end() && before->second == prefixes) {
        return;
    }
    withdraw(node.name);
    for (const auto& prefix : prefixes) {
        ++announced_[prefix];
        ++(prefix.is_v4() ? lengths_v4_ : lengths_v6_)[prefix.length()];
    }
    announced_by_[node.name] = std::move(prefixes);
    if (waiting_[index(Slot::kIps)]) worth_a_list_[index(Slot::kIps)] = true;
}

void Intake::withdraw(const std::string& node) {
    const auto at = announced_by_.find(node);
    if (at == announced_by_.end()) return;
    const auto drop = [](auto& counts, const auto& key) {
        const auto found = counts.find(key);
        if (found != counts.end() && --found->second == 0) counts.erase(found);
    };
    for (const auto& prefix : at->second) {
        drop(announced_, prefix);
        drop(prefix.is_v4() ? lengths_v4_ : lengths_v6_, prefix.length());
    }
    announced_by_.erase(at);
}

bool Intake::plain_held(const IpName& name) const {
    if (name.length == IpName::kNoLength) return false;  // nearly all
    const IpName plain = IpName::plain(name.row());
    return plain != name && ips_.find(plain) != nullptr;
}

bool Intake::announced(const model::IpPrefix& prefix) const {
    for (const auto& [length, uses] : prefix.is_v4() ? lengths_v4_ : lengths_v6_) {
        if (length > prefix.length()) break;
        if (announced_.contains(model::IpPrefix(prefix.address(), length))) return true;
    }
    return false;
}

}  // namespace mesh::state
