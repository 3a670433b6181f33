#include "compile/policy/explain.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "compile/policy/entry_shapes.hpp"

namespace mesh::compile {

using namespace model::policy;

namespace {

std::string_view list_name(PeerPlace::List list, Direction direction) {
    const bool from = direction == Direction::kIngress;
    switch (list) {
        case PeerPlace::List::kEndpoints:
            return from ? "fromEndpoints" : "toEndpoints";
        case PeerPlace::List::kEntities:
            return from ? "fromEntities" : "toEntities";
        case PeerPlace::List::kCidrs:
            return from ? "fromCIDR" : "toCIDR";
        case PeerPlace::List::kFqdns:
            return "toFQDNs";
        case PeerPlace::List::kServices:
            return "toServices";
    }
    return "";
}

/// One use of one port by an element that matches; `port` is null if the element has no ports.
struct Hit {
    std::size_t rule = 0;  ///< in PolicyOrigin::rules
    const PolicyBuilder::Use* use = nullptr;
    const PolicyBuilder::PortUse* port = nullptr;
    PolicyMapValue value{};
    bool past_proxy = false;  ///< the host goes past this L7 rule
};

class Explainer {
  public:
    Explainer(const PolicyCompiler& compiler, const PolicyOrigin& origin,
              const PolicyQuestion& question)
        : options_(compiler.options()),
          cache_(compiler.selectors()),
          origin_(origin),
          question_(question),
          at_(index_of(question.direction)),
          slot_(cache_.find(question.peer)),
          local_(question.direction == Direction::kIngress && options_.allow_localhost &&
                 !origin.is_host),
          from_host_(local_ && selects(origin.host)) {}

    [[nodiscard]] Explanation run() {
        out_.installed = origin_.installed;
        out_.enforced = origin_.policy->direction(question_.direction).enforced();
        out_.entry = find_entry(*origin_.policy, cache_, question_.direction, slot_,
                                question_.protocol, question_.port);
        if (const auto& conflict = origin_.policy->conflict()) {
            out_.remark = fmt::format("the rules contradict each other: {}", conflict->detail());
            return std::move(out_);
        }
        const bool exempt = note_enforcement();
        if (!exempt) collect();
        answer();
        return std::move(out_);
    }

  private:
    [[nodiscard]] bool selects(SelectorId id) const {
        return id == kAnyPeer || (slot_ && cache_.selects(id, *slot_));
    }

    // --- enforcement --------------------------------------------------------------------------

    /// @return true if no rule counts for the endpoint
    bool note_enforcement() {
        if (origin_.enforcement == Enforcement::kNever) {
            out_.remark = "policy enforcement is off (mode \"never\")";
            return true;
        }
        if (origin_.is_host && !options_.host_firewall) {
            out_.remark = "policies of nodes are not enforced (no host firewall)";
            return true;
        }
        for (const PolicyOrigin::Rule& rule : origin_.rules) {
            if (!rule.cached->rule.directions[at_].default_deny) continue;
            const Rule& from = rule.policy->rules[rule.index];
            out_.enforcing.push_back(
                {rule.policy->key, rule.policy->source, from.line, rule_path(rule)});
        }
        if (origin_.enforcement == Enforcement::kAlways) {
            out_.remark = "it is enforced in any case (mode \"always\")";
        } else if (origin_.is_init) {
            out_.remark = "an endpoint without labels yet (reserved:init) is always enforced";
        } else if (!out_.enforced) {
            out_.remark =
                fmt::format("no policy with default deny selects the endpoint for {}",
                            question_.direction == Direction::kIngress ? "ingress" : "egress");
        }
        return false;
    }

    // --- matches ------------------------------------------------------------------------------

    [[nodiscard]] bool covers(const PolicyBuilder::PortUse& port) const {
        const auto& [protocol, first, last] = port.l4;
        return protocol == question_.protocol &&
               (port.all_ports || (question_.port >= first && question_.port <= last));
    }

    void collect() {
        for (const PolicyBuilder::Use& use : origin_.uses[at_]) {
            if (std::ranges::none_of(use.peers, [&](SelectorId id) { return selects(id); })) {
                continue;
            }
            const auto rule =
                std::ranges::find(origin_.rules, use.rule, &PolicyOrigin::Rule::cached);
            Hit hit{static_cast<std::size_t>(rule - origin_.rules.begin()), &use, nullptr, {}};
            if (use.element->ports.empty()) add(hit);
            for (const PolicyBuilder::PortUse& port : use.ports) {
                hit.port = &port;
                if (covers(port)) add(hit);
            }
        }
    }

    /// The number of the redirect for these ports, from 1; 0: none.
    [[nodiscard]] std::uint16_t redirect_of(const PolicyBuilder::L4& l4) const {
        const auto& [protocol, first, last] = l4;
        const std::uint16_t end = last != first ? last : std::uint16_t{0};
        const auto& all = origin_.policy->redirects();
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (all[i].direction == question_.direction && all[i].protocol == protocol &&
                all[i].port == first && all[i].end_port == end) {
                return static_cast<std::uint16_t>(i + 1);
            }
        }
        return 0;
    }

    void add(Hit hit) {
        const NormalElement& element = *hit.use->element;
        hit.value.precedence = element.deny ? kPrecedenceDeny : kPrecedenceAllow;
        const bool redirects = !element.deny && hit.port != nullptr && is_redirect(*hit.port->rule);
        if (redirects) {
            hit.value.redirect = redirect_of(hit.port->l4);
            if (hit.value.redirect == 0) return;  // contradicts others
            hit.value.precedence =
                redirect_precedence(origin_.policy->redirects()[hit.value.redirect - 1U],
                                    hit.port->rule->listener_priority);
            if (from_host_) to_host_value(hit);
        }
        hits_.push_back(hit);
    }

    void to_host_value(Hit& hit) const {
        if (std::ranges::binary_search(hit.use->peers, origin_.host)) {
            hit.value.precedence = kPrecedenceHostRedirect;
        } else {
            hit.value = {.precedence = kPrecedenceHostAllow};
            hit.past_proxy = true;
        }
    }

    // --- the answer ---------------------------------------------------------------------------

    [[nodiscard]] bool decides(const Hit& hit) const {
        const PolicyMapValue& value = out_.entry->second;
        return hit.value.precedence == value.precedence && hit.value.redirect == value.redirect;
    }

    void answer() {
        if (!out_.entry) return;
        const PolicyMapValue& value = out_.entry->second;
        for (const Hit& hit : hits_) {
            RuleMatch match = match_of(hit);
            if (decides(hit)) {
                out_.decided.push_back(std::move(match));
            } else {
                match.why = why_lost(hit);
                out_.lost.push_back(std::move(match));
            }
        }
        if (value.deny()) {
            out_.answer = PolicyAnswer::kDenied;
        } else if (value.redirect != 0) {
            out_.answer = PolicyAnswer::kRedirected;
            look_into_requests(origin_.policy->redirects()[value.redirect - 1U]);
        } else {
            const bool by_rule = !out_.decided.empty() || from_host_ || out_.enforced;
            out_.answer = by_rule ? PolicyAnswer::kAllowed : PolicyAnswer::kNotEnforced;
            if (from_host_) out_.remark = "the node's own host is let in unless it is denied";
        }
    }

    [[nodiscard]] std::string why_lost(const Hit& hit) const {
        const PolicyMapValue& value = out_.entry->second;
        if (value.deny()) return "a deny rule goes over everything that allows";
        if (hit.past_proxy) return "the host goes past L7 rules that do not name it";
        if (value.redirect == 0) return "the host goes past what others are held to";
        if (hit.value.redirect == 0) {
            return exact(hit)
                       ? "the port is redirected for another rule; its proxy lets everything "
                         "pass by this one"
                       : "an L7 rule goes over rules that allow without looking";
        }
        if (hit.value.precedence == value.precedence) {
            return "another L7 rule is for fewer ports, or for the lower ones";
        }
        return "the L7 rules of another parser or listener go first";
    }

    /// True if the hit is about the very ports of the redirect that the packet takes.
    [[nodiscard]] bool exact(const Hit& hit) const {
        return hit.port != nullptr && !hit.port->all_ports &&
               redirect_of(hit.port->l4) == out_.entry->second.redirect;
    }

    // --- requests -----------------------------------------------------------------------------

    void look_into_requests(const PolicyRedirect& redirect) {
        out_.parser = redirect.parser;
        for (const Hit& hit : hits_) {
            if (hit.use->element->deny || !exact(hit)) continue;
            const L7Rules* rules = hit.port->rule->rules.get();
            if (rules == nullptr) {
                add_l7(hit, "", "everything", true);
                continue;
            }
            add_rules(hit, *rules);
        }
        const bool asked =
            (question_.http && out_.parser == "http") || (question_.dns && out_.parser == "dns");
        if (!asked) return;
        out_.passes = std::ranges::any_of(
            out_.l7, [](const L7Match& one) { return one.passes.value_or(false); });
    }

    void add_rules(const Hit& hit, const L7Rules& rules) {
        for (std::size_t i = 0; i < rules.http.size(); ++i) {
            std::optional<bool> passes;
            if (question_.http) passes = lets_pass(rules.http[i], *question_.http);
            add_l7(hit, fmt::format(".rules.http[{}]", i), to_string(rules.http[i]), passes);
        }
        for (std::size_t i = 0; i < rules.dns.size(); ++i) {
            std::optional<bool> passes;
            if (question_.dns) passes = lets_pass(rules.dns[i], *question_.dns);
            add_l7(hit, fmt::format(".rules.dns[{}]", i), rules.dns[i].text(), passes);
        }
        if (rules.http.empty() && rules.dns.empty()) {
            add_l7(hit, ".rules", fmt::format("rules of parser {}", rules.parser()), {});
        }
    }

    void add_l7(const Hit& hit, std::string_view below, std::string text,
                std::optional<bool> passes) {
        RulePlace place = place_of(hit);
        place.path += below;
        out_.l7.push_back({std::move(place), std::move(text), passes});
    }

    // --- places -------------------------------------------------------------------------------

    static std::string rule_path(const PolicyOrigin::Rule& rule) {
        const std::string& path = rule.policy->rules[rule.index].path;
        return path.empty() ? fmt::format("rules[{}]", rule.index) : path;
    }

    [[nodiscard]] RulePlace place_of(const Hit& hit) const {
        const PolicyOrigin::Rule& rule = origin_.rules[hit.rule];
        const Rule& from = rule.policy->rules[rule.index];
        const auto& elements = rule.cached->rule.directions[at_].elements;
        const NormalElement& element = *hit.use->element;
        // The allowing ones come first, see normalise().
        auto index = static_cast<std::size_t>(&element - elements.data());
        if (element.deny) index -= from.allow[at_].size();
        const auto& written = element.deny ? from.deny[at_] : from.allow[at_];
        RulePlace place{
            rule.policy->key, rule.policy->source, written[index].line,
            fmt::format("{}.{}{}[{}]", rule_path(rule),
                        question_.direction == Direction::kIngress ? "ingress" : "egress",
                        element.deny ? "Deny" : "", index)};
        if (hit.port == nullptr) return place;
        const auto ports = hit.port->rule - element.ports.data();
        const bool icmp = hit.port->port->protocol == Protocol::kIcmp ||
                          hit.port->port->protocol == Protocol::kIcmpv6;
        if (rule.policy->key.kind == PolicyKind::kNetworkPolicy) {
            place.path += fmt::format(".ports[{}]", hit.port->port - hit.port->rule->ports.data());
        } else {
            place.path += fmt::format(".{}[{}]", icmp ? "icmps" : "toPorts", ports);
        }
        return place;
    }

    /// The first item of the element's peers that selects the peer.
    [[nodiscard]] std::string peer_of(const Hit& hit) const {
        const NormalElement& element = *hit.use->element;
        const auto& cached = hit.use->rule->elements[at_];
        const auto index = static_cast<std::size_t>(
            &element - hit.use->rule->rule.directions[at_].elements.data());
        const bool native = origin_.rules[hit.rule].policy->key.kind == PolicyKind::kNetworkPolicy;
        const auto name = [&](PeerPlace place) {
            if (native) {
                return fmt::format(
                    "{}, by {}", question_.direction == Direction::kIngress ? "from" : "to",
                    place.list == PeerPlace::List::kCidrs ? "ipBlock" : "its selectors");
            }
            return fmt::format("{}[{}]", list_name(place.list, question_.direction), place.item);
        };
        if (element.any || element.any_endpoint) return "everybody";
        for (std::size_t i = 0; i < cached[index].endpoints.size(); ++i) {
            if (selects(cached[index].endpoints[i])) {
                return name({PeerPlace::List::kEndpoints, static_cast<std::uint16_t>(i)});
            }
        }
        for (std::size_t i = 0; i < cached[index].others.size(); ++i) {
            if (selects(cached[index].others[i])) return name(element.places[i]);
        }
        return "everybody";
    }

    [[nodiscard]] RuleMatch match_of(const Hit& hit) const {
        const PolicyOrigin::Rule& rule = origin_.rules[hit.rule];
        const bool deny = hit.use->element->deny;
        return {place_of(hit),
                peer_of(hit),
                rule.policy->rules[rule.index].description,
                deny,
                hit.value.precedence,
                hit.value.redirect,
                deny                      ? "denies"
                : hit.value.redirect != 0 ? "sends it to a proxy"
                                          : "allows"};
    }

    const PolicyOptions& options_;
    const SelectorCache& cache_;
    const PolicyOrigin& origin_;
    const PolicyQuestion& question_;
    std::size_t at_;
    std::optional<IdentitySlot> slot_;
    bool local_;      ///< the host may be let in whatever rules say
    bool from_host_;  ///< and the peer is the host
    std::vector<Hit> hits_;
    Explanation out_;
};

}  // namespace

std::string_view to_string(PolicyAnswer answer) {
    switch (answer) {
        case PolicyAnswer::kAllowed:
            return "allowed";
        case PolicyAnswer::kRedirected:
            return "redirected";
        case PolicyAnswer::kDenied:
            return "denied";
        case PolicyAnswer::kDefaultDenied:
            return "default-denied";
        case PolicyAnswer::kNotEnforced:
            return "not-enforced";
    }
    return "";
}

bool Explanation::allowed() const noexcept {
    switch (answer) {
        case PolicyAnswer::kAllowed:
        case PolicyAnswer::kNotEnforced:
            return true;
        case PolicyAnswer::kRedirected:
            return passes.value_or(true);
        case PolicyAnswer::kDenied:
        case PolicyAnswer::kDefaultDenied:
            break;
    }
    return false;
}

std::optional<PolicyEntry> find_entry(const EndpointPolicy& policy, const SelectorCache& cache,
                                      Direction direction, std::optional<IdentitySlot> slot,
                                      std::uint8_t protocol, std::uint16_t port) {
    const DirectionPolicy& part = policy.direction(direction);
    const EntryShape packet{protocol, 24, port, {}};
    const std::vector<EntryShape>* const list = slot ? part.find(*slot) : nullptr;
    const EntryShape* const own = list != nullptr ? narrowest_covering(*list, packet) : nullptr;
    const EntryShape* const any = narrowest_covering(part.wildcard(), packet);
    if (own == nullptr && any == nullptr) return std::nullopt;
    const auto rank = [](const EntryShape* one) {
        return one == nullptr ? std::pair<int, int>(-1, -1)
                              : std::pair<int, int>(one->value.precedence, one->length);
    };
    const bool ours = rank(own) >= rank(any);
    const EntryShape& found = ours ? *own : *any;
    return PolicyEntry{
        {ours ? cache.identity(*slot).id : 0U, direction, found.protocol, found.length, found.port},
        found.value};
}

Explanation explain(PolicyCompiler& compiler, const PolicyEndpoint& endpoint,
                    const PolicyQuestion& question) {
    Explanation out;
    compiler.examine(endpoint, [&](const PolicyOrigin& origin) {
        out = Explainer(compiler, origin, question).run();
    });
    return out;
}

}  // namespace mesh::compile
