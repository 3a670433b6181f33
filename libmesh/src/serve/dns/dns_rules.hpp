// Which names a matchName or matchPattern selects, compiled: of the DNS rules of one endpoint and
// port, and of all toFQDNs of a node. Names are those of dns_message.hpp; what a pattern selects is
// model/fqdn_pattern.hpp's matter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/fqdn_pattern.hpp"
#include "model/policy.hpp"

namespace mesh::serve::dns {

using model::policy::matches;
using model::policy::matches_pattern;

/// The labels at a pattern's end that have no '*' ("example.com" of "*.example.com"); empty if the
/// last one has some. What it selects ends in them.
[[nodiscard]] std::string_view literal_suffix(std::string_view pattern) noexcept;

/// Many selectors, asked by name. A name asks only the patterns whose literal suffix it ends in.
/// @thread same object not concurrently; const members concurrently
class NameIndex {
  public:
    /// Told back by for_each; each only once in an index.
    using Id = std::uint32_t;

    void add(const model::policy::FqdnSelector& selector, Id id);
    /// What add() got, the same.
    void remove(const model::policy::FqdnSelector& selector, Id id);
    [[nodiscard]] bool empty() const noexcept { return exact_.empty() && by_suffix_.empty(); }

    /// Calls on(id) for each that selects the name, in no order; stops when it returns false.
    template <class On>
    void for_each(std::string_view name, On&& on) const;
    [[nodiscard]] bool any(std::string_view name) const;

  private:
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept {
            return std::hash<std::string_view>{}(text);
        }
    };
    template <class T>
    using ByText = std::unordered_map<std::string, T, Hash, std::equal_to<>>;
    struct Pattern {
        std::string text;
        Id id = 0;
    };
    /// @return whether to go on
    template <class On>
    bool ask_suffix(std::string_view suffix, std::string_view name, On& on) const;

    ByText<std::vector<Id>> exact_;
    ByText<std::vector<Pattern>> by_suffix_;
};

/// The DNS rules of one redirect: is a question allowed?
/// @thread any thread (immutable)
class DnsRules {
  public:
    DnsRules() = default;
    explicit DnsRules(std::span<const model::policy::FqdnSelector> selectors);
    /// @return false for all names without selectors
    [[nodiscard]] bool allows(std::string_view name) const { return index_.any(name); }

  private:
    NameIndex index_;
};

/// The rules of policies, each compiled when it is first asked and kept while somebody else holds
/// it.
/// @thread same object not concurrently
class DnsRuleSets {
  public:
    /// True if one of them lets the question pass. @param any_of nullptr in it lets everything pass
    [[nodiscard]] bool allow(std::span<const std::shared_ptr<const model::policy::L7Rules>> any_of,
                             std::string_view name);
    [[nodiscard]] std::size_t size() const noexcept { return compiled_.size(); }

  private:
    struct Compiled {
        std::weak_ptr<const model::policy::L7Rules> of;
        DnsRules rules;
    };
    const DnsRules& rules_of(const std::shared_ptr<const model::policy::L7Rules>& of);
    void sweep();

    std::unordered_map<const model::policy::L7Rules*, Compiled> compiled_;
    std::size_t sweep_at_ = 64;
};

template <class On>
bool NameIndex::ask_suffix(std::string_view suffix, std::string_view name, On& on) const {
    const auto found = by_suffix_.find(suffix);
    if (found == by_suffix_.end()) return true;
    for (const Pattern& pattern : found->second) {
        if (matches_pattern(pattern.text, name) && !on(pattern.id)) return false;
    }
    return true;
}

template <class On>
void NameIndex::for_each(std::string_view name, On&& on) const {
    if (const auto found = exact_.find(name); found != exact_.end()) {
        for (const Id id : found->second) {
            if (!on(id)) return;
        }
    }
    if (by_suffix_.empty() || !ask_suffix({}, name, on)) return;
    for (std::string_view suffix = name; !suffix.empty();) {
        if (!ask_suffix(suffix, name, on)) return;
        const auto dot = suffix.find('.');
        suffix = dot == std::string_view::npos ? std::string_view{} : suffix.substr(dot + 1);
    }
}

}  // namespace mesh::serve::dns
