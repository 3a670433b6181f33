#include "serving_loops.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <future>
#include <iterator>
#include <utility>

namespace mesh::proxy_daemon {

namespace asio = boost::asio;

namespace {

/// A loop's part of what the process may use up. @param loops > 0
std::size_t share(std::size_t whole, unsigned loops) {
    return whole == 0 ? 0 : std::max<std::size_t>(whole / loops, 1);
}

serve::EtcdServiceOptions share_of(serve::EtcdServiceOptions options, unsigned loops) {
    options.max_watches = share(options.max_watches, loops);
    return options;
}

rpc::ServerOptions share_of(rpc::ServerOptions options, unsigned loops) {
    options.max_connections = share(options.max_connections, loops);
    options.max_connections_per_name = share(options.max_connections_per_name, loops);
    options.max_handshakes = share(options.max_handshakes, loops);
    options.max_handshakes_per_address = share(options.max_handshakes_per_address, loops);
    options.reuse_port = loops > 1;
    return options;
}

/// That nobody else listens there: sockets with SO_REUSEPORT share a port also with those of
/// another process, so that a second proxy started by mistake would take half of the connections.
Result<void> check_free(const ListenerPlan& plan, const asio::any_io_executor& loop) {
    if (plan.port == 0) return {};
    boost::system::error_code ec;
    const asio::ip::tcp::endpoint endpoint(asio::ip::make_address(plan.address, ec), plan.port);
    if (ec) return {};  // said better by who listens
    asio::ip::tcp::acceptor probe(loop);
    probe.open(endpoint.protocol(), ec);
    if (!ec) probe.set_option(asio::socket_base::reuse_address(true), ec);
    if (!ec) probe.bind(endpoint, ec);
    if (!ec) return {};
    return unavailable(fmt::format("{}: cannot listen on {}:{}: {}", plan.flag, plan.address,
                                   plan.port, ec.message()));
}

}  // namespace

/// A further loop. What is in it lives on its thread but for the thread itself.
struct ServingLoops::Loop {
    explicit Loop(const Logger& log_in)
        : log(log_in),
          thread([log = log_in](std::string_view what) {
              log.error("a serving loop went on after an exception: {}", what);
          }),
          replica(std::make_shared<serve::StoreReplica>(thread.executor(), log)) {}

    ~Loop() { thread.stop(); }
    Loop(const Loop&) = delete;
    Loop& operator=(const Loop&) = delete;

    Logger log;
    LoopThread thread;
    std::shared_ptr<serve::StoreReplica> replica;
    std::unique_ptr<ServingLoop> serving;
    std::promise<void> stopped;
};

ServingLoops::ServingLoops(asio::any_io_executor main, store::Store& store, const Clock& clock,
                           const serve::EtcdServiceOptions& options, unsigned count,
                           const Logger& log)
    : loop_(std::move(main)),
      main_(std::make_unique<ServingLoop>(loop_, store, clock, share_of(options, count), log)) {
    if (count <= 1) return;
    feed_ = std::make_unique<serve::ReplicaFeed>(store);
    for (unsigned i = 1; i < count; ++i) {
        auto& loop = *others_.emplace_back(std::make_unique<Loop>(log));
        feed_->add(loop.replica);
        auto each = share_of(options, count);
        if (each.read_barrier) each.read_barrier = asked_from(loop.thread.executor(), options);
        asio::post(loop.thread.executor(), [&loop, &clock, each = std::move(each)]() mutable {
            loop.serving = std::make_unique<ServingLoop>(
                loop.thread.executor(), loop.replica->store(), clock, std::move(each), loop.log);
        });
    }
}

ServingLoops::~ServingLoops() = default;

/// The main loop's read barrier for another loop: the question and its answer each take a post.
/// Changes of the store are posted, too, so that the answer comes after them.
serve::ReadBarrier ServingLoops::asked_from(asio::any_io_executor other,
                                            const serve::EtcdServiceOptions& options) const {
    return [main = loop_, other = std::move(other),
            barrier = options.read_barrier](serve::OnReadMark then) {
        asio::post(main, [barrier, other, then = std::move(then)]() mutable {
            barrier([other, then = std::move(then)](const serve::ReadMark& mark) {
                asio::post(other, [then, mark] { then(mark); });
            });
        });
    };
}

template <class Do>
void ServingLoops::on_each(Do what) {
    what(*main_);
    for (const auto& loop : others_) {
        asio::post(loop->thread.executor(), [&loop = *loop, what] { what(*loop.serving); });
    }
}

asio::awaitable<Result<void>> ServingLoops::listen(ListenerPlan plan) {
    const auto loops = static_cast<unsigned>(plan.writable ? 1 : 1 + others_.size());
    plan.options = share_of(std::move(plan.options), loops);
    if (loops > 1) MESH_CO_CHECK(check_free(plan, loop_));
    const auto port = main_->listen(plan);
    if (!port) co_return port.error();
    plan.port = *port;
    if (loops == 1) co_return Result<void>{};
    for (const auto& loop : others_) {
        auto listen = [&loop = *loop, plan]() -> asio::awaitable<Result<std::uint16_t>> {
            co_return loop.serving->listen(plan);
        };
        const auto done = co_await asio::co_spawn(loop->thread.executor(), std::move(listen),
                                                  asio::use_awaitable);
        if (!done) co_return done.error();
    }
    co_return Result<void>{};
}

void ServingLoops::set_ready(bool ready) {
    on_each([ready](ServingLoop& loop) { loop.service().set_ready(ready); });
}

void ServingLoops::tell_upstream(std::uint64_t raft_term) {
    if (feed_) feed_->tell_identity();
    if (raft_term == std::exchange(raft_term_, raft_term)) return;
    on_each([raft_term](ServingLoop& loop) { loop.service().set_raft_term(raft_term); });
}

template <class Answer>
asio::awaitable<std::vector<Answer>> ServingLoops::gather(
    std::function<Answer(const ServingLoop&)> ask) {
    std::vector<Answer> out;
    out.push_back(ask(*main_));
    for (const auto& loop : others_) {
        auto there = [&loop = *loop, &ask]() -> asio::awaitable<Answer> {
            co_return ask(*loop.serving);
        };
        Answer told =
            co_await asio::co_spawn(loop->thread.executor(), std::move(there), asio::use_awaitable);
        out.push_back(std::move(told));
    }
    co_return out;
}

namespace {

template <class Row>
std::vector<Row> joined(std::vector<std::vector<Row>> parts) {
    std::vector<Row> out = std::move(parts.front());
    for (std::size_t i = 1; i < parts.size(); ++i)
        std::move(parts[i].begin(), parts[i].end(), std::back_inserter(out));
    return out;
}

}  // namespace

asio::awaitable<std::vector<LoopReport>> ServingLoops::report() {
    std::function<LoopReport(const ServingLoop&)> ask = &ServingLoop::report;
    std::vector<LoopReport> out = co_await gather(std::move(ask));
    co_return out;
}

asio::awaitable<std::vector<ConnectionReport>> ServingLoops::connections() {
    std::function<std::vector<ConnectionReport>(const ServingLoop&)> ask =
        &ServingLoop::connections;
    std::vector<std::vector<ConnectionReport>> parts = co_await gather(std::move(ask));
    co_return joined(std::move(parts));
}

asio::awaitable<std::vector<RangeReport>> ServingLoops::watched_ranges() {
    std::function<std::vector<RangeReport>(const ServingLoop&)> ask = &ServingLoop::watched_ranges;
    std::vector<std::vector<RangeReport>> parts = co_await gather(std::move(ask));
    co_return joined(std::move(parts));
}

asio::awaitable<std::pair<std::vector<WatchReport>, std::size_t>> ServingLoops::watches_of(
    std::string name, std::size_t limit) {
    using Watches = std::pair<std::vector<WatchReport>, std::size_t>;
    std::function<Watches(const ServingLoop&)> ask = [name, limit](const ServingLoop& loop) {
        return loop.watches_of(name, limit);
    };
    Watches out;
    std::vector<Watches> parts = co_await gather(std::move(ask));
    for (Watches& part : parts) {
        out.second += part.second;
        std::move(part.first.begin(), part.first.end(), std::back_inserter(out.first));
    }
    if (limit != 0 && out.first.size() > limit) out.first.resize(limit);
    co_return out;
}

asio::awaitable<void> ServingLoops::stop() {
    for (const auto& loop : others_) {
        auto drain = [&loop = *loop]() -> asio::awaitable<void> {
            co_await loop.serving->drain();
            loop.serving.reset();
        };
        // All at once: each may take its second.
        asio::co_spawn(loop->thread.executor(), std::move(drain),
                       [&done = loop->stopped](auto) { done.set_value(); });
    }
    co_await main_->drain();
    for (const auto& loop : others_) {
        loop->stopped.get_future().wait();
        loop->thread.stop();
    }
    others_.clear();
    feed_.reset();
    main_.reset();
}

}  // namespace mesh::proxy_daemon
