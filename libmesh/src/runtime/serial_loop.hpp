// Where an object lives that an executor runs and any thread may ask: its handlers run one at a
// time, in order, and a caller's look at it comes between two of them, on the caller's own thread.
// So a call never waits for the executor to be run by anybody, only for the handler that runs now:
// it works where the caller is the only thread that the executor has, also between two turns.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

namespace mesh {

/// @thread every member function may be called from any thread
class SerialLoop {
  public:
    /// Told of an exception that left a handler, on the loop; the executor never sees it.
    using OnFailure = std::function<void(std::string_view what)>;

    /// Whose turn it is; knows nothing of the executor and may outlive it. Copies are the same.
    class Turns {
      public:
        Turns();
        /// Whether the caller is in a handler, or in run().
        [[nodiscard]] bool on_loop() const noexcept;
        /// Runs `call` between two handlers, on the caller's thread; at once if already on the
        /// loop. A few handlers go first at most, however many there are.
        void run(const std::function<void()>& call) const;

      private:
        friend class SerialLoop;
        struct State;
        std::shared_ptr<State> state_;
    };

    enum class Below : std::uint8_t {
        kOneThread,  ///< runs one handler at a time, in order
        kAny,        ///< any number of threads may run it
    };
    SerialLoop(boost::asio::any_io_executor below, Below kind, OnFailure on_failure);

    [[nodiscard]] const Turns& turns() const noexcept { return turns_; }
    [[nodiscard]] bool on_loop() const noexcept { return turns_.on_loop(); }
    void run(const std::function<void()>& call) const { turns_.run(call); }

    /// For all objects of the loop; none after release(). @thread on the loop
    [[nodiscard]] boost::asio::any_io_executor executor() const;
    /// Keeps nothing of the executor any more, so that its context may go. @thread on the loop
    void release();

  private:
    class Executor;
    Turns turns_;
    std::shared_ptr<const OnFailure> on_failure_;
    boost::asio::any_io_executor below_;
};

}  // namespace mesh
