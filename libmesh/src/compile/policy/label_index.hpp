// Two indexes by label: which selectors may select an identity, and which identities a selector may
// select. Both give candidates; whoever asks checks them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/policy.hpp"

namespace mesh::compile {

struct StringHash {
    using is_transparent = void;
    [[nodiscard]] std::size_t operator()(std::string_view text) const noexcept {
        return std::hash<std::string_view>{}(text);
    }
};
template <class T>
using StringTable = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

/// Inserts into or erases from an ascending vector.
void insert_sorted(std::vector<std::uint32_t>& list, std::uint32_t value);
void erase_sorted(std::vector<std::uint32_t>& list, std::uint32_t value);

/// Sets of requirements, each filed under one label that it needs: the one that tells most.
class LabelIndex {
  public:
    using Requirements = std::span<const model::policy::LabelRequirement>;
    void add(std::uint32_t number, Requirements requirements);
    void remove(std::uint32_t number, Requirements requirements);
    /// Appends the numbers of all sets that may hold for the labels; some may come twice.
    void candidates(model::policy::LabelArray labels, std::vector<std::uint32_t>& out) const;

  private:
    struct Key {
        std::vector<std::uint32_t> exists;
        StringTable<std::vector<std::uint32_t>> values;
    };
    template <class F>
    void each_list(Requirements requirements, F&& f);

    StringTable<Key> keys_;
    std::vector<std::uint32_t> rest_;  ///< that need no label
};

/// Which identities have a key, and which a key with a value, whatever the source.
class LabelPostings {
  public:
    void add(std::uint32_t slot, model::policy::LabelArray labels);
    void remove(std::uint32_t slot, model::policy::LabelArray labels);
    /// Sets `out` to a superset of those for which all requirements hold, ascending.
    /// @return false if no requirement narrows it: all there are
    [[nodiscard]] bool candidates(LabelIndex::Requirements requirements,
                                  std::vector<std::uint32_t>& out) const;

  private:
    struct Key {
        std::vector<std::uint32_t> all;
        StringTable<std::vector<std::uint32_t>> values;
    };
    [[nodiscard]] std::size_t count(const model::policy::LabelRequirement& one) const;

    StringTable<Key> keys_;
};

}  // namespace mesh::compile
