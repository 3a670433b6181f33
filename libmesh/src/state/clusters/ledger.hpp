// Which objects of one kind are in force, without the objects: what is needed to delete them
// exactly (after a re-list, at a drain) and to hold bounds. Small, since there are 100,000 ips.
//
// Bounds are held against what the newest list has seen: what it does not name is on its way out,
// and so is what it names beyond a bound that is lower than it was.
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

/// What entries come to, together.
struct Sums {
    std::uint64_t count = 0, weight = 0, bytes = 0;
    void add(std::uint32_t entry_weight, std::uint32_t entry_bytes) noexcept {
        ++count;
        weight += entry_weight;
        bytes += entry_bytes;
    }
    void remove(std::uint32_t entry_weight, std::uint32_t entry_bytes) noexcept {
        --count;
        weight -= entry_weight;
        bytes -= entry_bytes;
    }
};

/// @thread one thread
template <class Key>
class Ledger {
  public:
    struct Entry {
        std::uint32_t weight = 0;  ///< what it counts against a bound: backends, CIDRs
        std::uint32_t bytes = 0;   ///< of key and value
        std::uint16_t mark = 0;    ///< the list that saw it last
        bool emitted = false;      ///< told to those who listen
    };
    explicit Ledger(std::uint64_t seed) : entries_(0, SeededHash{seed}) {}

    /// A list begins: nothing is seen yet.
    void begin_list() {
        ++mark_;
        seen_ = {};
    }
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    /// Sum of the weights.
    [[nodiscard]] std::uint64_t weight() const noexcept { return all_.weight; }
    [[nodiscard]] const Sums& all() const noexcept { return all_; }
    /// What the newest list, and changes since, have named.
    [[nodiscard]] const Sums& seen() const noexcept { return seen_; }
    [[nodiscard]] bool is_seen(const Entry& entry) const noexcept { return entry.mark == mark_; }
    [[nodiscard]] const Entry* find(const Key& key) const {
        const auto at = entries_.find(key);
        return at == entries_.end() ? nullptr : &at->second;
    }
    /// Puts an entry, which the newest list has seen thereby. @param entry its mark does not matter
    void set(const Key& key, Entry entry) {
        const auto [at, fresh] = entries_.try_emplace(key);
        Entry& held = at->second;
        if (!fresh) subtract(held);
        held = entry;
        held.mark = mark_;
        all_.add(held.weight, held.bytes);
        seen_.add(held.weight, held.bytes);
    }
    /// The newest list has seen it, as it is.
    void touch(const Key& key) {
        const auto at = entries_.find(key);
        if (at == entries_.end() || is_seen(at->second)) return;
        at->second.mark = mark_;
        seen_.add(at->second.weight, at->second.bytes);
    }
    void erase(const Key& key) {
        const auto at = entries_.find(key);
        if (at == entries_.end()) return;
        subtract(at->second);
        entries_.erase(at);
    }
    /// The keys that the newest list has not seen, sorted.
    [[nodiscard]] std::vector<Key> unseen() const {
        std::vector<Key> keys;
        for (const auto& [key, entry] : entries_) {
            if (!is_seen(entry)) keys.push_back(key);
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
    void subtract(const Entry& entry) {
        all_.remove(entry.weight, entry.bytes);
        if (is_seen(entry)) seen_.remove(entry.weight, entry.bytes);
    }

    boost::unordered_flat_map<Key, Entry, SeededHash> entries_;
    std::uint16_t mark_ = 0;
    Sums all_, seen_;
};

}  // namespace mesh::state
