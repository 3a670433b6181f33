#include "compile/policy/endpoint_policy.hpp"

#include <algorithm>
#include <iterator>

#include "compile/policy/entry_shapes.hpp"

namespace mesh::compile {

void DirectionPolicy::build(std::vector<PeerShape> shapes, bool enforced, SelectorId host,
                            const SelectorCache& cache, Scratch& scratch) {
    *this = {};
    enforced_ = enforced;
    host_ = host;
    std::ranges::sort(shapes);
    shapes.erase(std::unique(shapes.begin(), shapes.end()), shapes.end());
    shapes_ = std::move(shapes);
    shapes_.shrink_to_fit();
    std::vector<EntryShape> any;
    for (const PeerShape& one : shapes_) {
        if (one.peer == kAnyPeer) {
            any.push_back(one.shape);
        } else if (selectors_.empty() || selectors_.back() != one.peer) {
            selectors_.push_back(one.peer);
        }
    }
    wildcard_ = reduce(std::move(any), {});

    partition(cache, scratch);
}

void DirectionPolicy::partition(const SelectorCache& cache, Scratch& scratch) {
    // Identities are split by one selector after the other; a node is "those of its parent that its
    // selector selects". Members come in ascending order and so do the slots of each class.
    struct Node {
        std::uint32_t parent;
        SelectorId selector;
        std::uint32_t size;
        std::uint32_t round;  ///< of moved_to
        std::uint32_t moved_to;
    };
    std::vector<Node> nodes{{0, kAnyPeer, 0, 0, 0}};
    scratch.node_of.resize(cache.slots(), 0);
    scratch.touched.clear();
    std::uint32_t round = 0;
    for (const SelectorId selector : selectors_) {
        ++round;
        for (const IdentitySlot slot : cache.members(selector)) {
            const std::uint32_t from = scratch.node_of[slot];
            if (from == 0) scratch.touched.push_back(slot);
            if (nodes[from].round != round) {
                nodes[from].round = round;
                nodes[from].moved_to = static_cast<std::uint32_t>(nodes.size());
                nodes.push_back({from, selector, 0, 0, 0});
            }
            const std::uint32_t to = nodes[from].moved_to;
            --nodes[from].size;  // the root's wraps; nobody reads it
            ++nodes[to].size;
            scratch.node_of[slot] = to;
        }
    }
    for (std::uint32_t at = 1; at < nodes.size(); ++at) {
        if (nodes[at].size == 0) continue;
        Class& made = classes_.emplace_back();
        for (std::uint32_t up = at; up != 0; up = nodes[up].parent) {
            made.selectors.push_back(nodes[up].selector);
        }
        std::ranges::reverse(made.selectors);
        made.entries = entries_of(made.selectors);
        if (!made.entries.empty()) made.slots.reserve(nodes[at].size);
        nodes[at].moved_to = static_cast<std::uint32_t>(classes_.size() - 1);
    }
    for (const IdentitySlot slot : scratch.touched) {
        Class& one = classes_[nodes[scratch.node_of[slot]].moved_to];
        if (!one.entries.empty()) one.slots.push_back(slot);
        scratch.node_of[slot] = 0;
    }
}

std::vector<EntryShape> DirectionPolicy::entries_of(
    const std::vector<SelectorId>& selectors) const {
    const bool is_host = host_ != kAnyPeer && std::ranges::binary_search(selectors, host_);
    std::vector<EntryShape> all;
    for (const SelectorId selector : selectors) {
        auto one = std::ranges::lower_bound(shapes_, selector, {}, &PeerShape::peer);
        for (; one != shapes_.end() && one->peer == selector; ++one) {
            EntryShape& shape = all.emplace_back(one->shape);
            if (!is_host || shape.value.redirect == 0) continue;
            if (selector == host_) {
                shape.value.precedence = kPrecedenceHostRedirect;
            } else {
                shape.value = {.precedence = kPrecedenceHostAllow};
            }
        }
    }
    if (is_host) {
        for (EntryShape shape : wildcard_) {
            if (shape.value.redirect == 0) continue;
            shape.value = {.precedence = kPrecedenceHostAllow};
            all.push_back(shape);
        }
    }
    return reduce(std::move(all), wildcard_);
}

const std::vector<EntryShape>* DirectionPolicy::find(IdentitySlot slot) const {
    const auto found = std::ranges::find_if(
        classes_, [slot](const Class& one) { return std::ranges::binary_search(one.slots, slot); });
    return found == classes_.end() ? nullptr : &found->entries;
}

std::size_t DirectionPolicy::entry_count() const {
    std::size_t count = wildcard_.size();
    for (const Class& one : classes_) count += one.entries.size() * one.slots.size();
    return count;
}

std::size_t DirectionPolicy::bytes() const {
    std::size_t total = shapes_.capacity() * sizeof(PeerShape) +
                        selectors_.capacity() * sizeof(SelectorId) +
                        wildcard_.capacity() * sizeof(EntryShape);
    for (const Class& one : classes_) {
        total += sizeof one + one.selectors.capacity() * sizeof(SelectorId) +
                 one.entries.capacity() * sizeof(EntryShape) +
                 one.slots.capacity() * sizeof(IdentitySlot);
    }
    return total;
}

DirectionPolicy::Class& DirectionPolicy::class_of(const std::vector<SelectorId>& matched) {
    if (by_selectors_.empty()) {
        for (std::uint32_t i = 0; i < classes_.size(); ++i) {
            by_selectors_.emplace(classes_[i].selectors, i);
        }
    }
    std::vector<SelectorId> ours;
    std::ranges::set_intersection(matched, selectors_, std::back_inserter(ours));
    const auto [at, added] =
        by_selectors_.try_emplace(std::move(ours), static_cast<std::uint32_t>(classes_.size()));
    if (added) {
        Class& made = classes_.emplace_back();
        made.selectors = at->first;
        made.entries = entries_of(made.selectors);
    }
    return classes_[at->second];
}

const std::vector<EntryShape>& DirectionPolicy::add(IdentitySlot slot,
                                                    const std::vector<SelectorId>& matched) {
    Class& one = class_of(matched);
    if (!one.entries.empty()) insert_sorted(one.slots, slot);
    return one.entries;
}

const std::vector<EntryShape>& DirectionPolicy::remove(IdentitySlot slot,
                                                       const std::vector<SelectorId>& matched) {
    Class& one = class_of(matched);
    erase_sorted(one.slots, slot);
    return one.entries;
}

std::vector<PolicyEntry> EndpointPolicy::entries(const SelectorCache& cache) const {
    std::vector<PolicyEntry> all;
    all.reserve(entry_count());
    each_entry(cache, [&](const PolicyMapKey& key, const PolicyMapValue& value) {
        all.emplace_back(key, value);
    });
    std::ranges::sort(all);
    return all;
}

}  // namespace mesh::compile
