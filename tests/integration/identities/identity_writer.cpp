// A writer of identities as a process: identity_writer ENDPOINT SEED ROUNDS LABELS FIRST LAST TTL.
// In each round it wants some label sets more and some less, in random order, and claims them;
// prints "round N", in the end its holdings ("held ID LABELS") and "done", and keeps them until
// SIGTERM.
#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdlib>
#include <map>
#include <set>
#include <string>

#include "publish/kvstore_identity_allocator.hpp"
#include "runtime/clock.hpp"

namespace {

using namespace mesh;
namespace asio = boost::asio;
using namespace std::chrono_literals;

struct Writer {
    asio::io_context loop{1};
    SystemClock clock;
    Rng rng;
    int rounds, labels;
    std::map<std::string, model::IdentityId> held;
    std::set<std::string> wanted;
    std::unique_ptr<etcd::Client> client;
    std::unique_ptr<publish::LeaseHolder> lease;
    std::unique_ptr<publish::KvstoreIdentityAllocator> allocator;

    Writer(std::uint64_t seed, int its_rounds, int its_labels)
        : rng(seed), rounds(its_rounds), labels(its_labels) {}

    static void say(const std::string& line) {
        fmt::print("{}\n", line);
        std::fflush(stdout);
    }
    asio::awaitable<Result<void>> settle() {
        const auto id = co_await lease->hold(0);
        if (!id) co_return id.error();
        allocator->set_lease(*id);
        if (rng.below(4) == 0) MESH_CO_CHECK(co_await allocator->async_list());
        while (allocator->due()) {
            auto done = co_await allocator->async_settle();
            if (!done && done.error().code() == Errc::kNotFound) lease->drop();
            if (!done) co_return done;
        }
        // With no grace at all, garbage collection meets claims as often as it can.
        co_return co_await allocator->async_collect();
    }
    asio::awaitable<void> settle_at_last() {
        for (int tries = 0; tries < 1000; ++tries) {
            const auto done = co_await settle();
            if (done) co_return;
            say("failed " + done.error().message());
            asio::steady_timer pause(loop, 20ms);
            co_await pause.async_wait(asio::use_awaitable);
        }
        say("gave up");
        std::abort();
    }
    asio::awaitable<void> run() {
        for (int round = 0; round < rounds; ++round) {
            for (int i = 0; i < 12; ++i) {
                // Slashes as in real keys; some label sets begin like others.
                const std::string text =
                    fmt::format("k8s:app.kubernetes.io/name=a{};k8s:b=c{};", rng.below(7),
                                rng.below(static_cast<std::uint64_t>(labels)) / 7);
                if (wanted.erase(text) != 0) {
                    allocator->unwant(text);
                    held.erase(text);
                } else {
                    wanted.insert(text);
                    allocator->want(text);
                }
            }
            co_await settle_at_last();
            say(fmt::format("round {}", round));
        }
        // Whatever others did at the same time: once more with fresh eyes.
        const auto listed = co_await allocator->async_list();
        if (!listed) say("failed " + listed.error().message());
        co_await settle_at_last();
        for (const auto& [text, id] : held) {
            say(fmt::format("held {} {}", model::number(id), text));
        }
        say(fmt::format("lease {:x}", lease->id()));
        say("done");
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 8) return 2;
    const auto number = [&](int i) { return static_cast<std::uint32_t>(std::atol(argv[i])); };
    Writer writer(number(2), static_cast<int>(number(3)), static_cast<int>(number(4)));
    etcd::ClientOptions options;
    options.endpoints = {argv[1]};
    options.request_timeout = 60s;
    auto client = etcd::Client::make(writer.loop.get_executor(), options, writer.clock,
                                     Rng(number(2) + 1000), Logger{});
    if (!client) return 3;
    writer.client = *std::move(client);
    writer.client->start();
    writer.lease = std::make_unique<publish::LeaseHolder>(
        writer.loop.get_executor(), *writer.client, std::chrono::seconds(number(7)), Logger{},
        [] { Writer::say("lease lost"); });
    publish::IdentityAllocatorOptions its;
    its.range = {number(5), number(6)};
    its.grace = Duration::zero();
    its.lock_ttl = std::chrono::seconds(number(7));
    its.lock_wait = 120s;
    its.at_once = 4;
    writer.allocator = std::make_unique<publish::KvstoreIdentityAllocator>(
        writer.loop.get_executor(), *writer.client, its, writer.clock, Rng(number(2) + 2000),
        Logger{}, [&writer](const std::string& labels, const Result<model::IdentityId>& id) {
            if (id && writer.wanted.contains(labels)) writer.held.insert_or_assign(labels, *id);
        });
    asio::co_spawn(writer.loop, writer.run(), [](std::exception_ptr e) {
        if (e) std::rethrow_exception(e);
    });
    asio::signal_set signals(writer.loop, SIGTERM);
    signals.async_wait([](const auto&, int) { std::_Exit(0); });
    writer.loop.run();
    return 0;
}
