#include "runtime/loop_thread.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <thread>
#include <utility>

namespace mesh {

namespace asio = boost::asio;

unsigned usable_cores() noexcept {
    const unsigned cores = std::thread::hardware_concurrency();
    return cores != 0 ? cores : 1;
}

struct LoopThread::State {
    explicit State(OnFailure fail) : on_failure(std::move(fail)), io(1), work(io.get_executor()) {}
    OnFailure on_failure;
    asio::io_context io;
    asio::executor_work_guard<asio::io_context::executor_type> work;
    std::thread thread;

    void loop() {
        for (;;) {
            try {
                io.run();
                return;
            } catch (const std::exception& e) {
                on_failure(e.what());
            } catch (...) {
                on_failure("unknown exception");
            }
        }
    }
};

LoopThread::LoopThread(OnFailure on_failure)
    : state_(std::make_shared<State>(std::move(on_failure))) {
    state_->thread = std::thread([state = state_] { state->loop(); });
}

LoopThread::~LoopThread() {
    stop();
}

void LoopThread::stop() {
    state_->io.stop();
    if (!state_->thread.joinable()) return;
    if (state_->thread.get_id() == std::this_thread::get_id()) {
        state_->thread.detach();
    } else {
        state_->thread.join();
    }
}

asio::any_io_executor LoopThread::executor() const {
    return state_->io.get_executor();
}

}  // namespace mesh
