#include "compile/ipcache/prefix_set.hpp"

namespace mesh::compile {

using model::IpAddress;
using model::IpPrefix;

IpAddress PrefixSet::bucket_of(const IpAddress& address) {
    IpAddress::Bytes bytes = address.bytes();
    bytes[15] = 0;
    return IpAddress(bytes);
}

IpPrefix PrefixSet::host(const IpAddress& bucket, unsigned low) {
    IpAddress::Bytes bytes = bucket.bytes();
    bytes[15] = static_cast<std::uint8_t>(low);
    return {IpAddress(bytes), 128};
}

PrefixSet::Bits* PrefixSet::find_bits(Family& f, const IpAddress& bucket) {
    if (f.last_bucket != bucket) {
        const auto at = f.hosts.find(bucket);
        f.last_bucket = bucket;
        f.last_bits = at == f.hosts.end() ? nullptr : &at->second;
    }
    return f.last_bits;
}

bool PrefixSet::insert(const IpPrefix& prefix) {
    Family& f = family(prefix.is_v4());
    if (prefix.is_host()) {
        const IpAddress bucket = bucket_of(prefix.address());
        if (find_bits(f, bucket) == nullptr) f.last_bits = &f.hosts[bucket];
        const unsigned low = low_byte(prefix.address());
        std::uint64_t& word = (*f.last_bits)[low / 64];
        const std::uint64_t bit = std::uint64_t{1} << (low % 64);
        if ((word & bit) != 0) return false;
        word |= bit;
    } else {
        if (!f.prefixes.insert(prefix).second) return false;
        ++f.lengths[prefix.length()];
    }
    ++size_;
    return true;
}

bool PrefixSet::erase(const IpPrefix& prefix) {
    Family& f = family(prefix.is_v4());
    if (prefix.is_host()) {
        const IpAddress bucket = bucket_of(prefix.address());
        Bits* const bits = find_bits(f, bucket);
        if (bits == nullptr) return false;
        const unsigned low = low_byte(prefix.address());
        const std::uint64_t bit = std::uint64_t{1} << (low % 64);
        if (((*bits)[low / 64] & bit) == 0) return false;
        (*bits)[low / 64] &= ~bit;
        if (*bits == Bits{}) {
            f.hosts.erase(bucket);
            f.last_bits = nullptr;
        }
    } else {
        if (f.prefixes.erase(prefix) == 0) return false;
        const auto length = f.lengths.find(prefix.length());
        if (--length->second == 0) f.lengths.erase(length);
    }
    --size_;
    return true;
}

bool PrefixSet::contains(const IpPrefix& prefix) const {
    Family& f = family(prefix.is_v4());
    if (!prefix.is_host()) return f.prefixes.contains(prefix);
    const Bits* const bits = find_bits(f, bucket_of(prefix.address()));
    const unsigned low = low_byte(prefix.address());
    return bits != nullptr && ((*bits)[low / 64] >> (low % 64) & 1U) != 0;
}

std::optional<IpPrefix> PrefixSet::pop_first() {
    std::optional<IpPrefix> first;
    for_each_while([&](const IpPrefix& prefix) {
        first = prefix;
        return false;
    });
    if (first) erase(*first);
    return first;
}

std::size_t PrefixSet::bytes() const noexcept {
    constexpr std::size_t kNode = 4 * sizeof(void*) + 16;  // of a tree, with malloc's
    std::size_t total = 0;
    for (const Family& f : families_) {
        total += f.hosts.size() * (kNode + sizeof(IpAddress) + sizeof(Bits)) +
                 f.prefixes.size() * (kNode + sizeof(IpPrefix)) + f.lengths.size() * (kNode + 16);
    }
    return total;
}

}  // namespace mesh::compile
