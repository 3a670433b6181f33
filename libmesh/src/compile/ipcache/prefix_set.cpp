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

bool PrefixSet::insert(const IpPrefix& prefix) {
    Family& f = family(prefix.is_v4());
    if (prefix.is_host()) {
        const unsigned low = low_byte(prefix.address());
        std::uint64_t& word = f.hosts[bucket_of(prefix.address())][low / 64];
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

bool PrefixSet::erase_host(Family& f, std::map<IpAddress, Bits>::iterator bucket, unsigned low) {
    std::uint64_t& word = bucket->second[low / 64];
    const std::uint64_t bit = std::uint64_t{1} << (low % 64);
    if ((word & bit) == 0) return false;
    word &= ~bit;
    if (bucket->second == Bits{}) f.hosts.erase(bucket);
    --size_;
    return true;
}

void PrefixSet::erase_prefix(Family& f, std::set<IpPrefix>::iterator at) {
    const auto length = f.lengths.find(at->length());
    if (--length->second == 0) f.lengths.erase(length);
    f.prefixes.erase(at);
    --size_;
}

bool PrefixSet::erase(const IpPrefix& prefix) {
    Family& f = family(prefix.is_v4());
    if (prefix.is_host()) {
        const auto bucket = f.hosts.find(bucket_of(prefix.address()));
        return bucket != f.hosts.end() && erase_host(f, bucket, low_byte(prefix.address()));
    }
    const auto at = f.prefixes.find(prefix);
    if (at == f.prefixes.end()) return false;
    erase_prefix(f, at);
    return true;
}

bool PrefixSet::contains(const IpPrefix& prefix) const {
    const Family& f = family(prefix.is_v4());
    if (!prefix.is_host()) return f.prefixes.contains(prefix);
    const auto bucket = f.hosts.find(bucket_of(prefix.address()));
    if (bucket == f.hosts.end()) return false;
    const unsigned low = low_byte(prefix.address());
    return (bucket->second[low / 64] >> (low % 64) & 1U) != 0;
}

std::optional<IpPrefix> PrefixSet::pop_first() {
    std::optional<IpPrefix> first;
    for (Family& f : families_) {
        if (const auto bucket = f.hosts.begin(); bucket != f.hosts.end()) {
            for_each_bit(bucket->first, bucket->second, 0, 255, [&](const IpPrefix& prefix) {
                first = prefix;
                return false;
            });
            erase_host(f, bucket, low_byte(first->address()));
            break;
        }
        if (const auto at = f.prefixes.begin(); at != f.prefixes.end()) {
            first = *at;
            erase_prefix(f, at);
            break;
        }
    }
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
