// Writers of identities that do not know of each other: no number ever has two label sets, no label
// set two numbers that somebody uses, whatever dies in between.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <map>
#include <set>
#include <sstream>

#include "etcd_process.hpp"
#include "publish/kvstore_identity_allocator.hpp"
#include "runtime/clock.hpp"

namespace mesh::publish {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using test::ChildProcess;
using test::read_text;

constexpr std::string_view kIds = "cilium/state/identities/v1/id/";
constexpr std::string_view kValues = "cilium/state/identities/v1/value/";
constexpr std::string_view kLocks = "cilium/state/identities/v1/locks/";
constexpr std::uint32_t kFirst = 7 * 65536;
constexpr std::uint32_t kLast = kFirst + 79;  ///< few, so that they meet
constexpr int kLabels = 50;
constexpr int kWriters = 8;
constexpr int kRounds = 25;

/// Follows every change of etcd and notes where a rule is broken, also for a moment.
struct Rules {
    std::map<std::string, std::string> mains;                         ///< number → labels
    std::map<std::string, std::map<std::string, std::string>> users;  ///< labels → who → number
    std::set<std::string> locks;
    std::vector<std::string> broken;
    std::int64_t revision = 0;

    static std::pair<std::string, std::string> split(std::string_view key) {
        key.remove_prefix(kValues.size());
        const auto slash = key.rfind('/');
        return {std::string(key.substr(0, slash)), std::string(key.substr(slash + 1))};
    }
    void take(const etcd::WatchEvent& event) {
        const std::string_view key = event.kv.key;
        const bool put = event.kind == etcd::WatchEvent::Kind::kPut;
        revision = event.kv.mod_revision;
        if (key.starts_with(kIds)) {
            const std::string id(key.substr(kIds.size()));
            if (!put) {
                mains.erase(id);
                return;
            }
            const auto [at, is_new] = mains.try_emplace(id, event.kv.value);
            if (!is_new && at->second != event.kv.value) {
                broken.push_back(
                    fmt::format("{} was {} and becomes {}", id, at->second, event.kv.value));
            }
            if (const auto n = std::stoul(id); n < kFirst || n > kLast) {
                broken.push_back(id + " is out of range");
            }
        } else if (key.starts_with(kValues)) {
            const auto [labels, who] = split(key);
            auto& its = users[labels];
            its.erase(who);
            if (put) its[who] = event.kv.value;
        } else if (key.starts_with(kLocks)) {
            put ? (void)locks.insert(std::string(key)) : (void)locks.erase(std::string(key));
        }
    }
    /// After all events of a revision.
    void check() {
        for (const auto& [labels, its] : users) {
            for (const auto& [who, id] : its) {
                const auto main = mains.find(id);
                if (main == mains.end() || main->second != labels) {
                    broken.push_back(fmt::format("at {}: {} uses {} for {}, which is {}", revision,
                                                 who, id, labels,
                                                 main == mains.end() ? "nothing" : main->second));
                }
                if (id != its.begin()->second) {
                    broken.push_back(fmt::format("at {}: {} has {} and {}", revision, labels, id,
                                                 its.begin()->second));
                }
            }
        }
    }
};

class Identities : public ::testing::TestWithParam<std::uint64_t> {
  protected:
    void SetUp() override {
        if (!test::have_etcd()) GTEST_SKIP() << "needs etcd-server and etcd-client";
        etcd_.emplace(folder_, test::EtcdOptions{});
        etcd::ClientOptions options;
        options.endpoints = {etcd_->endpoint()};
        auto made = etcd::Client::make(loop_.get_executor(), options, clock_, Rng(7), Logger{});
        ASSERT_TRUE(made);
        client_ = *std::move(made);
        client_->start();
        etcd::WatchOptions all;
        all.range = etcd::prefix_range("cilium/state/identities/v1/");
        all.start_revision = 1;
        etcd::WatchEvents events;
        events.on_events = [this](const etcd::Header&, std::span<const etcd::WatchEvent> news) {
            for (std::size_t i = 0; i < news.size(); ++i) {
                rules_.take(news[i]);
                const bool last =
                    i + 1 == news.size() || news[i + 1].kv.mod_revision != news[i].kv.mod_revision;
                if (last) rules_.check();
            }
        };
        watch_ = client_->watch(std::move(all), std::move(events));
    }
    void TearDown() override {
        if (!client_) return;
        run([this]() -> asio::awaitable<void> {
            watch_.reset();
            co_await client_->async_stop();
        });
        client_.reset();
    }
    void run(std::function<asio::awaitable<void>()> body) {
        bool done = false;
        asio::co_spawn(loop_, body(), [&](std::exception_ptr e) {
            if (e) std::rethrow_exception(e);
            done = true;
        });
        loop_.restart();
        const TimePoint end = clock_.now() + 300s;
        while (!done && clock_.now() < end) loop_.run_one_for(100ms);
        ASSERT_TRUE(done) << "did not come to an end";
    }
    /// Serves the watch until the condition holds.
    void until(const std::function<bool()>& condition, const std::string& what) {
        loop_.restart();
        const TimePoint end = clock_.now() + 240s;
        while (!condition() && clock_.now() < end) loop_.run_one_for(20ms);
        ASSERT_TRUE(condition()) << what;
    }
    std::string output(int writer) const {
        return read_text(folder_.file("writer-" + std::to_string(writer)));
    }
    ChildProcess writer(int number, std::uint64_t seed) {
        return {{IDENTITY_WRITER, etcd_->endpoint(), std::to_string(seed * 100 + number),
                 std::to_string(kRounds), std::to_string(kLabels), std::to_string(kFirst),
                 std::to_string(kLast), "4"},
                folder_.file("writer-" + std::to_string(number))};
    }
    /// Whose keys have this lease.
    std::size_t references_of(const std::string& lease) const {
        std::size_t count = 0;
        for (const auto& [labels, its] : rules_.users) count += its.contains(lease) ? 1 : 0;
        return count;
    }

    test::TemporaryFolder folder_;
    std::optional<test::EtcdProcess> etcd_;
    asio::io_context loop_{1};
    SystemClock clock_;
    std::unique_ptr<etcd::Client> client_;
    std::unique_ptr<etcd::Watch> watch_;
    Rules rules_;
};

INSTANTIATE_TEST_SUITE_P(Seeds, Identities, ::testing::Values(1, 2, 3));

TEST_P(Identities, EightWritersAndOneThatIsKilledAgree) {
    std::vector<ChildProcess> writers;
    for (int i = 0; i < kWriters; ++i) writers.push_back(writer(i, GetParam()));
    // In the middle of it.
    until([&] { return output(0).find("round 8") != std::string::npos; }, "the first rounds");
    writers[0].stop(SIGKILL);
    for (int i = 1; i < kWriters; ++i) {
        until([&] { return output(i).find("\ndone") != std::string::npos; },
              "the end of " + std::to_string(i) + ": " + output(i));
    }
    std::map<std::string, std::string> numbers;
    std::map<std::string, std::map<std::string, std::string>> expected;
    for (int i = 1; i < kWriters; ++i) {
        std::istringstream lines(output(i));
        std::map<std::string, std::string> held;
        std::string line, lease;
        while (std::getline(lines, line)) {
            std::istringstream words(line);
            std::string what, first, second;
            words >> what >> first >> second;
            if (what == "held") held[second] = first;
            if (what == "lease" && first != "lost") lease = first;
        }
        EXPECT_FALSE(held.empty()) << output(i);
        for (const auto& [labels, id] : held) {
            expected[labels][lease] = id;
            EXPECT_EQ(numbers.try_emplace(labels, id).first->second, id) << labels;
        }
    }
    // What the killed one held goes with its lease.
    const auto used = [&] {
        auto all = rules_.users;
        std::erase_if(all, [](const auto& entry) { return entry.second.empty(); });
        return all;
    };
    until([&] { return used() == expected && rules_.locks.empty(); },
          "references are those of who lives");
    // And what nobody else holds is collected.
    run([this]() -> asio::awaitable<void> {
        IdentityAllocatorOptions options;
        options.range = {kFirst, kLast};
        options.grace = Duration::zero();
        KvstoreIdentityAllocator collector(loop_.get_executor(), *client_, options, clock_, Rng(5),
                                           Logger{}, [](const auto&, const auto&) {});
        const auto listed = co_await collector.async_list();
        EXPECT_TRUE(listed);
        const auto collected = co_await collector.async_collect();
        EXPECT_TRUE(collected) << collected.error().message();
        collector.stop();
    });
    until([&] { return rules_.mains.size() == expected.size(); }, "the garbage's end");
    for (const auto& [id, labels] : rules_.mains) EXPECT_EQ(numbers[labels], id) << labels;
    EXPECT_THAT(rules_.broken, ::testing::IsEmpty());
}

}  // namespace
}  // namespace mesh::publish
