// What breaks while the soak runs: a shuffled deck of steps, so that each kind comes as often as
// the others, and some at the same time.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "soak.hpp"

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace mesh::soak {

Duration Soak::some(std::int64_t most_ms) {
    return std::chrono::milliseconds(
        static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(most_ms))));
}

asio::awaitable<void> Soak::break_things() {
    std::array<Step, 12> deck{};
    for (std::size_t i = 0; i < deck.size(); ++i) deck[i] = static_cast<Step>(i);
    std::size_t next = deck.size();
    const TimePoint end = clock_.now() + std::chrono::duration_cast<Duration>(
                                             std::chrono::duration<double>(options_.seconds));
    co_await sleep_for(loop_.get_executor(), 2s);
    while (clock_.now() < end) {
        if (next == deck.size()) {
            for (std::size_t i = deck.size() - 1; i > 0; --i)
                std::swap(deck[i], deck[rng_.below(i + 1)]);
            next = 0;
        }
        steps_.spawn(step(deck[next++]));
        co_await sleep_for(loop_.get_executor(), 200ms + some(1500));
    }
    co_await steps_.join();  // each puts right what it broke
}

asio::awaitable<void> Soak::step(Step what) {
    ProxyProcess& mirror = world_.mirrors[rng_.below(world_.mirrors.size())];
    switch (what) {
        case Step::kKillEtcd:
            return kill_etcd();
        case Step::kPauseEtcd:
            return pause_etcd();
        case Step::kKillMirror:
            return kill(mirror, SIGKILL);
        case Step::kEndMirror:
            return kill(mirror, SIGTERM);
        case Step::kKillEmbedded:
            return kill(world_.embedded, SIGKILL);
        case Step::kCutReaders:
            return cut(rng_.below(2) == 0 ? *mirror.remote : *mirror.local);
        case Step::kCutUpstream:
            return cut(*mirror.upstream);
        case Step::kStallLine:
            return stall(rng_.below(2) == 0 ? *mirror.remote : *mirror.upstream);
        case Step::kStallReaders:
            return stall_readers();
        case Step::kDisconnect:
            report_.count("readers disconnected");
            readers_[rng_.below(readers_.size())]->disconnect();
            return sleep_for(loop_.get_executor(), 0ms);
        case Step::kCompactEtcd:
            return compact_etcd();
        case Step::kCompactEmbedded: {
            const std::int64_t at =
                seen_of(world_.embedded) - static_cast<std::int64_t>(rng_.below(200));
            if (at < 2) break;
            return Writer::compact(embedded_writer_, at);
        }
    }
    return sleep_for(loop_.get_executor(), 0ms);
}

asio::awaitable<void> Soak::kill_etcd() {
    if (std::exchange(etcd_busy_, true)) co_return;
    report_.count("kills of etcd");
    world_.etcd->kill();
    co_await sleep_for(loop_.get_executor(), some(1500));
    world_.etcd->start();
    etcd_busy_ = false;
}

asio::awaitable<void> Soak::pause_etcd() {
    if (std::exchange(etcd_busy_, true)) co_return;
    report_.count("pauses of etcd");
    world_.etcd->pause();
    co_await sleep_for(loop_.get_executor(), some(2500));
    world_.etcd->resume();
    etcd_busy_ = false;
}

asio::awaitable<void> Soak::kill(ProxyProcess& proxy, int signal) {
    if (proxy.process.pid() < 0) co_return;  // it is down already
    report_.count(signal == SIGKILL ? "kills of proxies" : "ends of proxies");
    if (signal == SIGTERM) {
        // It takes its time, in which this loop has to go on carrying.
        proxy.process.send(SIGTERM);
        co_await sleep_for(loop_.get_executor(), 1500ms);
        if (proxy.process.pid() < 0) co_return;
    }
    proxy.kill();
    // Also those whose line is stalled and tells them nothing of it: what they have seen is no
    // measure of what the next process has.
    for (const auto& reader : readers_) {
        const std::int64_t seen =
            std::max(reader->seen_of(proxy.remote->port()), reader->seen_of(proxy.local->port()));
        if (seen != 0) reader->disconnect();
    }
    co_await sleep_for(loop_.get_executor(), some(1500));
    proxy.start();
}

asio::awaitable<void> Soak::cut(test::Line& line) {
    report_.count("cuts");
    line.cut();
    co_await sleep_for(loop_.get_executor(), some(1500));
    line.join();
}

asio::awaitable<void> Soak::stall(test::Line& line) {
    report_.count("stalls of lines");
    line.stall(true);
    co_await sleep_for(loop_.get_executor(), some(3000));
    line.stall(false);
}

asio::awaitable<void> Soak::stall_readers() {
    std::vector<std::shared_ptr<Reader>> slow;
    for (const auto& reader : readers_)
        if (reader->options().slow) slow.push_back(reader);
    report_.count("stalls of readers", slow.size());
    for (const auto& reader : slow) reader->stall();
    co_await Writer::burst(writer_);
    co_await Writer::burst(embedded_writer_);
    co_await sleep_for(loop_.get_executor(), some(1000));
    for (const auto& reader : slow) reader->go_on();
}

std::int64_t Soak::seen_of(ProxyProcess& proxy) const {
    std::int64_t seen = 0;
    for (const auto& reader : readers_) {
        seen = std::max(
            {seen, reader->seen_of(proxy.remote->port()), reader->seen_of(proxy.local->port())});
    }
    return seen;
}

/// Never what the reference or a mirror has not seen yet: what those would lose, nobody could be
/// asked for.
asio::awaitable<void> Soak::compact_etcd() {
    std::int64_t at = reference_->position();
    for (ProxyProcess& mirror : world_.mirrors) at = std::min(at, seen_of(mirror));
    at -= static_cast<std::int64_t>(rng_.below(300));
    if (at < 2) co_return;
    co_await Writer::compact(writer_, at);
}

asio::awaitable<void> Soak::look_after() {
    while (!ending_) {
        for (ProxyProcess* proxy : world_.proxies()) proxy->measure();
        if (reference_->position() > 0)
            for (auto& watch : etcdctl_) watch->poll(reference_->position());
        co_await sleep_for(loop_.get_executor(), 200ms);
    }
}

}  // namespace mesh::soak
