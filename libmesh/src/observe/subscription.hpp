// The reader's side of a Queue: waits, asks the mesh for the snapshots that are due, and shows each
// subscriber its own kinds of objects only.
#pragma once

#include <functional>
#include <memory>
#include <mesh/events.hpp>

#include "observe/queue.hpp"
#include "runtime/loop_thread.hpp"

namespace mesh {

/// Shared by the Subscription and its callback's thread.
struct Subscription::Impl {
    /// Has Observer::resync() answer on the mesh's loop.
    /// @return false if the mesh is gone
    using Resync = std::function<bool(observe::Queue&)>;
    /// Whether the caller is on the mesh's loop. Outlives the mesh, as Resync does.
    using OnLoop = std::function<bool()>;

    std::shared_ptr<observe::Queue> queue;
    Resync resync;
    OnLoop on_loop;                      ///< empty = never
    std::unique_ptr<LoopThread> thread;  ///< with a callback only
};

namespace observe {

/// @param callback empty = read with next()
[[nodiscard]] Subscription make_subscription(std::shared_ptr<Queue> queue,
                                             Subscription::Impl::Resync resync,
                                             Subscription::Impl::OnLoop on_loop,
                                             EventsCallback callback);

/// As Subscription::next().
[[nodiscard]] Result<EventBatch> next(Queue& queue, const Subscription::Impl::Resync& resync,
                                      std::chrono::milliseconds timeout);

/// Blocks as one batch.
[[nodiscard]] EventBatch to_batch(std::vector<BlockPtr> blocks);

// The structs of mesh/mesh.h as values.
[[nodiscard]] NodeView to_view(const mesh_node& from);
[[nodiscard]] ServiceView to_view(const mesh_service& from);
[[nodiscard]] IpView to_view(const mesh_ip& from);
[[nodiscard]] IdentityView to_view(const mesh_identity& from);
[[nodiscard]] ClusterView to_view(const mesh_cluster& from);

}  // namespace observe
}  // namespace mesh
