// Which labels make an identity, as Cilium's option `labels` says it. @source wire.md §16
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace re2 {
class RE2;
}

namespace mesh::publish {

/// Patterns of label keys: `[source:][!]expression`. The expression (RE2) is anchored at the key's
/// beginning; `!` drops what it matches. A label stays if the longest match that keeps it is longer
/// than the shortest that drops it; if none drops it, it stays too, unless patterns that keep were
/// added to the default ones: then one of all has to match.
/// @thread one thread
class LabelFilter {
  public:
    /// Cilium's default: all but what changes with every roll-out or is told of nodes.
    LabelFilter();
    /// The default with more patterns, separated by blanks or commas, as in `k8s:app !k8s:tier`.
    /// @errors kInvalidArgument: a bad pattern, or one that drops what other clusters require
    [[nodiscard]] static Result<LabelFilter> parse(std::string_view text);

    /// @param source "k8s"
    [[nodiscard]] bool keeps(std::string_view source, std::string_view key) const;

  private:
    struct Pattern {
        std::string source;  ///< empty: any
        bool drops = false;
        std::shared_ptr<const re2::RE2> expression;
    };
    [[nodiscard]] static Result<Pattern> parse_pattern(std::string_view text);
    [[nodiscard]] bool judge(std::string_view source, std::string_view key) const;

    std::vector<Pattern> patterns_;
    bool only_listed_ = false;
    /// Keys are few, labels many.
    mutable std::map<std::string, bool, std::less<>> judged_;
};

}  // namespace mesh::publish
