// Work on a thread of its own, when asked to, with a pause after each run: what was asked for
// meanwhile is done in one run. For disk writes that a loop must not wait for.
#pragma once

#include <functional>
#include <memory>

#include "runtime/clock.hpp"

namespace mesh {

/// @thread every member function may be called from any thread, but the destructor: the owner's
class PacedThread {
  public:
    /// @param work runs on the thread, one run at a time; must not throw
    /// @param pause after the end of a run before the next begins
    PacedThread(Duration pause, std::function<void()> work);
    /// Waits for a run that was asked for, without the pause.
    ~PacedThread();
    PacedThread(const PacedThread&) = delete;
    PacedThread& operator=(const PacedThread&) = delete;

    /// A run begins after this call: it sees all that the caller did before.
    void ask();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mesh
