#include "serve/etcd/read_gate.hpp"

#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>
#include <vector>

namespace mesh::serve {

ReadGate::ReadGate(boost::asio::any_io_executor loop, store::Store& store,
                   const EtcdServiceOptions& options)
    : loop_(std::move(loop)), store_(store), options_(options) {
    if (options_.read_barrier)
        barrier_ = std::make_shared<ReadBarrierQueue>(loop_, options_.read_barrier,
                                                      options_.read_barrier_limit);
}

ReadGate::~ReadGate() = default;

void ReadGate::start() {
    if (!barrier_) return;
    store_.on_revision([weak = weak_from_this()](store::Revision) {
        if (auto self = weak.lock()) self->on_revision();
    });
}

void ReadGate::stop() {
    stopped_ = true;
    waiters_.clear();
    if (!barrier_) return;
    barrier_->stop();
    store_.on_revision({});
}

void ReadGate::count(EtcdServiceStats& stats) const {
    stats.reads_waited = waited_;
    stats.reads_unproven = unproven_;
    stats.reads_crowded_out = crowded_;
    if (barrier_) stats.barrier_questions = barrier_->stats().questions;
}

bool ReadGate::at_once(store::Revision revision, bool serializable) const {
    return !barrier_ || (revision <= store_.revision() && (revision > 0 || serializable));
}

void ReadGate::pass(store::Revision revision, bool serializable,
                    std::function<void(ReadVerdict)> then) {
    if (at_once(revision, serializable)) return then(ReadVerdict::kFresh);
    if (revision > store_.revision()) return pass_future(revision, std::move(then));
    pass_newest(std::move(then));
}

void ReadGate::pass_newest(std::function<void(ReadVerdict)> then) {
    if (newest_waiting_ >= options_.max_waiting_reads) {
        ++crowded_;
        ++unproven_;
        return then(ReadVerdict::kUnproven);
    }
    ++newest_waiting_;
    ++waited_;
    barrier_->wait([weak = weak_from_this(), then = std::move(then)](const ReadMark& mark) {
        auto self = weak.lock();
        if (!self || self->stopped_) return;
        const auto go = [weak, then](bool proven) {
            auto gate = weak.lock();
            if (!gate || gate->stopped_) return;
            --gate->newest_waiting_;
            if (!proven) ++gate->unproven_;
            then(proven ? ReadVerdict::kFresh : ReadVerdict::kUnproven);
        };
        if (!mark.known) return go(false);
        if (self->store_.revision() >= mark.revision) return go(true);
        // This loop's store is not where the mirror is.
        self->wait(mark.revision, self->options_.read_barrier_limit,
                   [weak, go, revision = mark.revision] {
                       auto gate = weak.lock();
                       if (gate) go(gate->store_.revision() >= revision);
                   });
    });
}

void ReadGate::pass_future(store::Revision revision, std::function<void(ReadVerdict)> then) {
    if (waiters_.size() >= options_.max_waiting_reads) {
        ++crowded_;
        return then(ReadVerdict::kUnproven);  // refused by the store, as of a future revision
    }
    ++waited_;
    const std::uint64_t id = wait(revision, options_.future_revision_limit,
                                  [then = std::move(then)] { then(ReadVerdict::kFresh); });
    // Changes of what is not mirrored take the upstream there without our knowing; and a revision
    // that the upstream does not have either is not waited for.
    barrier_->wait([weak = weak_from_this(), revision, id](const ReadMark& mark) {
        auto self = weak.lock();
        if (self && mark.known && mark.revision < revision) self->release(revision, id);
    });
}

std::uint64_t ReadGate::wait(store::Revision revision, Duration limit, std::function<void()> then) {
    const std::uint64_t id = ++last_id_;
    auto timer = std::make_unique<boost::asio::steady_timer>(loop_);
    timer->expires_after(std::chrono::ceil<std::chrono::microseconds>(limit));
    timer->async_wait(
        [weak = weak_from_this(), revision, id](const boost::system::error_code& failed) {
            auto self = weak.lock();
            if (self && !failed) self->release(revision, id);
        });
    waiters_.emplace(revision, Waiter{id, std::move(then), std::move(timer)});
    return id;
}

void ReadGate::release(store::Revision revision, std::uint64_t id) {
    const auto [begin, end] = waiters_.equal_range(revision);
    for (auto it = begin; it != end; ++it) {
        if (it->second.id != id) continue;
        const auto then = std::move(it->second.then);
        waiters_.erase(it);
        return then();
    }
}

void ReadGate::on_revision() {
    if (waiters_.empty() || release_scheduled_) return;
    release_scheduled_ = true;
    boost::asio::post(loop_, [weak = weak_from_this()] {
        auto self = weak.lock();
        if (!self || self->stopped_) return;
        self->release_scheduled_ = false;
        std::vector<std::function<void()>> ready;
        const auto end = self->waiters_.upper_bound(self->store_.revision());
        for (auto it = self->waiters_.begin(); it != end; ++it)
            ready.push_back(std::move(it->second.then));
        self->waiters_.erase(self->waiters_.begin(), end);
        for (const auto& then : ready) then();
    });
}

}  // namespace mesh::serve
