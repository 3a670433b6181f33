// Whether an L7 rule lets a request pass, as the proxies decide it: for explanations. One request
// at a time, nothing kept.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/policy.hpp"

namespace mesh::compile {

/// What rules look at of a request.
struct HttpRequest {
    std::string method = "GET";
    std::string path = "/";  ///< as sent, query included
    std::string host{};
    std::vector<std::pair<std::string, std::string>> headers{};
};

/// @complexity O(size of the rule and the request): expressions are compiled for the call
[[nodiscard]] bool lets_pass(const model::policy::HttpRule& rule, const HttpRequest& request);
/// @param name with or without a dot at the end, any case
[[nodiscard]] bool lets_pass(const model::policy::FqdnSelector& rule, std::string_view name);

/// "GET /a, host b" and the like; "everything" of an empty rule.
[[nodiscard]] std::string to_string(const model::policy::HttpRule& rule);

}  // namespace mesh::compile
