#include "serve/etcd/request_queue.hpp"

#include <algorithm>

namespace mesh::serve {

const ClientLimits& LoopPeer::limits() const noexcept {
    return role != nullptr ? role->limits() : kDefaultLimits;
}
const ClientLimits& LoopPeer::limits_per_name() const noexcept {
    return role != nullptr ? role->limits_per_name() : kDefaultLimitsPerName;
}

Duration RequestQueue::wait(const LoopPeer& peer, TimePoint now) {
    const Client& client = *peer.client->slot->client;
    return std::max(client.own.wait(now, peer.limits()),
                    client.of_name->wait(now, peer.limits_per_name()));
}

bool RequestQueue::may_run(LoopPeer& peer, Work work, TimePoint now) {
    LoopClient& client = *peer.client;
    if (!work.again) client.slot->counters.requests.add();
    client.slot->counters.bytes_in.add(work.bytes);
    if (!client.jobs.empty() || wait(peer, now) > Duration::zero()) return false;
    if (client.turn != turn_) {
        client.turn = turn_;
        client.taken = 0;
    }
    return client.taken < kQuantum;
}

void RequestQueue::ran(LoopPeer& peer, Work work, std::size_t answered, TimePoint now) {
    LoopClient& client = *peer.client;
    const std::size_t price = kBasePrice + work.bytes + answered;
    client.taken += price;
    client.deficit -= static_cast<std::int64_t>(price);
    client.slot->counters.bytes_out.add(answered);
    const auto charge = [&](ClientShare& share, const ClientLimits& limits) {
        if (!work.again) share.requests.take(now, 1, limits.requests_per_second);
        share.bytes_in.take(now, work.bytes, limits.bytes_in_per_second);
        share.bytes_out.take(now, answered, limits.bytes_out_per_second);
    };
    charge(client.slot->client->own, peer.limits());
    charge(*client.slot->client->of_name, peer.limits_per_name());
}

bool RequestQueue::keep(LoopPeerPtr peer, Work work, std::function<std::size_t()> run,
                        TimePoint now) {
    const ClientPtr client = peer->client;
    ClientSlot& slot = *client->slot;
    const auto full = [](const ClientShare& share, const ClientLimits& limits) {
        return limits.waiting_requests != 0 &&
               share.waiting.load(std::memory_order_relaxed) >= limits.waiting_requests;
    };
    if (full(slot.client->own, peer->limits()) ||
        full(*slot.client->of_name, peer->limits_per_name()) ||
        (client->job_bytes != 0 && client->job_bytes + work.bytes > kMostWaitingBytes))
        return false;
    (wait(*peer, now) > Duration::zero() ? slot.counters.throttled : slot.counters.queued).add();
    slot.client->own.waiting.fetch_add(1, std::memory_order_relaxed);
    slot.client->of_name->waiting.fetch_add(1, std::memory_order_relaxed);
    client->job_bytes += work.bytes;
    ++waiting_;
    client->jobs.push_back({std::move(peer), work.bytes, work.again, std::move(run)});
    if (client->state == LoopClient::State::kIdle) enlist(client, now);
    return true;
}

void RequestQueue::enlist(const ClientPtr& client, TimePoint now) {
    if (const Duration due = wait(*client->jobs.front().peer, now); due > Duration::zero()) {
        client->state = LoopClient::State::kThrottled;
        throttled_.emplace(now + due, client);
        return;
    }
    client->state = LoopClient::State::kNew;
    // What it took at once before it began to wait is not given a second time.
    client->deficit = client->turn == turn_ ? 0 : static_cast<std::int64_t>(kQuantum);
    new_.push_back(client);
}

void RequestQueue::forget(const LoopClient::Job& job) {
    LoopClient& client = *job.peer->client;
    client.slot->client->own.waiting.fetch_sub(1, std::memory_order_relaxed);
    client.slot->client->of_name->waiting.fetch_sub(1, std::memory_order_relaxed);
    client.job_bytes -= job.bytes;
    --waiting_;
}

void RequestQueue::run_first(LoopClient& client, TimePoint now) {
    const LoopClient::Job job = std::move(client.jobs.front());
    client.jobs.pop_front();
    forget(job);
    ran(*job.peer, {job.bytes, job.again}, job.run(), now);
}

RequestQueue::Next RequestQueue::run(TimePoint now) {
    ++turn_;
    while (!throttled_.empty() && throttled_.begin()->first <= now) {
        const ClientPtr client = throttled_.begin()->second;
        throttled_.erase(throttled_.begin());
        enlist(client, now);
    }
    std::int64_t left = kPortion;
    while (left > 0 && (!new_.empty() || !old_.empty())) {
        auto& from = new_.empty() ? old_ : new_;
        const ClientPtr client = from.front();
        from.pop_front();
        client->state = LoopClient::State::kIdle;
        if (client->jobs.empty()) continue;
        if (client->deficit <= 0) {
            client->deficit += kQuantum;
            client->state = LoopClient::State::kOld;
            old_.push_back(client);
            continue;
        }
        while (left > 0 && client->deficit > 0 && !client->jobs.empty() &&
               wait(*client->jobs.front().peer, now) <= Duration::zero()) {
            const std::int64_t before = client->deficit;
            run_first(*client, now);
            left -= before - client->deficit;
        }
        if (client->jobs.empty()) continue;
        if (wait(*client->jobs.front().peer, now) > Duration::zero()) {
            enlist(client, now);
            continue;
        }
        client->state = LoopClient::State::kOld;
        // Out of the loop's portion, and not of its own: it goes on next time.
        if (client->deficit > 0) {
            old_.push_front(client);
        } else {
            client->deficit += kQuantum;
            old_.push_back(client);
        }
    }
    Next next{.more = !new_.empty() || !old_.empty(), .at = {}};
    if (!throttled_.empty()) next.at = throttled_.begin()->first;
    return next;
}

void RequestQueue::clear() {
    const auto drop = [this](const ClientPtr& client) {
        for (const LoopClient::Job& job : client->jobs) forget(job);
        client->jobs.clear();
        client->state = LoopClient::State::kIdle;
    };
    for (const auto* list : {&new_, &old_})
        for (const ClientPtr& client : *list) drop(client);
    for (const auto& [at, client] : throttled_) drop(client);
    new_.clear();
    old_.clear();
    throttled_.clear();
}

}  // namespace mesh::serve
