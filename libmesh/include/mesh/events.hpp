// Subscriptions: a consistent snapshot of the mesh, then every change of it in order.
#pragma once

#include <mesh/mesh.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <mesh/export.hpp>
#include <mesh/views.hpp>
#include <span>
#include <variant>
#include <vector>

namespace mesh {

/// @addtogroup cpp_subscriptions
/// @{

/// Kinds of objects, as bits.
enum class Objects : std::uint32_t {
    kNodes = MESH_OBJECT_NODE,
    kServices = MESH_OBJECT_SERVICE,
    kIps = MESH_OBJECT_IP,
    kIdentities = MESH_OBJECT_IDENTITY,
    kClusters = MESH_OBJECT_CLUSTER,
    kAll = MESH_OBJECT_ALL,
};
/// Both.
[[nodiscard]] constexpr Objects operator|(Objects a, Objects b) noexcept {
    return static_cast<Objects>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b));
}

/// What an event says of its object.
enum class EventKind : std::uint8_t {
    kSnapshotBegin = MESH_EVENT_SNAPSHOT_BEGIN,  ///< forget everything held: a snapshot follows
    kUpsert = MESH_EVENT_UPSERT,                 ///< the object is new, or is now this
    kDelete = MESH_EVENT_DELETE,                 ///< the object is gone
    kSnapshotEnd = MESH_EVENT_SNAPSHOT_END,      ///< what was told since the begin is all there is
};

/// One event. @thread any thread (a plain value)
struct Event {
    EventKind kind{};
    std::uint64_t sequence = 0;  ///< grows with each change of a mesh; equal within a snapshot
    /// The object of an upsert or a delete; of a deleted one its last form, or only its key.
    std::variant<std::monostate, NodeView, ServiceView, IpView, IdentityView, ClusterView> object;
};

/// Events that came together.
/// @thread any thread, but the same object not concurrently
class MESH_API EventBatch {
  public:
    EventBatch() = default;

    /// No events: a time passed first.
    [[nodiscard]] bool empty() const noexcept { return events_.empty(); }
    /// Events.
    [[nodiscard]] std::size_t size() const noexcept { return events_.size(); }
    /// The events as mesh/mesh.h has them, without a copy; valid as long as this batch, or a copy
    /// of it.
    [[nodiscard]] std::span<const mesh_event* const> raw() const noexcept { return events_; }
    /// The events as values of their own.
    [[nodiscard]] std::vector<Event> events() const;

    /// Internal to the library.
    EventBatch(std::shared_ptr<const void> owner, std::span<const mesh_event* const> events)
        : owner_(std::move(owner)), events_(events) {}

  private:
    std::shared_ptr<const void> owner_;
    std::span<const mesh_event* const> events_;
};

/// What to follow. @thread any thread (a plain value)
struct SubscribeOptions {
    Objects objects = Objects::kAll;
    /// Changes that wait to be read, in bytes; beyond, they are dropped and a new snapshot comes
    /// (kSnapshotBegin). At least one change fits, however large. A snapshot itself is not counted:
    /// it is made when it is read, and there is one at most.
    std::size_t max_queued_bytes = std::size_t{16} << 20;
};

/// Follows a mesh. The first events are a snapshot. Applying every event in order to an empty state
/// gives the mesh's state as of the last one.
/// @thread any thread; of several that call next() each gets other events
class MESH_API Subscription {
  public:
    /// Ends it. With a callback: waits for the call that runs, unless this is that call.
    ~Subscription();
    Subscription(Subscription&&) noexcept;
    Subscription& operator=(Subscription&&) noexcept;

    /// A file descriptor that is readable while next() has something to tell, for poll(2) and event
    /// loops; belongs to this object.
    [[nodiscard]] int fd() const noexcept;
    /// The next events, some thousand at most.
    /// @param timeout 0 = only look, negative = no limit
    /// @return an empty batch when `timeout` passed first
    /// @errors kCancelled: the mesh or this is closed, nothing will come; kInvalidArgument: it has
    ///         a callback, or this is the mesh's log callback
    [[nodiscard]] Result<EventBatch> next(std::chrono::milliseconds timeout);
    /// Wakes whoever is in next(), which answers kCancelled from now on.
    void close() noexcept;
    /// Whether it was closed, or its mesh.
    [[nodiscard]] bool closed() const noexcept;

    /// Whether the caller is the mesh's own thread, as in a log callback: no next() there.
    [[nodiscard]] bool on_mesh_thread() const noexcept;

    struct Impl;  ///< internal to the library
    explicit Subscription(std::shared_ptr<Impl> impl);

  private:
    std::shared_ptr<Impl> impl_;
};

/// Takes events on a thread of the subscription's own. May block: the mesh is not held up, and the
/// subscription falls back to a new snapshot if it gets too slow. May use the mesh and destroy the
/// subscription or the mesh. An exception that leaves it ends the subscription.
using EventsCallback = std::function<void(const EventBatch&)>;

/// @}

}  // namespace mesh
