// Callers of the C++ API that end things from wherever they are, and many meshes one after the
// other and at once. No etcd answers here; run under AddressSanitizer and ThreadSanitizer too.
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mesh/mesh.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <mesh/mesh.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace mesh {
namespace {

using namespace std::chrono_literals;
constexpr auto kLong = 30s;

MeshOptions good_options() {
    MeshOptions options;
    options.cluster_name = "cluster1";
    options.cluster_id = 1;
    options.node_name = "node1";
    // Nothing listens there: port 1 of the loopback device.
    options.etcd.endpoints = {"http://127.0.0.1:1"};
    return options;
}

std::unique_ptr<Mesh> open_mesh(LogCallback log = {}) {
    MeshOptions options = good_options();
    options.log = std::move(log);
    auto mesh = Mesh::open(std::move(options));
    EXPECT_TRUE(mesh) << mesh.error().message();
    return mesh ? *std::move(mesh) : nullptr;
}

std::size_t entries(const char* folder) {
    std::size_t count = 0;
    DIR* const open = ::opendir(folder);
    while (::readdir(open) != nullptr) ++count;
    ::closedir(open);
    return count;
}

/// A thread that was joined may be seen for a moment.
bool until(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(1ms);
    }
    return true;
}

TEST(MeshCallers, ALogCallbackThatDestroysTheMesh) {
    std::promise<void> destroyed;
    std::atomic<bool> gone{false};
    std::unique_ptr<Mesh> mesh;
    std::atomic<Mesh*> known{nullptr};
    const auto held = std::make_shared<int>(7);
    mesh = open_mesh([&, held](LogSeverity, std::string_view, std::string_view) {
        EXPECT_FALSE(gone) << "no line after its end";
        if (gone || known == nullptr) return;
        EXPECT_TRUE(mesh->on_own_thread());
        gone = true;
        mesh.reset();
        destroyed.set_value();
    });
    ASSERT_TRUE(mesh);
    auto subscription = mesh->subscribe();
    ASSERT_TRUE(subscription);
    known = mesh.get();
    ASSERT_EQ(destroyed.get_future().wait_for(kLong), std::future_status::ready);
    // Its thread ends by itself, and lets go of the callback.
    EXPECT_TRUE(until([&] { return held.use_count() == 1; }));
    while (subscription->next(-1ms)) {
    }
    EXPECT_TRUE(subscription->closed());
}

TEST(MeshCallers, ClosedByItsOwnHandlersAndByManyThreads) {
    auto mesh = open_mesh();
    ASSERT_TRUE(mesh);
    std::atomic<int> done{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int j = 0; j < 50; ++j) {
                (void)mesh->clusters();
                if (j == 20) mesh->close([&] { ++done; });
            }
            EXPECT_TRUE(mesh->clusters().empty());
        });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_TRUE(until([&] { return done == 4; }));
    EXPECT_EQ(mesh->subscribe().error().code(), Errc::kCancelled);
    mesh.reset();

    // One that throws is nobody's trouble, and one may destroy the mesh.
    mesh = open_mesh();
    std::promise<void> destroyed;
    mesh->close([] { throw 7; });
    mesh->close([&] {
        mesh.reset();
        destroyed.set_value();
    });
    EXPECT_EQ(destroyed.get_future().wait_for(kLong), std::future_status::ready);
}

TEST(MeshCallers, ACallbackThatDestroysItsSubscriptionOrThrows) {
    auto mesh = open_mesh();
    ASSERT_TRUE(mesh);
    std::optional<Subscription> own;
    std::promise<void> may_begin, ended;
    auto begin = may_begin.get_future();
    auto subscription = mesh->subscribe({}, [&](const EventBatch&) {
        begin.wait();
        own.reset();
        ended.set_value();
    });
    ASSERT_TRUE(subscription);
    own.emplace(*std::move(subscription));
    may_begin.set_value();
    ASSERT_EQ(ended.get_future().wait_for(kLong), std::future_status::ready);
    auto thrower = mesh->subscribe({}, [](const EventBatch&) { throw 7; });
    ASSERT_TRUE(thrower);
    EXPECT_TRUE(until([&] { return thrower->closed(); }));
    EXPECT_EQ(mesh->clusters().size(), 1U);
}

TEST(MeshCallers, SeveralInOneProcess) {
    const std::size_t descriptors = entries("/proc/self/fd");
    {
        std::vector<std::unique_ptr<Mesh>> all;
        for (int i = 0; i < 8; ++i) all.push_back(open_mesh());
        std::vector<std::thread> threads;
        for (auto& mesh : all) {
            threads.emplace_back([&mesh] {
                auto subscription = mesh->subscribe();
                EXPECT_TRUE(subscription && subscription->next(0ms));
                EXPECT_EQ(mesh->clusters().size(), 1U);
                mesh.reset();
            });
        }
        for (auto& thread : threads) thread.join();
    }
    // A mesh of the test before may have been about to end.
    EXPECT_TRUE(until([&] { return entries("/proc/self/fd") <= descriptors; }));
}

constexpr int kCycles = 10'000;

/// By the C ABI, as a program of many years would; MESH_CYCLES for another count.
TEST(MeshCallers, OpenAndCloseTenThousandTimes) {
    const char* const text = std::getenv("MESH_CYCLES");
    const int cycles = text != nullptr ? std::atoi(text) : kCycles;
    const char* const endpoints[] = {"http://127.0.0.1:1"};
    mesh_options options = MESH_OPTIONS_INIT;
    options.cluster_name = "cluster1";
    options.cluster_id = 1;
    options.node_name = "node1";
    options.etcd_endpoints = endpoints;
    options.etcd_endpoints_count = 1;
    const std::string remote = "endpoints: [\"http://127.0.0.1:1\"]\n";
    const mesh_file file{"cluster2", remote.data(), remote.size()};
    std::atomic<int> destroyed{0};
    int callbacks = 0;
    std::size_t descriptors = 0, threads = 0;
    for (int i = 0; i < cycles; ++i) {
        if (i == 1) {
            // The first leaves what a process has once.
            descriptors = entries("/proc/self/fd");
            threads = entries("/proc/self/task");
        }
        options.remote_files = i % 4 == 0 ? &file : nullptr;
        options.remote_files_count = i % 4 == 0 ? 1 : 0;
        mesh_ctx* mesh = nullptr;
        mesh_error error = MESH_ERROR_INIT;
        ASSERT_EQ(mesh_open(&options, &mesh, &error), MESH_OK) << error.message;
        mesh_subscription* subscription = nullptr;
        mesh_batch* batch = nullptr;
        if (i % 3 == 0) {
            ASSERT_EQ(mesh_subscribe(mesh, nullptr, &subscription, nullptr), MESH_OK);
            ASSERT_EQ(mesh_subscription_next(subscription, -1, &batch, nullptr), MESH_OK);
        } else if (i % 50 == 1) {
            ++callbacks;
            mesh_subscribe_options told = MESH_SUBSCRIBE_OPTIONS_INIT;
            told.on_events = [](void*, const mesh_event* const*, std::size_t) {};
            told.destroy = [](void* user_data) { ++*static_cast<std::atomic<int>*>(user_data); };
            told.user_data = &destroyed;
            ASSERT_EQ(mesh_subscribe(mesh, &told, &subscription, nullptr), MESH_OK);
        }
        if (i % 2 == 0) {
            ASSERT_EQ(mesh_subscription_close(subscription), MESH_OK);
        }
        ASSERT_EQ(mesh_close(mesh), MESH_OK);
        if (i % 2 != 0) {
            ASSERT_EQ(mesh_subscription_close(subscription), MESH_OK);
        }
        ASSERT_EQ(mesh_batch_free(batch), MESH_OK);
    }
    EXPECT_EQ(destroyed, callbacks);
    if (cycles < 2) return;
    EXPECT_LE(entries("/proc/self/fd"), descriptors);
    EXPECT_TRUE(until([&] { return entries("/proc/self/task") <= threads; }))
        << entries("/proc/self/task") << " threads, " << threads << " at first";
}

}  // namespace
}  // namespace mesh
