#include "publish/etcd_mutex.hpp"

#include <fmt/format.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

namespace mesh::publish {

namespace asio = boost::asio;

EtcdMutex::EtcdMutex(asio::any_io_executor loop, etcd::Client& client, std::string path,
                     std::int64_t lease)
    : loop_(std::move(loop)),
      client_(client),
      path_(std::move(path)),
      key_(fmt::format("{}/{:x}", path_, lease)),
      lease_(lease) {}

etcd::Compare EtcdMutex::is_owner() const {
    return {.key = key_,
            .target = etcd::Compare::Target::kCreateRevision,
            .is = etcd::Compare::Is::kEqual,
            .number = create_revision_,
            .value = {}};
}

asio::awaitable<Result<void>> EtcdMutex::async_lock(Duration most) {
    etcd::Txn txn;
    create_revision_ = 0;
    txn.compare.push_back(is_owner());  // created at 0: not there
    txn.success.push_back(etcd::PutOp{key_, {}, lease_});
    txn.failure.push_back(etcd::GetOp{{key_, {}}});
    const auto put = co_await client_.async_txn(std::move(txn));
    if (!put) co_return put.error();
    create_revision_ = put->header.revision;
    if (!put->succeeded && !put->results.empty() && !put->results[0].kvs.empty()) {
        create_revision_ = put->results[0].kvs[0].create_revision;
    }
    asio::steady_timer deadline(loop_);
    deadline.expires_after(most);
    while (true) {
        etcd::KeyValue ahead;
        std::int64_t revision = 0;
        const auto first = co_await is_first(ahead, revision);
        if (!first) co_return first.error();
        if (*first) co_return Result<void>{};
        const Duration left = deadline.expiry() - asio::steady_timer::clock_type::now();
        if (left <= Duration::zero()) {
            co_await async_unlock();
            co_return Error(Errc::kTimeout,
                            fmt::format("{} is held by {}", path_, ahead.key.substr(path_.size())));
        }
        co_await wait_for_end(ahead, revision, left);
    }
}

/// @param ahead set to the one whose end is to be waited for
asio::awaitable<Result<bool>> EtcdMutex::is_first(etcd::KeyValue& ahead, std::int64_t& revision) {
    etcd::RangeRequest request;
    request.range = etcd::prefix_range(path_ + "/");
    auto range = co_await client_.async_range(std::move(request));
    if (!range) co_return range.error();
    revision = range->header.revision;
    bool present = false;
    for (etcd::KeyValue& kv : range->kvs) {
        present = present || kv.create_revision == create_revision_;
        if (kv.create_revision < create_revision_ && kv.create_revision > ahead.create_revision) {
            ahead = std::move(kv);
        }
    }
    if (!present) {
        co_return Error(Errc::kNotFound, key_ + " is gone, and with it the lock's lease");
    }
    co_return ahead.create_revision == 0;
}

asio::awaitable<void> EtcdMutex::wait_for_end(const etcd::KeyValue& of, std::int64_t revision,
                                              Duration most) {
    asio::steady_timer woken(loop_);
    woken.expires_after(most);
    const auto wake = [&woken] { woken.expires_at(asio::steady_timer::time_point::min()); };
    etcd::WatchOptions options;
    options.range.key = of.key;
    options.start_revision = revision + 1;
    etcd::WatchEvents events;
    events.on_events = [&](const etcd::Header&, std::span<const etcd::WatchEvent>) { wake(); };
    events.on_end = [&](const etcd::WatchEnd&) { wake(); };
    // It ends before what it refers to.
    const auto watch = client_.watch(std::move(options), std::move(events));
    boost::system::error_code ignored;
    co_await woken.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

asio::awaitable<void> EtcdMutex::async_unlock() {
    etcd::Txn txn;
    txn.compare.push_back(is_owner());
    txn.success.push_back(etcd::DeleteOp{{key_, {}}});
    // If it fails, the key goes with its lease.
    (void)co_await client_.async_txn(std::move(txn));
}

}  // namespace mesh::publish
