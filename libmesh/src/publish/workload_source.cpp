#include "publish/workload_source.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>
#include <vector>

#include "model/keys.hpp"
#include "model/utf8.hpp"

namespace mesh::publish {

namespace asio = boost::asio;

namespace {

// What anybody who may write below the prefix can make the operator remember.
constexpr std::uint64_t kMaxWorkloads = 100'000;
constexpr std::uint64_t kMaxKeyBytes = 512;
constexpr Duration kListBound = std::chrono::seconds(30);

}  // namespace

WorkloadSource::WorkloadSource(asio::any_io_executor loop, etcd::Client& client, const Clock& clock,
                               Rng rng, Logger log, std::function<void(WorkloadChanges)> on_changes)
    : client_(client),
      clock_(clock),
      rng_(rng),
      log_(std::move(log)),
      on_changes_(std::move(on_changes)),
      listed_changed_(loop) {}

void WorkloadSource::start() {
    etcd::PrefixWatcherOptions options;
    options.prefix = model::kLocalWorkloadsPrefix;
    options.max_keys = kMaxWorkloads;
    options.max_key_bytes = kMaxKeyBytes;
    etcd::PrefixWatcherEvents events;
    events.on_batch = [this](const etcd::Batch& batch) { take(batch); };
    events.on_list_done = [this](const etcd::Header&) {
        listed_ = true;
        refused_.reset();
        listed_changed_.cancel();
        flush();
    };
    events.on_refused = [this](const etcd::RefusedKeys& keys) {
        log_.warn(
            "{} keys of workloads are refused, the last one {}: expected at most {} keys of "
            "at most {} bytes",
            keys.count, model::printable(keys.last, 256), kMaxWorkloads, kMaxKeyBytes);
    };
    events.on_state = [this](etcd::PrefixWatcherEvents::State state, const Error* reason) {
        if (state != etcd::PrefixWatcherEvents::State::kRefused) return;
        refused_ = reason != nullptr ? *reason : unavailable("refused");
        log_.warn("{}: {}", model::kLocalWorkloadsPrefix, refused_->message());
        listed_changed_.cancel();
    };
    watcher_ = std::make_unique<etcd::PrefixWatcher>(client_, clock_, Rng(rng_.next()),
                                                     std::move(options), std::move(events));
}

asio::awaitable<Result<void>> WorkloadSource::async_listed() {
    const TimePoint end = clock_.now() + kListBound;
    while (!listed_) {
        if (stopped_) co_return Error(Errc::kCancelled, "stopped");
        if (refused_) co_return refused_->with_prefix(model::kLocalWorkloadsPrefix);
        if (clock_.now() >= end) {
            co_return Error(Errc::kTimeout, "mesh/local/workloads/v1/: the list did not end");
        }
        listed_changed_.expires_at(asio::steady_timer::time_point(end));
        boost::system::error_code ignored;
        co_await listed_changed_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    co_return Result<void>{};
}

void WorkloadSource::take(const etcd::Batch& batch) {
    for (const etcd::Change& change : batch.changes) {
        std::string name(change.kv.key.substr(model::kLocalWorkloadsPrefix.size()));
        if (change.kind == etcd::Change::Kind::kDelete) {
            pending_[std::move(name)] = std::nullopt;
            continue;
        }
        // One that is too large is refused whatever it says.
        const auto value = change.kv.value.substr(0, model::kMaxWorkloadBytes + 1);
        pending_[name] = WorkloadRecord{name, std::string(value), change.kv.create_revision,
                                        change.kv.mod_revision};
    }
    // A list is settled as one: who has what does not hang on the order of its pages.
    if (!batch.from_list) flush();
}

void WorkloadSource::flush() {
    if (!open_ || pending_.empty()) return;
    on_changes_(open());
}

WorkloadChanges WorkloadSource::open() {
    open_ = true;
    std::vector<WorkloadRecord> records;
    std::vector<std::string> gone;
    for (auto& [name, record] : std::exchange(pending_, {})) {
        if (record) {
            records.push_back(*std::move(record));
        } else {
            gone.push_back(name);
        }
    }
    return table_.apply(std::move(records), gone);
}

void WorkloadSource::stop() {
    stopped_ = true;
    watcher_.reset();
    listed_changed_.cancel();
}

}  // namespace mesh::publish
