// Which ranges contain a key: an interval tree (a treap by start, each node knowing the greatest
// end below it). Internal to the store's watches.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mesh::store {

/// Intrusive: what is to be found derives from RangeNode and outlives its membership.
struct RangeNode {
    std::string start;
    std::string end;        // exclusive; unused if open
    bool open_end = false;  // no end
    // The tree's own:
    RangeNode* left = nullptr;
    RangeNode* right = nullptr;
    const RangeNode* greatest = nullptr;  // the node of this subtree with the greatest end
    std::uint64_t priority = 0;
};

/// @thread control thread
class RangeTree {
  public:
    void insert(RangeNode* node);
    void erase(RangeNode* node);
    /// Calls visitor(RangeNode&) for every range that contains key, ascending by start.
    /// @complexity O(log n + found)
    template <class Visitor>
    void stab(std::string_view key, Visitor&& visitor) const {
        stab(root_, key, visitor);
    }

  private:
    [[nodiscard]] static bool ends_after(const RangeNode& node, std::string_view key) noexcept {
        return node.open_end || node.end > key;
    }
    template <class Visitor>
    static void stab(RangeNode* node, std::string_view key, Visitor& visitor) {
        if (node == nullptr || !ends_after(*node->greatest, key)) return;
        stab(node->left, key, visitor);
        if (node->start > key) return;
        if (ends_after(*node, key)) visitor(*node);
        stab(node->right, key, visitor);
    }
    static RangeNode* insert(RangeNode* root, RangeNode* node);
    static RangeNode* erase(RangeNode* root, RangeNode* node);
    static RangeNode* merge(RangeNode* a, RangeNode* b);
    /// Parts root into what is before node and what is not.
    static void split(RangeNode* root, const RangeNode& node, RangeNode*& before, RangeNode*& rest);
    static void update(RangeNode* node) noexcept;

    RangeNode* root_ = nullptr;
    std::uint64_t counter_ = 0;
};

}  // namespace mesh::store
