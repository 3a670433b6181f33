// Why a packet passes or not: the verdict that the compiled entries give, the rules that it comes
// from with the lines where they were written, and the rules that matched and lost. Made from what
// the compiler itself builds entries of, so that it explains what is enforced.
// Users: engine (the trace of a running agent), meshctl (the same without a cluster).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compile/policy/l7_match.hpp"
#include "compile/policy/policy_compiler.hpp"

namespace mesh::compile {

/// A packet of an endpoint, and what is asked in it.
struct PolicyQuestion {
    /// Identity of the other side; one that is not known is whom only rules for everybody name.
    std::uint32_t peer = 0;
    model::policy::Direction direction = model::policy::Direction::kIngress;
    std::uint8_t protocol = 6;
    std::uint16_t port = 0;             ///< of ICMP the type
    std::optional<HttpRequest> http{};  ///< looked at where an HTTP proxy sees it
    std::optional<std::string> dns{};   ///< a name; likewise
};

enum class PolicyAnswer : std::uint8_t {
    kAllowed,
    kRedirected,     ///< to a proxy, which decides: Explanation::passes
    kDenied,         ///< by a deny rule
    kDefaultDenied,  ///< no rule allows it
    kNotEnforced,    ///< passes: no policy is enforced there
};
[[nodiscard]] std::string_view to_string(PolicyAnswer answer);

/// A place in a policy.
struct RulePlace {
    model::policy::PolicyKey policy;
    std::string source;      ///< "<file>: document <n>"; empty if it is not known
    std::uint32_t line = 0;  ///< in that file; 0: not known
    std::string path;        ///< "spec.ingress[0].toPorts[1]"
    friend bool operator==(const RulePlace&, const RulePlace&) = default;
};

/// An element of a rule that is about the packet.
struct RuleMatch {
    RulePlace place;
    std::string peer;         ///< "fromEndpoints[0]"; "everybody"
    std::string description;  ///< the rule's
    bool deny = false;
    std::uint8_t precedence = 0;  ///< as the entry has it that the element makes
    std::uint16_t redirect = 0;   ///< likewise
    std::string why;              ///< what it does, or why it lost
};

/// What a proxy looks at of one match.
struct L7Match {
    RulePlace place;               ///< "spec.ingress[0].toPorts[0].rules.http[1]"
    std::string text;              ///< "method GET, path /a"; "everything"
    std::optional<bool> passes{};  ///< the request asked about; none: none was asked about
};

struct Explanation {
    PolicyAnswer answer = PolicyAnswer::kDefaultDenied;
    bool enforced = false;  ///< the direction; else everything passes that no rule denies
    std::vector<RulePlace> enforcing;  ///< rules by which it is
    std::string remark;                ///< what decides beside rules: a mode, the host, a conflict
    std::vector<RuleMatch> decided;    ///< in the order of policies
    std::vector<RuleMatch> lost;       ///< they match and do not decide
    /// The entry of the policy map that the packet meets; the identity in its key is 0 for
    /// everybody.
    std::optional<PolicyEntry> entry;
    bool installed = false;  ///< the entry is one that some endpoint of this node has

    std::string parser;       ///< of a redirect: "http", "dns", ...
    std::vector<L7Match> l7;  ///< of which one must let the request pass
    std::optional<bool> passes;

    /// True if the packet passes, and the request if one was asked about.
    [[nodiscard]] bool allowed() const noexcept;
};

/// @param endpoint whose policy it is; it need not exist
/// @complexity that of building the policy of one endpoint @thread the compiler's
[[nodiscard]] Explanation explain(PolicyCompiler& compiler, const PolicyEndpoint& endpoint,
                                  const PolicyQuestion& question);

/// The entry that a packet meets, of those of an identity and of everybody: the longest of each
/// counts; of the two the higher precedence, then the longer, then the identity's own.
/// @param slot of the peer; none: not known @source policy.md §8
[[nodiscard]] std::optional<PolicyEntry> find_entry(const EndpointPolicy& policy,
                                                    const SelectorCache& cache,
                                                    model::policy::Direction direction,
                                                    std::optional<IdentitySlot> slot,
                                                    std::uint8_t protocol, std::uint16_t port);

}  // namespace mesh::compile
