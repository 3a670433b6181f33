#include "serve/dns/fqdn_tracker.hpp"

#include <algorithm>
#include <boost/asio/dispatch.hpp>

#include "serve/dns/fqdn_cache_file.hpp"

namespace mesh::serve::dns {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

/// Addresses whose time is over at nearly the same time go together.
constexpr Duration kShortestWait = std::chrono::seconds(1);
/// Answers that wait for changes; beyond, the oldest goes on: whoever asked waits no longer anyway.
constexpr std::size_t kMaxWaiting = 16'384;

}  // namespace

class FqdnTracker::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor executor, const Clock& clock, Logger log, FqdnTrackerOptions options,
         FqdnTrackerCallbacks callbacks)
        : executor_(std::move(executor)),
          clock_(clock),
          log_(std::move(log)),
          options_(std::move(options)),
          callbacks_(std::move(callbacks)),
          cache(options_.limits),
          due_(executor_),
          save_(executor_) {}

    void start() {
        if (!options_.file.empty()) {
            const auto restored = load_cache(options_.file, cache, clock_);
            if (restored && restored->bad_lines > 0) {
                log_.warn("{}: {} lines passed over; {}", options_.file, restored->bad_lines,
                          restored->first_error);
            } else if (!restored && restored.error().code() != Errc::kNotFound) {
                log_.warn("names learnt before are lost: {}", restored.error().message());
            }
            if (restored) log_.info("{}: {} addresses of names", options_.file, cache.size());
        }
        saved_ = cache.revision();
        watch();
    }

    void stop() {
        if (std::exchange(stopped_, true)) return;
        due_.cancel();
        save_.cancel();
        save();
        waiting_.clear();
    }

    void learn(const Learnt& learnt, std::function<void()> done) {
        if (stopped_) return;
        tell(
            cache.update(learnt.endpoint, learnt.name, learnt.addresses, learnt.ttl, clock_.now()));
        watch();
        // Also without a change of its own: the address may be one that another answer just taught.
        if (pending_.empty()) return done();
        waiting_.emplace_back(last_change_, std::move(done));
        if (waiting_.size() > kMaxWaiting) release_first();
    }

    void remove_endpoint(EndpointId endpoint) {
        tell(cache.remove_endpoint(endpoint));
        watch();
    }

    void tick() {
        if (stopped_) return;
        const TimePoint now = clock_.now();
        FqdnCache::Alive alive;
        if (callbacks_.connections && cache.asks_alive(now)) alive = callbacks_.connections();
        if (!alive) alive = [](EndpointId, const model::IpAddress&) { return false; };
        tell(cache.expire(now, alive));
        watch();
    }

  private:
    void tell(const SelectorChanges& changes) {
        if (changes.empty() || !callbacks_.on_change || stopped_) return;
        const std::uint64_t change = ++last_change_;
        pending_.insert(change);
        callbacks_.on_change(changes, [weak = weak_from_this(), executor = executor_, change] {
            asio::dispatch(executor, [weak, change] {
                if (const auto self = weak.lock()) self->in_force(change);
            });
        });
    }

    void in_force(std::uint64_t change) {
        pending_.erase(change);
        while (!stopped_ && !waiting_.empty() &&
               (pending_.empty() || waiting_.front().first < *pending_.begin())) {
            release_first();
        }
    }

    void release_first() {
        const auto done = std::move(waiting_.front().second);
        waiting_.pop_front();
        done();
    }

    void watch() {
        if (stopped_) return;
        watch_due();
        watch_save();
    }

    void watch_due() {
        const auto next = cache.next_due();
        if (!next || (due_at_ && *due_at_ <= *next)) return;
        due_at_ = next;
        due_.expires_after(std::max(*next - clock_.now(), kShortestWait));
        due_.async_wait([weak = weak_from_this()](error_code ec) {
            const auto self = weak.lock();
            if (!self || ec) return;
            self->due_at_.reset();
            self->tick();
        });
    }

    void watch_save() {
        if (saving_ || options_.file.empty() || saved_ == cache.revision()) return;
        saving_ = true;
        save_.expires_after(options_.save_interval);
        save_.async_wait([weak = weak_from_this()](error_code ec) {
            const auto self = weak.lock();
            if (!self || ec) return;
            self->saving_ = false;
            self->save();
            self->watch();
        });
    }

    void save() {
        if (options_.file.empty() || saved_ == cache.revision()) return;
        const auto saved = save_cache(options_.file, cache, clock_);
        if (!saved && !failed_) log_.warn("names are not kept: {}", saved.error().message());
        failed_ = !saved;
        if (saved) saved_ = cache.revision();
    }

    asio::any_io_executor executor_;
    const Clock& clock_;
    Logger log_;
    FqdnTrackerOptions options_;
    FqdnTrackerCallbacks callbacks_;

  public:
    FqdnCache cache;

  private:
    asio::steady_timer due_, save_;
    std::optional<TimePoint> due_at_;
    std::uint64_t saved_ = 0;
    bool saving_ = false, failed_ = false, stopped_ = false;
    std::uint64_t last_change_ = 0;
    std::set<std::uint64_t> pending_;  ///< changes that are not in force yet
    /// Of learn(): goes on when all changes up to that one are in force.
    std::deque<std::pair<std::uint64_t, std::function<void()>>> waiting_;
};

FqdnTracker::FqdnTracker(asio::any_io_executor executor, const Clock& clock, Logger log,
                         FqdnTrackerOptions options, FqdnTrackerCallbacks callbacks)
    : impl_(std::make_shared<Impl>(std::move(executor), clock, std::move(log), std::move(options),
                                   std::move(callbacks))) {}
FqdnTracker::~FqdnTracker() = default;
void FqdnTracker::start() {
    impl_->start();
}
void FqdnTracker::stop() {
    impl_->stop();
}
void FqdnTracker::learn(const Learnt& learnt, std::function<void()> done) {
    impl_->learn(learnt, std::move(done));
}
std::vector<model::IpAddress> FqdnTracker::add_selector(
    const model::policy::FqdnSelector& selector) {
    return impl_->cache.add_selector(selector);
}
bool FqdnTracker::remove_selector(const model::policy::FqdnSelector& selector) {
    return impl_->cache.remove_selector(selector);
}
void FqdnTracker::remove_endpoint(EndpointId endpoint) {
    impl_->remove_endpoint(endpoint);
}
void FqdnTracker::tick() {
    impl_->tick();
}
const FqdnCache& FqdnTracker::cache() const noexcept {
    return impl_->cache;
}

}  // namespace mesh::serve::dns
