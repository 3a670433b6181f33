#include "compile/identities/local_identities.hpp"

#include <algorithm>
#include <utility>

#include "model/policy.hpp"

namespace mesh::compile {

using model::IpAddress;
using model::IpPrefix;

LocalIdentities::LocalIdentities(LocalIdentityOptions options, Rng rng)
    : options_(options),
      next_(options.first + static_cast<std::uint32_t>(
                                rng.below(std::uint64_t{options.last} - options.first + 1))) {}

bool LocalIdentities::adopt(const IpPrefix& prefix, std::uint32_t id) {
    if (id < options_.first || id > options_.last || !adopted_.emplace(prefix, id).second) {
        return false;
    }
    adopted_prefixes_[id].insert(prefix);
    return true;
}

// ---- who names what ----

void LocalIdentities::acquire(const IpPrefix& block) {
    if (block.length() == 0) return;
    Family& its = family(block);
    if (its.claims[block].users++ != 0) return;
    ++its.lengths[block.length()];
    mark_block(block);
}

void LocalIdentities::release(const IpPrefix& block) {
    Family& its = family(block);
    const auto held = its.claims.find(block);
    if (held == its.claims.end() || held->second.users == 0 || --held->second.users != 0) return;
    const auto length = its.lengths.find(block.length());
    if (--length->second == 0) its.lengths.erase(length);
    mark_block(block);
    if (held->second.selectors.empty()) its.claims.erase(held);
}

/// Addresses of names within the block are in another block from now on.
void LocalIdentities::mark_block(const IpPrefix& block) {
    dirty_.insert(block);
    const auto& claims = family(block).claims;
    for (auto at = claims.lower_bound(block); at != claims.end() && block.contains(at->first);
         ++at) {
        if (!at->second.selectors.empty()) dirty_.insert(at->first);
    }
}

void LocalIdentities::set_addresses(std::string_view selector,
                                    std::span<const IpAddress> addresses) {
    const std::set<IpAddress> now(addresses.begin(), addresses.end());
    if (const auto held = selectors_.find(selector); held != selectors_.end()) {
        const std::set<IpAddress> before = held->second;
        for (const IpAddress& address : before) {
            if (!now.contains(address)) remove_address(selector, address);
        }
    }
    for (const IpAddress& address : now) add_address(selector, address);
}

bool LocalIdentities::add_address(std::string_view selector, const IpAddress& address) {
    auto held = selectors_.find(selector);
    if (held == selectors_.end()) held = selectors_.try_emplace(std::string(selector)).first;
    if (!held->second.insert(address).second) return false;
    const IpPrefix prefix(address, 128);
    family(prefix).claims[prefix].selectors.insert(held->first);
    dirty_.insert(prefix);
    return true;
}

bool LocalIdentities::remove_address(std::string_view selector, const IpAddress& address) {
    const auto held = selectors_.find(selector);
    if (held == selectors_.end() || held->second.erase(address) == 0) return false;
    const IpPrefix prefix(address, 128);
    auto& claims = family(prefix).claims;
    const auto at = claims.find(prefix);
    at->second.selectors.erase(held->first);
    if (at->second.selectors.empty() && at->second.users == 0) claims.erase(at);
    if (held->second.empty()) selectors_.erase(held);
    dirty_.insert(prefix);
    return true;
}

// ---- what that means ----

std::optional<IpPrefix> LocalIdentities::block_around(const IpPrefix& prefix) const {
    const Family& its = family(prefix);
    for (auto length = its.lengths.rbegin(); length != its.lengths.rend(); ++length) {
        if (length->first > prefix.length()) continue;
        const IpPrefix block(prefix.address(), length->first);
        const auto held = its.claims.find(block);
        if (held != its.claims.end() && held->second.users != 0) return block;
    }
    return std::nullopt;
}

std::optional<LocalIdentities::Meaning> LocalIdentities::meaning_of(const IpPrefix& prefix) const {
    const Family& its = family(prefix);
    const auto held = its.claims.find(prefix);
    if (held == its.claims.end()) return std::nullopt;
    const auto& selectors = held->second.selectors;
    return Meaning{.block = held->second.users != 0 ? prefix : block_around(prefix),
                   .selectors = {selectors.begin(), selectors.end()},
                   .v4 = prefix.is_v4()};
}

LocalIdentity LocalIdentities::describe(const Meaning& meaning, std::uint32_t id) const {
    LocalIdentity one{.id = id, .labels = {}, .cidr = meaning.block};
    if (meaning.block) one.labels.push_back(cidr_label(*meaning.block));
    for (const std::string& selector : meaning.selectors) {
        one.labels.push_back({model::policy::kSourceFqdn, selector, ""});
    }
    one.labels.push_back(world_label(meaning.v4, options_.dual_stack));
    std::ranges::sort(one.labels);
    return one;
}

std::optional<std::uint32_t> LocalIdentities::number_for(const IpPrefix& prefix,
                                                         const Meaning& meaning) {
    if (const auto old = adopted_.find(prefix); old != adopted_.end()) {
        // Until all rows have been written again, each of its prefixes has the number.
        const std::uint32_t id = old->second;
        const bool all = std::ranges::all_of(adopted_prefixes_[id], [&](const IpPrefix& one) {
            const auto its = meaning_of(one);
            return its && *its == meaning;
        });
        if (all && !by_id_.contains(id)) return id;
    }
    const std::uint64_t size = std::uint64_t{options_.last} - options_.first + 1;
    if (by_id_.size() >= size) return std::nullopt;
    // In turn, so that a number that has been given up is not soon another's.
    for (std::uint64_t tries = 0; tries < size; ++tries) {
        const std::uint32_t id = next_;
        next_ = id == options_.last ? options_.first : id + 1;
        if (!by_id_.contains(id) && !adopted_prefixes_.contains(id)) return id;
    }
    return std::nullopt;
}

void LocalIdentities::settle(const IpPrefix& prefix, LocalIdentityChanges& changes,
                             std::set<Meaning>& idle) {
    refused_.erase(prefix);
    auto meaning = meaning_of(prefix);
    const auto row = rows_.find(prefix);
    if (row != rows_.end() && meaning && row->second->first == *meaning) return;
    auto numbered = by_meaning_.end();
    if (meaning) {
        numbered = by_meaning_.find(*meaning);
        if (numbered == by_meaning_.end()) {
            if (const auto id = number_for(prefix, *meaning)) {
                numbered = by_meaning_.emplace(std::move(*meaning), Numbered{*id, 0}).first;
                by_id_.emplace(*id, numbered);
                changes.added.push_back(describe(numbered->first, *id));
            } else {
                refused_.insert(prefix);
            }
        }
    }
    if (row != rows_.end()) {
        if (--row->second->second.rows == 0) idle.insert(row->second->first);
        rows_.erase(row);
        if (numbered == by_meaning_.end()) changes.removed_rows.push_back(prefix);
    }
    if (numbered == by_meaning_.end()) return;
    ++numbered->second.rows;
    rows_.emplace(prefix, numbered);
    changes.rows.emplace_back(prefix, numbered->second.id);
}

LocalIdentityChanges LocalIdentities::flush() {
    LocalIdentityChanges changes;
    std::set<Meaning> idle;
    std::set<IpPrefix> dirty = std::exchange(dirty_, {});
    for (const IpPrefix& prefix : dirty) settle(prefix, changes, idle);
    for (const IpPrefix& prefix : dirty) {
        const auto old = adopted_.find(prefix);
        if (old == adopted_.end() || !rows_.contains(prefix)) continue;
        // The row was written again.
        const auto rest = adopted_prefixes_.find(old->second);
        rest->second.erase(prefix);
        if (rest->second.empty()) adopted_prefixes_.erase(rest);
        adopted_.erase(old);
    }
    for (const Meaning& meaning : idle) {
        const auto at = by_meaning_.find(meaning);
        if (at->second.rows != 0) continue;  // others came to it
        changes.removed.push_back(at->second.id);
        by_id_.erase(at->second.id);
        by_meaning_.erase(at);
    }
    if (!changes.removed.empty()) dirty_.insert(refused_.begin(), refused_.end());
    std::ranges::sort(changes.added, {}, &LocalIdentity::id);
    std::ranges::sort(changes.removed);
    return changes;
}

// ---- what is there ----

std::vector<LocalIdentity> LocalIdentities::identities() const {
    std::vector<LocalIdentity> all;
    all.reserve(by_id_.size());
    for (const auto& [id, meaning] : by_id_) all.push_back(describe(meaning->first, id));
    return all;
}

std::optional<std::uint32_t> LocalIdentities::find(const IpPrefix& prefix) const {
    const auto row = rows_.find(prefix);
    if (row == rows_.end()) return std::nullopt;
    return row->second->second.id;
}

}  // namespace mesh::compile
