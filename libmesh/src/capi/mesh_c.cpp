// The functions of mesh/mesh.h. Each is: check what was given, call the C++ API inside guard().
#include <mesh/mesh.h>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mesh/mesh.hpp>
#include <mesh/version.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "capi/calls.hpp"
#include "capi/handles.hpp"

using mesh::capi::close_handle;
using mesh::capi::copy_text;
using mesh::capi::guard;
using mesh::capi::Kind;
using mesh::capi::kMostStructBytes;
using mesh::capi::MeshObject;
using mesh::capi::new_handle;
using mesh::capi::take_options;
using mesh::capi::tell;
using mesh::capi::text_or_empty;
using mesh::capi::to_timeout;
using mesh::capi::with;
using mesh::capi::with_mesh;
using mesh::capi::wrong;

namespace {

static_assert(sizeof(mesh_ip_record) == 48 && sizeof(mesh_ip_record) == sizeof(mesh::IpRecord));
static_assert(offsetof(mesh_ip_record, host) == offsetof(mesh::IpRecord, host));
static_assert(offsetof(mesh_ip_record, identity) == offsetof(mesh::IpRecord, identity));
static_assert(offsetof(mesh_ip_record, cluster_id) == offsetof(mesh::IpRecord, cluster_id));
static_assert(offsetof(mesh_ip_record, prefix_length) == offsetof(mesh::IpRecord, prefix_length));
static_assert(offsetof(mesh_ip_record, family) == offsetof(mesh::IpRecord, family));
static_assert(offsetof(mesh_ip_record, encryption_key) == offsetof(mesh::IpRecord, encryption_key));

class SubscriptionObject final : public mesh::capi::Object {
  public:
    explicit SubscriptionObject(mesh::Subscription subscription)
        : Object(Kind::kSubscription), subscription_(std::move(subscription)) {}
    void interrupt() noexcept override { subscription_.close(); }
    /// On the mesh's thread, for which its readers may be waiting.
    [[nodiscard]] bool busy() const noexcept override { return subscription_.on_mesh_thread(); }
    [[nodiscard]] mesh::Subscription* operator->() noexcept { return &subscription_; }

  private:
    mesh::Subscription subscription_;
};

class BatchObject final : public mesh::capi::Object {
  public:
    explicit BatchObject(mesh::EventBatch batch) : Object(Kind::kBatch), batch_(std::move(batch)) {}
    [[nodiscard]] const mesh::EventBatch& batch() const noexcept { return batch_; }

  private:
    mesh::EventBatch batch_;
};

int give(mesh_batch** out, mesh::EventBatch batch) {
    *out = new_handle<mesh_batch>(std::make_unique<BatchObject>(std::move(batch)));
    return MESH_OK;
}

int give(mesh_batch** out, mesh::Result<mesh::EventBatch> batch, mesh_error* error) {
    return batch ? give(out, *std::move(batch)) : tell(error, batch.error());
}

mesh::LogCallback make_log(mesh_log_fn log, void* user_data) {
    if (log == nullptr) return {};
    return [log, user_data](mesh::LogSeverity severity, std::string_view subsystem,
                            std::string_view text) {
        try {
            log(user_data, static_cast<std::int32_t>(severity), std::string(subsystem).c_str(),
                std::string(text).c_str());
        } catch (...) {
            // A callback's, written in C++: there is nobody to tell.
        }
    };
}

/// @return what is wrong, or null
const char* convert(const mesh_file* files, std::size_t count,
                    std::map<std::string, std::string>& to) {
    if (count > 0 && files == nullptr) return "remote_files: expected a list, got NULL";
    for (std::size_t i = 0; i < count; ++i) {
        const mesh_file& file = files[i];
        if (file.name == nullptr || (file.data == nullptr && file.size > 0)) {
            return "remote_files: expected names and data, got NULL";
        }
        const auto* const data = static_cast<const char*>(file.data);
        to[file.name] = std::string(data == nullptr ? "" : data, file.size);
    }
    return nullptr;
}

/// @return what is wrong, or null
const char* convert(const mesh_options& from, mesh::MeshOptions& to) {
    to.cluster_name = text_or_empty(from.cluster_name);
    to.node_name = text_or_empty(from.node_name);
    to.cluster_id = from.cluster_id;
    if (from.max_connected_clusters != 0) to.max_connected_clusters = from.max_connected_clusters;
    to.etcd_config = text_or_empty(from.etcd_config);
    if (from.etcd_endpoints_count > 0 && from.etcd_endpoints == nullptr) {
        return "etcd_endpoints: expected a list, got NULL";
    }
    for (std::size_t i = 0; i < from.etcd_endpoints_count; ++i) {
        if (from.etcd_endpoints[i] == nullptr) return "etcd_endpoints: expected texts, got NULL";
        to.etcd.endpoints.emplace_back(from.etcd_endpoints[i]);
    }
    to.etcd.ca_pem = text_or_empty(from.etcd_ca_pem);
    to.etcd.cert_pem = text_or_empty(from.etcd_cert_pem);
    to.etcd.key_pem = text_or_empty(from.etcd_key_pem);
    to.clustermesh_config = text_or_empty(from.clustermesh_config);
    if (const char* const what =
            convert(from.remote_files, from.remote_files_count, to.remote_files)) {
        return what;
    }
    if (from.sync_timeout_seconds != 0) {
        to.sync_timeout = std::chrono::seconds(from.sync_timeout_seconds);
    }
    to.remote_max_stale_age = std::chrono::seconds(from.remote_max_stale_age_seconds);
    to.log = make_log(from.log, from.log_user_data);
    return nullptr;
}

/// A caller's callback with what belongs to it.
class Callback {
  public:
    explicit Callback(const mesh_subscribe_options& from) : options_(from) {}
    ~Callback() {
        if (options_.destroy == nullptr) return;
        try {
            options_.destroy(options_.user_data);
        } catch (...) {
            // As above.
        }
    }
    Callback(const Callback&) = delete;
    Callback& operator=(const Callback&) = delete;
    void operator()(const mesh::EventBatch& batch) const {
        options_.on_events(options_.user_data, batch.raw().data(), batch.size());
    }
    /// It stays the caller's.
    void give_back() noexcept { options_.destroy = nullptr; }

  private:
    mesh_subscribe_options options_;
};

bool are_objects(std::uint32_t objects) {
    return objects != 0 && (objects & ~MESH_OBJECT_ALL) == 0;
}

}  // namespace

extern "C" {

uint32_t mesh_abi_version(void) {
    return MESH_ABI_VERSION;
}

const char* mesh_version(void) {
    return mesh::version();
}

const char* mesh_strerror(int code) {
    if (code == MESH_OK) return "ok";
    if (code == MESH_ERR_NO_MEMORY) return "no_memory";
    if (code == MESH_ERR_BUSY) return "busy";
    if (code > MESH_OK || code < MESH_ERR_INTERNAL) return "unknown";
    // Literals, so that they end with NUL.
    return to_string(static_cast<mesh::Errc>(-code)).data();
}

int mesh_open(const mesh_options* options, mesh_ctx** out, mesh_error* error) {
    return guard(error, [&] {
        if (out == nullptr) return wrong(error, "out: expected a place for the handle, got NULL");
        *out = nullptr;
        if (options == nullptr) return wrong(error, "options: expected some, got NULL");
        mesh_options known = MESH_OPTIONS_INIT;
        if (!take_options(options, known, sizeof known)) {
            return wrong(error,
                         "options: struct_size: expected MESH_OPTIONS_INIT of a header no newer "
                         "than the library, or zeros beyond");
        }
        mesh::MeshOptions to;
        if (const char* const what = convert(known, to)) return wrong(error, what);
        auto mesh = mesh::Mesh::open(std::move(to));
        if (!mesh) return tell(error, mesh.error());
        *out = new_handle<mesh_ctx>(std::make_unique<MeshObject>(*std::move(mesh)));
        return MESH_OK;
    });
}

int mesh_close(mesh_ctx* mesh) {
    return close_handle(mesh, Kind::kMesh);
}

int mesh_wait_ready(mesh_ctx* mesh, int64_t timeout_ms, mesh_error* error) {
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (object->on_own_thread()) {
            return tell(error, MESH_ERR_BUSY, "wait_ready: not from the log callback");
        }
        if (object->wait_ready(timeout_ms < 0 ? std::chrono::hours(24 * 365)
                                              : to_timeout(timeout_ms))) {
            return MESH_OK;
        }
        if (object->interrupted()) return tell(error, MESH_ERR_CANCELLED, "the mesh is closed");
        return tell(error, MESH_ERR_TIMEOUT, "not ready yet; mesh_status_json() tells why");
    });
}

int mesh_status_json(mesh_ctx* mesh, char** out, mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the text, got NULL");
        *out = copy_text(object->status_json());
        return MESH_OK;
    });
}

int mesh_metrics_text(mesh_ctx* mesh, char** out, mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the text, got NULL");
        *out = copy_text(object->metrics_text());
        return MESH_OK;
    });
}

int mesh_set_remote_files(mesh_ctx* mesh, const mesh_file* files, size_t count, mesh_error* error) {
    return with_mesh(mesh, error, [&](MeshObject& object) {
        std::map<std::string, std::string> to;
        if (const char* const what = convert(files, count, to)) return wrong(error, what);
        const auto done = object->set_remote_files(to);
        return done ? MESH_OK : tell(error, done.error());
    });
}

void mesh_text_free(char* text) {
    std::free(text);
}

int mesh_list(mesh_ctx* mesh, uint32_t objects, mesh_batch** out, mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the batch, got NULL");
        if (!are_objects(objects)) return wrong(error, "objects: expected MESH_OBJECT_* bits");
        return give(out, object->list(static_cast<mesh::Objects>(objects)));
    });
}

int mesh_lookup(mesh_ctx* mesh, const char* address, mesh_batch** out, mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the batch, got NULL");
        if (address == nullptr) return wrong(error, "address: expected an IP, got NULL");
        return give(out, object->list_ip(address), error);
    });
}

int mesh_get_service(mesh_ctx* mesh, const char* name, mesh_batch** out, mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the batch, got NULL");
        if (name == nullptr) return wrong(error, "name: expected namespace/name, got NULL");
        return give(out, object->list_service(name), error);
    });
}

int mesh_read_ips(mesh_ctx* mesh, void* records, size_t record_size, size_t capacity, size_t* count,
                  mesh_error* error) {
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (count == nullptr) return wrong(error, "count: expected a place for it, got NULL");
        *count = 0;
        if (records == nullptr && capacity > 0) {
            return wrong(error, "records: expected an array, got NULL");
        }
        if (record_size < sizeof(mesh_ip_record) || record_size > kMostStructBytes) {
            return wrong(error, "record_size: expected sizeof(mesh_ip_record)");
        }
        const auto too_small = [&] {
            return tell(error, MESH_ERR_CAPACITY,
                        "records: there are " + std::to_string(*count) + " ips");
        };
        if (record_size == sizeof(mesh::IpRecord)) {
            auto* const to = static_cast<mesh::IpRecord*>(records);
            return object->read_ip_records({to, capacity}, *count) ? MESH_OK : too_small();
        }
        // Of a newer header: what it has beyond ours is zero.
        const auto all = object->ip_records();
        *count = all.size();
        if (all.size() > capacity) return too_small();
        auto* at = static_cast<unsigned char*>(records);
        for (const auto& record : all) {
            std::memcpy(at, &record, sizeof record);
            std::memset(at + sizeof record, 0, record_size - sizeof record);
            at += record_size;
        }
        return MESH_OK;
    });
}

int mesh_batch_events(mesh_batch* batch, const mesh_event* const** events, size_t* count,
                      mesh_error* error) {
    return with<BatchObject>(batch, Kind::kBatch, "batch", error, [&](BatchObject& object) {
        if (events == nullptr || count == nullptr) {
            return wrong(error, "events, count: expected places for them, got NULL");
        }
        *events = object.batch().raw().data();
        *count = object.batch().size();
        return MESH_OK;
    });
}

int mesh_batch_free(mesh_batch* batch) {
    return close_handle(batch, Kind::kBatch);
}

int mesh_subscribe(mesh_ctx* mesh, const mesh_subscribe_options* options, mesh_subscription** out,
                   mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the handle, got NULL");
        mesh_subscribe_options known = MESH_SUBSCRIBE_OPTIONS_INIT;
        if (options != nullptr && !take_options(options, known, sizeof known)) {
            return wrong(error,
                         "options: struct_size: expected MESH_SUBSCRIBE_OPTIONS_INIT of a header "
                         "no newer than the library, or zeros beyond");
        }
        mesh::SubscribeOptions to;
        if (known.objects != 0) to.objects = static_cast<mesh::Objects>(known.objects);
        if (known.max_queued_bytes != 0) to.max_queued_bytes = known.max_queued_bytes;
        std::shared_ptr<Callback> callback;
        mesh::EventsCallback function;
        if (known.on_events != nullptr) {
            callback = std::make_shared<Callback>(known);
            function = [callback](const mesh::EventBatch& batch) { (*callback)(batch); };
        }
        auto subscription = object->subscribe(to, std::move(function));
        if (!subscription) {
            if (callback) callback->give_back();
            return tell(error, subscription.error());
        }
        callback.reset();
        *out = new_handle<mesh_subscription>(
            std::make_unique<SubscriptionObject>(*std::move(subscription)));
        return MESH_OK;
    });
}

int mesh_subscription_fd(mesh_subscription* subscription, int* fd, mesh_error* error) {
    return with<SubscriptionObject>(subscription, Kind::kSubscription, "subscription", error,
                                    [&](SubscriptionObject& object) {
                                        if (fd == nullptr) {
                                            return wrong(error, "fd: expected a place, got NULL");
                                        }
                                        *fd = object->fd();
                                        return MESH_OK;
                                    });
}

int mesh_subscription_next(mesh_subscription* subscription, int64_t timeout_ms, mesh_batch** out,
                           mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with<SubscriptionObject>(
        subscription, Kind::kSubscription, "subscription", error, [&](SubscriptionObject& object) {
            if (out == nullptr) return wrong(error, "out: expected a place for it, got NULL");
            if (object->on_mesh_thread()) {
                return tell(error, MESH_ERR_BUSY, "next: not from the log callback");
            }
            auto batch = object->next(to_timeout(timeout_ms));
            if (!batch) return tell(error, batch.error());
            if (batch->empty()) return tell(error, MESH_ERR_TIMEOUT, "there is nothing to tell");
            return give(out, *std::move(batch));
        });
}

int mesh_subscription_close(mesh_subscription* subscription) {
    return close_handle(subscription, Kind::kSubscription);
}

}  // extern "C"
