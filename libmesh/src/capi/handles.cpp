#include "capi/handles.hpp"

#include <pthread.h>

#include <condition_variable>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace mesh::capi {

struct Handles::State {
    using Objects = std::unordered_map<std::uintptr_t, std::unique_ptr<Object>>;
    std::mutex mutex;  // guards all below, and Object::uses_
    std::condition_variable unused;
    Objects* objects = new Objects;
    Objects* inherited = nullptr;  ///< of the parent, in a child
    std::uintptr_t next = 0;
};

Handles::Handles() : state_(new State) {
    // A child of fork() has the memory and none of the threads. It must not even destroy what it
    // finds: that would wait for them. So it forgets everything, and its handles are numbers anew,
    // different from the parent's.
    ::pthread_atfork([] { instance().state_->mutex.lock(); },
                     [] { instance().state_->mutex.unlock(); },
                     [] {
                         State& state = *instance().state_;
                         state.inherited = std::exchange(state.objects, new State::Objects);
                         state.mutex.unlock();
                     });
}

Handles& Handles::instance() {
    static Handles* const handles = new Handles;
    return *handles;
}

void* Handles::add(std::unique_ptr<Object> object) {
    const std::lock_guard lock(state_->mutex);
    // Far below what any pointer is, for as long as it matters, and odd.
    const std::uintptr_t handle = (++state_->next << 1) | 1;
    state_->objects->emplace(handle, std::move(object));
    return reinterpret_cast<void*>(handle);
}

Use Handles::find(const void* handle, Kind kind) {
    const std::lock_guard lock(state_->mutex);
    const auto at = state_->objects->find(reinterpret_cast<std::uintptr_t>(handle));
    if (at == state_->objects->end() || at->second->kind_ != kind) return {};
    ++at->second->uses_;
    return Use(at->second.get());
}

void Handles::release(Object& object) noexcept {
    const std::lock_guard lock(state_->mutex);
    if (--object.uses_ == 0) state_->unused.notify_all();
}

Handles::Removed Handles::remove(const void* handle, Kind kind) {
    std::unique_ptr<Object> object;
    {
        const std::lock_guard lock(state_->mutex);
        const auto at = state_->objects->find(reinterpret_cast<std::uintptr_t>(handle));
        if (at == state_->objects->end() || at->second->kind_ != kind) return Removed::kUnknown;
        if (at->second->busy()) return Removed::kBusy;
        object = std::move(at->second);
        state_->objects->erase(at);
    }
    object->interrupt();
    {
        std::unique_lock lock(state_->mutex);
        state_->unused.wait(lock, [&] { return object->uses_ == 0; });
    }
    return Removed::kYes;
}

Use::~Use() {
    if (object_ != nullptr) Handles::instance().release(*object_);
}

}  // namespace mesh::capi
