#include "serving_loop.hpp"

#include <chrono>
#include <utility>

namespace mesh::proxy_daemon {

namespace asio = boost::asio;

ServingLoop::ServingLoop(asio::any_io_executor loop, store::Store& store, const Clock& clock,
                         serve::EtcdServiceOptions options, Logger log)
    : loop_(std::move(loop)),
      store_(store),
      clock_(clock),
      log_(std::move(log)),
      access_(options.access),
      service_(std::make_unique<serve::EtcdService>(loop_, store_, clock_, std::move(options),
                                                    log_.named("etcd"))) {}

ServingLoop::~ServingLoop() {
    for (const Listener& listener : listeners_) listener.server->stop();
}

Result<std::uint16_t> ServingLoop::listen(ListenerPlan plan) {
    auto server = std::make_unique<rpc::Server>(loop_, std::move(plan.options), clock_,
                                                log_.named(plan.name));
    auto policy = std::make_shared<serve::TableAccess>(
        access_,
        serve::TableAccess::Options{.writable = plan.writable, .init_locks = plan.init_locks});
    service_->attach(*server, plan.name, std::move(policy), plan.init_locks);
    auto port = server->listen(plan.address, plan.port);
    if (!port) return port.error().with_prefix(plan.flag);
    listeners_.push_back({std::move(plan.name), std::move(server)});
    return port;
}

asio::awaitable<void> ServingLoop::drain() {
    for (const Listener& listener : listeners_) {
        co_await listener.server->async_drain(std::chrono::seconds(1));
    }
}

LoopReport ServingLoop::report() const {
    LoopReport out{.store = store_.stats(), .service = service_->stats(), .listeners = {}};
    for (const Listener& listener : listeners_) {
        out.listeners.push_back({listener.name, listener.server->stats()});
    }
    return out;
}

}  // namespace mesh::proxy_daemon
