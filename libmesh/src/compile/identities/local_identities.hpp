// Identities that only this node knows: of the blocks of addresses that policies and services
// name, and of the addresses that DNS names of policies have. Who names what goes in; identities
// and rows of the ipcache (prefix → identity) that came, changed or went come out.
//
// - A block that somebody claims has an identity of its own: label cidr:<block>, and the world's.
//   0.0.0.0/0 and ::/0 have none: they are the world.
// - An address of DNS names has the label fqdn:<selector> of each selector that has it, that of the
//   narrowest claimed block around it, and the world's. Addresses with equal labels share one
//   identity. As it is in that block, each selector of blocks takes it as it takes the block.
// - A number keeps its meaning as long as it is in use, and is not given to another for long after.
//
// Used by engine: claims of policies, answers of the DNS proxy.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compile/identities/reserved.hpp"
#include "model/ip.hpp"
#include "runtime/clock.hpp"

namespace mesh::compile {

/// What is to be done, in this order: a packet never has a number of which policies do not know
/// yet, or not any more.
struct LocalIdentityChanges {
    std::vector<LocalIdentity> added;                             ///< by number
    std::vector<std::pair<model::IpPrefix, std::uint32_t>> rows;  ///< new or changed, in order
    std::vector<model::IpPrefix> removed_rows;                    ///< in order
    std::vector<std::uint32_t> removed;                           ///< ascending
    [[nodiscard]] bool empty() const noexcept {
        return added.empty() && rows.empty() && removed_rows.empty() && removed.empty();
    }
};

struct LocalIdentityOptions {
    bool dual_stack = false;  ///< the world is world-ipv4 and world-ipv6
    std::uint32_t first = kFirstLocalIdentity, last = kLastLocalIdentity;  ///< for tests
};

/// @thread same object not concurrently
class LocalIdentities {
  public:
    /// @param rng where numbers begin: not where they began in the last run
    LocalIdentities(LocalIdentityOptions options, Rng rng);

    /// Of a row that an earlier run left in the ipcache. Its number stands for the same prefixes
    /// again, or for nothing: it is kept if all its prefixes are named alike by the flush() that
    /// first sees one of them. So adopt all rows first, then name all that is known, then flush.
    /// @return false: not a number of ours
    bool adopt(const model::IpPrefix& prefix, std::uint32_t id);

    /// Claims a block, once more; release() it as often.
    /// @complexity O(log n); addresses of DNS names within it, when it comes or goes
    void acquire(const model::IpPrefix& block);
    void release(const model::IpPrefix& block);

    /// All addresses that the names of a selector of toFQDNs have now; none: forget it.
    /// @param selector FqdnSelector::text()
    /// @complexity O(k log n) of the addresses that it had or has
    void set_addresses(std::string_view selector, std::span<const model::IpAddress> addresses);
    /// One more or one less. @return whether it changes anything @complexity O(log n)
    bool add_address(std::string_view selector, const model::IpAddress& address);
    bool remove_address(std::string_view selector, const model::IpAddress& address);

    /// What changed since the last call. @complexity O(log n) for each prefix concerned
    [[nodiscard]] LocalIdentityChanges flush();
    [[nodiscard]] bool pending() const noexcept { return !dirty_.empty(); }

    /// As of the last flush.
    [[nodiscard]] std::size_t size() const noexcept { return by_meaning_.size(); }
    [[nodiscard]] std::vector<LocalIdentity> identities() const;  ///< by number
    [[nodiscard]] std::optional<std::uint32_t> find(const model::IpPrefix& prefix) const;
    /// Prefixes for which no number was free.
    [[nodiscard]] std::size_t refused() const noexcept { return refused_.size(); }

  private:
    /// What a number stands for; addresses of one meaning differ in nothing that policies see.
    struct Meaning {
        std::optional<model::IpPrefix> block;
        std::vector<std::string> selectors;  ///< sorted
        bool v4 = true;
        friend auto operator<=>(const Meaning&, const Meaning&) = default;
    };
    struct Claims {
        std::size_t users = 0;              ///< of the block
        std::set<std::string> selectors{};  ///< that have the address
    };
    struct Numbered {
        std::uint32_t id = 0;
        std::size_t rows = 0;
    };
    using Meanings = std::map<Meaning, Numbered>;
    struct Family {
        std::map<model::IpPrefix, Claims> claims;
        std::map<std::uint8_t, std::size_t> lengths;  ///< of claimed blocks
    };

    [[nodiscard]] Family& family(const model::IpPrefix& prefix) {
        return families_[prefix.is_v4() ? 0 : 1];
    }
    [[nodiscard]] const Family& family(const model::IpPrefix& prefix) const {
        return families_[prefix.is_v4() ? 0 : 1];
    }
    void mark_block(const model::IpPrefix& block);
    [[nodiscard]] std::optional<model::IpPrefix> block_around(const model::IpPrefix& prefix) const;
    [[nodiscard]] std::optional<Meaning> meaning_of(const model::IpPrefix& prefix) const;
    [[nodiscard]] LocalIdentity describe(const Meaning& meaning, std::uint32_t id) const;
    [[nodiscard]] std::optional<std::uint32_t> number_for(const model::IpPrefix& prefix,
                                                          const Meaning& meaning);
    void settle(const model::IpPrefix& prefix, LocalIdentityChanges& changes,
                std::set<Meaning>& idle);

    LocalIdentityOptions options_;
    std::uint32_t next_;
    std::array<Family, 2> families_;
    std::map<std::string, std::set<model::IpAddress>, std::less<>> selectors_;
    std::set<model::IpPrefix> dirty_;
    Meanings by_meaning_;
    std::map<std::uint32_t, Meanings::const_iterator> by_id_;
    std::map<model::IpPrefix, Meanings::iterator> rows_;  ///< as they were returned
    std::map<model::IpPrefix, std::uint32_t> adopted_;    ///< and not named since
    std::map<std::uint32_t, std::set<model::IpPrefix>> adopted_prefixes_;
    std::set<model::IpPrefix> refused_;
};

}  // namespace mesh::compile
