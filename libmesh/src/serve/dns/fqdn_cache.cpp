#include "serve/dns/fqdn_cache.hpp"

#include <algorithm>
#include <utility>

namespace mesh::serve::dns {

using model::IpAddress;

namespace {

/// Between the labels of a reversed name; below all bytes of a name, so that what is below a domain
/// is one range.
constexpr char kBetween = '\x01';

std::string reversed(std::string_view name) {
    std::string out;
    out.reserve(name.size());
    while (!name.empty()) {
        const auto dot = name.rfind('.');
        if (!out.empty()) out += kBetween;
        out += dot == std::string_view::npos ? name : name.substr(dot + 1);
        name = dot == std::string_view::npos ? std::string_view{} : name.substr(0, dot);
    }
    return out;
}

/// What selectors of one meaning have in common.
std::string_view text_of(const model::policy::FqdnSelector& selector) {
    return selector.text().empty() ? std::string_view("*") : std::string_view(selector.text());
}

}  // namespace

struct FqdnCache::Selector {
    NameIndex::Id id = 0;
    model::policy::FqdnSelector selector;
    std::uint64_t references = 0;
    std::map<IpAddress, std::uint32_t> addresses{};  ///< to the number of names that have it
};

/// A name that some endpoint holds addresses of.
struct FqdnCache::Name {
    std::string_view key;  ///< in names_
    std::string text;
    std::vector<std::pair<std::string_view, Selector*>> selectors;  ///< that select it, by text
    std::map<IpAddress, std::uint32_t> addresses;  ///< to the number of endpoints that hold it
};

struct FqdnCache::Held {
    HeldName* of = nullptr;
    IpAddress address;
    std::uint64_t order = 0;
    TimePoint learnt, expires;
    TimePoint due;  ///< when there is something to do
    std::optional<TimePoint> zombie;
};

struct FqdnCache::ByDue {
    bool operator()(const Held* a, const Held* b) const noexcept {
        return std::pair(a->due, a->order) < std::pair(b->due, b->order);
    }
};
struct FqdnCache::ByEnd {
    bool operator()(const Held* a, const Held* b) const noexcept {
        return std::pair(a->zombie, a->order) < std::pair(b->zombie, b->order);
    }
};

struct FqdnCache::HeldName {
    Endpoint* endpoint = nullptr;
    Name* name = nullptr;
    std::map<IpAddress, Held> addresses;
    std::size_t zombies = 0;
};

struct FqdnCache::Endpoint {
    EndpointId id = 0;
    std::map<std::string, HeldName, std::less<>> names;
    std::set<Held*, ByDue> due;
    std::set<Held*, ByEnd> zombies;
};

/// What an operation changed, all in all.
class FqdnCache::Collector {
  public:
    void note(std::string_view selector, const IpAddress& address, bool added) {
        auto of = changes_.find(selector);
        if (of == changes_.end()) of = changes_.emplace(selector, ByAddress{}).first;
        const auto [at, fresh] = of->second.try_emplace(address, added);
        // Came and went, or the other way around.
        if (!fresh && at->second != added) of->second.erase(at);
    }
    [[nodiscard]] SelectorChanges take() && {
        SelectorChanges out;
        for (const auto& [selector, addresses] : changes_) {
            if (addresses.empty()) continue;
            SelectorChange& change = out.emplace_back(SelectorChange{selector, {}, {}});
            for (const auto& [address, added] : addresses) {
                (added ? change.added : change.removed).push_back(address);
            }
        }
        return out;
    }

  private:
    using ByAddress = std::map<IpAddress, bool>;
    std::map<std::string, ByAddress, std::less<>> changes_;
};

FqdnCache::FqdnCache(CacheLimits limits) : limits_(limits) {
    for (std::size_t* bound : {&limits_.max_addresses_per_name, &limits_.max_addresses}) {
        *bound = std::max<std::size_t>(*bound, 1);
    }
    limits_.grace = std::max(limits_.grace, Duration::zero());
    limits_.recheck = std::max<Duration>(limits_.recheck, std::chrono::seconds(1));
}
FqdnCache::~FqdnCache() = default;

FqdnCache::Endpoint& FqdnCache::endpoint_of(EndpointId id) {
    Endpoint& endpoint = endpoints_[id];
    endpoint.id = id;
    return endpoint;
}

FqdnCache::Name& FqdnCache::name_of(std::string_view text) {
    std::string key = reversed(text);
    const auto [at, fresh] = names_.try_emplace(std::move(key));
    Name& name = at->second;
    if (!fresh) return name;
    name.key = at->first;
    name.text = text;
    index_.for_each(text, [&](NameIndex::Id id) {
        Selector* selector = selector_by_id_.at(id);
        name.selectors.emplace_back(text_of(selector->selector), selector);
        return true;
    });
    return name;
}

FqdnCache::HeldName& FqdnCache::held_name(Endpoint& endpoint, std::string_view name) {
    const auto at = endpoint.names.find(name);
    if (at != endpoint.names.end()) return at->second;
    HeldName& of = endpoint.names[std::string(name)];
    of.endpoint = &endpoint;
    of.name = &name_of(name);
    return of;
}

FqdnCache::Held& FqdnCache::hold(Endpoint& endpoint, HeldName& of, const IpAddress& address,
                                 Collector& out) {
    const auto [at, fresh] = of.addresses.try_emplace(address);
    Held& held = at->second;
    if (!fresh) return held;
    held.of = &of;
    held.address = address;
    held.order = ++last_held_;
    endpoint.due.insert(&held);
    ++size_;
    if (++of.name->addresses[address] > 1) return held;
    for (const auto& [text, selector] : of.name->selectors) {
        if (++selector->addresses[address] == 1) out.note(text, address, true);
    }
    return held;
}

void FqdnCache::set_due(Held& held, TimePoint due) {
    auto& all = held.of->endpoint->due;
    auto node = all.extract(&held);
    held.due = due;
    all.insert(std::move(node));
}

void FqdnCache::revive(Held& held) {
    if (!held.zombie) return;
    held.of->endpoint->zombies.erase(&held);
    --held.of->zombies;
    held.zombie.reset();
}

void FqdnCache::make_zombie(Held& held, TimePoint since, TimePoint now, Collector& out) {
    Endpoint& endpoint = *held.of->endpoint;
    held.zombie = since;
    held.expires = std::min(held.expires, since);
    endpoint.zombies.insert(&held);
    ++held.of->zombies;
    // From now on, whenever its time was over: this is when somebody noticed.
    set_due(held, now + limits_.grace);
    if (endpoint.zombies.size() > limits_.max_zombies) drop(**endpoint.zombies.begin(), out);
}

void FqdnCache::drop(Held& held, Collector& out) {
    HeldName& of = *held.of;
    Endpoint& endpoint = *of.endpoint;
    Name& name = *of.name;
    const IpAddress address = held.address;
    revive(held);
    endpoint.due.erase(&held);
    --size_;
    of.addresses.erase(address);
    if (of.addresses.empty()) endpoint.names.erase(endpoint.names.find(name.text));
    const auto holders = name.addresses.find(address);
    if (--holders->second > 0) return;
    name.addresses.erase(holders);
    for (const auto& [text, selector] : name.selectors) {
        const auto names = selector->addresses.find(address);
        if (--names->second > 0) continue;
        selector->addresses.erase(names);
        out.note(text, address, false);
    }
    if (name.addresses.empty()) names_.erase(names_.find(name.key));
}

void FqdnCache::bound_name(HeldName& of, TimePoint now, Collector& out) {
    while (of.addresses.size() - of.zombies > limits_.max_addresses_per_name) {
        Held* first = nullptr;
        for (auto& [address, held] : of.addresses) {
            if (held.zombie) continue;
            if (first == nullptr ||
                std::pair(held.expires, held.order) < std::pair(first->expires, first->order)) {
                first = &held;
            }
        }
        make_zombie(*first, now, now, out);
    }
}

void FqdnCache::bound_endpoint(Endpoint& endpoint, const Held* keep, Collector& out) {
    while (endpoint.due.size() > limits_.max_addresses) {
        auto victim = endpoint.due.begin();
        if (*victim == keep) ++victim;
        drop(endpoint.zombies.empty() ? **victim : **endpoint.zombies.begin(), out);
    }
}

SelectorChanges FqdnCache::update(EndpointId id, std::string_view name,
                                  std::span<const IpAddress> addresses, Duration ttl,
                                  TimePoint now) {
    Collector out;
    if (addresses.empty()) return {};
    ++revision_;
    const TimePoint expires =
        now + std::clamp(ttl, std::min(limits_.min_ttl, limits_.max_ttl), limits_.max_ttl);
    Endpoint& endpoint = endpoint_of(id);
    for (const IpAddress& address : addresses) {
        // Looked up each time: a bound may have taken the name away.
        HeldName& of = held_name(endpoint, name);
        Held& held = hold(endpoint, of, address, out);
        held.expires = held.zombie ? expires : std::max(held.expires, expires);
        held.learnt = now;
        revive(held);
        set_due(held, held.expires);
        bound_endpoint(endpoint, &held, out);
    }
    const auto at = endpoint.names.find(name);
    if (at != endpoint.names.end()) bound_name(at->second, now, out);
    return std::move(out).take();
}

SelectorChanges FqdnCache::restore(const CacheEntry& entry, TimePoint now) {
    Collector out;
    ++revision_;
    Endpoint& endpoint = endpoint_of(entry.endpoint);
    Held& held = hold(endpoint, held_name(endpoint, entry.name), entry.address, out);
    const TimePoint expires = std::min(entry.expires, now + limits_.max_ttl);
    held.learnt = std::max(held.learnt, std::min(entry.learnt, now));
    held.expires = std::max(held.expires, expires);
    if (held.expires > now) {
        revive(held);
        set_due(held, held.expires);
    } else if (!held.zombie) {
        make_zombie(held, std::min(entry.zombie.value_or(held.expires), now), now, out);
    }
    bound_endpoint(endpoint, nullptr, out);
    const auto at = endpoint.names.find(entry.name);
    if (at != endpoint.names.end()) bound_name(at->second, now, out);
    return std::move(out).take();
}

SelectorChanges FqdnCache::expire(TimePoint now, const Alive& alive) {
    Collector out;
    for (auto& [id, endpoint] : endpoints_) {
        while (!endpoint.due.empty() && (*endpoint.due.begin())->due <= now) {
            Held& held = **endpoint.due.begin();
            ++revision_;
            if (!held.zombie) {
                // Due again at once, if there is no grace. It may be gone, too: @see CacheLimits.
                make_zombie(held, held.expires, now, out);
                continue;
            }
            if (alive(id, held.address)) {
                set_due(held, now + limits_.recheck);
            } else {
                drop(held, out);
            }
        }
    }
    return std::move(out).take();
}

std::optional<TimePoint> FqdnCache::next_due() const {
    std::optional<TimePoint> first;
    for (const auto& [id, endpoint] : endpoints_) {
        if (endpoint.due.empty()) continue;
        const TimePoint due = (*endpoint.due.begin())->due;
        if (!first || due < *first) first = due;
    }
    return first;
}

bool FqdnCache::asks_alive(TimePoint now) const {
    for (const auto& [id, endpoint] : endpoints_) {
        for (const Held* held : endpoint.due) {
            if (held->due > now) break;
            if (held->zombie || limits_.grace == Duration::zero()) return true;
        }
    }
    return false;
}

SelectorChanges FqdnCache::remove_endpoint(EndpointId id) {
    Collector out;
    const auto at = endpoints_.find(id);
    if (at == endpoints_.end()) return {};
    ++revision_;
    while (!at->second.due.empty()) drop(**at->second.due.begin(), out);
    endpoints_.erase(at);
    return std::move(out).take();
}

template <class On>
void FqdnCache::for_each_name(std::string_view selector, On&& on) {
    const std::string suffix = reversed(literal_suffix(selector));
    if (suffix.empty()) {
        for (auto& [key, name] : names_) {
            if (matches_pattern(selector, name.text)) on(name);
        }
        return;
    }
    if (const auto at = names_.find(suffix); at != names_.end()) {
        if (matches_pattern(selector, at->second.text)) on(at->second);
    }
    const std::string below = suffix + kBetween;
    for (auto at = names_.lower_bound(below); at != names_.end(); ++at) {
        if (!at->first.starts_with(below)) break;
        if (matches_pattern(selector, at->second.text)) on(at->second);
    }
}

std::vector<IpAddress> FqdnCache::add_selector(const model::policy::FqdnSelector& selector) {
    const auto [at, fresh] = selectors_.try_emplace(std::string(text_of(selector)));
    const std::string& text = at->first;
    Selector& one = at->second;
    ++one.references;
    if (fresh) {
        one.selector = selector;
        one.id = ++last_selector_;
        selector_by_id_.emplace(one.id, &one);
        index_.add(selector, one.id);
        for_each_name(text, [&](Name& name) {
            name.selectors.emplace_back(text, &one);
            for (const auto& [address, holders] : name.addresses) ++one.addresses[address];
        });
    }
    return addresses(text);
}

bool FqdnCache::remove_selector(const model::policy::FqdnSelector& selector) {
    const auto at = selectors_.find(text_of(selector));
    if (at == selectors_.end() || --at->second.references > 0) return false;
    Selector& one = at->second;
    for_each_name(at->first, [&](Name& name) {
        std::erase_if(name.selectors, [&](const auto& pair) { return pair.second == &one; });
    });
    index_.remove(one.selector, one.id);
    selector_by_id_.erase(one.id);
    selectors_.erase(at);
    return true;
}

std::vector<IpAddress> FqdnCache::addresses(std::string_view selector) const {
    std::vector<IpAddress> out;
    const auto at = selectors_.find(selector);
    if (at == selectors_.end()) return out;
    for (const auto& [address, names] : at->second.addresses) out.push_back(address);
    return out;
}

std::vector<std::string> FqdnCache::selectors() const {
    std::vector<std::string> out;
    for (const auto& [text, selector] : selectors_) out.push_back(text);
    return out;
}

std::vector<CacheEntry> FqdnCache::entries(EndpointId only) const {
    std::vector<CacheEntry> out;
    for (const auto& [id, endpoint] : endpoints_) {
        if (only != 0 && id != only) continue;
        for (const auto& [name, of] : endpoint.names) {
            for (const auto& [address, held] : of.addresses) {
                out.push_back({id, name, address, held.learnt, held.expires, held.zombie});
            }
        }
    }
    return out;
}

std::size_t FqdnCache::zombies() const noexcept {
    std::size_t all = 0;
    for (const auto& [id, endpoint] : endpoints_) all += endpoint.zombies.size();
    return all;
}

}  // namespace mesh::serve::dns
