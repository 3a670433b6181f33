#include "state/store/range_tree.hpp"

#include <functional>

namespace mesh::store {
namespace {

// Total order, so that equal starts have one place each.
bool before(const RangeNode& a, const RangeNode& b) noexcept {
    if (const int order = a.start.compare(b.start); order != 0) return order < 0;
    return std::less<const RangeNode*>()(&a, &b);
}

bool ends_later(const RangeNode& a, const RangeNode& b) noexcept {
    if (a.open_end || b.open_end) return a.open_end && !b.open_end;
    return a.end > b.end;
}

// The counter is spread over all bits so that the treap stays balanced whatever the order of
// insertion (the finaliser of splitmix64).
std::uint64_t spread(std::uint64_t x) noexcept {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

}  // namespace

void RangeTree::update(RangeNode* node) noexcept {
    node->greatest = node;
    for (const RangeNode* child : {node->left, node->right})
        if (child != nullptr && ends_later(*child->greatest, *node->greatest))
            node->greatest = child->greatest;
}

void RangeTree::split(RangeNode* root, const RangeNode& node, RangeNode*& low, RangeNode*& high) {
    if (root == nullptr) {
        low = high = nullptr;
    } else if (before(*root, node)) {
        low = root;
        split(root->right, node, low->right, high);
        update(low);
    } else {
        high = root;
        split(root->left, node, low, high->left);
        update(high);
    }
}

RangeNode* RangeTree::merge(RangeNode* a, RangeNode* b) {
    if (a == nullptr) return b;
    if (b == nullptr) return a;
    if (a->priority > b->priority) {
        a->right = merge(a->right, b);
        update(a);
        return a;
    }
    b->left = merge(a, b->left);
    update(b);
    return b;
}

RangeNode* RangeTree::insert(RangeNode* root, RangeNode* node) {
    if (root == nullptr || node->priority > root->priority) {
        split(root, *node, node->left, node->right);
        update(node);
        return node;
    }
    if (before(*node, *root))
        root->left = insert(root->left, node);
    else
        root->right = insert(root->right, node);
    update(root);
    return root;
}

RangeNode* RangeTree::erase(RangeNode* root, RangeNode* node) {
    if (root == nullptr) return nullptr;
    if (root == node) return merge(root->left, root->right);
    if (before(*node, *root))
        root->left = erase(root->left, node);
    else
        root->right = erase(root->right, node);
    update(root);
    return root;
}

void RangeTree::insert(RangeNode* node) {
    node->left = node->right = nullptr;
    node->priority = spread(++counter_);
    root_ = insert(root_, node);
}

void RangeTree::erase(RangeNode* node) {
    root_ = erase(root_, node);
}

}  // namespace mesh::store
