// Where an object lives that an executor runs and any thread may ask: its handlers run one at a
// time, in order, and a caller's look at it comes between two of them, on the caller's own thread.
// So a call never waits for the executor to be run by anybody, only for the handler that runs now:
// it works where the caller is the only thread that the executor has, also between two turns.
//
// Of the executor no more is used than that it runs functions. Sockets and timers are those of
// another context, which somebody of ours runs: Asio's objects of a program and of a library that
// hides its symbols do not work on each other.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/execution_context.hpp>
#include <functional>
#include <memory>
#include <string_view>

namespace mesh {

/// @thread every member function may be called from any thread
class SerialLoop {
  public:
    /// Told of an exception that left a handler, on the loop; the executor never sees it.
    using OnFailure = std::function<void(std::string_view what)>;

    /// Whose turn it is; may outlive the executor. Copies are the same.
    class Turns {
      public:
        /// Whether the caller is in a handler, or in run().
        [[nodiscard]] bool on_loop() const noexcept;
        /// Runs `call` between two handlers, on the caller's thread; at once if already on the
        /// loop. A few handlers go first at most, however many there are.
        void run(const std::function<void()>& call) const;

      private:
        friend class SerialLoop;
        struct State;
        explicit Turns(std::shared_ptr<State> state);
        std::shared_ptr<State> state_;
    };

    /// @param below runs the handlers, on any number of threads; kept from having nothing to do
    /// @param context of sockets and timers; outlives what is made with executor()
    SerialLoop(const boost::asio::any_io_executor& below, boost::asio::execution_context& context,
               OnFailure on_failure);
    ~SerialLoop();
    SerialLoop(const SerialLoop&) = delete;
    SerialLoop& operator=(const SerialLoop&) = delete;

    [[nodiscard]] const Turns& turns() const noexcept { return turns_; }
    [[nodiscard]] bool on_loop() const noexcept { return turns_.on_loop(); }
    void run(const std::function<void()>& call) const { turns_.run(call); }

    /// For all objects of the loop.
    [[nodiscard]] boost::asio::any_io_executor executor() const;
    /// Handlers run there from now on, and nothing is asked of the former executor any more.
    /// @thread on the loop
    void move_to(const boost::asio::any_io_executor& below);

  private:
    class Executor;
    Turns turns_;
};

}  // namespace mesh
