// What an agent's proxies did with requests (GET /v1/access-log): which lines are new, and how they
// look as text.
#pragma once

#include <boost/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace mesh::ctl {

/// Of one agent. @thread one thread
class RequestLog {
  public:
    /// The lines of an answer that the one before did not have, oldest first; of the first answer
    /// none.
    /// @param answer {"lines": [a line of JSON each]}; what is none is left out
    [[nodiscard]] std::vector<boost::json::object> take(const boost::json::value& answer);

  private:
    std::set<std::string, std::less<>> seen_;
    bool first_ = true;
};

/// "2026-11-27T10:00:00.1Z node1 ingress http denied: ...", without an end of line.
[[nodiscard]] std::string request_text(const std::string& node, const boost::json::object& request);
/// Whether it was answered by the proxy itself, or not at all.
[[nodiscard]] bool is_refused(const boost::json::object& request);

}  // namespace mesh::ctl
