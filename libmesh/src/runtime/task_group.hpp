// Structured concurrency for coroutines: a TaskGroup counts what it spawned, cancels and joins it.
// Nothing in the library is detached.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string_view>

namespace mesh {

/// A set of running coroutines on one executor. Destroying it with live tasks is a programming
/// error (aborts): co_await join() first. An exception that leaves a task is handed to on_failure
/// (default: abort), never swallowed; only the operation_aborted by which Asio ends a task that
/// awaits on after cancel() is a task's ordinary end.
/// @thread the executor's thread
class TaskGroup {
  public:
    using OnFailure = std::function<void(std::string_view what)>;

    explicit TaskGroup(boost::asio::any_io_executor executor, OnFailure on_failure = {});
    ~TaskGroup();
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;

    /// Starts a coroutine. After cancel() nothing is started any more (the task is dropped unrun).
    void spawn(boost::asio::awaitable<void> task);
    /// Asks every task to stop (asio terminal cancellation); idempotent.
    void cancel();
    /// Completes when no task is left.
    [[nodiscard]] boost::asio::awaitable<void> join();
    [[nodiscard]] std::size_t size() const noexcept;
    [[nodiscard]] bool cancelled() const noexcept;

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace mesh
