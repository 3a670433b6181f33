// An `etcdctl watch` process, what it printed held against what it must have told. It resumes by
// itself when a connection breaks; when its server has compacted what it wants, it ends, and
// another begins.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check.hpp"
#include "child_process.hpp"

namespace mesh::soak {

class EtcdctlWatch {
  public:
    /// @param command up to and with "watch -w json", without the revision
    EtcdctlWatch(Checker& checker, std::vector<std::string> command, std::string output,
                 Report& report);

    /// Reads what was printed since; starts the program if it does not run.
    /// @param now a revision to begin after when there is nothing to resume from
    void poll(std::int64_t now);
    [[nodiscard]] const Checker& checker() const noexcept { return checker_; }
    void stop() { process_.stop(SIGKILL); }

  private:
    void start(std::int64_t after);
    void read();
    void take(const std::string& line);
    [[nodiscard]] bool ended();

    Checker& checker_;
    std::vector<std::string> command_;
    std::string output_, file_;
    Report& report_;
    test::ChildProcess process_;
    bool running_ = false, compacted_ = true;
    std::size_t read_ = 0;
    int runs_ = 0;
};

}  // namespace mesh::soak
