#include "runtime/serial_loop.hpp"

#include <atomic>
#include <boost/asio/execution.hpp>
#include <boost/asio/prefer.hpp>
#include <boost/asio/require.hpp>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

namespace mesh {

namespace asio = boost::asio;

namespace {

/// A handler that waits.
class Task {
  public:
    virtual ~Task() = default;
    virtual void run() = 0;
};

template <class Function>
class TaskOf final : public Task {
  public:
    explicit TaskOf(Function&& function) : function_(std::move(function)) {}
    void run() override { function_(); }

  private:
    Function function_;
};

/// Never runs anything at once, and keeps its context busy.
asio::any_io_executor queueing(const asio::any_io_executor& executor) {
    return asio::prefer(asio::require(executor, asio::execution::blocking.never),
                        asio::execution::outstanding_work.tracked);
}

/// While a caller waits, so many handlers at most go before it.
constexpr int kHandlersFirst = 16;
/// Handlers that run before others of the executor below have their turn.
constexpr int kMostAtOnce = 64;

}  // namespace

struct SerialLoop::Turns::State : std::enable_shared_from_this<State> {
    State(const asio::any_io_executor& executor, asio::execution_context& of, OnFailure fail)
        : context(of),
          on_failure(std::make_shared<const OnFailure>(std::move(fail))),
          below(queueing(executor)) {}

    void enter_caller() {
        std::unique_lock lock(mutex);
        ++callers;
        caller_may.wait(lock, [&] { return !busy; });
        --callers;
        handlers_first = kHandlersFirst;
        take();
    }
    void leave() noexcept {
        owner.store({}, std::memory_order_relaxed);
        const std::lock_guard lock(mutex);
        busy = false;
        if (callers > 0) caller_may.notify_one();
        handler_may.notify_one();
    }
    /// Only a thread's own answer can be its own id.
    [[nodiscard]] bool on_loop() const noexcept {
        return owner.load(std::memory_order_relaxed) == std::this_thread::get_id();
    }

    void post(std::unique_ptr<Task> task) {
        const std::lock_guard lock(mutex);
        if (!below) return;  // after the end
        tasks.push_back(std::move(task));
        if (!std::exchange(draining, true)) schedule();
    }
    void move_to(const asio::any_io_executor& executor) {
        auto other = queueing(executor);
        const std::lock_guard lock(mutex);
        // What the former holds of it does nothing any more.
        ++epoch;
        std::swap(below, other);
        draining = !tasks.empty();
        if (draining) schedule();
    }
    void release() {
        asio::any_io_executor former;
        std::deque<std::unique_ptr<Task>> rest;
        const std::lock_guard lock(mutex);
        ++epoch;
        std::swap(below, former);
        std::swap(tasks, rest);
        on_failure.reset();
    }

    asio::execution_context& context;

  private:
    /// With the mutex: the executor is not used once move_to() has returned.
    void schedule() {
        below.execute([self = shared_from_this(), at = epoch] { self->drain(at); });
    }

    void take() noexcept {
        busy = true;
        owner.store(std::this_thread::get_id(), std::memory_order_relaxed);
    }

    /// @return the next handler, and the turn; null: there is none, or others run them now
    std::unique_ptr<Task> next(std::uint64_t at, std::shared_ptr<const OnFailure>& failure) {
        std::unique_lock lock(mutex);
        // A thread that has just had its turn is faster than one that wakes up.
        handler_may.wait(lock, [&] { return !busy && (callers == 0 || handlers_first > 0); });
        if (at != epoch) {
            handler_may.notify_one();
            return nullptr;
        }
        if (tasks.empty()) {
            draining = false;
            return nullptr;
        }
        if (callers > 0) --handlers_first;
        failure = on_failure;
        auto task = std::move(tasks.front());
        tasks.pop_front();
        take();
        return task;
    }

    void drain(std::uint64_t at) {
        std::shared_ptr<const OnFailure> failure;
        for (int i = 0; i < kMostAtOnce; ++i) {
            auto task = next(at, failure);
            if (!task) return;
            try {
                task->run();
            } catch (const std::exception& e) {
                (*failure)(e.what());
            } catch (...) {
                (*failure)("unknown exception");
            }
            // What it holds ends within the turn, too.
            task.reset();
            leave();
        }
        const std::lock_guard lock(mutex);
        if (at == epoch) schedule();
    }

    std::mutex mutex;  // guards all below but owner
    std::shared_ptr<const OnFailure> on_failure;
    std::condition_variable caller_may, handler_may;
    int callers = 0;  ///< that wait
    int handlers_first = kHandlersFirst;
    bool busy = false;
    std::deque<std::unique_ptr<Task>> tasks;
    asio::any_io_executor below;
    std::uint64_t epoch = 0;  ///< of `below`
    bool draining = false;    ///< `below` has been told to run them
    std::atomic<std::thread::id> owner{};
};

/// What any_io_executor needs of an executor.
class SerialLoop::Executor {
  public:
    explicit Executor(std::shared_ptr<Turns::State> state) : state_(std::move(state)) {}

    [[nodiscard]] asio::execution_context& query(asio::execution::context_t) const noexcept {
        return state_->context;
    }
    [[nodiscard]] Executor require(asio::execution::blocking_t::never_t) const {
        Executor copy(*this);
        copy.at_once_ = false;
        return copy;
    }
    [[nodiscard]] Executor require(asio::execution::blocking_t::possibly_t) const {
        Executor copy(*this);
        copy.at_once_ = true;
        return copy;
    }

    template <class Function>
    void execute(Function&& function) const {
        using Held = std::decay_t<Function>;
        if (at_once_ && state_->on_loop()) {
            Held now(std::forward<Function>(function));
            now();
            return;
        }
        state_->post(std::make_unique<TaskOf<Held>>(Held(std::forward<Function>(function))));
    }

    friend bool operator==(const Executor& a, const Executor& b) noexcept {
        return a.state_ == b.state_ && a.at_once_ == b.at_once_;
    }

  private:
    std::shared_ptr<Turns::State> state_;
    bool at_once_ = true;
};

SerialLoop::Turns::Turns(std::shared_ptr<State> state) : state_(std::move(state)) {}

bool SerialLoop::Turns::on_loop() const noexcept {
    return state_->on_loop();
}

void SerialLoop::Turns::run(const std::function<void()>& call) const {
    if (on_loop()) {
        call();
        return;
    }
    state_->enter_caller();
    struct Leave {
        State& state;
        ~Leave() { state.leave(); }
    } const leave{*state_};
    call();
}

SerialLoop::SerialLoop(const asio::any_io_executor& below, asio::execution_context& context,
                       OnFailure on_failure)
    : turns_(std::make_shared<Turns::State>(below, context, std::move(on_failure))) {}

SerialLoop::~SerialLoop() {
    turns_.state_->release();
}

asio::any_io_executor SerialLoop::executor() const {
    return Executor(turns_.state_);
}

void SerialLoop::move_to(const asio::any_io_executor& below) {
    turns_.state_->move_to(below);
}

}  // namespace mesh
