// A key in 16 bytes: up to 15 characters in place, as an ip or a service has them behind its
// prefix, longer ones on the heap. Half of a std::string, for tables with a hundred thousand keys.
// Used by prefix_watcher.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>
#include <utility>

namespace mesh::etcd {

class ShortKey {
  public:
    /// Longer keys are not made: callers bound them (PrefixWatcherOptions::max_key_bytes) or the
    /// server does (1.5 MiB).
    explicit ShortKey(std::string_view text) {
        if (text.size() <= kInPlace) {
            std::memcpy(bytes_, text.data(), text.size());
            bytes_[kInPlace] = static_cast<char>(text.size());
            return;
        }
        char* const heap = new char[text.size()];
        std::memcpy(heap, text.data(), text.size());
        const auto size = static_cast<std::uint32_t>(text.size());
        std::memcpy(bytes_, &heap, sizeof heap);
        std::memcpy(bytes_ + sizeof heap, &size, sizeof size);
        bytes_[kInPlace] = kOnHeap;
    }
    ~ShortKey() {
        if (on_heap()) delete[] heap();
    }
    ShortKey(ShortKey&& other) noexcept { take(other); }
    ShortKey& operator=(ShortKey&& other) noexcept {
        if (this == &other) return *this;
        if (on_heap()) delete[] heap();
        take(other);
        return *this;
    }

    [[nodiscard]] std::string_view view() const noexcept {
        if (!on_heap()) return {bytes_, static_cast<std::size_t>(bytes_[kInPlace])};
        std::uint32_t size = 0;
        std::memcpy(&size, bytes_ + sizeof(char*), sizeof size);
        return {heap(), size};
    }

    /// Hash and equality, also with texts.
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const noexcept {
            return std::hash<std::string_view>()(text);
        }
        std::size_t operator()(const ShortKey& key) const noexcept { return (*this)(key.view()); }
    };
    struct Equal {
        using is_transparent = void;
        bool operator()(const ShortKey& a, const ShortKey& b) const noexcept {
            return a.view() == b.view();
        }
        bool operator()(const ShortKey& a, std::string_view b) const noexcept {
            return a.view() == b;
        }
        bool operator()(std::string_view a, const ShortKey& b) const noexcept {
            return a == b.view();
        }
    };

  private:
    static constexpr std::size_t kInPlace = 15;
    static constexpr char kOnHeap = 127;

    [[nodiscard]] bool on_heap() const noexcept { return bytes_[kInPlace] == kOnHeap; }
    [[nodiscard]] char* heap() const noexcept {
        char* at = nullptr;
        std::memcpy(&at, bytes_, sizeof at);
        return at;
    }
    void take(ShortKey& other) noexcept {
        std::memcpy(bytes_, other.bytes_, sizeof bytes_);
        other.bytes_[kInPlace] = 0;
    }

    alignas(8) char bytes_[kInPlace + 1];  // the last one: the length in place, or kOnHeap
};
static_assert(sizeof(ShortKey) == 16);

}  // namespace mesh::etcd
