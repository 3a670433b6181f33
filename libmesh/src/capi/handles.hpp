// Handles of the C ABI. A handle is a number that was never given out before, in the clothes of a
// pointer: whatever a caller passes can be looked up, and is known or is not.
//
// Used by the functions of the C ABI only.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

namespace mesh::capi {

enum class Kind : std::uint8_t { kMesh = 1, kSubscription = 2, kBatch = 3, kPublication = 4 };

/// What stands behind a handle.
class Object {
  public:
    explicit Object(Kind kind) : kind_(kind) {}
    virtual ~Object() = default;
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;

    /// Has calls that wait return; called once, before it is destroyed, on any thread.
    virtual void interrupt() noexcept {}
    /// Whether a thread that must go on for the object to end is the caller's.
    [[nodiscard]] virtual bool busy() const noexcept { return false; }

  private:
    friend class Handles;
    friend class Use;
    Kind kind_;
    int uses_ = 0;  ///< calls that use it; guarded by the mutex of Handles
};

/// A call's share of an object, which lives at least as long.
class Use {
  public:
    Use() = default;
    Use(Use&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Use& operator=(Use&&) = delete;
    ~Use();
    [[nodiscard]] Object* get() const noexcept { return object_; }

  private:
    friend class Handles;
    explicit Use(Object* object) : object_(object) {}
    Object* object_ = nullptr;
};

/// All handles of the process.
/// @thread any thread
class Handles {
  public:
    /// Made with the first call and never destroyed: threads may use it while the process ends.
    static Handles& instance();

    [[nodiscard]] void* add(std::unique_ptr<Object> object);
    /// @return without an object if there is no such handle, or it is of another kind
    [[nodiscard]] Use find(const void* handle, Kind kind);
    enum class Removed : std::uint8_t { kYes, kUnknown, kBusy };
    /// Forgets the handle, waits until no call uses the object, and destroys it.
    [[nodiscard]] Removed remove(const void* handle, Kind kind);

  private:
    friend class Use;
    struct State;
    Handles();
    void release(Object& object) noexcept;
    State* state_;
};

}  // namespace mesh::capi
