// What all functions of the C ABI do: no exception leaves, errors are told, handles are looked up,
// options of an older or a newer header are taken.
//
// Used by the *_c.cpp files of this folder only.
#pragma once

#include <mesh/mesh.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mesh/mesh.hpp>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "capi/handles.hpp"

namespace mesh::capi {

/// No caller's struct is larger; a size beyond it was not set at all.
constexpr std::size_t kMostStructBytes = 4096;

inline int tell(mesh_error* error, int code, std::string_view message) noexcept {
    if (error == nullptr || error->struct_size < sizeof(mesh_error)) return code;
    error->code = code;
    const std::size_t length = std::min(message.size(), sizeof error->message - 1);
    std::memcpy(error->message, message.data(), length);
    error->message[length] = '\0';
    return code;
}

inline int tell(mesh_error* error, const Error& from) noexcept {
    return tell(error, -static_cast<int>(from.code()), from.detail());
}

/// Runs a function's body: no exception leaves, whatever it is.
template <class Body>
[[nodiscard]] int guard(mesh_error* error, Body&& body) noexcept {
    try {
        const int code = body();
        if (code == MESH_OK) tell(error, MESH_OK, "");
        return code;
    } catch (const std::bad_alloc&) {
        return tell(error, MESH_ERR_NO_MEMORY, "out of memory");
    } catch (const std::exception& e) {
        return tell(error, MESH_ERR_INTERNAL, e.what());
    } catch (...) {
        return tell(error, MESH_ERR_INTERNAL, "unknown exception");
    }
}

inline int wrong(mesh_error* error, std::string_view what) noexcept {
    return tell(error, MESH_ERR_INVALID_ARGUMENT, what);
}

/// Takes a caller's options, of an older or a newer header.
/// @param least size of the first version
template <class T>
bool take_options(const T* from, T& to, std::size_t least) {
    const std::size_t size = from->struct_size;
    if (size < least || size > kMostStructBytes) return false;
    const auto* const bytes = reinterpret_cast<const unsigned char*>(from);
    // What we do not know must not have been asked for.
    for (std::size_t i = sizeof(T); i < size; ++i) {
        if (bytes[i] != 0) return false;
    }
    std::memcpy(&to, from, std::min(size, sizeof(T)));
    return true;
}

class MeshObject final : public Object {
  public:
    explicit MeshObject(std::unique_ptr<Mesh> mesh) : Object(Kind::kMesh), mesh_(std::move(mesh)) {}
    void interrupt() noexcept override { mesh_->interrupt(); }
    [[nodiscard]] bool busy() const noexcept override { return mesh_->on_own_thread(); }
    [[nodiscard]] Mesh& operator*() const noexcept { return *mesh_; }
    [[nodiscard]] Mesh* operator->() const noexcept { return mesh_.get(); }

  private:
    std::unique_ptr<Mesh> mesh_;
};

/// Calls `body(object)` if the handle is one of that kind.
template <class T, class Handle, class Body>
[[nodiscard]] int with(const Handle* handle, Kind kind, const char* name, mesh_error* error,
                       Body&& body) noexcept {
    return guard(error, [&] {
        const auto use = Handles::instance().find(handle, kind);
        if (use.get() == nullptr) {
            return wrong(error, std::string(name) + ": not an open handle of this kind");
        }
        return body(*static_cast<T*>(use.get()));
    });
}

template <class Body>
[[nodiscard]] int with_mesh(const mesh_ctx* handle, mesh_error* error, Body&& body) noexcept {
    return with<MeshObject>(handle, Kind::kMesh, "mesh", error, std::forward<Body>(body));
}

template <class Handle>
[[nodiscard]] int close_handle(Handle* handle, Kind kind) noexcept {
    if (handle == nullptr) return MESH_OK;
    return guard(nullptr, [&] {
        switch (Handles::instance().remove(handle, kind)) {
            case Handles::Removed::kYes:
                return MESH_OK;
            case Handles::Removed::kBusy:
                return MESH_ERR_BUSY;
            case Handles::Removed::kUnknown:
                break;
        }
        return MESH_ERR_INVALID_ARGUMENT;
    });
}

template <class T>
T* new_handle(std::unique_ptr<Object> object) {
    return static_cast<T*>(Handles::instance().add(std::move(object)));
}

[[nodiscard]] inline std::string text_or_empty(const char* text) {
    return text == nullptr ? std::string() : std::string(text);
}

[[nodiscard]] inline std::chrono::milliseconds to_timeout(std::int64_t milliseconds) {
    constexpr std::int64_t kYear = 365LL * 24 * 3600 * 1000;
    return std::chrono::milliseconds(std::clamp<std::int64_t>(milliseconds, -1, kYear));
}

/// A text that the caller ends with mesh_text_free().
[[nodiscard]] inline char* copy_text(std::string_view text) {
    auto* const copy = static_cast<char*>(std::malloc(text.size() + 1));
    if (copy == nullptr) throw std::bad_alloc();
    std::memcpy(copy, text.data(), text.size());
    copy[text.size()] = '\0';
    return copy;
}

}  // namespace mesh::capi
