// What the node's endpoints learnt of names: per endpoint and name the addresses with their time to
// live, and from that for each toFQDNs selector the set of addresses that it stands for. Plain
// computation: answers and the time in, what changed of each selector's set out.
//
// An address whose time is over stays as a zombie while a connection of the endpoint to it lives
// (whoever calls expire() asks conntrack), and some grace beyond. An endpoint that asks for ever
// new names, or a name with ever new addresses, meets bounds: the oldest goes first.
//
// A change costs what it touches: an answer asks the selectors that its name can match, a new
// selector the names below its literal suffix.
// @source policy.md §2
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/ip.hpp"
#include "model/policy.hpp"
#include "runtime/clock.hpp"
#include "serve/dns/dns_rules.hpp"

namespace mesh::serve::dns {

/// As the datapath numbers them. @see datapath::EndpointId
using EndpointId = std::uint16_t;

struct CacheLimits {
    /// An answer's time to live is at least that. @source --tofqdns-min-ttl
    Duration min_ttl{0};
    /// And at most that: nobody's answer is for years.
    Duration max_ttl = std::chrono::hours(24 * 7);
    /// Of an endpoint and name, zombies not counted; the one that expires first becomes a zombie.
    /// @source --tofqdns-endpoint-max-ip-per-hostname
    std::size_t max_addresses_per_name = 50;
    /// Of an endpoint; the oldest goes, even if a connection to it lives.
    /// @source --tofqdns-max-deferred-connection-deletes
    std::size_t max_zombies = 10'000;
    /// Of an endpoint, zombies included; those go first, then what expires first.
    std::size_t max_addresses = 20'000;
    /// How long a zombie stays without a connection: between an answer and the connect that it is
    /// for, time passes, also with a time to live of 0. @source
    /// --tofqdns-idle-connection-grace-period
    Duration grace = std::chrono::seconds(60);
    /// How often a zombie's connections are asked for.
    Duration recheck = std::chrono::seconds(60);
};

/// How a selector's set of addresses changed. Never empty.
struct SelectorChange {
    std::string selector;                          ///< FqdnSelector::text()
    std::vector<model::IpAddress> added, removed;  ///< ascending
    friend bool operator==(const SelectorChange&, const SelectorChange&) = default;
};
/// Ascending by selector, each once.
using SelectorChanges = std::vector<SelectorChange>;

/// One address of a name, as an endpoint learnt it.
struct CacheEntry {
    EndpointId endpoint = 0;
    std::string name;
    model::IpAddress address;
    TimePoint learnt;                 ///< last
    TimePoint expires;                ///< past for zombies
    std::optional<TimePoint> zombie;  ///< since when
    friend bool operator==(const CacheEntry&, const CacheEntry&) = default;
};

/// @thread same object not concurrently
class FqdnCache {
  public:
    /// Does a connection of the endpoint to the address live?
    using Alive = std::function<bool(EndpointId, const model::IpAddress&)>;

    explicit FqdnCache(CacheLimits limits = {});
    ~FqdnCache();
    FqdnCache(const FqdnCache&) = delete;
    FqdnCache& operator=(const FqdnCache&) = delete;

    /// An endpoint got an answer. What was known of the name stays as long as it would.
    /// @param name as of dns_message.hpp
    [[nodiscard]] SelectorChanges update(EndpointId endpoint, std::string_view name,
                                         std::span<const model::IpAddress> addresses, Duration ttl,
                                         TimePoint now);
    /// What an earlier process knew. One whose time went by meanwhile becomes a zombie from now on.
    [[nodiscard]] SelectorChanges restore(const CacheEntry& entry, TimePoint now);
    /// Turns into zombies what is due, and forgets zombies that no connection needs.
    [[nodiscard]] SelectorChanges expire(TimePoint now, const Alive& alive);
    /// When expire() is wanted next; nullopt = not before something is learnt.
    [[nodiscard]] std::optional<TimePoint> next_due() const;
    /// True if expire(now) would ask whether a connection lives.
    [[nodiscard]] bool asks_alive(TimePoint now) const;
    [[nodiscard]] SelectorChanges remove_endpoint(EndpointId endpoint);

    /// Counts; the first one of a text makes the selector.
    /// @return its addresses, ascending, also of names that were learnt before
    std::vector<model::IpAddress> add_selector(const model::policy::FqdnSelector& selector);
    /// @return true if that was the last one of it: its set is no more
    bool remove_selector(const model::policy::FqdnSelector& selector);
    /// Ascending; empty if there is no such selector.
    [[nodiscard]] std::vector<model::IpAddress> addresses(std::string_view selector) const;
    [[nodiscard]] std::vector<std::string> selectors() const;

    /// Ascending by endpoint, name, address. @param endpoint 0 = all
    [[nodiscard]] std::vector<CacheEntry> entries(EndpointId endpoint = 0) const;
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t zombies() const noexcept;
    /// Another number whenever entries() may be others.
    [[nodiscard]] std::uint64_t revision() const noexcept { return revision_; }

  private:
    struct Selector;
    struct Name;
    struct Held;
    struct HeldName;
    struct Endpoint;
    struct ByDue;
    struct ByEnd;
    class Collector;

    Name& name_of(std::string_view name);
    Held& hold(Endpoint& endpoint, HeldName& of, const model::IpAddress& address, Collector& out);
    void set_due(Held& held, TimePoint due);
    void revive(Held& held);
    void make_zombie(Held& held, TimePoint since, TimePoint now, Collector& out);
    void drop(Held& held, Collector& out);
    void bound_name(HeldName& of, TimePoint now, Collector& out);
    void bound_endpoint(Endpoint& endpoint, const Held* keep, Collector& out);
    HeldName& held_name(Endpoint& endpoint, std::string_view name);
    Endpoint& endpoint_of(EndpointId id);
    template <class On>
    void for_each_name(std::string_view selector, On&& on);

    CacheLimits limits_;
    /// By the labels from the last to the first: names below a domain stand together.
    std::map<std::string, Name, std::less<>> names_;
    std::map<std::string, Selector, std::less<>> selectors_;
    std::unordered_map<NameIndex::Id, Selector*> selector_by_id_;
    NameIndex index_;
    std::map<EndpointId, Endpoint> endpoints_;
    NameIndex::Id last_selector_ = 0;
    std::uint64_t last_held_ = 0;
    std::uint64_t revision_ = 0;
    std::size_t size_ = 0;
};

}  // namespace mesh::serve::dns
