#include "compile/policy/label_index.hpp"

#include <algorithm>
#include <limits>

namespace mesh::compile {

using model::Label;
using model::policy::kClusterKey;
using model::policy::kNamespaceKey;
using model::policy::kSourceCidr;
using model::policy::LabelArray;
using model::policy::LabelRequirement;
using model::policy::SelectorOperator;

void insert_sorted(std::vector<std::uint32_t>& list, std::uint32_t value) {
    if (list.empty() || list.back() < value) {
        list.push_back(value);
        return;
    }
    const auto at = std::ranges::lower_bound(list, value);
    if (*at != value) list.insert(at, value);
}

void erase_sorted(std::vector<std::uint32_t>& list, std::uint32_t value) {
    const auto at = std::ranges::lower_bound(list, value);
    if (at != list.end() && *at == value) list.erase(at);
}

namespace {

/// How much a requirement narrows, less is more.
std::size_t rank(const LabelRequirement& one) {
    constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();
    if (one.source == kSourceCidr) return kNever;
    const bool common = one.key == kNamespaceKey || one.key == kClusterKey;
    switch (one.op) {
        case SelectorOperator::kIn:
            return one.values.size() + (common ? 1'000'000 : 0);
        case SelectorOperator::kExists:
            return common ? 20'000'000 : 10'000'000;
        default:
            return kNever;
    }
}

const LabelRequirement* best(LabelIndex::Requirements requirements) {
    const auto at = std::ranges::min_element(requirements, {}, rank);
    if (at == requirements.end() || rank(*at) == std::numeric_limits<std::size_t>::max()) {
        return nullptr;
    }
    return &*at;
}

}  // namespace

template <class F>
void LabelIndex::each_list(Requirements requirements, F&& f) {
    const LabelRequirement* const one = best(requirements);
    if (one == nullptr) {
        f(rest_);
        return;
    }
    Key& key = keys_[one->key];
    if (one->op == SelectorOperator::kExists) {
        f(key.exists);
        return;
    }
    for (const std::string& value : one->values) f(key.values[value]);
}

void LabelIndex::add(std::uint32_t number, Requirements requirements) {
    each_list(requirements, [&](auto& list) { insert_sorted(list, number); });
}

void LabelIndex::remove(std::uint32_t number, Requirements requirements) {
    each_list(requirements, [&](auto& list) { erase_sorted(list, number); });
}

void LabelIndex::candidates(LabelArray labels, std::vector<std::uint32_t>& out) const {
    out.insert(out.end(), rest_.begin(), rest_.end());
    for (const Label& label : labels) {
        const auto key = keys_.find(label.key.view());
        if (key == keys_.end()) continue;
        out.insert(out.end(), key->second.exists.begin(), key->second.exists.end());
        const auto value = key->second.values.find(label.value.view());
        if (value == key->second.values.end()) continue;
        out.insert(out.end(), value->second.begin(), value->second.end());
    }
}

void LabelPostings::add(std::uint32_t slot, LabelArray labels) {
    for (const Label& label : labels) {
        auto key = keys_.find(label.key.view());
        if (key == keys_.end()) key = keys_.try_emplace(label.key.str()).first;
        insert_sorted(key->second.all, slot);
        auto value = key->second.values.find(label.value.view());
        if (value == key->second.values.end()) {
            value = key->second.values.try_emplace(label.value.str()).first;
        }
        insert_sorted(value->second, slot);
    }
}

void LabelPostings::remove(std::uint32_t slot, LabelArray labels) {
    for (const Label& label : labels) {
        const auto key = keys_.find(label.key.view());
        if (key == keys_.end()) continue;
        erase_sorted(key->second.all, slot);
        const auto value = key->second.values.find(label.value.view());
        if (value != key->second.values.end()) {
            erase_sorted(value->second, slot);
            if (value->second.empty()) key->second.values.erase(value);
        }
        if (key->second.all.empty()) keys_.erase(key);
    }
}

std::size_t LabelPostings::count(const LabelRequirement& one) const {
    if (rank(one) == std::numeric_limits<std::size_t>::max()) return rank(one);
    const auto key = keys_.find(one.key);
    if (key == keys_.end()) return 0;
    if (one.op == SelectorOperator::kExists) return key->second.all.size();
    std::size_t total = 0;
    for (const std::string& text : one.values) {
        const auto value = key->second.values.find(text);
        if (value != key->second.values.end()) total += value->second.size();
    }
    return total;
}

bool LabelPostings::candidates(LabelIndex::Requirements requirements,
                               std::vector<std::uint32_t>& out) const {
    out.clear();
    const LabelRequirement* least = nullptr;
    std::size_t size = std::numeric_limits<std::size_t>::max();
    for (const LabelRequirement& one : requirements) {
        const std::size_t n = count(one);
        if (n >= size) continue;
        least = &one;
        size = n;
    }
    if (least == nullptr) return false;
    const auto key = keys_.find(least->key);
    if (key == keys_.end()) return true;
    if (least->op == SelectorOperator::kExists) {
        out = key->second.all;
        return true;
    }
    for (const std::string& text : least->values) {
        const auto value = key->second.values.find(text);
        if (value == key->second.values.end()) continue;
        out.insert(out.end(), value->second.begin(), value->second.end());
    }
    // An identity may have the key from two sources.
    std::ranges::sort(out);
    out.erase(std::ranges::unique(out).begin(), out.end());
    return true;
}

}  // namespace mesh::compile
