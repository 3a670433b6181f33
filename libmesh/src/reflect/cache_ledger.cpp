#include "reflect/cache_ledger.hpp"

#include <algorithm>
#include <functional>
#include <ranges>
#include <utility>

namespace mesh::reflect {

CacheLedger::CacheLedger(std::string cluster) : cluster_(std::move(cluster)) {
    for (const model::Resource resource : model::kResources) {
        prefixes_[index(resource)] =
            model::resource_prefix(resource, cluster_, model::Layout::kCache);
    }
}

CacheLedger::Hash CacheLedger::hash_of(std::string_view text) {
    return std::max<Hash>(std::hash<std::string_view>{}(text), kUnknown + 1);
}

std::string CacheLedger::key_of(model::Resource resource, std::string_view tail) const {
    std::string key;
    const std::string& prefix = prefixes_[index(resource)];
    key.reserve(prefix.size() + tail.size());
    key.append(prefix).append(tail);
    return key;
}

std::optional<std::size_t> CacheLedger::kind_of(std::string_view key) const {
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
        if (key.starts_with(prefixes_[kind])) return kind;
    }
    if (key == model::cluster_config_key(cluster_)) return kOther;
    if (!key.starts_with(model::synced_prefix(cluster_))) return std::nullopt;
    const bool ours = std::ranges::any_of(model::kResources, [&](model::Resource resource) {
        return key == model::synced_key(cluster_, resource, model::Layout::kCache);
    });
    return ours ? std::optional(kOther) : std::nullopt;
}

// --- the remote -------------------------------------------------------------------------------

void CacheLedger::begin_list(model::Resource resource) {
    for (auto& [key, entry] : entries_[index(resource)]) entry.seen = false;
    // A canary that was not written yet speaks of a list that is void.
    auto& other = entries_[kOther];
    const auto canary = other.find(model::synced_key(cluster_, resource, model::Layout::kCache));
    const bool unwritten = canary != other.end() && canary->second.order != 0;
    if (unwritten && canary->second.eventual() == 0) unwant(kOther, *canary);
}

bool CacheLedger::put(model::Resource resource, std::string_view tail, std::string_view value) {
    const std::size_t kind = index(resource);
    Node& node = *entries_[kind].try_emplace(key_of(resource, tail)).first;
    Entry& entry = node.second;
    entry.seen = true;
    const std::uint64_t bytes = node.first.size() + value.size();
    if (value.size() > bounds_.value_bytes ||
        total_bytes_ - entry.bytes + bytes > bounds_.total_bytes) {
        drop_if_idle(kind, node.first);
        return false;
    }
    want(kind, node, value);
    return true;
}

void CacheLedger::remove(model::Resource resource, std::string_view tail) {
    Entries& entries = entries_[index(resource)];
    const auto at = entries.find(key_of(resource, tail));
    if (at != entries.end()) unwant(index(resource), *at);
}

void CacheLedger::end_list(model::Resource resource, std::string now) {
    const std::size_t kind = index(resource);
    listed_[kind] = true;
    std::vector<Node*> gone;
    for (Node& node : entries_[kind]) {
        if (!node.second.seen) gone.push_back(&node);
    }
    // In the order of keys: what is written follows from what there is, not from a hash table.
    std::ranges::sort(gone, {}, [](const Node* node) -> const std::string& { return node->first; });
    for (Node* node : gone) unwant(kind, *node);
    Node& canary = *entries_[kOther]
                        .try_emplace(model::synced_key(cluster_, resource, model::Layout::kCache))
                        .first;
    if (canary.second.eventual() > kUnknown && canary.second.order == 0) {
        // That of a former run speaks as well for this one.
        if (canary.second.wanted == 0) ++wanted_;
        canary.second.wanted = canary.second.eventual();
        return;
    }
    dequeue(canary);
    want(kOther, canary, now);
}

void CacheLedger::put_config(std::string value) {
    want(kOther, *entries_[kOther].try_emplace(model::cluster_config_key(cluster_)).first, value,
         true);
}

// --- the own etcd -----------------------------------------------------------------------------

void CacheLedger::begin_present(std::int64_t lease) {
    lease_ = lease;
    for (Entries& entries : entries_) {
        for (auto& [key, entry] : entries) entry.present = 0;
    }
}

void CacheLedger::found(std::string_view key, std::string_view value, std::int64_t lease) {
    const auto kind = kind_of(key);
    if (!kind) return;
    Node& node = *entries_[*kind].try_emplace(std::string(key)).first;
    Entry& entry = node.second;
    entry.present = hash_of(value);
    // Unknown to the remote, whose list has ended: a stray.
    const bool stray = entry.wanted == 0 && *kind != kOther && listed_[*kind];
    if (stray) return enqueue(*kind, node, std::nullopt, false);
    if (lease == lease_) {
        // The remote spoke before the own etcd did: what waits is there already. A canary of a
        // former run speaks as well for this one.
        const bool canary =
            *kind == kOther && entry.wanted != 0 && key.starts_with(model::kSyncedPrefix);
        if (canary) entry.wanted = entry.present;
        if (entry.wanted == entry.present) dequeue(node);
        return;
    }
    // Right only once it hangs on our lease, too.
    const Hash present = std::exchange(entry.present, kUnknown);
    if (entry.order != 0 || (entry.wanted != 0 && entry.wanted != present)) return;
    enqueue(*kind, node, std::string(value), *kind == kOther && entry.wanted == 0);
}

bool CacheLedger::end_present() {
    bool complete = true;
    for (std::size_t kind = 0; kind < entries_.size(); ++kind) {
        for (auto at = entries_[kind].begin(); at != entries_[kind].end();) {
            Node& node = *at++;
            const Entry& entry = node.second;
            const bool differs = entry.wanted != 0 && entry.wanted != entry.present;
            if (differs && entry.order == 0 && !entry.refused) complete = false;
            // A delete that waits for a key that went by itself.
            if (entry.wanted == 0 && entry.present == 0) {
                if (entry.order != 0) dequeue(node);
                drop_if_idle(kind, node.first);
            }
        }
    }
    return complete;
}

// --- writing ----------------------------------------------------------------------------------

std::vector<CacheLedger::Write> CacheLedger::take(std::size_t limit, std::size_t max_bytes) {
    std::vector<Write> writes;
    std::size_t bytes = 0;
    while (!queue_.empty() && writes.size() < limit) {
        Pending& pending = queue_.begin()->second;
        bytes += pending.node->first.size() + (pending.value ? pending.value->size() : 0);
        if (!writes.empty() && bytes > max_bytes) break;
        Entry& entry = pending.node->second;
        entry.in_flight = true;
        entry.flight = pending.value ? hash_of(*pending.value) : 0;
        entry.order = 0;
        pending_bytes_ -= bytes_of(pending);
        writes.push_back({pending.node->first, std::move(pending.value)});
        queue_.erase(queue_.begin());
    }
    return writes;
}

void CacheLedger::applied(const std::vector<Write>& writes) {
    for (const Write& write : writes) {
        const auto kind = kind_of(write.key);
        const auto at = entries_[*kind].find(write.key);
        at->second.in_flight = false;
        at->second.present = at->second.flight;
        drop_if_idle(*kind, write.key);
    }
}

void CacheLedger::give_back(std::vector<Write> writes) {
    for (Write& write : std::views::reverse(writes)) {
        const auto kind = kind_of(write.key);
        Node& node = *entries_[*kind].find(write.key);
        node.second.in_flight = false;
        node.second.present = kUnknown;
        if (node.second.order == 0) enqueue(*kind, node, std::move(write.value), true);
    }
}

void CacheLedger::refuse(const Write& write) {
    const auto kind = kind_of(write.key);
    const auto at = entries_[*kind].find(write.key);
    at->second.in_flight = false;
    // A newer value waits already: it may be a better one.
    if (at->second.order == 0 && at->second.wanted != 0) set_refused(at->second, true);
    drop_if_idle(*kind, write.key);
}

bool CacheLedger::synced() const {
    return std::ranges::all_of(model::kResources, [this](model::Resource resource) {
        const auto at =
            entries_[kOther].find(model::synced_key(cluster_, resource, model::Layout::kCache));
        return listed_[index(resource)] && at != entries_[kOther].end() && at->second.wanted != 0 &&
               at->second.present == at->second.wanted;
    });
}

// --- one key ----------------------------------------------------------------------------------

void CacheLedger::want(std::size_t kind, Node& node, std::string_view value, bool first) {
    Entry& entry = node.second;
    const Hash hash = hash_of(value);
    if (entry.refused && entry.wanted == hash) return;
    set_refused(entry, false);
    if (entry.wanted == 0) ++wanted_;
    total_bytes_ -= entry.bytes;
    // What is ours to write does not count against the remote.
    entry.bytes = kind == kOther ? 0 : static_cast<std::uint32_t>(node.first.size() + value.size());
    total_bytes_ += entry.bytes;
    entry.wanted = hash;
    if (entry.eventual() == hash) {
        dequeue(node);
    } else {
        enqueue(kind, node, std::string(value), first);
    }
}

void CacheLedger::unwant(std::size_t kind, Node& node) {
    Entry& entry = node.second;
    if (entry.wanted != 0) --wanted_;
    set_refused(entry, false);
    total_bytes_ -= std::exchange(entry.bytes, 0);
    entry.wanted = 0;
    if (entry.eventual() != 0) {
        enqueue(kind, node, std::nullopt, false);
    } else {
        dequeue(node);
        drop_if_idle(kind, node.first);
    }
}

void CacheLedger::enqueue(std::size_t kind, Node& node, std::optional<std::string> value,
                          bool first) {
    std::int64_t& order = node.second.order;
    if (order == 0) order = first ? --front_ : ++back_;
    Pending& place = queue_[order];
    pending_bytes_ -= bytes_of(place);
    place = {kind, &node, std::move(value)};
    pending_bytes_ += bytes_of(place);
}

void CacheLedger::dequeue(Node& node) {
    if (node.second.order == 0) return;
    const auto at = queue_.find(std::exchange(node.second.order, 0));
    pending_bytes_ -= bytes_of(at->second);
    queue_.erase(at);
}

void CacheLedger::set_refused(Entry& entry, bool refused) {
    if (std::exchange(entry.refused, refused) == refused) return;
    refused ? ++refused_ : --refused_;
}

void CacheLedger::drop_if_idle(std::size_t kind, const std::string& key) {
    const auto at = entries_[kind].find(key);
    const Entry& entry = at->second;
    const bool idle =
        entry.wanted == 0 && entry.eventual() == 0 && entry.order == 0 && !entry.in_flight;
    if (idle) entries_[kind].erase(at);
}

}  // namespace mesh::reflect
