#include "runtime/paced_thread.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

namespace mesh {

struct PacedThread::State {
    const Duration pause;
    const std::function<void()> work;
    std::mutex mutex;  // guards asked, stopping
    std::condition_variable changed;
    bool asked = false;
    bool stopping = false;
    std::thread thread;

    State(Duration pause_in, std::function<void()> work_in)
        : pause(pause_in), work(std::move(work_in)) {}

    void loop() {
        std::unique_lock lock(mutex);
        for (;;) {
            changed.wait(lock, [this] { return asked || stopping; });
            if (!asked) return;
            asked = false;
            lock.unlock();
            work();
            lock.lock();
            changed.wait_for(lock, pause, [this] { return stopping; });
        }
    }
};

PacedThread::PacedThread(Duration pause, std::function<void()> work)
    : state_(std::make_unique<State>(pause, std::move(work))) {
    state_->thread = std::thread([state = state_.get()] { state->loop(); });
}

PacedThread::~PacedThread() {
    {
        const std::lock_guard lock(state_->mutex);
        state_->stopping = true;
    }
    state_->changed.notify_one();
    state_->thread.join();
}

void PacedThread::ask() {
    {
        const std::lock_guard lock(state_->mutex);
        state_->asked = true;
    }
    state_->changed.notify_one();
}

}  // namespace mesh
