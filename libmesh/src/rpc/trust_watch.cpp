#include "rpc/trust_watch.hpp"

#include <boost/asio/post.hpp>
#include <utility>

#include "rpc/tls_context.hpp"

namespace mesh::rpc::detail {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {
// A verification takes about as long as a handshake; the loop's other work comes in between.
constexpr int kChecksPerTurn = 64;
}  // namespace

TrustWatch::TrustWatch(const asio::any_io_executor& loop,
                       std::shared_ptr<TlsCredentials> credentials, Next next, Refuse refuse)
    : timer_(loop),
      credentials_(std::move(credentials)),
      next_(std::move(next)),
      refuse_(std::move(refuse)),
      seen_(credentials_->reloads()),
      checked_(seen_) {}

void TrustWatch::start(Duration interval) {
    interval_ = interval;
    timer_.expires_after(std::chrono::ceil<std::chrono::microseconds>(interval_));
    timer_.async_wait([self = shared_from_this()](const error_code& ec) {
        if (!ec && !self->stopped_) self->look();
    });
}

void TrustWatch::stop() {
    stopped_ = true;
    timer_.cancel();
}

void TrustWatch::look() {
    credentials_->refresh();
    // Files that have only just changed may still be changing; a look later they are whole.
    const bool settled = std::exchange(seen_, credentials_->reloads()) == credentials_->reloads();
    if (!settled || seen_ == checked_) return start(interval_);
    checked_ = seen_;
    after_ = 0;
    verdicts_.clear();
    step();
}

void TrustWatch::step() {
    for (int i = 0; i < kChecksPerTurn; ++i) {
        const auto connection = next_(after_);
        if (!connection) {
            verdicts_.clear();
            return start(interval_);
        }
        after_ = connection->id;
        check(*connection);
    }
    asio::post(timer_.get_executor(), [self = shared_from_this()] {
        if (!self->stopped_) self->step();
    });
}

void TrustWatch::check(Connection& connection) {
    // One in its handshake is checked at the end of it.
    const TlsEngine* tls = connection.tls();
    if (tls == nullptr || connection.session() == nullptr || connection.trust == checked_) return;
    connection.trust = checked_;
    const auto [verdict, first] = verdicts_.try_emplace(tls->peer_digest());
    if (first) {
        if (auto ok = tls->check_again(*credentials_->context()); !ok) verdict->second = ok.error();
    }
    if (verdict->second) refuse_(connection, *verdict->second, first);
}

}  // namespace mesh::rpc::detail
