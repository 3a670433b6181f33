// Callers of the C ABI that do everything wrong: each gets a code, none a crash, a leak or a hang.
// No etcd answers here; run under AddressSanitizer and ThreadSanitizer too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mesh/mesh.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using testing::HasSubstr;

/// Nothing listens there: port 1 of the loopback device.
const char* const kEndpoints[] = {"http://127.0.0.1:1"};

mesh_options good_options() {
    mesh_options options = MESH_OPTIONS_INIT;
    options.cluster_name = "cluster1";
    options.cluster_id = 1;
    options.node_name = "node1";
    options.etcd_endpoints = kEndpoints;
    options.etcd_endpoints_count = 1;
    return options;
}

mesh_ctx* open_mesh() {
    const mesh_options options = good_options();
    mesh_error error = MESH_ERROR_INIT;
    mesh_ctx* mesh = nullptr;
    EXPECT_EQ(mesh_open(&options, &mesh, &error), MESH_OK) << error.message;
    return mesh;
}

/// Every function with this handle; none may take it. @param is what it really is, or ""
void try_everything(void* handle, const std::string& is) {
    mesh_error error = MESH_ERROR_INIT;
    mesh_batch* batch = nullptr;
    mesh_subscription* subscription = nullptr;
    mesh_publication* publication = nullptr;
    const mesh_event* const* events = nullptr;
    std::size_t count = 0;
    char* text = nullptr;
    int fd = -1;
    const auto refused = [&](int code) {
        EXPECT_EQ(code, MESH_ERR_INVALID_ARGUMENT);
        EXPECT_EQ(error.code, MESH_ERR_INVALID_ARGUMENT);
        EXPECT_THAT(error.message, HasSubstr("not an open handle"));
        error = MESH_ERROR_INIT;
    };
    auto* const mesh = static_cast<mesh_ctx*>(handle);
    if (is != "mesh") {
        refused(mesh_wait_ready(mesh, -1, &error));
        refused(mesh_status_json(mesh, &text, &error));
        refused(mesh_metrics_text(mesh, &text, &error));
        refused(mesh_set_remote_files(mesh, nullptr, 0, &error));
        const mesh_policy_query query = MESH_POLICY_QUERY_INIT;
        refused(mesh_explain_json(mesh, &query, &text, &error));
        refused(mesh_policy_diff_json(mesh, "", 0, &text, &error));
        refused(mesh_list(mesh, MESH_OBJECT_ALL, &batch, &error));
        refused(mesh_lookup(mesh, "10.0.0.1", &batch, &error));
        refused(mesh_get_service(mesh, "a/b", &batch, &error));
        refused(mesh_read_ips(mesh, nullptr, sizeof(mesh_ip_record), 0, &count, &error));
        refused(mesh_subscribe(mesh, nullptr, &subscription, &error));
        refused(mesh_publish(mesh, nullptr, &publication, &error));
    }
    if (is != "subscription") {
        auto* const wrong = static_cast<mesh_subscription*>(handle);
        refused(mesh_subscription_fd(wrong, &fd, &error));
        refused(mesh_subscription_next(wrong, -1, &batch, &error));
        if (handle != nullptr) {
            EXPECT_EQ(mesh_subscription_close(wrong), MESH_ERR_INVALID_ARGUMENT);
        }
    }
    if (is != "publication") {
        auto* const wrong = static_cast<mesh_publication*>(handle);
        const mesh_workload_options options = MESH_WORKLOAD_OPTIONS_INIT;
        std::uint32_t state = 0;
        refused(mesh_publication_state(wrong, &state, &text, &error));
        refused(mesh_publication_wait(wrong, -1, &error));
        refused(mesh_publication_update(wrong, &options, &error));
        if (handle != nullptr) {
            EXPECT_EQ(mesh_publication_close(wrong), MESH_ERR_INVALID_ARGUMENT);
        }
    }
    if (is != "batch") {
        auto* const wrong = static_cast<mesh_batch*>(handle);
        refused(mesh_batch_events(wrong, &events, &count, &error));
        if (handle != nullptr) {
            EXPECT_EQ(mesh_batch_free(wrong), MESH_ERR_INVALID_ARGUMENT);
        }
    }
    if (is != "mesh" && handle != nullptr) {
        EXPECT_EQ(mesh_close(mesh), MESH_ERR_INVALID_ARGUMENT);
    }
    EXPECT_EQ(batch, nullptr);
    EXPECT_EQ(subscription, nullptr);
    EXPECT_EQ(publication, nullptr);
    EXPECT_EQ(text, nullptr);
    EXPECT_EQ(fd, -1);
}

TEST(Hostile, NullAndNonsense) {
    EXPECT_EQ(mesh_close(nullptr), MESH_OK);
    EXPECT_EQ(mesh_batch_free(nullptr), MESH_OK);
    EXPECT_EQ(mesh_subscription_close(nullptr), MESH_OK);
    mesh_text_free(nullptr);
    try_everything(nullptr, "");
    int local = 0;
    try_everything(&local, "");
    try_everything(reinterpret_cast<void*>(std::uintptr_t{12'345}), "");
    try_everything(reinterpret_cast<void*>(~std::uintptr_t{0}), "");
}

TEST(Hostile, HandlesOfAnotherKindAndAfterTheirEnd) {
    auto* const mesh = open_mesh();
    mesh_batch* batch = nullptr;
    ASSERT_EQ(mesh_list(mesh, MESH_OBJECT_CLUSTER, &batch, nullptr), MESH_OK);
    mesh_subscription* subscription = nullptr;
    ASSERT_EQ(mesh_subscribe(mesh, nullptr, &subscription, nullptr), MESH_OK);
    try_everything(mesh, "mesh");
    try_everything(batch, "batch");
    try_everything(subscription, "subscription");
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
    try_everything(mesh, "");
    // Batches and subscriptions outlive it.
    const mesh_event* const* events = nullptr;
    std::size_t count = 0;
    ASSERT_EQ(mesh_batch_events(batch, &events, &count, nullptr), MESH_OK);
    ASSERT_EQ(count, 1U);
    EXPECT_STREQ(events[0]->cluster->name, "cluster1");
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
    try_everything(batch, "");
    mesh_error error = MESH_ERROR_INIT;
    int code = MESH_OK;
    while (code == MESH_OK) {
        code = mesh_subscription_next(subscription, -1, &batch, &error);
        mesh_batch_free(batch);
    }
    EXPECT_EQ(code, MESH_ERR_CANCELLED);
    EXPECT_EQ(mesh_subscription_close(subscription), MESH_OK);
    try_everything(subscription, "");
}

TEST(Hostile, PlacesForResultsThatAreNull) {
    auto* const mesh = open_mesh();
    mesh_error error = MESH_ERROR_INIT;
    const mesh_options options = good_options();
    EXPECT_EQ(mesh_open(&options, nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    mesh_ctx* none = mesh;
    EXPECT_EQ(mesh_open(nullptr, &none, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(none, nullptr);
    EXPECT_EQ(mesh_open(nullptr, nullptr, nullptr), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_status_json(mesh, nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_list(mesh, MESH_OBJECT_ALL, nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    mesh_batch* batch = nullptr;
    EXPECT_EQ(mesh_list(mesh, 0, &batch, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_list(mesh, 1U << 31, &batch, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_lookup(mesh, nullptr, &batch, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_lookup(mesh, "10.0.0.1", nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_get_service(mesh, nullptr, &batch, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_read_ips(mesh, nullptr, sizeof(mesh_ip_record), 0, nullptr, &error),
              MESH_ERR_INVALID_ARGUMENT);
    std::size_t count = 0;
    EXPECT_EQ(mesh_read_ips(mesh, nullptr, sizeof(mesh_ip_record), 1, &count, &error),
              MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_read_ips(mesh, nullptr, 1, 0, &count, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_read_ips(mesh, nullptr, sizeof(mesh_ip_record), 0, &count, &error), MESH_OK);
    EXPECT_EQ(mesh_subscribe(mesh, nullptr, nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_metrics_text(mesh, nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_set_remote_files(mesh, nullptr, 1, &error), MESH_ERR_INVALID_ARGUMENT);
    const mesh_file nameless{nullptr, "x", 1}, empty{"cluster2", nullptr, 1};
    EXPECT_EQ(mesh_set_remote_files(mesh, &nameless, 1, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_set_remote_files(mesh, &empty, 1, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_set_remote_files(mesh, nullptr, 0, &error), MESH_OK) << error.message;
    char* text = nullptr;
    EXPECT_EQ(mesh_policy_diff_json(mesh, "", 0, nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_policy_diff_json(mesh, nullptr, 0, &text, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_policy_diff_json(mesh, "", 2, &text, &error), MESH_ERR_INVALID_ARGUMENT);
    mesh_policy_query query = MESH_POLICY_QUERY_INIT;
    query.source = query.destination = "world";
    query.dport = "80";
    EXPECT_EQ(mesh_explain_json(mesh, &query, nullptr, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_explain_json(mesh, nullptr, &text, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_explain_json(mesh, &query, &text, &error), MESH_ERR_UNAVAILABLE);
    const auto refused = [&](auto spoil, const char* what) {
        mesh_policy_query bad = query;
        spoil(bad);
        EXPECT_EQ(mesh_explain_json(mesh, &bad, &text, &error), MESH_ERR_INVALID_ARGUMENT);
        EXPECT_THAT(error.message, HasSubstr(what));
    };
    refused([](auto& q) { q.source = nullptr; }, "source");
    refused([](auto& q) { q.destination = nullptr; }, "destination");
    refused([](auto& q) { q.dport = nullptr; }, "dport");
    refused([](auto& q) { q.headers_count = 1; }, "headers");
    const char* const none_of_them[] = {nullptr};
    refused(
        [&](auto& q) {
            q.headers = none_of_them;
            q.headers_count = 1;
        },
        "headers");
    for (const std::size_t size : {std::size_t{0}, std::size_t{8}, ~std::size_t{0}}) {
        refused([&](auto& q) { q.struct_size = size; }, "struct_size");
    }
    EXPECT_EQ(text, nullptr);
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
}

TEST(Hostile, OptionsOfOtherSizes) {
    struct Newer {
        mesh_options known;
        std::uint64_t unknown;
    } newer{good_options(), 0};
    newer.known.struct_size = sizeof newer;
    mesh_error error = MESH_ERROR_INIT;
    mesh_ctx* mesh = nullptr;
    EXPECT_EQ(mesh_open(&newer.known, &mesh, &error), MESH_OK) << error.message;
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
    newer.unknown = 1;
    EXPECT_EQ(mesh_open(&newer.known, &mesh, &error), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_THAT(error.message, HasSubstr("struct_size"));
    for (const std::size_t size : {std::size_t{0}, std::size_t{8}, ~std::size_t{0}}) {
        mesh_options options = good_options();
        options.struct_size = size;
        EXPECT_EQ(mesh_open(&options, &mesh, &error), MESH_ERR_INVALID_ARGUMENT) << size;
    }
    mesh = open_mesh();
    struct NewerSubscribe {
        mesh_subscribe_options known;
        std::uint64_t unknown;
    } subscribe{MESH_SUBSCRIBE_OPTIONS_INIT, 0};
    mesh_subscription* subscription = nullptr;
    subscribe.known.struct_size = sizeof subscribe;
    EXPECT_EQ(mesh_subscribe(mesh, &subscribe.known, &subscription, &error), MESH_OK);
    EXPECT_EQ(mesh_subscription_close(subscription), MESH_OK);
    subscribe.unknown = 1;
    EXPECT_EQ(mesh_subscribe(mesh, &subscribe.known, &subscription, &error),
              MESH_ERR_INVALID_ARGUMENT);
    for (const std::size_t size : {std::size_t{0}, std::size_t{8}, ~std::size_t{0}}) {
        subscribe.known.struct_size = size;
        EXPECT_EQ(mesh_subscribe(mesh, &subscribe.known, &subscription, &error),
                  MESH_ERR_INVALID_ARGUMENT);
    }
    EXPECT_EQ(subscription, nullptr);
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
    // An error that was not initialised is left alone.
    mesh_error raw;
    std::memset(&raw, 0, sizeof raw);
    EXPECT_EQ(mesh_open(nullptr, &mesh, &raw), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(raw.code, 0);
}

TEST(Hostile, OptionsThatContradict) {
    const auto refusal = [](auto spoil) {
        mesh_options options = good_options();
        spoil(options);
        mesh_error error = MESH_ERROR_INIT;
        mesh_ctx* mesh = nullptr;
        EXPECT_EQ(mesh_open(&options, &mesh, &error), MESH_ERR_INVALID_ARGUMENT);
        EXPECT_EQ(mesh, nullptr);
        return std::string(error.message);
    };
    EXPECT_THAT(refusal([](auto& o) { o.cluster_name = nullptr; }), HasSubstr("cluster_name"));
    EXPECT_THAT(refusal([](auto& o) { o.cluster_id = 7'777; }), HasSubstr("cluster_id"));
    EXPECT_THAT(refusal([](auto& o) { o.etcd_endpoints = nullptr; }), HasSubstr("etcd_endpoints"));
    EXPECT_THAT(refusal([](auto& o) { o.etcd_endpoints_count = 0; }), HasSubstr("etcd_config"));
    EXPECT_THAT(refusal([](auto& o) { o.etcd_key_pem = "key"; }), HasSubstr("key_pem"));
    EXPECT_THAT(refusal([](auto& o) { o.remote_files_count = 1; }), HasSubstr("remote_files"));
    const mesh_file file{"cluster2", nullptr, 7};
    EXPECT_THAT(refusal([&](auto& o) {
                    o.remote_files_count = 1;
                    o.remote_files = &file;
                }),
                HasSubstr("remote_files"));
    // A message longer than its place is cut.
    const std::string long_name(100'000, 'x');
    EXPECT_EQ(refusal([&](auto& o) { o.cluster_name = long_name.c_str(); }).size(),
              sizeof(mesh_error::message) - 1);
}

TEST(Hostile, WaitingAndClosingAtOnce) {
    auto* const mesh = open_mesh();
    mesh_subscription* subscription = nullptr;
    ASSERT_EQ(mesh_subscribe(mesh, nullptr, &subscription, nullptr), MESH_OK);
    std::atomic<int> waiting{0};
    std::vector<std::thread> threads;
    std::vector<int> codes(6, MESH_OK);
    for (std::size_t i = 0; i < codes.size(); ++i) {
        threads.emplace_back([&, i] {
            ++waiting;
            if (i % 2 == 0) {
                codes[i] = mesh_wait_ready(mesh, -1, nullptr);
            } else {
                mesh_batch* batch = nullptr;
                while ((codes[i] = mesh_subscription_next(subscription, -1, &batch, nullptr)) ==
                       MESH_OK) {
                    mesh_batch_free(batch);
                }
            }
        });
    }
    while (waiting < 6) std::this_thread::yield();
    EXPECT_EQ(mesh_wait_ready(mesh, 0, nullptr), MESH_ERR_TIMEOUT);
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
    for (auto& thread : threads) thread.join();
    for (std::size_t i = 0; i < codes.size(); ++i) {
        // One that came late found no mesh any more.
        EXPECT_TRUE(codes[i] == MESH_ERR_CANCELLED ||
                    (i % 2 == 0 && codes[i] == MESH_ERR_INVALID_ARGUMENT))
            << codes[i];
    }
    EXPECT_EQ(mesh_subscription_close(subscription), MESH_OK);
}

/// What a callback does with what it knows.
struct InCallback {
    mesh_ctx* mesh = nullptr;
    std::atomic<mesh_subscription*> subscription{nullptr};
    std::atomic<int> calls{0};
    std::atomic<int> destroyed{0};
    std::atomic<int> close_code{1};
    std::atomic<bool> close_mesh{false};
};

void on_events(void* user_data, const mesh_event* const* events, std::size_t count) {
    auto& in = *static_cast<InCallback*>(user_data);
    EXPECT_GT(count, 0U);
    EXPECT_NE(events[0], nullptr);
    while (in.subscription == nullptr) std::this_thread::yield();
    // Calls back in.
    mesh_batch* batch = nullptr;
    EXPECT_EQ(mesh_list(in.mesh, MESH_OBJECT_ALL, &batch, nullptr), MESH_OK);
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
    EXPECT_EQ(mesh_subscription_next(in.subscription, -1, &batch, nullptr),
              MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_wait_ready(in.mesh, 0, nullptr), MESH_ERR_TIMEOUT);
    ++in.calls;
    if (in.close_mesh) in.close_code = mesh_close(in.mesh);
    EXPECT_EQ(mesh_subscription_close(in.subscription), MESH_OK);
    EXPECT_EQ(in.destroyed, 0) << "not before the callback is over";
}
void on_destroy(void* user_data) {
    ++static_cast<InCallback*>(user_data)->destroyed;
}

TEST(Hostile, ACallbackThatCallsBackInAndEndsEverything) {
    for (const bool close_mesh : {false, true}) {
        InCallback in;
        in.mesh = open_mesh();
        in.close_mesh = close_mesh;
        mesh_subscribe_options options = MESH_SUBSCRIBE_OPTIONS_INIT;
        options.on_events = on_events;
        options.destroy = on_destroy;
        options.user_data = &in;
        mesh_subscription* subscription = nullptr;
        ASSERT_EQ(mesh_subscribe(in.mesh, &options, &subscription, nullptr), MESH_OK);
        in.subscription = subscription;
        while (in.destroyed == 0) std::this_thread::yield();
        EXPECT_EQ(in.calls, 1);
        EXPECT_EQ(in.destroyed, 1);
        EXPECT_EQ(mesh_subscription_close(subscription), MESH_ERR_INVALID_ARGUMENT);
        if (close_mesh) {
            EXPECT_EQ(in.close_code, MESH_OK);
        } else {
            EXPECT_EQ(mesh_close(in.mesh), MESH_OK);
        }
    }
}

TEST(Hostile, ACallbackThatThrowsEndsItsSubscriptionOnly) {
    auto* const mesh = open_mesh();
    std::atomic<int> destroyed{0};
    mesh_subscribe_options options = MESH_SUBSCRIBE_OPTIONS_INIT;
    options.on_events = [](void*, const mesh_event* const*, std::size_t) { throw 7; };
    options.destroy = [](void* user_data) { ++*static_cast<std::atomic<int>*>(user_data); };
    options.user_data = &destroyed;
    mesh_subscription* subscription = nullptr;
    ASSERT_EQ(mesh_subscribe(mesh, &options, &subscription, nullptr), MESH_OK);
    while (destroyed == 0) std::this_thread::yield();
    mesh_batch* batch = nullptr;
    EXPECT_EQ(mesh_list(mesh, MESH_OBJECT_ALL, &batch, nullptr), MESH_OK);
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
    EXPECT_EQ(mesh_subscription_close(subscription), MESH_OK);
    EXPECT_EQ(destroyed, 1);
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
}

/// The mesh's own thread, by its log.
struct InLog {
    std::atomic<mesh_ctx*> mesh{nullptr};
    std::atomic<mesh_subscription*> subscription{nullptr};
    std::atomic<bool> closing{false};
};

void on_log(void* user_data, std::int32_t severity, const char* subsystem, const char* text) {
    auto& in = *static_cast<InLog*>(user_data);
    EXPECT_LE(severity, 3);
    EXPECT_GT(std::strlen(subsystem) + std::strlen(text), 0U);
    mesh_ctx* const mesh = in.mesh;
    mesh_subscription* const subscription = in.subscription;
    if (mesh == nullptr || subscription == nullptr) return;
    // While it is being closed the handle is none any more.
    const auto busy = [](int code) {
        EXPECT_TRUE(code == MESH_ERR_BUSY || code == MESH_ERR_INVALID_ARGUMENT) << code;
    };
    busy(mesh_close(mesh));
    busy(mesh_wait_ready(mesh, -1, nullptr));
    char* status = nullptr;
    if (mesh_status_json(mesh, &status, nullptr) == MESH_OK) mesh_text_free(status);
    mesh_batch* batch = nullptr;
    for (const std::int64_t timeout : {-1, 0}) {
        const int code = mesh_subscription_next(subscription, timeout, &batch, nullptr);
        EXPECT_TRUE(code == MESH_ERR_BUSY || code == MESH_ERR_CANCELLED) << code;
    }
    if (!in.closing) busy(mesh_subscription_close(subscription));
    throw 7;
}

TEST(Hostile, ALogCallbackThatClosesWaitsAndThrows) {
    InLog in;
    mesh_options options = good_options();
    options.log = on_log;
    options.log_user_data = &in;
    mesh_ctx* mesh = nullptr;
    ASSERT_EQ(mesh_open(&options, &mesh, nullptr), MESH_OK);
    mesh_subscription* subscription = nullptr;
    ASSERT_EQ(mesh_subscribe(mesh, nullptr, &subscription, nullptr), MESH_OK);
    in.subscription = subscription;
    in.mesh = mesh;
    // It logs each attempt to connect that fails for another reason, and once more at the end.
    mesh_batch* batch = nullptr;
    while (mesh_subscription_next(subscription, 20, &batch, nullptr) == MESH_OK) {
        mesh_batch_free(batch);
    }
    in.closing = true;
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
    EXPECT_EQ(mesh_subscription_close(subscription), MESH_OK);
}

TEST(Hostile, AChildOfForkHasNoMesh) {
    auto* const mesh = open_mesh();
    mesh_batch* batch = nullptr;
    ASSERT_EQ(mesh_list(mesh, MESH_OBJECT_CLUSTER, &batch, nullptr), MESH_OK);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        bool right = mesh_wait_ready(mesh, -1, nullptr) == MESH_ERR_INVALID_ARGUMENT &&
                     mesh_close(mesh) == MESH_ERR_INVALID_ARGUMENT &&
                     mesh_batch_free(batch) == MESH_ERR_INVALID_ARGUMENT;
#ifndef __SANITIZE_THREAD__  // which allows no thread in a child
        auto* const own = open_mesh();
        mesh_batch* list = nullptr;
        right = right && own != mesh &&
                mesh_list(own, MESH_OBJECT_ALL, &list, nullptr) == MESH_OK &&
                mesh_batch_free(list) == MESH_OK && mesh_close(own) == MESH_OK;
#endif
        ::_exit(right ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
}

TEST(Hostile, OneOfManyThreadsClosesIt) {
    for (int round = 0; round < 20; ++round) {
        auto* const mesh = open_mesh();
        mesh_subscription* subscription = nullptr;
        ASSERT_EQ(mesh_subscribe(mesh, nullptr, &subscription, nullptr), MESH_OK);
        std::atomic<int> closed{0}, subscriptions{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < 3; ++i) {
            threads.emplace_back([&] {
                const int code = mesh_close(mesh);
                EXPECT_TRUE(code == MESH_OK || code == MESH_ERR_INVALID_ARGUMENT) << code;
                if (code == MESH_OK) ++closed;
                if (mesh_subscription_close(subscription) == MESH_OK) ++subscriptions;
            });
        }
        for (auto& thread : threads) thread.join();
        EXPECT_EQ(closed, 1);
        EXPECT_EQ(subscriptions, 1);
    }
}

TEST(Hostile, ManyThreadsOpenReadAndCloseTheSameOnes) {
    std::atomic<mesh_ctx*> shared{nullptr};
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] {
            while (!stop) {
                mesh_batch* batch = nullptr;
                const int code = mesh_list(shared, MESH_OBJECT_ALL, &batch, nullptr);
                EXPECT_TRUE(code == MESH_OK || code == MESH_ERR_INVALID_ARGUMENT) << code;
                EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
            }
        });
    }
    for (int i = 0; i < 50; ++i) {
        auto* const mesh = open_mesh();
        shared = mesh;
        mesh_batch* batch = nullptr;
        EXPECT_EQ(mesh_list(mesh, MESH_OBJECT_ALL, &batch, nullptr), MESH_OK);
        EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
        EXPECT_EQ(mesh_close(mesh), MESH_OK);
    }
    stop = true;
    for (auto& thread : threads) thread.join();
}

TEST(Abi, CodesHaveNames) {
    EXPECT_STREQ(mesh_strerror(0), "ok");
    EXPECT_STREQ(mesh_strerror(MESH_ERR_NOT_FOUND), "not_found");
    EXPECT_STREQ(mesh_strerror(MESH_ERR_INTERNAL), "internal");
    EXPECT_STREQ(mesh_strerror(MESH_ERR_BUSY), "busy");
    EXPECT_STREQ(mesh_strerror(1), "unknown");
    EXPECT_STREQ(mesh_strerror(-1000), "unknown");
    EXPECT_GE(mesh_abi_version(), 1U);
    EXPECT_NE(std::strlen(mesh_version()), 0U);
}

}  // namespace
