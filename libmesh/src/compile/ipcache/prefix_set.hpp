// A set of prefixes that is small where they are dense: host entries are bits, 256 neighbours (an
// IPv4 /24, an IPv6 /120) in one tree node of about 100 bytes; 1,000,000 pods of full /24s take
// 0.4 MB. Other prefixes, of which there are few, stand in an ordered set. What lies within or
// around a prefix is found without looking at the rest.
//
// Used by IpcacheCompiler only.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "model/ip.hpp"

namespace mesh::compile {

/// A set of prefixes. Remembers the bucket last looked at, as neighbours come together.
/// @thread same object not concurrently
class PrefixSet {
  public:
    PrefixSet() = default;
    PrefixSet(const PrefixSet&) = delete;
    PrefixSet& operator=(const PrefixSet&) = delete;

    /// @return whether it was not there
    bool insert(const model::IpPrefix& prefix);
    /// @return whether it was there
    bool erase(const model::IpPrefix& prefix);
    [[nodiscard]] bool contains(const model::IpPrefix& prefix) const;
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    /// Takes one out: IPv4 before IPv6, host entries before others, then in order.
    [[nodiscard]] std::optional<model::IpPrefix> pop_first();

    /// Calls for all that `outer` holds, itself included; the set must not change meanwhile.
    /// @complexity what is found
    template <class Call>
    void for_each_within(const model::IpPrefix& outer, Call&& call) const;
    /// Calls for the entries other than host entries that hold the address, shortest first.
    /// @complexity prefix lengths in use
    template <class Call>
    void for_each_around(const model::IpAddress& address, Call&& call) const;
    /// Calls for each, in the order of pop_first(), until the call returns false.
    template <class Call>
    void for_each_while(Call&& call) const;

    /// Bytes of the nodes, as glibc's malloc takes them.
    [[nodiscard]] std::size_t bytes() const noexcept;

  private:
    using Bits = std::array<std::uint64_t, 4>;
    struct Family {
        std::map<model::IpAddress, Bits> hosts;  ///< by their first 15 bytes
        std::set<model::IpPrefix> prefixes;
        std::map<std::uint8_t, std::size_t> lengths;  ///< of prefixes
        std::optional<model::IpAddress> last_bucket;
        Bits* last_bits = nullptr;  ///< of last_bucket; null if there is none
    };

    [[nodiscard]] static model::IpAddress bucket_of(const model::IpAddress& address);
    [[nodiscard]] static model::IpPrefix host(const model::IpAddress& bucket, unsigned low);
    [[nodiscard]] static unsigned low_byte(const model::IpAddress& a) { return a.bytes()[15]; }
    /// Calls for the bits that are set from `from` to `to`, until the call returns false.
    template <class Call>
    static bool for_each_bit(const model::IpAddress& bucket, const Bits& bits, unsigned from,
                             unsigned to, Call&& call);
    [[nodiscard]] Family& family(bool v4) const { return families_[v4 ? 0 : 1]; }
    /// The bits of a bucket, or null.
    [[nodiscard]] static Bits* find_bits(Family& family, const model::IpAddress& bucket);

    mutable std::array<Family, 2> families_;  ///< mutable for last_bucket
    std::size_t size_ = 0;
};

template <class Call>
bool PrefixSet::for_each_bit(const model::IpAddress& bucket, const Bits& bits, unsigned from,
                             unsigned to, Call&& call) {
    for (unsigned word = from / 64; word <= to / 64; ++word) {
        for (std::uint64_t left = bits[word]; left != 0; left &= left - 1) {
            const unsigned low = word * 64 + static_cast<unsigned>(std::countr_zero(left));
            if (low < from) continue;
            if (low > to) return true;
            if (!call(host(bucket, low))) return false;
        }
    }
    return true;
}

template <class Call>
void PrefixSet::for_each_within(const model::IpPrefix& outer, Call&& call) const {
    const Family& f = family(outer.is_v4());
    const auto found = [&](const model::IpPrefix& prefix) {
        call(prefix);
        return true;
    };
    const unsigned length = outer.length() + (outer.is_v4() ? 96U : 0U);
    if (length > 120) {
        const auto at = f.hosts.find(bucket_of(outer.address()));
        const unsigned from = low_byte(outer.address());
        const unsigned to = from + (1U << (128 - length)) - 1;
        if (at != f.hosts.end()) for_each_bit(at->first, at->second, from, to, found);
    } else {
        for (auto at = f.hosts.lower_bound(outer.address());
             at != f.hosts.end() && outer.contains(at->first); ++at) {
            for_each_bit(at->first, at->second, 0, 255, found);
        }
    }
    for (auto at = f.prefixes.lower_bound(outer);
         at != f.prefixes.end() && outer.contains(at->address()); ++at) {
        call(*at);
    }
}

template <class Call>
void PrefixSet::for_each_around(const model::IpAddress& address, Call&& call) const {
    const Family& f = family(address.is_v4());
    for (const auto& [length, count] : f.lengths) {
        const auto at = f.prefixes.find(model::IpPrefix(address, length));
        if (at != f.prefixes.end()) call(*at);
    }
}

template <class Call>
void PrefixSet::for_each_while(Call&& call) const {
    for (const Family& f : families_) {
        for (const auto& [bucket, bits] : f.hosts) {
            if (!for_each_bit(bucket, bits, 0, 255, call)) return;
        }
        for (const model::IpPrefix& prefix : f.prefixes) {
            if (!call(prefix)) return;
        }
    }
}

}  // namespace mesh::compile
