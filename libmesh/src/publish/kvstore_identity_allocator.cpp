#include "publish/kvstore_identity_allocator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "publish/etcd_mutex.hpp"

namespace mesh::publish {

namespace asio = boost::asio;
using etcd::Compare;
using model::IdentityId;

namespace {

constexpr std::string_view kValuePrefix = "cilium/state/identities/v1/value/";
constexpr std::string_view kLockPrefix = "cilium/state/identities/v1/locks/";
/// Label sets in one transaction, each with two conditions; etcd takes 128.
constexpr std::size_t kBatch = 60;
/// Somebody else may be faster each time; more often than that something is wrong.
constexpr int kTries = 64;

std::string reference_key(std::string_view labels, std::string_view who) {
    return fmt::format("{}{}/{}", kValuePrefix, labels, who);
}

Compare number_is(std::string key, Compare::Target target, std::int64_t number,
                  std::string end = {}) {
    Compare compare;
    compare.key = std::move(key);
    compare.target = target;
    compare.number = number;
    compare.end = std::move(end);
    return compare;
}

/// The key, or any of the range, does not exist.
Compare is_absent(std::string key, std::string end = {}) {
    return number_is(std::move(key), Compare::Target::kCreateRevision, 0, std::move(end));
}

Compare is_unchanged(const std::string& key, std::int64_t mod_revision) {
    return number_is(key, Compare::Target::kModRevision, mod_revision);
}

}  // namespace

struct KvstoreIdentityAllocator::Queue {
    std::vector<std::string> labels;
    std::size_t next = 0;
    Result<void> failed{};
};

KvstoreIdentityAllocator::KvstoreIdentityAllocator(asio::any_io_executor loop, etcd::Client& client,
                                                   IdentityAllocatorOptions options,
                                                   const Clock& clock, Rng rng, Logger log,
                                                   OnNumber on_number)
    : loop_(loop),
      client_(client),
      options_(options),
      clock_(clock),
      rng_(rng),
      log_(std::move(log)),
      on_number_(std::move(on_number)),
      lock_lease_(loop, client, options.lock_ttl, log_, [] {}),
      tasks_(loop) {}

std::string KvstoreIdentityAllocator::who() const {
    return fmt::format("{:x}", lease_);
}

etcd::KeyRange KvstoreIdentityAllocator::references_of(const std::string& labels) const {
    return etcd::prefix_range(reference_key(labels, ""));
}

void KvstoreIdentityAllocator::stop() {
    tasks_.cancel();
    lock_lease_.release();
}

// ---- what is wanted ----

void KvstoreIdentityAllocator::want(const std::string& labels) {
    if (!claims_.try_emplace(labels).second) return;
    leaving_.erase(labels);
    due_.insert(labels);
}

void KvstoreIdentityAllocator::unwant(const std::string& labels) {
    const auto claim = claims_.find(labels);
    if (claim == claims_.end()) return;
    if (claim->second.id) --held_;
    claims_.erase(claim);
    due_.erase(labels);
    const auto* known = known_reference(labels);
    if (known != nullptr && known->who == who()) leaving_.insert(labels);
}

void KvstoreIdentityAllocator::set_lease(std::int64_t lease) {
    if (std::exchange(lease_, lease) == lease) return;
    leaving_.clear();  // they went, or go, with the former one
    for (auto& [labels, claim] : claims_) {
        claim.lease = 0;
        due_.insert(labels);
    }
}

void KvstoreIdentityAllocator::drop_strays() {
    for (const auto& [labels, references] : references_) {
        if (claims_.contains(labels)) continue;
        const bool ours = std::ranges::any_of(
            references, [this](const Reference& one) { return one.who == who(); });
        if (ours) leaving_.insert(labels);
    }
}

// ---- what is there ----

void KvstoreIdentityAllocator::remember(IdentityId id, Main main) {
    forget(id);
    by_labels_[main.labels].insert(number(id));
    mains_.insert_or_assign(number(id), std::move(main));
}

void KvstoreIdentityAllocator::forget(IdentityId id) {
    const auto held = mains_.find(number(id));
    if (held == mains_.end()) return;
    const auto same = by_labels_.find(held->second.labels);
    same->second.erase(number(id));
    if (same->second.empty()) by_labels_.erase(same);
    mains_.erase(held);
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::list_mains() {
    std::map<std::uint32_t, Main> found;
    etcd::RangeRequest request;
    const std::string prefix = model::resource_prefix(model::Resource::kIdentities, {});
    request.range = etcd::prefix_range(prefix);
    etcd::PageCallback page = [&](const etcd::Header&, std::span<const etcd::KeyValueView> kvs) {
        for (const auto& kv : kvs) {
            const auto id = model::parse_identity_id(kv.key);
            if (!id || !options_.range.contains(*id)) continue;
            found.insert_or_assign(number(*id),
                                   Main{std::string(kv.value), kv.mod_revision, kv.lease});
        }
    };
    const auto listed = co_await client_.async_list(std::move(request), std::move(page));
    if (!listed) co_return listed.error();
    mains_.clear();
    by_labels_.clear();
    for (auto& [id, main] : found) remember(IdentityId{id}, std::move(main));
    co_return Result<void>{};
}

void KvstoreIdentityAllocator::take_reference(const etcd::KeyValueView& kv,
                                              References& into) const {
    // Labels may have slashes of their own.
    const std::string_view tail = kv.key.substr(std::min(kv.key.size(), kValuePrefix.size()));
    const auto slash = tail.rfind('/');
    std::uint32_t id = 0;
    const auto [end, error] =
        std::from_chars(kv.value.data(), kv.value.data() + kv.value.size(), id);
    if (slash == std::string_view::npos || error != std::errc{} ||
        end != kv.value.data() + kv.value.size() || !options_.range.contains(IdentityId{id})) {
        return;
    }
    into[std::string(tail.substr(0, slash))].push_back(
        {std::string(tail.substr(slash + 1)), IdentityId{id}, kv.mod_revision, kv.lease});
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::list_references() {
    References found;
    etcd::RangeRequest request;
    request.range = etcd::prefix_range(kValuePrefix);
    etcd::PageCallback page = [&](const etcd::Header&, std::span<const etcd::KeyValueView> kvs) {
        for (const auto& kv : kvs) take_reference(kv, found);
    };
    const auto listed = co_await client_.async_list(std::move(request), std::move(page));
    if (!listed) co_return listed.error();
    references_ = std::move(found);
    co_return Result<void>{};
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::async_list() {
    MESH_CO_CHECK(co_await list_mains());
    MESH_CO_CHECK(co_await list_references());
    review();
    co_return Result<void>{};
}

void KvstoreIdentityAllocator::review() {
    taken_.clear();
    for (auto& [labels, claim] : claims_) {
        const auto main = claim.id ? mains_.find(number(*claim.id)) : mains_.end();
        const auto* known = known_reference(labels);
        const bool good = main != mains_.end() && main->second.labels == labels &&
                          main->second.lease == 0 && known != nullptr && known->who == who() &&
                          known->id == *claim.id && known->lease == lease_;
        if (good) continue;
        claim.lease = 0;
        due_.insert(labels);
        if (claim.id) taken_.insert(number(*claim.id));
    }
    std::set<std::uint32_t> used;
    for (const auto& [labels, references] : references_) {
        for (const Reference& one : references) used.insert(number(one.id));
    }
    std::erase_if(unused_since_, [&](const auto& entry) {
        return used.contains(entry.first) || !mains_.contains(entry.first);
    });
    for (const auto& [id, main] : mains_) {
        if (!used.contains(id)) unused_since_.try_emplace(id, clock_.now());
    }
}

/// Ours, else the first one.
const KvstoreIdentityAllocator::Reference* KvstoreIdentityAllocator::known_reference(
    const std::string& labels) const {
    const auto found = references_.find(labels);
    if (found == references_.end() || found->second.empty()) return nullptr;
    const auto own = std::ranges::find(found->second, who(), &Reference::who);
    return own != found->second.end() ? &*own : &found->second.front();
}

// ---- claiming ----

asio::awaitable<Result<void>> KvstoreIdentityAllocator::async_settle() {
    if (lease_ == 0) co_return Error(Errc::kNotFound, "no lease for references to identities");
    MESH_CO_CHECK(co_await release_all());
    MESH_CO_CHECK(co_await join_known());
    MESH_CO_CHECK(co_await claim_all());
    co_return Result<void>{};
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::release_all() {
    while (!leaving_.empty()) {
        std::vector<std::string> batch;
        etcd::Txn txn;
        for (const std::string& labels : leaving_) {
            if (batch.size() == kBatch) break;
            batch.push_back(labels);
            txn.success.push_back(etcd::DeleteOp{{reference_key(labels, who()), {}}});
        }
        const auto done = co_await client_.async_txn(std::move(txn));
        if (!done) co_return done.error();
        for (const std::string& labels : batch) {
            leaving_.erase(labels);
            const auto found = references_.find(labels);
            if (found == references_.end()) continue;
            std::erase_if(found->second, [this](const Reference& one) { return one.who == who(); });
            if (!found->second.empty()) continue;
            references_.erase(found);
            const auto mains = by_labels_.find(labels);
            if (mains == by_labels_.end()) continue;
            for (const std::uint32_t id : mains->second) {
                unused_since_.try_emplace(id, clock_.now());
            }
        }
    }
    co_return Result<void>{};
}

/// Where somebody refers to a label set, its number is settled, and as long as that reference is
/// there no writer chooses another: no lock is needed to add one's own.
asio::awaitable<Result<void>> KvstoreIdentityAllocator::join_known() {
    std::vector<std::pair<std::string, IdentityId>> batch;
    const std::vector<std::string> due(due_.begin(), due_.end());
    for (std::size_t next = 0; next < due.size();) {
        etcd::Txn txn;
        batch.clear();
        const std::int64_t lease = lease_;
        for (; next < due.size() && batch.size() < kBatch; ++next) {
            const std::string& labels = due[next];
            const Reference* known = claims_.contains(labels) ? known_reference(labels) : nullptr;
            if (known == nullptr) continue;
            const auto main = mains_.find(number(known->id));
            if (main == mains_.end() || main->second.labels != labels || main->second.lease != 0) {
                continue;
            }
            if (known->who == who() && known->lease == lease) {  // of an earlier run
                ++stats_.reused;
                settled(labels, known->id, *known);
                continue;
            }
            txn.compare.push_back(
                is_unchanged(reference_key(labels, known->who), known->mod_revision));
            txn.compare.push_back(
                is_unchanged(model::identity_key(known->id), main->second.mod_revision));
            txn.success.push_back(etcd::PutOp{reference_key(labels, who()),
                                              std::to_string(number(known->id)), lease});
            batch.emplace_back(labels, known->id);
        }
        if (batch.empty()) continue;
        const auto done = co_await client_.async_txn(std::move(txn));
        if (!done) co_return done.error();
        if (!done->succeeded) {
            ++stats_.lost_races;
            continue;  // each on its own, under its lock
        }
        for (const auto& [labels, id] : batch) {
            ++stats_.reused;
            settled(labels, id, {fmt::format("{:x}", lease), id, done->header.revision, lease});
        }
    }
    co_return Result<void>{};
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::claim_all() {
    if (due_.empty()) co_return Result<void>{};
    const auto lock = co_await lock_lease_.hold(0);
    if (!lock) co_return lock.error();
    const auto queue = std::make_shared<Queue>();
    queue->labels.assign(due_.begin(), due_.end());
    const std::size_t workers = std::min(options_.at_once, queue->labels.size());
    for (std::size_t i = 0; i < workers; ++i) tasks_.spawn(work(*this, queue));
    co_await tasks_.join();
    co_return queue->failed;
}

asio::awaitable<void> KvstoreIdentityAllocator::work(KvstoreIdentityAllocator& self,
                                                     std::shared_ptr<Queue> queue) {
    while (queue->failed && queue->next < queue->labels.size()) {
        const std::string labels = queue->labels[queue->next++];
        if (!self.claims_.contains(labels)) continue;
        Result<void> done = co_await self.claim(labels);
        if (!done && done.error().code() == Errc::kCapacity) {
            self.refuse(labels, done.error());
        } else if (!done) {
            queue->failed = std::move(done);
        }
    }
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::claim(std::string labels) {
    if (lock_lease_.id() == 0) co_return unavailable("the lease for locks was lost");
    EtcdMutex mutex(loop_, client_, fmt::format("{}{}", kLockPrefix, labels), lock_lease_.id());
    const auto locked = co_await mutex.async_lock(options_.lock_wait);
    if (!locked) {
        if (locked.error().code() != Errc::kNotFound) co_return locked.error();
        lock_lease_.drop();
        co_return unavailable(locked.error().detail());
    }
    Result<void> result =
        Error(Errc::kUnavailable, fmt::format("{}: others were faster {} times", labels, kTries));
    for (int tries = 0; tries < kTries; ++tries) {
        const auto outcome = co_await try_claim(labels, mutex.is_owner());
        if (outcome && *outcome == Outcome::kAgain) continue;
        result = outcome ? Result<void>{} : Result<void>(outcome.error());
        break;
    }
    co_await mutex.async_unlock();
    co_return result;
}

asio::awaitable<Result<KvstoreIdentityAllocator::Outcome>> KvstoreIdentityAllocator::try_claim(
    std::string labels, Compare owner) {
    etcd::RangeRequest request;
    request.range = references_of(labels);
    const auto range = co_await client_.async_range(std::move(request));
    if (!range) co_return range.error();
    References found;
    for (const etcd::KeyValue& kv : range->kvs) {
        take_reference(
            {kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease}, found);
    }
    for (const Reference& one : found[labels]) {
        auto main = co_await get(model::identity_key(one.id));
        if (!main) co_return main.error();
        if (!*main || (*main)->value == labels) {
            co_return co_await join(labels, owner, one, std::move(*main));
        }
        log_.warn("{} refers to identity {}, which is {}: ignored", reference_key(labels, one.who),
                  number(one.id), (*main)->value);
    }
    // A number without references that waits for its end; the one that we had first.
    std::vector<std::uint32_t> waiting;
    if (const auto mains = by_labels_.find(labels); mains != by_labels_.end()) {
        waiting.assign(mains->second.begin(), mains->second.end());
    }
    const auto claim = claims_.find(labels);
    if (claim != claims_.end() && claim->second.id) {
        waiting.insert(waiting.begin(), number(*claim->second.id));
    }
    for (const std::uint32_t id : waiting) {
        auto main = co_await get(model::identity_key(IdentityId{id}));
        if (!main) co_return main.error();
        if (!*main) {
            forget(IdentityId{id});
        } else if ((*main)->value == labels) {
            co_return co_await take_over(labels, owner, std::move(**main));
        } else {
            remember(IdentityId{id}, {(*main)->value, (*main)->mod_revision, (*main)->lease});
        }
    }
    co_return co_await make(labels, owner);
}

asio::awaitable<Result<std::optional<etcd::KeyValue>>> KvstoreIdentityAllocator::get(
    std::string key) {
    etcd::RangeRequest request;
    request.range.key = std::move(key);
    auto range = co_await client_.async_range(std::move(request));
    if (!range) co_return range.error();
    if (range->kvs.empty()) co_return std::optional<etcd::KeyValue>{};
    co_return std::optional<etcd::KeyValue>(std::move(range->kvs.front()));
}

asio::awaitable<Result<KvstoreIdentityAllocator::Outcome>> KvstoreIdentityAllocator::join(
    std::string labels, Compare owner, Reference with, std::optional<etcd::KeyValue> main) {
    etcd::Txn txn;
    txn.compare.push_back(std::move(owner));
    txn.compare.push_back(is_unchanged(reference_key(labels, with.who), with.mod_revision));
    co_return co_await commit(std::move(txn), std::move(labels), with.id, std::move(main));
}

asio::awaitable<Result<KvstoreIdentityAllocator::Outcome>> KvstoreIdentityAllocator::take_over(
    std::string labels, Compare owner, etcd::KeyValue main) {
    const auto id = model::parse_identity_id(main.key);
    etcd::Txn txn;
    txn.compare.push_back(std::move(owner));
    const etcd::KeyRange nobody = references_of(labels);
    txn.compare.push_back(is_absent(nobody.key, nobody.end));
    co_return co_await commit(std::move(txn), std::move(labels), *id, std::move(main));
}

asio::awaitable<Result<KvstoreIdentityAllocator::Outcome>> KvstoreIdentityAllocator::make(
    std::string labels, Compare owner) {
    const auto id = free_number(labels);
    if (!id) {
        co_return Error(Errc::kCapacity, fmt::format("all {} identities of the cluster are in use, "
                                                     "none is free for {}",
                                                     mains_.size(), labels));
    }
    etcd::Txn txn;
    txn.compare.push_back(std::move(owner));
    const etcd::KeyRange nobody = references_of(labels);
    txn.compare.push_back(is_absent(nobody.key, nobody.end));
    const auto outcome = co_await commit(std::move(txn), labels, *id, std::nullopt);
    // Whoever has it: not the number for us.
    if (outcome && *outcome == Outcome::kAgain) taken_.insert(number(*id));
    co_return outcome;
}

asio::awaitable<Result<KvstoreIdentityAllocator::Outcome>> KvstoreIdentityAllocator::commit(
    etcd::Txn txn, std::string labels, IdentityId id, std::optional<etcd::KeyValue> main) {
    const std::int64_t lease = lease_;
    const std::string main_key = model::identity_key(id);
    const Compare owner = txn.compare.front();
    txn.compare.push_back(main ? is_unchanged(main_key, main->mod_revision) : is_absent(main_key));
    const bool write_main = !main || main->lease != 0;
    if (write_main) txn.success.push_back(etcd::PutOp{main_key, labels, 0});
    txn.success.push_back(etcd::PutOp{reference_key(labels, fmt::format("{:x}", lease)),
                                      std::to_string(number(id)), lease});
    txn.failure.push_back(etcd::GetOp{{owner.key, {}}});
    const auto done = co_await client_.async_txn(std::move(txn));
    if (!done) co_return done.error();
    if (!done->succeeded) {
        ++stats_.lost_races;
        const bool ours = !done->results.empty() && !done->results[0].kvs.empty() &&
                          done->results[0].kvs[0].create_revision == owner.number;
        if (!ours) co_return unavailable(owner.key + " was lost, and with it the lock");
        co_return Outcome::kAgain;
    }
    ++(main ? stats_.reused : stats_.claimed);
    const std::int64_t revision = done->header.revision;
    remember(id, {labels, write_main ? revision : main->mod_revision, 0});
    settled(labels, id, {fmt::format("{:x}", lease), id, revision, lease});
    co_return Outcome::kDone;
}

void KvstoreIdentityAllocator::settled(const std::string& labels, IdentityId id,
                                       Reference reference) {
    const bool current = reference.lease == lease_;
    auto& known = references_[labels];
    std::erase_if(known, [&](const Reference& one) { return one.who == reference.who; });
    known.push_back(std::move(reference));
    unused_since_.erase(number(id));
    const auto found = claims_.find(labels);
    if (found == claims_.end()) {
        if (current) leaving_.insert(labels);
        return;
    }
    Claim& claim = found->second;
    if (current) {
        claim.lease = lease_;
        due_.erase(labels);
    }
    if (claim.id == id) return;
    if (!claim.id) ++held_;
    claim.id = id;
    on_number_(labels, id);
}

void KvstoreIdentityAllocator::refuse(const std::string& labels, const Error& why) {
    due_.erase(labels);
    const auto found = claims_.find(labels);
    if (found == claims_.end()) return;
    if (found->second.id) --held_;
    found->second.id.reset();
    on_number_(labels, why);
}

/// The number that the label set had, else a random one, so that one that has just been given up is
/// not soon another's.
std::optional<IdentityId> KvstoreIdentityAllocator::free_number(const std::string& labels) {
    const auto claim = claims_.find(labels);
    if (claim != claims_.end() && claim->second.id) {
        const IdentityId had = *claim->second.id;
        if (!mains_.contains(number(had)) && taken_.erase(number(had)) != 0) return had;
    }
    const auto& range = options_.range;
    const std::uint64_t size = std::uint64_t{range.last} - range.first + 1;
    auto id = range.first + static_cast<std::uint32_t>(rng_.below(size));
    for (std::uint64_t tries = 0; tries < size; ++tries) {
        if (!mains_.contains(id) && !taken_.contains(id)) return IdentityId{id};
        id = id == range.last ? range.first : id + 1;
    }
    return std::nullopt;
}

// ---- garbage ----

std::optional<TimePoint> KvstoreIdentityAllocator::next_collection() const {
    if (unused_since_.empty()) return std::nullopt;
    const auto first =
        std::ranges::min_element(unused_since_, {}, [](const auto& entry) { return entry.second; });
    return first->second + options_.grace;
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::async_collect() {
    std::vector<IdentityId> old;
    for (const auto& [id, since] : unused_since_) {
        if (since + options_.grace <= clock_.now()) old.push_back(IdentityId{id});
    }
    if (old.empty()) co_return Result<void>{};
    const auto lock = co_await lock_lease_.hold(0);
    if (!lock) co_return lock.error();
    for (const IdentityId id : old) MESH_CO_CHECK(co_await collect_one(id));
    co_return Result<void>{};
}

asio::awaitable<Result<void>> KvstoreIdentityAllocator::collect_one(IdentityId id) {
    const auto found = mains_.find(number(id));
    unused_since_.erase(number(id));
    if (found == mains_.end()) co_return Result<void>{};
    const Main main = found->second;
    if (lock_lease_.id() == 0) co_return unavailable("the lease for locks was lost");
    EtcdMutex mutex(loop_, client_, fmt::format("{}{}", kLockPrefix, main.labels),
                    lock_lease_.id());
    const auto locked = co_await mutex.async_lock(options_.lock_wait);
    if (!locked) {
        if (locked.error().code() != Errc::kNotFound) co_return locked.error();
        lock_lease_.drop();
        co_return unavailable(locked.error().detail());
    }
    etcd::RangeRequest request;
    request.range = references_of(main.labels);
    const auto range = co_await client_.async_range(std::move(request));
    etcd::Txn txn;
    txn.compare.push_back(mutex.is_owner());
    txn.compare.push_back(is_unchanged(model::identity_key(id), main.mod_revision));
    const etcd::KeyRange all = references_of(main.labels);
    Compare nobody = is_absent(all.key, all.end);
    if (range && !range->kvs.empty()) {
        // They may all be to another number of the label set.
        nobody.target = Compare::Target::kValue;
        nobody.is = Compare::Is::kNotEqual;
        nobody.value = std::to_string(number(id));
    }
    txn.compare.push_back(std::move(nobody));
    txn.success.push_back(etcd::DeleteOp{{model::identity_key(id), {}}});
    const auto done = co_await client_.async_txn(std::move(txn));
    co_await mutex.async_unlock();
    if (!done) co_return done.error();
    if (done->succeeded) {
        ++stats_.collected;
        forget(id);
    } else {
        ++stats_.lost_races;  // somebody came: the next list tells who
    }
    co_return Result<void>{};
}

}  // namespace mesh::publish
