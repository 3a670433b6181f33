// LeaseKeeper: renews a lease at a third of its TTL, and says when it is lost.
#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <utility>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "sources/etcd/client_impl.hpp"
#include "sources/etcd/codec.hpp"

namespace mesh::etcd {

namespace {

namespace asio = boost::asio;
// How soon to ask again when there was no connection or no answer.
constexpr Duration kAskAgain = std::chrono::milliseconds(250);

class Keeper : public std::enable_shared_from_this<Keeper> {
  public:
    Keeper(std::shared_ptr<Client::Impl> client, std::int64_t id, std::int64_t ttl_seconds,
           LeaseEvents events)
        : client_(std::move(client)),
          id_(id),
          ttl_(std::chrono::seconds(std::max<std::int64_t>(ttl_seconds, 1))),
          events_(std::move(events)),
          timer_(client_->loop_),
          good_until_(client_->clock_.now() + ttl_) {}

    /// Asks at once: a lease of a former run may be gone already.
    void start() { wait(Duration(0)); }

    void stop() {
        stopped_ = true;
        events_ = {};
        timer_.cancel();
    }

    [[nodiscard]] std::int64_t id() const noexcept { return id_; }

  private:
    void wait(Duration delay) {
        const Duration left = good_until_ - client_->clock_.now();
        timer_.expires_after(std::chrono::ceil<std::chrono::microseconds>(
            std::min(delay, std::max(left, Duration(0)))));
        timer_.async_wait([self = shared_from_this()](const boost::system::error_code& ec) {
            if (!ec && !self->stopped_) self->ask();
        });
    }

    void ask() {
        if (client_->clock_.now() >= good_until_)
            return lose(
                Error(Errc::kTimeout,
                      fmt::format("lease {:x} was not renewed within its TTL of {} s", id_,
                                  std::chrono::duration_cast<std::chrono::seconds>(ttl_).count())));
        wait(std::max(kAskAgain, ttl_ / 10));
        if (!client_->usable() || asking_) return;
        asking_ = true;
        etcdpb::LeaseKeepAliveRequest request;
        request.set_id(id_);
        rpc::CallOptions options = client_->stream_options();
        options.deadline = std::max(ttl_ / 3, kAskAgain);
        // The method is a stream; one request and the end of our side is a call like any other.
        client_->channel_->unary(etcdpb::kLeaseKeepAlive, rpc::encode_frame(request),
                                 std::move(options),
                                 [self = shared_from_this(),
                                  sent = client_->clock_.now()](const rpc::UnaryResult& result) {
                                     self->asking_ = false;
                                     if (!self->stopped_) self->answered(result, sent);
                                 });
    }

    void answered(const rpc::UnaryResult& result, TimePoint sent) {
        if (result.status.code == rpc::StatusCode::kNotFound)
            return lose(Error(Errc::kNotFound, fmt::format("etcd does not know lease {:x}", id_)));
        if (result.status.code == rpc::StatusCode::kPermissionDenied)
            return lose(detail::error_of(result.status));
        const auto answer = result.parse<etcdpb::LeaseKeepAliveResponse>();
        if (!answer || !client_->note(answer->has_header(), detail::decode(answer->header())))
            return;
        if (answer->ttl() <= 0)
            return lose(
                Error(Errc::kNotFound, fmt::format("lease {:x} has expired or was revoked", id_)));
        ttl_ = std::chrono::seconds(answer->ttl());
        // The server counts from when it got the request, at the earliest from when we sent it.
        good_until_ = sent + ttl_;
        wait(ttl_ / 3);
        if (events_.on_kept) {
            const auto callback = events_.on_kept;
            callback(answer->ttl());
        }
    }

    void lose(const Error& why) {
        const auto keep = shared_from_this();
        const LeaseEvents events = std::exchange(events_, {});
        stop();
        if (events.on_lost) events.on_lost(why);
    }

    std::shared_ptr<Client::Impl> client_;
    std::int64_t id_;
    Duration ttl_;
    LeaseEvents events_;
    asio::steady_timer timer_;
    TimePoint good_until_;
    bool asking_ = false;
    bool stopped_ = false;
};

class KeeperHandle final : public LeaseKeeper {
  public:
    explicit KeeperHandle(std::shared_ptr<Keeper> keeper) : keeper_(std::move(keeper)) {}
    ~KeeperHandle() override { keeper_->stop(); }
    KeeperHandle(const KeeperHandle&) = delete;
    KeeperHandle& operator=(const KeeperHandle&) = delete;
    std::int64_t id() const noexcept override { return keeper_->id(); }

  private:
    std::shared_ptr<Keeper> keeper_;
};

}  // namespace

std::unique_ptr<LeaseKeeper> Client::keep_alive(std::int64_t id, std::int64_t ttl_seconds,
                                                LeaseEvents events) {
    auto keeper = std::make_shared<Keeper>(impl_, id, ttl_seconds, std::move(events));
    keeper->start();
    return std::make_unique<KeeperHandle>(std::move(keeper));
}

}  // namespace mesh::etcd
