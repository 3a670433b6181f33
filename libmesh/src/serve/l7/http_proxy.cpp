#include "serve/l7/http_proxy.hpp"

#include <algorithm>
#include <utility>

#include "serve/l7/proxy_loop.hpp"

namespace mesh::serve::l7 {

class HttpProxy::Impl {
  public:
    Impl(HttpProxyOptions options, const PolicySource& policy, Logger log,
         std::function<void(std::string_view)> on_line)
        : shared(std::move(options), policy, std::move(log), std::move(on_line)) {}

    ~Impl() { stop(Duration::zero()); }

    Result<void> start() {
        MESH_CHECK(shared.access_log.open());
        for (std::size_t i = 0; i < std::max<std::size_t>(shared.options.loops, 1); ++i) {
            MESH_TRY(auto poll, PollLoop::make([this](std::string_view what) {
                         shared.log.error("HTTP proxy: a connection ended by an exception: {}",
                                          what);
                     }));
            loops.push_back(std::make_unique<ProxyLoop>(shared, std::move(poll)));
        }
        return Result<void>{};
    }

    Result<HttpListener> listen(const Endpoint& endpoint, model::policy::Direction direction) {
        if (loops.empty()) return internal("the proxy is not started, or was stopped");
        MESH_TRY(auto socket,
                 open_listener(endpoint, shared.options.transparent, shared.options.mark));
        MESH_TRY(const auto local, local_endpoint(socket.get()));
        for (const auto& loop : loops) {
            Result<void> added;
            loop->poll->run([&] { added = loop->add_listener(socket.get(), direction); });
            MESH_CHECK(added);
        }
        listeners.push_back(std::move(socket));
        return HttpListener{local.port, listeners.back().get()};
    }

    void drain() {
        for (const auto& loop : loops) loop->poll->run([&] { loop->stop_accepting(); });
        listeners.clear();
        for (const auto& loop : loops) loop->poll->run([&] { loop->drain(); });
    }

    void stop(Duration grace) {
        if (loops.empty()) return;
        drain();
        if (grace > Duration::zero() && !shared.wait_empty(grace)) {
            shared.log.info("HTTP proxy: {} connections are reset after their time of grace",
                            shared.connections());
        }
        loops.clear();
    }

    ProxyShared shared;
    std::vector<std::unique_ptr<ProxyLoop>> loops;
    std::vector<Descriptor> listeners;
};

HttpProxy::HttpProxy(HttpProxyOptions options, const PolicySource& policy, Logger log,
                     std::function<void(std::string_view)> on_line)
    : impl_(
          std::make_unique<Impl>(std::move(options), policy, std::move(log), std::move(on_line))) {}

HttpProxy::~HttpProxy() = default;

Result<void> HttpProxy::start() {
    return impl_->start();
}

Result<HttpListener> HttpProxy::listen(const Endpoint& endpoint,
                                       model::policy::Direction direction) {
    return impl_->listen(endpoint, direction);
}

void HttpProxy::drain() {
    impl_->drain();
}

void HttpProxy::stop(Duration grace) {
    impl_->stop(grace);
}

HttpProxyStats HttpProxy::stats() const {
    const ProxyShared& shared = impl_->shared;
    const auto of = [&](Verdict verdict) {
        return shared.requests[static_cast<std::size_t>(verdict)].load(std::memory_order_relaxed);
    };
    return {shared.connections(),
            shared.accepted.load(std::memory_order_relaxed),
            shared.refused_limit.load(std::memory_order_relaxed),
            of(Verdict::kForwarded),
            of(Verdict::kDenied),
            of(Verdict::kRefused),
            of(Verdict::kError)};
}

std::vector<std::string> HttpProxy::recent(std::size_t count) const {
    return impl_->shared.access_log.recent(count);
}

}  // namespace mesh::serve::l7
