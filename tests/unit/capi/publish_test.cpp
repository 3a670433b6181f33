// Publishing by the C ABI, wrongly or without an etcd that answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mesh/mesh.h>

#include <functional>
#include <string>
#include <thread>

namespace {

using testing::HasSubstr;

/// Nothing listens there: port 1 of the loopback device.
const char* const kEndpoints[] = {"http://127.0.0.1:1"};
const char* const kIps[] = {"192.0.2.7", "2001:db8::7"};

class PublishC : public testing::Test {
  protected:
    void SetUp() override {
        mesh_options options = MESH_OPTIONS_INIT;
        options.cluster_name = "cluster1";
        options.cluster_id = 1;
        options.node_name = "node1";
        options.etcd_endpoints = kEndpoints;
        options.etcd_endpoints_count = 1;
        ASSERT_EQ(mesh_open(&options, &mesh_, &error_), MESH_OK) << error_.message;
        backend_.service = "shop/web";
        backend_.port_name = "http";
        backend_.port = 8080;
    }
    void TearDown() override { EXPECT_EQ(mesh_close(mesh_), MESH_OK); }
    [[nodiscard]] mesh_workload_options good() const {
        mesh_workload_options options = MESH_WORKLOAD_OPTIONS_INIT;
        options.name = "vm1";
        options.namespace_ = "shop";
        options.ips = kIps;
        options.ips_count = 2;
        options.labels = &label_;
        options.labels_count = 1;
        options.backends = &backend_;
        options.backends_count = 1;
        return options;
    }
    mesh_publication* publish() {
        const auto options = good();
        mesh_publication* publication = nullptr;
        EXPECT_EQ(mesh_publish(mesh_, &options, &publication, &error_), MESH_OK) << error_.message;
        return publication;
    }

    mesh_ctx* mesh_ = nullptr;
    mesh_error error_ = MESH_ERROR_INIT;
    mesh_pair label_{"app", "web"};
    mesh_workload_backend backend_{};
};

TEST_F(PublishC, NamesTheFieldThatIsWrong) {
    const char* const bad_ip[] = {"127.0.0.1"};
    const char* const no_ip[] = {"ten"};
    const char* const null_ip[] = {nullptr};
    mesh_workload_backend no_port = backend_;
    no_port.port = 0;
    mesh_workload_backend no_service = backend_;
    no_service.service = "web";
    const mesh_pair null_label{"app", nullptr};
    using Options = mesh_workload_options;
    const std::pair<std::function<void(Options&)>, const char*> cases[] = {
        {[](Options& o) { o.name = nullptr; }, "name: expected a DNS label"},
        {[](Options& o) { o.name = "VM_1"; }, "name: expected a DNS label"},
        {[](Options& o) { o.name = "a/b"; }, "name: expected a DNS label"},
        {[](Options& o) { o.namespace_ = ""; }, "namespace: expected"},
        {[](Options& o) { o.ips_count = 0; }, "ips: expected 1 to 16"},
        {[&](Options& o) { o.ips = bad_ip, o.ips_count = 1; }, "loopback"},
        {[&](Options& o) { o.ips = no_ip, o.ips_count = 1; }, "ips: "},
        {[&](Options& o) { o.ips = null_ip, o.ips_count = 1; }, "ips: expected texts"},
        {[](Options& o) { o.ips = nullptr; }, "ips: expected a list"},
        {[&](Options& o) { o.labels = &null_label; }, "labels: expected keys"},
        {[&](Options& o) { o.backends = &no_port; }, "port: expected 1 to 65535"},
        {[&](Options& o) { o.backends = &no_service; }, "service: expected"},
        {[](Options& o) { o.backends = nullptr; }, "backends: expected a list"},
        {[](Options& o) { o.node = 2; }, "node: expected"},
        {[](Options& o) { o.lease_ttl_seconds = 1; }, "lease_ttl: expected 2"},
        {[](Options& o) { o.struct_size = 3; }, "struct_size"},
    };
    for (const auto& [spoil, expected] : cases) {
        Options options = good();
        spoil(options);
        mesh_publication* publication = nullptr;
        EXPECT_EQ(mesh_publish(mesh_, &options, &publication, &error_), MESH_ERR_INVALID_ARGUMENT);
        EXPECT_THAT(error_.message, HasSubstr(expected));
        EXPECT_EQ(publication, nullptr);
    }
}

TEST_F(PublishC, WaitsForAnEtcdThatIsAway) {
    mesh_publication* const publication = publish();
    EXPECT_EQ(mesh_publication_wait(publication, 10, &error_), MESH_ERR_TIMEOUT);
    std::uint32_t state = 0;
    char* reason = nullptr;
    ASSERT_EQ(mesh_publication_state(publication, &state, &reason, &error_), MESH_OK);
    EXPECT_EQ(state, MESH_PUBLICATION_PENDING);
    EXPECT_STRNE(reason, "");
    mesh_text_free(reason);
    ASSERT_EQ(mesh_publication_state(publication, &state, nullptr, &error_), MESH_OK);
    EXPECT_EQ(mesh_publication_state(publication, nullptr, &reason, &error_),
              MESH_ERR_INVALID_ARGUMENT);

    auto options = good();
    mesh_publication* second = nullptr;
    EXPECT_EQ(mesh_publish(mesh_, &options, &second, &error_), MESH_ERR_CONFLICT);
    options.name = "vm2";
    EXPECT_EQ(mesh_publication_update(publication, &options, &error_), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_THAT(error_.message, HasSubstr("vm1"));
    options = good();
    options.labels_count = 0;
    EXPECT_EQ(mesh_publication_update(publication, &options, &error_), MESH_OK);
    EXPECT_EQ(mesh_publication_close(publication), MESH_OK);
    EXPECT_EQ(mesh_publication_close(publication), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(mesh_publication_close(publish()), MESH_OK) << "the name is free again";
}

TEST_F(PublishC, AClosedOneIsCancelled) {
    mesh_publication* const publication = publish();
    std::thread waiter([&] {
        mesh_error error = MESH_ERROR_INIT;
        const int code = mesh_publication_wait(publication, -1, &error);
        // It came before the end, or after it.
        EXPECT_TRUE(code == MESH_ERR_CANCELLED || code == MESH_ERR_INVALID_ARGUMENT) << code;
    });
    EXPECT_EQ(mesh_publication_close(publication), MESH_OK);
    waiter.join();
}

TEST_F(PublishC, OutlivesItsMesh) {
    mesh_publication* const publication = publish();
    ASSERT_EQ(mesh_close(mesh_), MESH_OK);
    mesh_ = nullptr;
    std::uint32_t state = 0;
    ASSERT_EQ(mesh_publication_state(publication, &state, nullptr, &error_), MESH_OK);
    EXPECT_EQ(state, MESH_PUBLICATION_CLOSED);
    EXPECT_EQ(mesh_publication_wait(publication, -1, &error_), MESH_ERR_CANCELLED);
    const auto options = good();
    EXPECT_EQ(mesh_publication_update(publication, &options, &error_), MESH_ERR_CANCELLED);
    EXPECT_EQ(mesh_publication_close(publication), MESH_OK);
}

}  // namespace
