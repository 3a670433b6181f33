// Runs a program and kills it right before one of its system calls that change something in the
// kernel or the BPF filesystem: maps, pins, links, filters.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "test_node.hpp"

namespace mesh::test {

struct TracedRun {
    bool killed = false;  ///< before its call number `kill_at`; else it ended by itself
    int exit_code = -1;
    int changes = 0;   ///< such system calls until then
    std::string last;  ///< the one before which it was killed
    std::string output;
};

/// @param kill_at 1 = the first such call; 0 = let it end
/// @param before is called while the program is stopped before each such call; true kills it
[[nodiscard]] TracedRun run_traced(const Netns* netns, const std::vector<std::string>& command,
                                   int kill_at,
                                   const std::function<bool(const std::string&)>& before = {});

}  // namespace mesh::test
