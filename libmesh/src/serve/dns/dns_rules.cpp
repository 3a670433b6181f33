#include "serve/dns/dns_rules.hpp"

#include <algorithm>

namespace mesh::serve::dns {

std::string_view literal_suffix(std::string_view pattern) noexcept {
    const auto star = pattern.rfind('*');
    if (star == std::string_view::npos) return pattern;
    const auto dot = pattern.find('.', star);
    return dot == std::string_view::npos ? std::string_view{} : pattern.substr(dot + 1);
}

void NameIndex::add(const model::policy::FqdnSelector& selector, Id id) {
    if (!selector.match_name.empty()) {
        exact_[selector.match_name].push_back(id);
        return;
    }
    std::string pattern = selector.match_pattern.empty() ? "*" : selector.match_pattern;
    std::string suffix(literal_suffix(pattern));
    by_suffix_[std::move(suffix)].push_back({std::move(pattern), id});
}

void NameIndex::remove(const model::policy::FqdnSelector& selector, Id id) {
    if (!selector.match_name.empty()) {
        const auto found = exact_.find(selector.match_name);
        if (found == exact_.end()) return;
        std::erase(found->second, id);
        if (found->second.empty()) exact_.erase(found);
        return;
    }
    const std::string_view pattern =
        selector.match_pattern.empty() ? std::string_view("*") : selector.match_pattern;
    const auto found = by_suffix_.find(literal_suffix(pattern));
    if (found == by_suffix_.end()) return;
    std::erase_if(found->second, [&](const Pattern& one) { return one.id == id; });
    if (found->second.empty()) by_suffix_.erase(found);
}

bool NameIndex::any(std::string_view name) const {
    bool found = false;
    for_each(name, [&](Id) {
        found = true;
        return false;
    });
    return found;
}

DnsRules::DnsRules(std::span<const model::policy::FqdnSelector> selectors) {
    NameIndex::Id id = 0;
    for (const auto& selector : selectors) index_.add(selector, id++);
}

bool DnsRuleSets::allow(std::span<const std::shared_ptr<const model::policy::L7Rules>> any_of,
                        std::string_view name) {
    return std::ranges::any_of(any_of,
                               [&](const auto& one) { return !one || rules_of(one).allows(name); });
}

const DnsRules& DnsRuleSets::rules_of(const std::shared_ptr<const model::policy::L7Rules>& of) {
    Compiled& compiled = compiled_[of.get()];
    // Other rules may lie where some that are gone did.
    if (compiled.of.lock() == of) return compiled.rules;
    compiled.of = of;
    compiled.rules = DnsRules(of->dns);
    if (compiled_.size() >= sweep_at_) sweep();
    return compiled_.at(of.get()).rules;
}

void DnsRuleSets::sweep() {
    std::erase_if(compiled_, [](const auto& one) { return one.second.of.expired(); });
    sweep_at_ = std::max<std::size_t>(64, compiled_.size() * 2);
}

}  // namespace mesh::serve::dns
