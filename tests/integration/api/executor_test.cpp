// A mesh on an executor of the embedder's: one thread or several, run by whoever, stopped at any
// moment. Run under ThreadSanitizer and AddressSanitizer too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <future>
#include <mesh/mesh.hpp>
#include <thread>

#include "api_fixture.hpp"

namespace mesh {
namespace {

namespace asio = boost::asio;
using testing::HasSubstr;

class ExecutorTest : public ApiTest {
  protected:
    [[nodiscard]] std::unique_ptr<Mesh> open_on(asio::any_io_executor executor) {
        MeshOptions with = options();
        with.executor = std::move(executor);
        auto mesh = Mesh::open(std::move(with));
        EXPECT_TRUE(mesh) << mesh.error().message();
        return mesh ? *std::move(mesh) : nullptr;
    }
    /// Runs the context on this thread until the condition holds.
    static bool run_until(asio::io_context& io, const std::function<bool()>& condition) {
        const auto end = std::chrono::steady_clock::now() + kLong;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > end) return false;
            io.run_for(10ms);
        }
        return true;
    }
    static void expect_all(const Mesh& mesh) {
        EXPECT_TRUE(mesh.ready());
        EXPECT_TRUE(mesh.wait_ready(0ms));
        EXPECT_EQ(mesh.services().size(), 1U);
        const auto ip = mesh.lookup("10.2.0.1");
        ASSERT_TRUE(ip) << ip.error().message();
        EXPECT_EQ(ip->cluster, "cluster2");
        EXPECT_EQ(mesh.ip_records().size(), 2U);
        EXPECT_THAT(mesh.status_json(), HasSubstr("cluster2"));
    }
    static void expect_nothing(Mesh& mesh) {
        EXPECT_FALSE(mesh.ready());
        EXPECT_FALSE(mesh.wait_ready(kLong));
        EXPECT_TRUE(mesh.services().empty());
        EXPECT_TRUE(mesh.nodes().empty());
        EXPECT_TRUE(mesh.ip_records().empty());
        EXPECT_EQ(mesh.status_json(), "");
        EXPECT_EQ(mesh.metrics_text(), "");
        EXPECT_EQ(mesh.lookup("10.2.0.1").error().code(), Errc::kCancelled);
        EXPECT_EQ(mesh.backends("shop/echo").error().code(), Errc::kCancelled);
        EXPECT_EQ(mesh.policy_trace_json({}).error().code(), Errc::kCancelled);
        EXPECT_EQ(mesh.subscribe().error().code(), Errc::kCancelled);
    }
};

TEST_F(ExecutorTest, MainsContextReadFromItsHandlersAndBetweenThem) {
    asio::io_context io;
    auto mesh = open_on(io.get_executor());
    ASSERT_TRUE(mesh);
    auto subscription = mesh->subscribe();
    ASSERT_TRUE(subscription);
    // Nobody runs the context now.
    EXPECT_EQ(mesh->clusters().size(), 2U);
    ASSERT_TRUE(subscription->next(0ms)) << "a snapshot, of what is known";
    ASSERT_TRUE(run_until(io, [&] { return mesh->ready(); })) << log();
    expect_all(*mesh);
    bool asked = false;
    asio::post(io, [&] {
        EXPECT_FALSE(mesh->on_own_thread());
        expect_all(*mesh);
        asked = true;
    });
    ASSERT_TRUE(run_until(io, [&] { return asked; }));

    // Each change, as a descriptor in the same loop tells of it.
    put_ip(*own_, model::IpAddress::v4(10, 1, 0, 2), 65'538);
    bool seen = false;
    ASSERT_TRUE(run_until(io, [&] {
        const auto batch = subscription->next(0ms);
        EXPECT_TRUE(batch);
        if (!batch) return true;
        for (const Event& event : batch->events()) {
            const auto* ip = std::get_if<IpView>(&event.object);
            seen = seen || (ip != nullptr && ip->prefix == "10.1.0.2/32");
        }
        return seen;
    }));

    bool closed = false;
    mesh->close([&] {
        closed = true;
        // The last of what it does: nothing of it keeps the executor.
        mesh.reset();
    });
    EXPECT_FALSE(closed) << "nobody has run the context";
    expect_nothing(*mesh);
    io.run();
    EXPECT_TRUE(closed) << "what was left to do kept the context running";
    EXPECT_EQ(mesh, nullptr);
    EXPECT_EQ(subscription->next(-1ms).error().code(), Errc::kCancelled);
}

TEST_F(ExecutorTest, AThreadPoolReadByItsOwnThreads) {
    asio::thread_pool pool(4);
    auto mesh = open_on(pool.executor());
    ASSERT_TRUE(mesh);
    ASSERT_TRUE(mesh->wait_ready(kLong)) << mesh->status_json() << log();
    std::atomic<int> told{0};
    auto subscription = mesh->subscribe({}, [&](const EventBatch& batch) {
        told += static_cast<int>(batch.size());
        EXPECT_TRUE(mesh->ready());
    });
    ASSERT_TRUE(subscription);
    std::array<std::promise<void>, 16> asked;
    for (auto& one : asked) {
        asio::post(pool, [&mesh, &one] {
            for (int i = 0; i < 20; ++i) expect_all(*mesh);
            one.set_value();
        });
    }
    for (auto& one : asked) ASSERT_EQ(one.get_future().wait_for(kLong), std::future_status::ready);
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (told < 8 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
    EXPECT_GE(told, 8) << "a snapshot of 6 objects";
    std::promise<void> done;
    mesh->close([&] { done.set_value(); });
    ASSERT_EQ(done.get_future().wait_for(kLong), std::future_status::ready);
    expect_nothing(*mesh);
    bool again = false;
    mesh->close([&] { again = true; });
    EXPECT_TRUE(again) << "at once, since it has ended";
    mesh.reset();
    pool.join();
}

TEST_F(ExecutorTest, TwoMeshesOnOneExecutorAndOneIsEndedByAHandler) {
    asio::thread_pool pool(3);
    auto first = open_on(pool.executor());
    auto second = open_on(asio::make_strand(pool));
    ASSERT_TRUE(first && second);
    ASSERT_TRUE(first->wait_ready(kLong)) << first->status_json() << log();
    ASSERT_TRUE(second->wait_ready(kLong)) << second->status_json() << log();
    expect_all(*first);
    std::promise<void> gone;
    asio::post(pool, [&] {
        first.reset();
        gone.set_value();
    });
    ASSERT_EQ(gone.get_future().wait_for(kLong), std::future_status::ready);
    expect_all(*second);
    put_ip(*remote_, model::IpAddress::v4(10, 2, 0, 7), 131'075);
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (!second->lookup("10.2.0.7") && std::chrono::steady_clock::now() < end) {
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_TRUE(second->lookup("10.2.0.7"));
    second.reset();
    // Both end as the pool is run; it has nothing left to do then.
    pool.join();
}

TEST_F(ExecutorTest, TheOnlyThreadDestroysItInAHandlerOfItsOwn) {
    asio::io_context io;
    bool destroyed = false;
    std::unique_ptr<Mesh> mesh;
    MeshOptions with = options();
    with.executor = io.get_executor();
    with.log = [&](LogSeverity, std::string_view, std::string_view) {
        ASSERT_FALSE(destroyed) << "no line after its end";
        if (!mesh) return;
        EXPECT_TRUE(mesh->on_own_thread());
        EXPECT_EQ(mesh->clusters().size(), 2U);
        EXPECT_FALSE(mesh->wait_ready(kLong)) << "looks only";
        mesh.reset();
        destroyed = true;
    };
    // It has something to say.
    with.remote_files["cluster2"] = "endpoints: [\"http://127.0.0.1:1\"]\n";
    auto opened = Mesh::open(std::move(with));
    ASSERT_TRUE(opened);
    mesh = *std::move(opened);
    io.run();
    EXPECT_TRUE(destroyed);
}

/// main() that stops its context and returns.
TEST_F(ExecutorTest, AContextThatIsNotRunAnyMore) {
    for (const int turns : {0, 1, 5, 25, 100, 100'000}) {
        SCOPED_TRACE(turns);
        asio::io_context io;
        auto mesh = open_on(io.get_executor());
        ASSERT_TRUE(mesh);
        auto subscription = mesh->subscribe();
        ASSERT_TRUE(subscription);
        for (int i = 0; i < turns && !mesh->ready(); ++i) io.run_one_for(1s);
        if (turns == 100'000) {
            EXPECT_TRUE(mesh->ready());
        }
        if (turns % 2 == 1) mesh->close();
        mesh.reset();
        // What it left there does nothing.
        for (int i = 0; i < turns % 7; ++i) io.poll_one();
    }
}

TEST_F(ExecutorTest, OneThatIsRefusedLeavesNothing) {
    asio::io_context io;
    MeshOptions bad = options();
    bad.executor = io.get_executor();
    bad.cluster_id = 7'777;
    EXPECT_EQ(Mesh::open(bad).error().code(), Errc::kInvalidArgument);
    EXPECT_EQ(io.run(), 0U);
    MeshOptions other = options();
    other.executor = io.get_executor();
    other.boost_version = 100'000;
    const auto mesh = Mesh::open(std::move(other));
    ASSERT_FALSE(mesh);
    EXPECT_THAT(mesh.error().message(), HasSubstr("Boost"));
}

}  // namespace
}  // namespace mesh
