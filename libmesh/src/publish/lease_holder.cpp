#include "publish/lease_holder.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

namespace mesh::publish {

namespace asio = boost::asio;

LeaseHolder::LeaseHolder(asio::any_io_executor loop, etcd::Client& client, std::chrono::seconds ttl,
                         Logger log, std::function<void()> on_lost)
    : client_(client),
      ttl_(ttl),
      log_(std::move(log)),
      on_lost_(std::move(on_lost)),
      first_word_(loop) {}

asio::awaitable<Result<std::int64_t>> LeaseHolder::hold(std::int64_t former) {
    if (keeper_) co_return keeper_->id();
    if (former != 0 && co_await adopt(former)) {
        log_.info("lease {:x} of a former run is kept alive", former);
        co_return former;
    }
    MESH_CO_TRY(const etcd::LeaseGrant grant, co_await client_.async_lease_grant(ttl_.count()));
    log_.info("lease {:x} granted for {} s", grant.id, grant.ttl_seconds);
    keep(grant.id);
    co_return grant.id;
}

asio::awaitable<bool> LeaseHolder::adopt(std::int64_t former) {
    adopting_ = true;
    kept_ttl_.reset();
    keep(former);
    first_word_.expires_after(std::chrono::seconds(5));
    boost::system::error_code ignored;
    co_await first_word_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    adopting_ = false;
    const bool good = keeper_ && kept_ttl_ == ttl_.count();
    if (!good) keeper_.reset();
    co_return good;
}

void LeaseHolder::keep(std::int64_t id) {
    etcd::LeaseEvents events;
    events.on_kept = [this](std::int64_t ttl) {
        kept_ttl_ = ttl;
        if (adopting_) first_word_.cancel();
    };
    events.on_lost = [this](const Error& why) {
        if (adopting_) {
            kept_ttl_.reset();
            first_word_.cancel();
            return;
        }
        log_.warn("lease {:x} is lost: {}", keeper_ ? keeper_->id() : 0, why.message());
        drop();
        on_lost_();
    };
    keeper_ = client_.keep_alive(id, ttl_.count(), std::move(events));
}

void LeaseHolder::drop() {
    if (!keeper_) return;
    ++losses_;
    keeper_.reset();
}

}  // namespace mesh::publish
