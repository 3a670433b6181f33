#include "compile/policy/selector_cache.hpp"

#include <algorithm>
#include <utility>

namespace mesh::compile {

using namespace model::policy;
using model::IpPrefix;
using model::Label;

namespace {

bool has_reserved(const PolicyIdentity& identity, std::string_view key) {
    return std::ranges::any_of(identity.labels, [&](const Label& label) {
        return label.source == kSourceReserved && label.key == key;
    });
}

bool is_world(const PolicyIdentity& identity) {
    return has_reserved(identity, "world") || has_reserved(identity, "world-ipv4") ||
           has_reserved(identity, "world-ipv6");
}

/// A requirement on the block of the identity, by containment.
bool block_holds(const LabelRequirement& one, const PolicyIdentity& identity) {
    const auto block = IpPrefix::parse(one.key);
    const bool inside = block && identity.cidr && block->contains(*identity.cidr);
    const bool empty_listed = !one.values.empty() && one.values.front().empty();
    switch (one.op) {
        case SelectorOperator::kIn:
            return inside && empty_listed;
        case SelectorOperator::kNotIn:
            return !(inside && empty_listed);
        case SelectorOperator::kExists:
            return inside;
        case SelectorOperator::kDoesNotExist:
            return !inside;
    }
    return false;
}

bool all_hold(const std::vector<LabelRequirement>& requirements, const PolicyIdentity& identity) {
    return std::ranges::all_of(requirements, [&](const LabelRequirement& one) {
        return one.source == kSourceCidr ? block_holds(one, identity) : holds(one, identity.labels);
    });
}

bool cidr_matches(const CidrRule& rule, const PolicyIdentity& identity, bool splits) {
    if (!identity.cidr) {
        if (rule.cidr.length() != 0 || (splits && !rule.except.empty())) return false;
        return has_reserved(identity, "world") ||
               has_reserved(identity, rule.cidr.is_v4() ? "world-ipv4" : "world-ipv6");
    }
    if (!rule.cidr.contains(*identity.cidr)) return false;
    return std::ranges::none_of(rule.except, [&](const IpPrefix& except) {
        return except.contains(*identity.cidr) || (splits && identity.cidr->contains(except));
    });
}

}  // namespace

SelectorCache::SelectorCache(const PolicyOptions& options) : options_(options) {
    selectors_.resize(1);  // kAnyPeer
}

bool SelectorCache::service_matches(const ServiceSelector& selector,
                                    const PolicyIdentity& identity) const {
    const auto one_matches = [&](const PolicyService& service) {
        if (service.selector.empty()) {
            return identity.cidr && std::ranges::any_of(service.backends, [&](const auto& backend) {
                       return *identity.cidr == IpPrefix(backend, 128);
                   });
        }
        if (!options_.services_with_selector) return false;
        const LabelRequirement space{std::string(kSourceK8s),
                                     std::string(kNamespaceKey),
                                     SelectorOperator::kIn,
                                     {service.namespace_}};
        // Like any selector that names no cluster.
        const LabelRequirement cluster{std::string(kSourceK8s),
                                       std::string(kClusterKey),
                                       SelectorOperator::kIn,
                                       {options_.cluster}};
        return holds(space, identity.labels) &&
               (!options_.default_local_cluster || holds(cluster, identity.labels)) &&
               std::ranges::all_of(service.selector, [&](const Label& label) {
                   return holds({std::string(kSourceK8s),
                                 label.key.str(),
                                 SelectorOperator::kIn,
                                 {label.value.str()}},
                                identity.labels);
               });
    };
    if (!selector.name.empty()) {
        const auto found = services_.find({selector.namespace_, selector.name});
        return found != services_.end() && one_matches(found->second);
    }
    return std::ranges::any_of(services_, [&](const auto& entry) {
        const PolicyService& service = entry.second;
        if (!selector.namespace_.empty() && service.namespace_ != selector.namespace_) return false;
        const EndpointSelector by_labels{selector.selector};
        return by_labels.matches(service.labels) && one_matches(service);
    });
}

bool SelectorCache::matches(const SelectorSpec& spec, const PolicyIdentity& identity) const {
    switch (spec.kind) {
        case SelectorSpec::Kind::kLabels:
            return all_hold(spec.requirements, identity);
        case SelectorSpec::Kind::kCidr:
            return cidr_matches(spec.cidr, identity, options_.cidr_except_splits);
        case SelectorSpec::Kind::kService:
            return service_matches(spec.service, identity);
    }
    return false;
}

void SelectorCache::evaluate(Selector& selector) const {
    const SelectorSpec& spec = selector.spec->first;
    selector.members.clear();
    const auto take = [&](IdentitySlot slot) {
        if (matches(spec, slots_[slot])) selector.members.push_back(slot);
    };
    if (spec.kind == SelectorSpec::Kind::kCidr) {
        for (const IdentitySlot slot : outside_) take(slot);
        return;
    }
    std::vector<IdentitySlot> narrowed;
    if (spec.kind == SelectorSpec::Kind::kLabels &&
        postings_.candidates(spec.requirements, narrowed)) {
        for (const IdentitySlot slot : narrowed) take(slot);
    } else {
        for (IdentitySlot slot = 0; slot < slots_.size(); ++slot) {
            if (slots_[slot].id != 0) take(slot);
        }
    }
    selector.members.shrink_to_fit();
}

SelectorId SelectorCache::acquire(const SelectorSpec& spec) {
    const auto [at, added] = by_spec_.try_emplace(spec, 0);
    if (!added) {
        ++selectors_[at->second].users;
        return at->second;
    }
    SelectorId id = 0;
    if (free_selectors_.empty()) {
        id = static_cast<SelectorId>(selectors_.size());
        selectors_.emplace_back();
    } else {
        id = free_selectors_.back();
        free_selectors_.pop_back();
    }
    at->second = id;
    Selector& selector = selectors_[id];
    selector.spec = at;
    selector.users = 1;
    switch (spec.kind) {
        case SelectorSpec::Kind::kLabels:
            by_label_.add(id, spec.requirements);
            break;
        case SelectorSpec::Kind::kCidr:
            insert_sorted(cidr_selectors_, id);
            break;
        case SelectorSpec::Kind::kService:
            insert_sorted(service_selectors_, id);
            break;
    }
    evaluate(selector);
    return id;
}

void SelectorCache::release(SelectorId id) {
    if (id == kAnyPeer) return;
    Selector& selector = selectors_[id];
    if (--selector.users != 0) return;
    const SelectorSpec& spec = selector.spec->first;
    switch (spec.kind) {
        case SelectorSpec::Kind::kLabels:
            by_label_.remove(id, spec.requirements);
            break;
        case SelectorSpec::Kind::kCidr:
            erase_sorted(cidr_selectors_, id);
            break;
        case SelectorSpec::Kind::kService:
            erase_sorted(service_selectors_, id);
            break;
    }
    by_spec_.erase(selector.spec);
    selector = {};
    free_selectors_.push_back(id);
}

bool SelectorCache::selects(SelectorId id, IdentitySlot slot) const {
    return id == kAnyPeer || std::ranges::binary_search(selectors_[id].members, slot);
}

void SelectorCache::candidates(const PolicyIdentity& identity, std::vector<SelectorId>& out) const {
    out.clear();
    by_label_.candidates(identity.labels, out);
    if (identity.cidr || is_world(identity)) {
        out.insert(out.end(), cidr_selectors_.begin(), cidr_selectors_.end());
    }
    out.insert(out.end(), service_selectors_.begin(), service_selectors_.end());
    std::ranges::sort(out);
    out.erase(std::ranges::unique(out).begin(), out.end());
}

std::optional<IdentitySlot> SelectorCache::find(std::uint32_t id) const {
    const auto found = by_id_.find(id);
    if (found == by_id_.end()) return std::nullopt;
    return found->second;
}

std::optional<IdentitySlot> SelectorCache::add(const PolicyIdentity& identity,
                                               std::vector<SelectorId>& matched) {
    matched.clear();
    if (identity.id == 0) return std::nullopt;
    const auto [at, added] = by_id_.try_emplace(identity.id, 0);
    if (!added) return std::nullopt;
    IdentitySlot slot = 0;
    if (free_slots_.empty()) {
        slot = static_cast<IdentitySlot>(slots_.size());
        slots_.emplace_back();
    } else {
        slot = free_slots_.back();
        free_slots_.pop_back();
    }
    at->second = slot;
    PolicyIdentity& kept = slots_[slot];
    kept = identity;
    std::ranges::sort(kept.labels);
    postings_.add(slot, kept.labels);
    if (kept.cidr || is_world(kept)) insert_sorted(outside_, slot);
    candidates(kept, matched);
    std::erase_if(matched,
                  [&](SelectorId id) { return !matches(selectors_[id].spec->first, kept); });
    for (const SelectorId id : matched) insert_sorted(selectors_[id].members, slot);
    return slot;
}

std::optional<IdentitySlot> SelectorCache::remove(std::uint32_t id,
                                                  std::vector<SelectorId>& matched) {
    matched.clear();
    const auto found = by_id_.find(id);
    if (found == by_id_.end()) return std::nullopt;
    const IdentitySlot slot = found->second;
    by_id_.erase(found);
    PolicyIdentity& gone = slots_[slot];
    candidates(gone, matched);
    std::erase_if(matched, [&](SelectorId selector) { return !selects(selector, slot); });
    for (const SelectorId selector : matched) erase_sorted(selectors_[selector].members, slot);
    postings_.remove(slot, gone.labels);
    erase_sorted(outside_, slot);
    gone = {};
    free_slots_.push_back(slot);
    return slot;
}

std::vector<SelectorId> SelectorCache::set_service(const std::string& namespace_,
                                                   const std::string& name,
                                                   const PolicyService* service) {
    if (service != nullptr) {
        services_.insert_or_assign({namespace_, name}, *service);
    } else {
        services_.erase({namespace_, name});
    }
    std::vector<SelectorId> changed;
    for (const SelectorId id : service_selectors_) {
        Selector& selector = selectors_[id];
        const std::vector<IdentitySlot> before = selector.members;
        evaluate(selector);
        if (selector.members != before) changed.push_back(id);
    }
    return changed;
}

std::size_t SelectorCache::bytes() const {
    std::size_t total = slots_.capacity() * sizeof(PolicyIdentity);
    for (const Selector& selector : selectors_) {
        total += sizeof selector + selector.members.capacity() * sizeof(IdentitySlot);
    }
    return total;
}

}  // namespace mesh::compile
