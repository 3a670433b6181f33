#include "writer.hpp"

#include <fmt/format.h>

#include <array>

namespace asio = boost::asio;

namespace mesh::soak {

namespace {

// Of what clusters publish, of what only they see, and of what no mirror shows.
constexpr std::array kPrefixes = {
    "cilium/state/nodes/v1/cluster1/",      "cilium/state/services/v1/cluster1/default/",
    "cilium/state/ip/v1/default/",          "cilium/state/identities/v1/id/",
    "cilium/synced/cluster1/cilium/state/", "cilium/cache/nodes/v1/cluster7/",
    "mesh/local/services/v1/default/",      "other/"};
constexpr std::uint64_t kKeysPerPrefix = 40;

}  // namespace

Writer::Writer(asio::any_io_executor loop, Rng rng, Caller caller, Duration pause, Report& report)
    : loop_(std::move(loop)),
      rng_(rng),
      caller_(std::move(caller)),
      pause_(pause),
      report_(report) {}

std::string Writer::key() {
    if (rng_.below(40) == 0) return "cilium/.heartbeat";
    return fmt::format("{}{}", kPrefixes[rng_.below(kPrefixes.size())], rng_.below(kKeysPerPrefix));
}

std::string Writer::value() {
    const std::uint64_t dice = rng_.below(100);
    const std::uint64_t size = dice < 90 ? rng_.below(300) : rng_.below(dice < 99 ? 4096 : 65536);
    std::string text = fmt::format("{} ", ++written_);
    text.resize(std::max<std::size_t>(text.size(), size), 'v');
    return text;
}

void Writer::fill(etcdpb::PutRequest& put) {
    put.set_key(key());
    put.set_value(value());
    if (!leases_.empty() && rng_.below(8) == 0) put.set_lease(leases_[rng_.below(leases_.size())]);
}

void Writer::fill(etcdpb::DeleteRangeRequest& range) {
    range.set_key(key());
    if (rng_.below(6) != 0 || range.key() == "cilium/.heartbeat") return;
    // All keys that begin with this one's text: "nodes/1" takes "nodes/10" to "nodes/19" with it.
    std::string end = range.key();
    ++end.back();
    range.set_range_end(std::move(end));
}

template <class Response, class Request>
asio::awaitable<bool> Writer::send(std::string_view path, Request request) {
    const auto answer = co_await caller_.call<Response>(path, std::move(request));
    report_.count(answer ? "writes" : "writes without an answer");
    co_return answer.has_value();
}

asio::awaitable<void> Writer::put() {
    etcdpb::PutRequest request;
    fill(request);
    co_await send<etcdpb::PutResponse>(etcdpb::kPut, std::move(request));
}

asio::awaitable<void> Writer::erase() {
    etcdpb::DeleteRangeRequest request;
    fill(request);
    co_await send<etcdpb::DeleteRangeResponse>(etcdpb::kDeleteRange, std::move(request));
}

asio::awaitable<void> Writer::transact(int operations) {
    etcdpb::TxnRequest request;
    std::vector<std::string> taken;  // a transaction writes a key once
    for (int i = 0; i < operations; ++i) {
        std::string target = key();
        if (std::find(taken.begin(), taken.end(), target) != taken.end()) continue;
        taken.push_back(target);
        if (rng_.below(3) == 0) {
            request.add_success()->mutable_request_delete_range()->set_key(target);
        } else {
            auto& put = *request.add_success()->mutable_request_put();
            put.set_key(target);
            put.set_value(value());
        }
    }
    co_await send<etcdpb::TxnResponse>(etcdpb::kTxn, std::move(request));
}

asio::awaitable<void> Writer::lease() {
    etcdpb::LeaseGrantRequest request;
    request.set_ttl(1 + static_cast<std::int64_t>(rng_.below(4)));
    const auto granted =
        co_await caller_.call<etcdpb::LeaseGrantResponse>(etcdpb::kLeaseGrant, std::move(request));
    if (!granted) co_return;
    leases_.push_back(granted->id());
    report_.count("leases");
    // Expired ones are forgotten in time; puts under them fail, which is a write without effect.
    if (leases_.size() > 8) leases_.erase(leases_.begin());
}

asio::awaitable<void> Writer::revoke() {
    if (leases_.empty()) co_return;
    etcdpb::LeaseRevokeRequest request;
    request.set_id(leases_.back());
    leases_.pop_back();
    co_await caller_.call<etcdpb::LeaseRevokeResponse>(etcdpb::kLeaseRevoke, std::move(request));
}

asio::awaitable<void> Writer::write() {
    const std::uint64_t dice = rng_.below(100);
    if (dice < 60) {
        co_await put();
    } else if (dice < 78) {
        co_await erase();
    } else if (dice < 92) {
        co_await transact(2 + static_cast<int>(rng_.below(10)));
    } else if (dice < 97) {
        co_await lease();
    } else {
        co_await revoke();
    }
}

asio::awaitable<void> Writer::run(std::shared_ptr<Writer> self) {
    while (!self->stopping_) {
        co_await self->write();
        if (self->stopping_) break;
        co_await sleep_for(self->loop_,
                           std::chrono::nanoseconds(self->rng_.below(
                               2 * static_cast<std::uint64_t>(self->pause_.count()) + 1)));
    }
}

asio::awaitable<void> Writer::burst(std::shared_ptr<Writer> self) {
    for (int i = 0; i < 6 && !self->stopping_; ++i) {
        etcdpb::TxnRequest request;
        for (int k = 0; k < 8; ++k) {
            auto& put = *request.add_success()->mutable_request_put();
            put.set_key(fmt::format("{}{}", kPrefixes[static_cast<std::size_t>(i) % 3], k));
            put.set_value(std::string(64 << 10, 'b'));
        }
        co_await self->send<etcdpb::TxnResponse>(etcdpb::kTxn, std::move(request));
    }
}

asio::awaitable<void> Writer::compact(std::shared_ptr<Writer> self, std::int64_t at) {
    etcdpb::CompactionRequest request;
    request.set_revision(at);
    const auto done = co_await self->caller_.call<etcdpb::CompactionResponse>(etcdpb::kCompact,
                                                                              std::move(request));
    if (done) self->report_.count("compactions");
}

asio::awaitable<std::int64_t> Writer::finish(std::shared_ptr<Writer> self) {
    while (true) {
        etcdpb::LeaseLeasesRequest none;
        const auto leases = co_await self->caller_.call<etcdpb::LeaseLeasesResponse>(
            etcdpb::kLeaseLeases, std::move(none));
        if (!leases) {
            co_await sleep_for(self->loop_, std::chrono::milliseconds(100));
            continue;
        }
        for (const auto& lease : leases->leases()) {
            etcdpb::LeaseRevokeRequest request;
            request.set_id(lease.id());
            co_await self->caller_.call<etcdpb::LeaseRevokeResponse>(etcdpb::kLeaseRevoke,
                                                                     std::move(request));
        }
        if (leases->leases().empty()) break;
    }
    while (true) {
        etcdpb::PutRequest request;
        request.set_key(std::string(kFence) + "end");
        request.set_value("the end");
        const auto answer =
            co_await self->caller_.call<etcdpb::PutResponse>(etcdpb::kPut, std::move(request));
        if (answer) co_return answer->header().revision();
        co_await sleep_for(self->loop_, std::chrono::milliseconds(100));
    }
}

asio::awaitable<std::vector<Change>> Writer::all(std::shared_ptr<Writer> self,
                                                 std::int64_t revision) {
    etcdpb::RangeRequest request;
    request.set_key(std::string(1, '\0'));
    request.set_range_end(std::string(1, '\0'));
    request.set_revision(revision);
    std::vector<Change> keys;
    const auto answer =
        co_await self->caller_.call<etcdpb::RangeResponse>(etcdpb::kRange, std::move(request));
    if (answer)
        for (const auto& kv : answer->kvs()) keys.push_back(to_change(kv));
    co_return keys;
}

}  // namespace mesh::soak
