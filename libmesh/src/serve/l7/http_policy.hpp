// The HTTP rules of one redirect, compiled: may this request pass, and what becomes of its headers.
// Immutable; one object serves all connections that its policy is for.
//
// Matching is Cilium's: regular expressions (RE2) match all of the method, of the path as sent with
// its query, and of the host as sent with its port. Beyond it, a path that servers may resolve to
// another one (model/http_path.hpp) passes only if one rule allows it both as sent and resolved.
//
// @source policy.md §2
#pragma once

#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/policy.hpp"
#include "serve/l7/http_head.hpp"

namespace re2 {
class RE2;
}

namespace mesh::serve::l7 {

/// What policy sees of a request.
struct RequestView {
    std::string_view method;
    std::string_view path;  ///< with the query
    std::string_view host;
    bool plain_path = true;  ///< see RequestHead
    std::span<const Field> fields;
};

/// A change of a request's header. Views into the policy.
struct HeaderEdit {
    enum class Kind : std::uint8_t { kAdd, kDelete } kind = Kind::kAdd;
    std::string_view name, value;
};

struct Decision {
    bool allowed = false;
    /// Of the rule that allows: its index among all, and where it was written.
    std::uint32_t rule = 0;
    std::string_view origin;
    /// Names of headers that did not match where the rule only wants that to be told.
    std::vector<std::string_view> mismatched;
    std::vector<HeaderEdit> edits;
    std::string normal_path;  ///< scratch

    /// As new, memory kept.
    void clear() {
        allowed = false;
        rule = 0;
        origin = {};
        mismatched.clear();
        edits.clear();
    }
};

struct HttpPolicyLimits {
    std::size_t max_rules = 10'000;
    std::size_t max_pattern_bytes = 4096;
    /// Of one expression's program; about what its text says, more for counted repetitions.
    int max_program_size = 10'000;
    std::int64_t max_pattern_memory = 2 << 20;  ///< bytes, with its automaton
};

class HttpPolicy {
  public:
    struct Source {
        /// nullptr, or no rules at all: every request.
        std::shared_ptr<const model::policy::L7Rules> rules;
        /// For the access log, e.g. "CiliumNetworkPolicy shop/web:12".
        std::string origin;
    };
    /// Rules of another kind than HTTP let nothing pass.
    /// @errors kInvalidArgument: an expression, named; kCapacity: a limit
    [[nodiscard]] static Result<std::shared_ptr<const HttpPolicy>> compile(
        std::span<const Source> sources, const HttpPolicyLimits& limits = {});
    ~HttpPolicy();
    HttpPolicy(const HttpPolicy&) = delete;
    HttpPolicy& operator=(const HttpPolicy&) = delete;

    /// @param decision in: cleared by this call @thread any thread @complexity O(rules)
    void decide(const RequestView& request, Decision& decision) const;
    [[nodiscard]] std::size_t size() const noexcept;

  private:
    struct Rule;
    HttpPolicy();
    std::vector<Rule> rules_;
    std::vector<std::string> origins_;
};

}  // namespace mesh::serve::l7
