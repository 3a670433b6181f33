// A readiness loop on a thread of its own, for code that moves bytes between many sockets: sockets
// are registered once with epoll and cost no system call per wait, timers are a store. Asio's loops
// (loop_thread.hpp) are for everything else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <string_view>

#include "runtime/clock.hpp"

namespace mesh {

/// @thread the loop's own thread, but for what says otherwise
class PollLoop {
  public:
    /// Told what its descriptor is ready for (EPOLLIN, ...). Level triggered. Events that were
    /// collected before remove() still come in the same turn: the handler must live until defer()'s
    /// calls run.
    class Handler {
      public:
        virtual void on_ready(std::uint32_t events) = 0;

      protected:
        ~Handler() = default;
    };

    /// A deadline that moves often: moving it to later is a store.
    class Timer {
      public:
        Timer() = default;
        Timer(const Timer&) = delete;
        Timer& operator=(const Timer&) = delete;
        /// The time is up; it may be up to kTick late. set_timer() arms it again.
        virtual void on_timer() = 0;

      protected:
        virtual ~Timer() = default;

      private:
        friend class PollLoop;
        Timer* previous_ = nullptr;
        Timer* next_ = nullptr;
        TimePoint due_ = TimePoint::max();
        std::uint64_t tick_ = 0;  ///< of the slot that it is linked in
        bool linked_ = false;
    };
    static constexpr Duration kTick = std::chrono::milliseconds(50);

    /// Called on the loop with the text of an exception that left a handler; the loop goes on.
    using OnFailure = std::function<void(std::string_view what)>;

    /// Makes the loop and its thread. @errors kCapacity: no descriptors or threads left
    [[nodiscard]] static Result<std::unique_ptr<PollLoop>> make(OnFailure on_failure);
    /// Stops the loop and joins; posted calls that were not run are dropped. @thread any other
    ~PollLoop();
    PollLoop(const PollLoop&) = delete;
    PollLoop& operator=(const PollLoop&) = delete;

    /// @param descriptor not owned; @param events of epoll
    /// @errors kCapacity, kInternal
    [[nodiscard]] Result<void> add(int descriptor, std::uint32_t events, Handler& handler);
    void modify(int descriptor, std::uint32_t events, Handler& handler) noexcept;
    void remove(int descriptor) noexcept;

    void set_timer(Timer& timer, TimePoint due) noexcept;
    void cancel_timer(Timer& timer) noexcept;

    /// Runs `call` at the end of this turn.
    void defer(std::function<void()> call);
    /// Runs `call` on the loop, soon. @thread any thread
    void post(std::function<void()> call);
    /// Runs `call` on the loop and waits until it has returned. `call` must not throw.
    /// @thread any thread but the loop's own, where it runs at once
    void run(const std::function<void()>& call);
    [[nodiscard]] bool on_loop() const noexcept;  ///< @thread any thread

    /// The time at which this turn began.
    [[nodiscard]] TimePoint now() const noexcept;
    [[nodiscard]] WallTime wall_now() const noexcept;

  private:
    struct State;
    explicit PollLoop(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace mesh
