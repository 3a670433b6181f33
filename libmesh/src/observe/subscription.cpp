#include "observe/subscription.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

namespace mesh {

namespace observe {

namespace {

/// Pointers to events, and what keeps them.
struct Selection {
    std::vector<BlockPtr> blocks;
    std::vector<const mesh_event*> events;
};

EventBatch select(BlockPtr block, std::uint32_t objects) {
    if ((block->objects() & ~objects) == 0) {
        const auto events = block->events();
        return {std::move(block), events};
    }
    auto selection = std::make_shared<Selection>();
    for (const mesh_event* event : block->events()) {
        if ((event->object & objects) != 0) selection->events.push_back(event);
    }
    selection->blocks.push_back(std::move(block));
    const std::span<const mesh_event* const> events(selection->events);
    return {std::move(selection), events};
}

/// Until the queue is closed.
void tell(Queue& queue, const Subscription::Impl::Resync& resync, const EventsCallback& callback) {
    try {
        while (auto batch = next(queue, resync, std::chrono::milliseconds(-1))) callback(*batch);
    } catch (...) {
        // The callback's: what it has not seen is lost, so it is not called again.
    }
    queue.close(true);
}

}  // namespace

Result<EventBatch> next(Queue& queue, const Subscription::Impl::Resync& resync,
                        std::chrono::milliseconds timeout) {
    using std::chrono::milliseconds;
    using std::chrono::steady_clock;
    const bool forever = timeout < milliseconds::zero();
    const auto begin = steady_clock::now();
    for (;;) {
        BlockPtr block;
        switch (queue.take(block)) {
            case Queue::Next::kBlock:
                return select(std::move(block), queue.objects());
            case Queue::Next::kClosed:
                return Error(Errc::kCancelled, "the subscription or its mesh is closed");
            case Queue::Next::kSnapshotDue:
                if (!resync(queue)) queue.close(true);
                continue;
            case Queue::Next::kNothing:
                break;
        }
        milliseconds left = timeout;
        if (!forever) {
            const auto spent = std::chrono::floor<milliseconds>(steady_clock::now() - begin);
            left = std::max(timeout - spent, milliseconds::zero());
        }
        if (!queue.wait(left)) return EventBatch();
    }
}

EventBatch to_batch(std::vector<BlockPtr> blocks) {
    auto selection = std::make_shared<Selection>();
    for (const auto& block : blocks) {
        selection->events.insert(selection->events.end(), block->events().begin(),
                                 block->events().end());
    }
    selection->blocks = std::move(blocks);
    const std::span<const mesh_event* const> events(selection->events);
    return {std::move(selection), events};
}

Subscription make_subscription(std::shared_ptr<Queue> queue, Subscription::Impl::Resync resync,
                               Subscription::Impl::OnLoop on_loop, EventsCallback callback) {
    auto impl = std::make_shared<Subscription::Impl>();
    impl->queue = std::move(queue);
    impl->resync = std::move(resync);
    impl->on_loop = std::move(on_loop);
    if (callback) {
        impl->thread = std::make_unique<LoopThread>([](std::string_view) {});
        // It holds what it uses: the subscription may be destroyed by the callback.
        boost::asio::post(impl->thread->executor(),
                          [queue = impl->queue, resync = impl->resync,
                           callback = std::move(callback)] { tell(*queue, resync, callback); });
    }
    return Subscription(std::move(impl));
}

}  // namespace observe

Subscription::Subscription(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Subscription::Subscription(Subscription&&) noexcept = default;

Subscription& Subscription::operator=(Subscription&& other) noexcept {
    if (this != &other) {
        close();
        impl_ = std::move(other.impl_);
    }
    return *this;
}

Subscription::~Subscription() {
    close();
}

int Subscription::fd() const noexcept {
    return impl_ ? impl_->queue->fd() : -1;
}

Result<EventBatch> Subscription::next(std::chrono::milliseconds timeout) {
    const auto impl = impl_;
    if (!impl) return invalid_argument("subscription: it was moved from");
    if (impl->thread) return invalid_argument("subscription: its callback takes the events");
    if (on_mesh_thread()) return invalid_argument("subscription: not from the log callback");
    return observe::next(*impl->queue, impl->resync, timeout);
}

void Subscription::close() noexcept {
    if (impl_) impl_->queue->close(true);
}

bool Subscription::on_mesh_thread() const noexcept {
    return impl_ && impl_->on_loop && impl_->on_loop();
}

bool Subscription::closed() const noexcept {
    return !impl_ || impl_->queue->closed();
}

}  // namespace mesh
