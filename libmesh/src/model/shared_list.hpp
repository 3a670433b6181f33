// SharedList: a list of eight bytes whose elements live in one heap block with a reference count.
// Made for the port lists of a service: nearly all of its backends have the same one and share it.
// Reads like a const std::vector; push_back and assignment make a new block (the old one stays with
// those who share it). A list can also be "null", which is empty and only differs when encoded.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace mesh::model {

/// An immutable shared list. @thread any thread; copies may be used and dropped by different
/// threads at once, one object as any plain value
template <class T>
class SharedList {
  public:
    using value_type = T;
    using const_iterator = const T*;

    SharedList() noexcept = default;
    // Implicit on purpose: a list stands wherever a vector was written.
    SharedList(std::initializer_list<T> values)
        : SharedList(std::span<const T>(values.begin(), values.size())) {}
    SharedList(const std::vector<T>& values)  // NOLINT(google-explicit-constructor)
        : SharedList(std::span<const T>(values)) {}
    explicit SharedList(std::span<const T> values) {
        if (!values.empty()) word_ = std::bit_cast<std::uintptr_t>(make(values, nullptr));
    }
    /// The null of the wire: empty, but encodes as null.
    [[nodiscard]] static SharedList null() noexcept {
        SharedList list;
        list.word_ = kNull;
        return list;
    }
    SharedList(const SharedList& other) noexcept : word_(other.word_) {
        if (has_block()) block()->references.fetch_add(1, std::memory_order_relaxed);
    }
    SharedList(SharedList&& other) noexcept : word_(std::exchange(other.word_, 0)) {}
    SharedList& operator=(const SharedList& other) noexcept {
        SharedList copy(other);
        std::swap(word_, copy.word_);
        return *this;
    }
    SharedList& operator=(SharedList&& other) noexcept {
        std::swap(word_, other.word_);
        return *this;
    }
    ~SharedList() {
        if (!has_block()) return;
        if (block()->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
        std::destroy_n(block()->values(), block()->size);
        ::operator delete (block(), std::align_val_t{kAlign});
    }

    [[nodiscard]] bool is_null() const noexcept { return word_ == kNull; }
    [[nodiscard]] bool empty() const noexcept { return !has_block(); }
    [[nodiscard]] std::size_t size() const noexcept { return has_block() ? block()->size : 0; }
    [[nodiscard]] const T* data() const noexcept {
        return has_block() ? block()->values() : nullptr;
    }
    [[nodiscard]] const T* begin() const noexcept { return data(); }
    [[nodiscard]] const T* end() const noexcept { return data() + size(); }
    [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data()[i]; }
    [[nodiscard]] const T& front() const noexcept { return data()[0]; }
    [[nodiscard]] const T& back() const noexcept { return data()[size() - 1]; }
    /// Appends. @complexity O(size): build a std::vector first when there are many
    void push_back(const T& value) {
        SharedList grown;
        grown.word_ =
            std::bit_cast<std::uintptr_t>(make(std::span<const T>(data(), size()), &value));
        std::swap(word_, grown.word_);
    }
    [[nodiscard]] std::vector<T> to_vector() const { return {begin(), end()}; }
    /// True if both hold the very same block (equal without looking at the elements).
    [[nodiscard]] bool shares_with(const SharedList& other) const noexcept {
        return word_ == other.word_;
    }

    friend bool operator==(const SharedList& a, const SharedList& b) noexcept {
        return a.word_ == b.word_ ||
               (a.is_null() == b.is_null() && std::equal(a.begin(), a.end(), b.begin(), b.end()));
    }

  private:
    static constexpr std::uintptr_t kNull = 1;  // no block has this address
    static constexpr std::size_t kAlign = alignof(T) > 8 ? alignof(T) : 8;
    struct alignas(kAlign) Block {
        std::atomic<std::uint32_t> references;
        std::uint32_t size;
        [[nodiscard]] T* values() noexcept { return reinterpret_cast<T*>(this + 1); }
    };

    [[nodiscard]] bool has_block() const noexcept { return word_ > kNull; }
    [[nodiscard]] Block* block() const noexcept { return std::bit_cast<Block*>(word_); }
    [[nodiscard]] static Block* make(std::span<const T> values, const T* extra) {
        const std::size_t count = values.size() + (extra != nullptr ? 1 : 0);
        void* memory = ::operator new (sizeof(Block) + count * sizeof(T), std::align_val_t{kAlign});
        auto* made = new (memory) Block{{1}, static_cast<std::uint32_t>(count)};
        std::uninitialized_copy(values.begin(), values.end(), made->values());
        if (extra != nullptr) new (made->values() + values.size()) T(*extra);
        return made;
    }

    std::uintptr_t word_ = 0;
};

}  // namespace mesh::model
