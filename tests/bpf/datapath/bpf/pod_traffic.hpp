// TCP between two pods without a pause: one connection that lives all the time, and one new
// connection after the other.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "fabric.hpp"

namespace mesh::test {

class PodTraffic {
  public:
    /// From `client` to an echo server in `server` at its address `ip`, IPv4. Returns when both
    /// kinds of connections have had an answer.
    PodTraffic(const Netns& client, const Netns& server, const std::string& ip);
    ~PodTraffic();
    PodTraffic(const PodTraffic&) = delete;
    PodTraffic& operator=(const PodTraffic&) = delete;

    /// Waits until both have had `count` answers more, or one has failed.
    void wait_for_answers(int count = 3) const;
    /// Of the connection that stays, and of the others. What failed is counted once per request.
    [[nodiscard]] int answers() const { return kept_answers_ + new_answers_; }
    [[nodiscard]] int failures() const { return failures_; }

  private:
    void serve(int listener);
    void keep_one(const std::string& ip);
    void renew(const std::string& ip);

    std::atomic<bool> stop_{false};
    std::atomic<int> kept_answers_{0}, new_answers_{0}, failures_{0};
    std::thread server_, kept_, renewed_;
};

}  // namespace mesh::test
