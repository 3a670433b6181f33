// Which objects of one kind are in force, without the objects: what is needed to delete them
// exactly (after a re-list, at a drain) and to hold bounds. Small, since there are 100,000 ips.
#pragma once

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "state/clusters/ip_rows.hpp"

namespace mesh::state {

/// A hash whose collisions a remote cannot choose: it does not know the seed.
struct SeededHash {
    using is_avalanching = void;
    std::uint64_t seed = 0;

    std::size_t operator()(std::string_view bytes) const noexcept {
        std::uint64_t h = seed ^ (bytes.size() * 0x9e3779b97f4a7c15ULL);
        while (bytes.size() >= 8) {
            h = mix(h, bytes, 8);
            bytes.remove_prefix(8);
        }
        return static_cast<std::size_t>(mix(h, bytes, bytes.size()));
    }
    std::size_t operator()(const IpName& name) const noexcept {
        const auto& bytes = name.ip.bytes();
        const std::uint64_t h =
            (*this)({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
        return static_cast<std::size_t>(finish(h ^ name.length));
    }
    std::size_t operator()(std::uint32_t number) const noexcept {
        return static_cast<std::size_t>(finish(seed ^ number));
    }

  private:
    [[nodiscard]] std::uint64_t finish(std::uint64_t x) const noexcept {
        // splitmix64's mixer, keyed on both sides.
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
        x = ((x ^ seed) ^ (x >> 27)) * 0x94d049bb133111ebULL;
        return x ^ (x >> 31);
    }
    [[nodiscard]] std::uint64_t mix(std::uint64_t h, std::string_view bytes,
                                    std::size_t count) const noexcept {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data(), count);
        return finish(h ^ word);
    }
};

/// @thread one thread
template <class Key>
class Ledger {
  public:
    struct Entry {
        std::uint32_t weight = 0;  ///< what it counts against a bound: backends, CIDRs
        std::uint16_t mark = 0;    ///< the list that saw it last
        bool emitted = false;      ///< told to those who listen
    };
    explicit Ledger(std::uint64_t seed) : entries_(0, SeededHash{seed}) {}

    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    /// Sum of the weights.
    [[nodiscard]] std::uint64_t weight() const noexcept { return weight_; }
    [[nodiscard]] const Entry* find(const Key& key) const {
        const auto at = entries_.find(key);
        return at == entries_.end() ? nullptr : &at->second;
    }
    void set(const Key& key, Entry entry) {
        Entry& held = entries_[key];
        weight_ = weight_ - held.weight + entry.weight;
        held = entry;
    }
    void touch(const Key& key, std::uint16_t mark) {
        if (const auto at = entries_.find(key); at != entries_.end()) at->second.mark = mark;
    }
    void erase(const Key& key) {
        const auto at = entries_.find(key);
        if (at == entries_.end()) return;
        weight_ -= at->second.weight;
        entries_.erase(at);
    }
    /// The keys not seen by list `mark`, sorted.
    [[nodiscard]] std::vector<Key> unseen(std::uint16_t mark) const {
        std::vector<Key> keys;
        for (const auto& [key, entry] : entries_) {
            if (entry.mark != mark) keys.push_back(key);
        }
        std::sort(keys.begin(), keys.end());
        return keys;
    }
    /// All keys, sorted.
    [[nodiscard]] std::vector<Key> keys() const {
        std::vector<Key> keys;
        keys.reserve(entries_.size());
        for (const auto& [key, entry] : entries_) keys.push_back(key);
        std::sort(keys.begin(), keys.end());
        return keys;
    }

  private:
    boost::unordered_flat_map<Key, Entry, SeededHash> entries_;
    std::uint64_t weight_ = 0;
};

}  // namespace mesh::state
