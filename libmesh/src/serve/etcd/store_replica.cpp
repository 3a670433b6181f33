#include "serve/etcd/store_replica.hpp"

#include <boost/asio/post.hpp>
#include <utility>

namespace mesh::serve {

namespace {

std::unique_ptr<store::Store> empty_store() {
    auto made = store::Store::open(std::make_unique<store::MemoryBackend>(), {}, TimePoint{});
    return *std::move(made);  // in memory there is nothing to fail
}

}  // namespace

StoreReplica::StoreReplica(boost::asio::any_io_executor loop, Logger log)
    : loop_(std::move(loop)), log_(std::move(log)), store_(empty_store()) {}

void StoreReplica::offer(std::shared_ptr<const store::StoreChange> change) {
    std::unique_lock lock(mutex_);
    offered_.push_back(std::move(change));
    schedule(std::move(lock));
}

void StoreReplica::offer_identity(const store::Identity& identity) {
    std::unique_lock lock(mutex_);
    identity_ = identity;
    schedule(std::move(lock));
}

void StoreReplica::schedule(std::unique_lock<std::mutex> lock) {
    if (std::exchange(scheduled_, true)) return;
    lock.unlock();
    boost::asio::post(loop_, [self = shared_from_this()] { self->take(); });
}

void StoreReplica::take() {
    std::vector<std::shared_ptr<const store::StoreChange>> changes;
    store::Identity identity;
    {
        const std::lock_guard lock(mutex_);
        scheduled_ = false;
        changes.swap(offered_);
        identity = identity_;
    }
    // Before the changes: what is told of another history carries its name.
    if (store_->identity() != identity) store_->set_identity(identity);
    for (const auto& change : changes) {
        // The source has checked it; what it told it told completely and in order.
        if (auto applied = store_->apply(*change); !applied) {
            log_.error("a loop's copy of the store does not take a change: {}",
                       applied.error().to_error().message());
        }
    }
}

ReplicaFeed::ReplicaFeed(store::Store& source) : source_(source), told_(source.identity()) {
    source_.on_change([this](store::StoreChange change) {
        tell_identity();
        const auto shared = std::make_shared<const store::StoreChange>(std::move(change));
        for (const auto& replica : replicas_) replica->offer(shared);
    });
}

ReplicaFeed::~ReplicaFeed() {
    source_.on_change({});
}

void ReplicaFeed::add(std::shared_ptr<StoreReplica> replica) {
    replica->offer_identity(source_.identity());
    for (store::StoreChange& change : source_.copy()) {
        replica->offer(std::make_shared<const store::StoreChange>(std::move(change)));
    }
    replicas_.push_back(std::move(replica));
}

void ReplicaFeed::tell_identity() {
    const store::Identity identity = source_.identity();
    if (identity == std::exchange(told_, identity)) return;
    for (const auto& replica : replicas_) replica->offer_identity(identity);
}

}  // namespace mesh::serve
