#include "runtime/heap.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace mesh {
namespace {

TEST(Heap, PiecesOfAnySizeAreUsableAndAligned) {
    auto& memory = large_pieces();
    std::vector<std::pair<void*, std::size_t>> held;
    for (const std::size_t size : {1U, 100U, 65'535U, 65'536U, 65'537U, 3'000'000U}) {
        void* at = memory.allocate(size, alignof(std::max_align_t));
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % alignof(std::max_align_t), 0U);
        std::memset(at, 0x5a, size);
        held.emplace_back(at, size);
    }
    for (const auto& [at, size] : held) {
        EXPECT_EQ(static_cast<unsigned char*>(at)[size - 1], 0x5a) << size;
        memory.deallocate(at, size, alignof(std::max_align_t));
    }
    EXPECT_EQ(memory, large_pieces());
}

TEST(Heap, WhatIsHeldSurvivesGivingBack) {
    std::vector<std::vector<char>> held;
    for (int i = 0; i < 200; ++i) {
        std::vector<char> between(100'000, 'b');
        held.emplace_back(10'000, static_cast<char>(i));
    }
    give_back_free_memory();
    for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(held[static_cast<std::size_t>(i)].back(), static_cast<char>(i));
    }
}

}  // namespace
}  // namespace mesh
