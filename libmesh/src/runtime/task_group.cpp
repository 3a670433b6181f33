#include "runtime/task_group.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <list>
#include <utility>

namespace mesh {

namespace asio = boost::asio;

struct TaskGroup::State {
    State(asio::any_io_executor ex, OnFailure fail)
        : executor(std::move(ex)), on_failure(std::move(fail)), idle(executor) {
        idle.expires_at(asio::steady_timer::time_point::max());
    }
    asio::any_io_executor executor;
    OnFailure on_failure;
    std::list<asio::cancellation_signal> signals;
    asio::steady_timer idle;
    bool cancelled = false;
};

namespace {

/// How Asio ends a coroutine that awaits something after it was cancelled.
bool is_cancellation(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const boost::system::system_error& e) {
        return e.code() == asio::error::operation_aborted;
    } catch (...) {
        return false;
    }
}

}  // namespace

TaskGroup::TaskGroup(asio::any_io_executor executor, OnFailure on_failure)
    : state_(std::make_shared<State>(std::move(executor), std::move(on_failure))) {}

TaskGroup::~TaskGroup() {
    if (!state_->signals.empty()) {
        std::fputs("TaskGroup destroyed with running tasks\n", stderr);
        std::abort();
    }
}

void TaskGroup::spawn(asio::awaitable<void> task) {
    if (state_->cancelled) return;
    auto signal = state_->signals.emplace(state_->signals.end());
    auto on_done = [state = state_, signal](std::exception_ptr failure) {
        if (failure && !(state->cancelled && is_cancellation(failure))) {
            std::string_view what = "unknown exception";
            std::string text;
            try {
                std::rethrow_exception(failure);
            } catch (const std::exception& e) {
                text = e.what();
                what = text;
            } catch (...) {  // NOLINT(bugprone-empty-catch): `what` says so already
            }
            if (state->on_failure) {
                state->on_failure(what);
            } else {
                std::fprintf(stderr, "task failed: %.*s\n", static_cast<int>(what.size()),
                             what.data());
                std::abort();
            }
        }
        state->signals.erase(signal);
        if (state->signals.empty()) state->idle.cancel();
    };
    asio::co_spawn(state_->executor, std::move(task),
                   asio::bind_cancellation_slot(signal->slot(), std::move(on_done)));
}

void TaskGroup::cancel() {
    state_->cancelled = true;
    // A task may end, and leave the list, while its signal is being emitted.
    for (auto it = state_->signals.begin(); it != state_->signals.end();) {
        auto current = it++;
        current->emit(asio::cancellation_type::terminal);
    }
}

asio::awaitable<void> TaskGroup::join() {
    auto state = state_;
    co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
    while (!state->signals.empty()) {
        boost::system::error_code ignored;
        co_await state->idle.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
}

std::size_t TaskGroup::size() const noexcept {
    return state_->signals.size();
}
bool TaskGroup::cancelled() const noexcept {
    return state_->cancelled;
}

}  // namespace mesh
