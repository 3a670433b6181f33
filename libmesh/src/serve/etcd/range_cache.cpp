#include "serve/etcd/range_cache.hpp"

#include <utility>

namespace mesh::serve {
namespace {

// Below it encoding costs about as much as looking up.
constexpr std::int64_t kFewKeys = 16;
// Requests that are remembered; each is about as long as its keys.
constexpr std::size_t kMostEntries = 20'000;

/// What the answer depends on, as bytes that differ when it does.
std::string name_of(const store::RangeRequest& request, store::Revision at) {
    std::string name;
    const auto add = [&name](std::int64_t number) {
        name.append(reinterpret_cast<const char*>(&number), sizeof(number));
    };
    add(at);
    add(request.limit);
    add(static_cast<std::int64_t>(request.sort_order) << 8 |
        static_cast<std::int64_t>(request.sort_target));
    add(request.keys_only ? 1 : 0);
    add(request.min_mod_revision);
    add(request.max_mod_revision);
    add(request.min_create_revision);
    add(request.max_create_revision);
    add(static_cast<std::int64_t>(request.range.key.size()));
    name.append(request.range.key).append(request.range.range_end);
    return name;
}

}  // namespace

store::Outcome<rpc::Frame> RangeCache::range(const store::Store& store,
                                             const store::RangeRequest& request,
                                             const WireHeader& header) {
    const auto plainly = [&]() -> store::Outcome<rpc::Frame> {
        MESH_TRY(const auto answer, store.range(request));
        return encode_range(header, answer);
    };
    const store::Revision at = request.revision > 0 ? request.revision : store.revision();
    const bool few = request.range.range_end.empty() || request.count_only ||
                     (request.limit > 0 && request.limit < kFewKeys);
    // The future and what is compacted are the store's to refuse.
    if (max_bytes_ == 0 || few || at > store.revision() || at < store.compact_revision())
        return plainly();
    if (std::exchange(rewrites_, store.rewrites()) != store.rewrites()) drop_all();

    const std::string name = name_of(request, at);
    if (const Body body = find(name)) {
        ++hits_;
        return share_range(header, body);
    }
    const auto known = entries_.find(name);
    if (known == entries_.end()) {
        // The first who asks may be the only one.
        if (entries_.size() >= kMostEntries) drop_all();
        entries_[name].age = sweeps_;
        return plainly();
    }
    known->second.age = sweeps_;
    MESH_TRY(const auto answer, store.range(request));
    if (answer.kvs.size() < kFewKeys) return encode_range(header, answer);
    const auto body = std::make_shared<const std::string>(encode_range_body(answer));
    if (!body->empty()) keep(name, known->second, body);
    return share_range(header, body);
}

RangeCache::Body RangeCache::find(const std::string& name) {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return nullptr;
    Entry& entry = found->second;
    entry.age = sweeps_;
    if (entry.kept) {
        by_use_.splice(by_use_.end(), by_use_, entry.place);
        return entry.kept;
    }
    return entry.alive.lock();
}

void RangeCache::keep(const std::string& name, Entry& entry, Body body) {
    entry.alive = body;
    if (body->size() > max_bytes_) return;
    while (bytes_ + body->size() > max_bytes_) let_go(entries_.find(*by_use_.front())->second);
    bytes_ += body->size();
    entry.place = by_use_.insert(by_use_.end(), &entries_.find(name)->first);
    entry.kept = std::move(body);
}

void RangeCache::let_go(Entry& entry) {
    bytes_ -= entry.kept->size();
    by_use_.erase(entry.place);
    entry.kept = nullptr;
}

bool RangeCache::sweep() {
    for (auto it = entries_.begin(); it != entries_.end();) {
        Entry& entry = it->second;
        const bool old = entry.age != sweeps_;
        if (old && entry.kept) let_go(entry);
        it = old && entry.alive.expired() ? entries_.erase(it) : std::next(it);
    }
    ++sweeps_;
    return !entries_.empty();
}

void RangeCache::drop_all() {
    entries_.clear();
    by_use_.clear();
    bytes_ = 0;
}

}  // namespace mesh::serve
