#include "runtime/serial_loop.hpp"

#include <atomic>
#include <boost/asio/execution.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/prefer.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/require.hpp>
#include <boost/asio/strand.hpp>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace mesh {

namespace asio = boost::asio;

struct SerialLoop::Turns::State {
    enum class Who : std::uint8_t { kHandler, kCaller };

    void enter(Who who) {
        std::unique_lock lock(mutex);
        if (who == Who::kCaller) {
            ++callers;
            caller_may.wait(lock, [&] { return !busy; });
            --callers;
            handlers_first = kHandlersFirst;
        } else {
            // A thread that has just had its turn is faster than one that wakes up.
            handler_may.wait(lock, [&] { return !busy && (callers == 0 || handlers_first > 0); });
            if (callers > 0) --handlers_first;
        }
        busy = true;
        owner.store(std::this_thread::get_id(), std::memory_order_relaxed);
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

    class Turn {
      public:
        Turn(State& state, Who who) : state_(state) { state_.enter(who); }
        ~Turn() { state_.leave(); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

      private:
        State& state_;
    };

    /// While a caller waits, so many handlers at most go before it.
    static constexpr int kHandlersFirst = 16;

    std::mutex mutex;  // guards all below but owner
    std::condition_variable caller_may, handler_may;
    int callers = 0;  ///< that wait
    int handlers_first = kHandlersFirst;
    bool busy = false;
    std::atomic<std::thread::id> owner{};
};

/// What any_io_executor needs of an executor: the one below, with each handler in a turn.
class SerialLoop::Executor {
  public:
    Executor(std::shared_ptr<Turns::State> state, std::shared_ptr<const OnFailure> on_failure,
             asio::any_io_executor below)
        : state_(std::move(state)), on_failure_(std::move(on_failure)), below_(std::move(below)) {}

    [[nodiscard]] asio::execution_context& query(asio::execution::context_t) const {
        return asio::query(below_, asio::execution::context);
    }
    [[nodiscard]] Executor require(asio::execution::blocking_t::never_t never) const {
        Executor copy(*this);
        copy.below_ = asio::require(below_, never);
        copy.at_once_ = false;
        return copy;
    }
    [[nodiscard]] Executor require(asio::execution::blocking_t::possibly_t possibly) const {
        Executor copy(*this);
        copy.below_ = asio::prefer(below_, possibly);
        copy.at_once_ = true;
        return copy;
    }
    [[nodiscard]] Executor require(asio::execution::outstanding_work_t::tracked_t how) const {
        return with(how);
    }
    [[nodiscard]] Executor require(asio::execution::outstanding_work_t::untracked_t how) const {
        return with(how);
    }
    [[nodiscard]] Executor require(asio::execution::relationship_t::fork_t how) const {
        return with(how);
    }
    [[nodiscard]] Executor require(asio::execution::relationship_t::continuation_t how) const {
        return with(how);
    }

    template <class Function>
    void execute(Function&& function) const {
        if (at_once_ && state_->on_loop()) {
            std::forward<Function>(function)();
            return;
        }
        below_.execute(
            [state = state_, on_failure = on_failure_,
             waiting = std::decay_t<Function>(std::forward<Function>(function))]() mutable {
                const Turns::State::Turn turn(*state, Turns::State::Who::kHandler);
                // What it holds ends within the turn, too.
                auto handler = std::move(waiting);
                try {
                    handler();
                } catch (const std::exception& e) {
                    (*on_failure)(e.what());
                } catch (...) {
                    (*on_failure)("unknown exception");
                }
            });
    }

    friend bool operator==(const Executor& a, const Executor& b) noexcept {
        return a.state_ == b.state_ && a.at_once_ == b.at_once_ && a.below_ == b.below_;
    }

  private:
    template <class Property>
    [[nodiscard]] Executor with(Property property) const {
        Executor copy(*this);
        copy.below_ = asio::prefer(below_, property);
        return copy;
    }

    std::shared_ptr<Turns::State> state_;
    std::shared_ptr<const OnFailure> on_failure_;
    asio::any_io_executor below_;
    bool at_once_ = true;
};

SerialLoop::Turns::Turns() : state_(std::make_shared<State>()) {}

bool SerialLoop::Turns::on_loop() const noexcept {
    return state_->on_loop();
}

void SerialLoop::Turns::run(const std::function<void()>& call) const {
    if (on_loop()) {
        call();
        return;
    }
    const State::Turn turn(*state_, State::Who::kCaller);
    call();
}

SerialLoop::SerialLoop(asio::any_io_executor below, Below kind, OnFailure on_failure)
    : on_failure_(std::make_shared<const OnFailure>(std::move(on_failure))),
      below_(kind == Below::kOneThread ? std::move(below)
                                       : asio::any_io_executor(asio::make_strand(below))) {}

asio::any_io_executor SerialLoop::executor() const {
    return Executor(turns_.state_, on_failure_, below_);
}

void SerialLoop::release() {
    below_ = {};
    on_failure_.reset();
}

}  // namespace mesh
