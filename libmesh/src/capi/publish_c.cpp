// The functions of mesh/mesh.h that publish a workload.
#include <mesh/mesh.h>

#include <mesh/publish.hpp>
#include <string>
#include <utility>

#include "capi/calls.hpp"
#include "capi/handles.hpp"

using mesh::capi::close_handle;
using mesh::capi::copy_text;
using mesh::capi::Kind;
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

class PublicationObject final : public mesh::capi::Object {
  public:
    explicit PublicationObject(mesh::Publication publication)
        : Object(Kind::kPublication), publication_(std::move(publication)) {}
    /// Those who wait get CANCELLED, and the lease is revoked.
    void interrupt() noexcept override { (void)publication_.close(); }
    [[nodiscard]] bool busy() const noexcept override { return publication_.on_mesh_thread(); }
    [[nodiscard]] mesh::Publication* operator->() noexcept { return &publication_; }

  private:
    mesh::Publication publication_;
};

/// @return what is wrong, or null
const char* convert(const mesh_workload_options& from, mesh::WorkloadOptions& to) {
    to.name = text_or_empty(from.name);
    if (from.namespace_ != nullptr) to.namespace_ = from.namespace_;
    if (from.ips_count > 0 && from.ips == nullptr) return "ips: expected a list, got NULL";
    for (std::size_t i = 0; i < from.ips_count; ++i) {
        if (from.ips[i] == nullptr) return "ips: expected texts, got NULL";
        to.ips.emplace_back(from.ips[i]);
    }
    if (from.labels_count > 0 && from.labels == nullptr) return "labels: expected a list, got NULL";
    for (std::size_t i = 0; i < from.labels_count; ++i) {
        const mesh_pair& label = from.labels[i];
        if (label.key == nullptr || label.value == nullptr) {
            return "labels: expected keys and values, got NULL";
        }
        to.labels.insert_or_assign(label.key, label.value);
    }
    if (from.backends_count > 0 && from.backends == nullptr) {
        return "backends: expected a list, got NULL";
    }
    for (std::size_t i = 0; i < from.backends_count; ++i) {
        const mesh_workload_backend& backend = from.backends[i];
        if (backend.service == nullptr) return "backends: service: expected a text, got NULL";
        if (backend.port > 65535) return "backends: port: expected 1 to 65535, got more";
        if (backend.reserved != 0) return "backends: reserved: expected 0";
        to.backends.push_back({backend.service, text_or_empty(backend.port_name),
                               static_cast<std::uint16_t>(backend.port),
                               backend.protocol == nullptr ? "TCP" : backend.protocol});
    }
    to.zone = text_or_empty(from.zone);
    if (from.node > 1) return "node: expected 0 or 1";
    to.node = from.node == 1;
    if (from.lease_ttl_seconds != 0) to.lease_ttl = std::chrono::seconds(from.lease_ttl_seconds);
    return nullptr;
}

/// @return MESH_OK, or what has been told
int take(const mesh_workload_options* options, mesh::WorkloadOptions& to, mesh_error* error) {
    if (options == nullptr) return wrong(error, "options: expected some, got NULL");
    mesh_workload_options known = MESH_WORKLOAD_OPTIONS_INIT;
    if (!take_options(options, known, sizeof known)) {
        return wrong(error,
                     "options: struct_size: expected MESH_WORKLOAD_OPTIONS_INIT of a header no "
                     "newer than the library, or zeros beyond");
    }
    if (const char* const what = convert(known, to)) return wrong(error, what);
    return MESH_OK;
}

template <class Body>
int with_publication(mesh_publication* publication, mesh_error* error, Body&& body) noexcept {
    return with<PublicationObject>(publication, Kind::kPublication, "publication", error,
                                   std::forward<Body>(body));
}

}  // namespace

extern "C" {

int mesh_publish(mesh_ctx* mesh, const mesh_workload_options* options, mesh_publication** out,
                 mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the handle, got NULL");
        mesh::WorkloadOptions to;
        if (const int code = take(options, to, error)) return code;
        auto publication = object->publish(to);
        if (!publication) return tell(error, publication.error());
        *out = new_handle<mesh_publication>(
            std::make_unique<PublicationObject>(*std::move(publication)));
        return MESH_OK;
    });
}

int mesh_publication_state(mesh_publication* publication, uint32_t* state, char** reason,
                           mesh_error* error) {
    if (reason != nullptr) *reason = nullptr;
    return with_publication(publication, error, [&](PublicationObject& object) {
        if (state == nullptr) return wrong(error, "state: expected a place for it, got NULL");
        const mesh::PublicationStatus status = object->state();
        if (reason != nullptr) *reason = copy_text(status.reason);
        *state = static_cast<std::uint32_t>(status.state);
        return MESH_OK;
    });
}

int mesh_publication_wait(mesh_publication* publication, int64_t timeout_ms, mesh_error* error) {
    return with_publication(publication, error, [&](PublicationObject& object) {
        if (object->on_mesh_thread()) {
            return tell(error, MESH_ERR_BUSY, "wait: not from the log callback");
        }
        const auto done = object->wait(to_timeout(timeout_ms));
        return done ? MESH_OK : tell(error, done.error());
    });
}

int mesh_publication_update(mesh_publication* publication, const mesh_workload_options* options,
                            mesh_error* error) {
    return with_publication(publication, error, [&](PublicationObject& object) {
        mesh::WorkloadOptions to;
        if (const int code = take(options, to, error)) return code;
        const auto done = object->update(to);
        return done ? MESH_OK : tell(error, done.error());
    });
}

int mesh_publication_close(mesh_publication* publication) {
    return close_handle(publication, Kind::kPublication);
}

}  // extern "C"
