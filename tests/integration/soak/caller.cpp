#include "caller.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace asio = boost::asio;

namespace mesh::soak {

Change to_change(const etcdpb::KeyValue& kv) {
    Change change;
    change.key = kv.key();
    change.revision = kv.mod_revision();
    change.create = kv.create_revision();
    change.version = kv.version();
    digest(change, kv.value(), kv.lease());
    return change;
}

Change to_change(const etcdpb::Event& event) {
    Change change;
    if (event.type() == etcdpb::Event::PUT) {
        change = to_change(event.kv());
    } else {
        change.put = false;
        change.key = event.kv().key();
        change.revision = event.kv().mod_revision();
        digest(change, {}, 0);
    }
    if (event.has_prev_kv()) change.previous = event.prev_kv().mod_revision();
    return change;
}

asio::awaitable<void> sleep_for(asio::any_io_executor loop, Duration time) {
    asio::steady_timer timer(loop);
    timer.expires_after(std::chrono::duration_cast<asio::steady_timer::duration>(time));
    boost::system::error_code ignored;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

asio::awaitable<Result<void>> Caller::connect() {
    if (channel_ && channel_->usable()) co_return Result<void>{};
    rpc::ChannelOptions options;
    options.host = "127.0.0.1";
    options.port = port_;
    options.tls = tls_;
    options.connect_timeout = std::chrono::seconds(2);
    auto channel = std::make_shared<rpc::Channel>(loop_, std::move(options), clock_, Logger());
    auto connected = co_await channel->async_connect();
    if (!connected) co_return connected;
    channel_ = std::move(channel);
    co_return connected;
}

}  // namespace mesh::soak
