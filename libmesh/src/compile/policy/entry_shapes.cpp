#include "compile/policy/entry_shapes.hpp"

#include <algorithm>
#include <bit>
#include <tuple>

namespace mesh::compile {
namespace {

bool same_packets(const EntryShape& a, const EntryShape& b) {
    return a.length == b.length && a.protocol == b.protocol && a.port == b.port;
}

/// Of two rules for the same packets: higher precedence, then the lower redirect; the stricter
/// explicit authentication of rules that let the packet pass.
void merge(PolicyMapValue& into, const PolicyMapValue& other) {
    if (other.precedence > into.precedence ||
        (other.precedence == into.precedence && other.redirect < into.redirect)) {
        into.precedence = other.precedence;
        into.redirect = other.redirect;
    }
    if (other.explicit_auth) {
        into.auth = into.explicit_auth ? std::max(into.auth, other.auth) : other.auth;
        into.explicit_auth = true;
    }
}

bool same_outcome(const PolicyMapValue& a, const PolicyMapValue& b) {
    return a.precedence == b.precedence && a.redirect == b.redirect && a.auth == b.auth;
}

}  // namespace

const EntryShape* narrowest_covering(std::span<const EntryShape> list, const EntryShape& shape) {
    constexpr std::size_t kFew = 32;
    if (list.size() <= kFew) {
        const EntryShape* found = nullptr;
        for (const EntryShape& one : list) {
            if (one.covers(shape) && (found == nullptr || one.length >= found->length)) {
                found = &one;
            }
        }
        return found;
    }
    const auto packets = [](const EntryShape& one) {
        return std::tuple(one.protocol, one.length, one.port);
    };
    for (int length = shape.length; length >= 0; --length) {
        if (length > 0 && length < 8) continue;
        EntryShape wanted{0, static_cast<std::uint8_t>(length), 0, {}};
        if (length != 0) {
            const unsigned shift = 24U - static_cast<unsigned>(length);
            wanted.protocol = shape.protocol;
            wanted.port = static_cast<std::uint16_t>((unsigned{shape.port} >> shift) << shift);
        }
        const auto at = std::ranges::lower_bound(list, packets(wanted), {}, packets);
        if (at != list.end() && packets(*at) == packets(wanted)) return &*at;
    }
    return nullptr;
}

std::vector<EntryShape> port_blocks(std::uint8_t protocol, std::uint16_t first,
                                    std::uint16_t last) {
    std::vector<EntryShape> blocks;
    unsigned at = first;
    while (at <= last) {
        unsigned size = at == 0 ? 1U << 16 : at & (~at + 1U);
        while (at + size - 1 > last) size >>= 1;
        const auto bits = static_cast<std::uint8_t>(std::countr_zero(size));
        blocks.push_back(
            {protocol, static_cast<std::uint8_t>(24 - bits), static_cast<std::uint16_t>(at), {}});
        at += size;
    }
    return blocks;
}

std::vector<EntryShape> reduce(std::vector<EntryShape> shapes,
                               std::span<const EntryShape> wildcard) {
    // Broader before narrower, so that what covers an entry stands before it on the stack.
    std::ranges::sort(shapes, [](const EntryShape& a, const EntryShape& b) {
        if (a.length == 0 || b.length == 0) return a.length < b.length;
        return std::tie(a.protocol, a.port, a.length) < std::tie(b.protocol, b.port, b.length);
    });
    std::vector<EntryShape> kept;
    std::vector<EntryShape> above;  // those kept that cover the one at hand, broadest first
    for (std::size_t i = 0; i < shapes.size();) {
        EntryShape one = shapes[i];
        for (++i; i < shapes.size() && same_packets(shapes[i], one); ++i) {
            merge(one.value, shapes[i].value);
        }
        while (!above.empty() && !above.back().covers(one)) above.pop_back();
        const EntryShape* const own = above.empty() ? nullptr : &above.back();
        const EntryShape* const any = narrowest_covering(wildcard, one);
        PolicyMapValue& value = one.value;
        if (value.deny()) {
            value.auth = 0;
            value.explicit_auth = false;
        } else if (!value.explicit_auth) {
            // Authentication is inherited from the entry around it.
            if (own != nullptr) {
                value.auth = own->value.auth;
            } else if (any != nullptr) {
                value.auth = any->value.auth;
            }
        }
        if (own != nullptr &&
            (own->value.precedence > value.precedence || same_outcome(own->value, value))) {
            continue;
        }
        if (any != nullptr) {
            if (any->value.precedence > value.precedence) continue;
            const bool shadowed = own != nullptr && own->value.precedence == value.precedence;
            if (!shadowed && same_outcome(any->value, value)) continue;
        }
        kept.push_back(one);
        above.push_back(one);
    }
    std::ranges::sort(kept);
    return kept;
}

}  // namespace mesh::compile
