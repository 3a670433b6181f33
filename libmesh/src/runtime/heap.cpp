#include "runtime/heap.hpp"

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace mesh {

namespace {

class LargePieces final : public std::pmr::memory_resource {
    static constexpr std::size_t kLarge = 64 * 1024;

    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (bytes < kLarge) return std::pmr::new_delete_resource()->allocate(bytes, alignment);
        // Aligned to a page, which is as much as anybody asks for. Filled at once: a fault for each
        // page costs more than the page.
        void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        return at;
    }
    void do_deallocate(void* at, std::size_t bytes, std::size_t alignment) override {
        if (bytes < kLarge) {
            return std::pmr::new_delete_resource()->deallocate(at, bytes, alignment);
        }
        munmap(at, bytes);
    }
    [[nodiscard]] bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
        return this == &other;
    }
};

}  // namespace

std::pmr::memory_resource& large_pieces() noexcept {
    // Never destroyed: what is allocated here may outlive every other static object.
    static auto* const pieces = new LargePieces();
    return *pieces;
}

void give_back_free_memory() noexcept {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

}  // namespace mesh
