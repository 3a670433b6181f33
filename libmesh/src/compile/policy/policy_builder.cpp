#include "compile/policy/policy_builder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "compile/policy/entry_shapes.hpp"

namespace mesh::compile {

using namespace model::policy;

namespace {

constexpr std::array<std::uint8_t, 3> kPortProtocols{6, 17, 132};

std::string parser_of(const PortRule& rule) {
    return rule.listener.empty() ? std::string(rule.rules->parser()) : std::string("crd");
}

}  // namespace

bool is_redirect(const PortRule& rule) {
    return rule.rules != nullptr || !rule.listener.empty();
}

std::uint8_t redirect_precedence(const PolicyRedirect& redirect, std::uint16_t priority) {
    unsigned order = 111;  // a generic parser's
    if (redirect.parser == "http") order = 101;
    if (redirect.parser == "kafka") order = 106;
    if (redirect.parser == "tls") order = 116;
    if (redirect.parser == "dns") order = 121;
    if (redirect.parser == "crd") order = priority != 0 ? priority : 126;
    return static_cast<std::uint8_t>(std::min<unsigned>(255 - order, kPrecedenceMaxRedirect));
}

bool PolicyBuilder::build(const std::vector<const CachedRule*>& rules, const Subject& subject,
                          EndpointPolicy& out, std::vector<SelectorId>& acquired) {
    uses_peer_ports_ = false;
    out.redirects_.clear();
    out.conflict_.reset();
    for (const Direction direction : kDirections) {
        build_direction(rules, subject, direction, out, acquired);
    }
    if (out.conflict_) {
        out.redirects_.clear();
        for (DirectionPolicy& part : out.directions_) {
            part.build({}, true, kAnyPeer, cache_, scratch_);
        }
    }
    return uses_peer_ports_;
}

void PolicyBuilder::build_direction(const std::vector<const CachedRule*>& rules,
                                    const Subject& subject, Direction direction,
                                    EndpointPolicy& out, std::vector<SelectorId>& acquired) {
    const std::size_t at = index_of(direction);
    const bool exempt =
        subject.enforcement == Enforcement::kNever || (subject.is_host && !options_.host_firewall);
    bool enforced = !exempt && (subject.enforcement == Enforcement::kAlways || subject.is_init);
    std::vector<PeerShape> shapes;
    if (!exempt) {
        for (const CachedRule* rule : rules) {
            enforced = enforced || rule->rule.directions[at].default_deny;
        }
        const std::vector<Use> uses = collect(rules, subject, direction, acquired);
        const auto redirects = make_redirects(uses, direction, out);
        for (const Use& use : uses) add_shapes(use, redirects, out, shapes);
    }
    const PolicyMapValue allow{.precedence = kPrecedenceAllow};
    if (!enforced) shapes.push_back({kAnyPeer, {0, 0, 0, allow}});
    const bool local =
        direction == Direction::kIngress && options_.allow_localhost && !subject.is_host;
    if (local) shapes.push_back({host_, {0, 0, 0, allow}});
    out.directions_[at].build(std::move(shapes), enforced, local ? host_ : kAnyPeer, cache_,
                              scratch_);
}

std::vector<PolicyBuilder::Use> PolicyBuilder::collect(const std::vector<const CachedRule*>& rules,
                                                       const Subject& subject, Direction direction,
                                                       std::vector<SelectorId>& acquired) {
    const std::size_t at = index_of(direction);
    std::array<std::vector<EndpointSelector>, 2> required;
    for (const CachedRule* rule : rules) {
        for (const std::size_t deny : {0U, 1U}) {
            const auto& more = rule->rule.directions[at].requires_[deny];
            required[deny].insert(required[deny].end(), more.begin(), more.end());
        }
    }
    std::vector<Use> uses;
    for (const CachedRule* rule : rules) {
        const auto& elements = rule->rule.directions[at].elements;
        for (std::size_t i = 0; i < elements.size(); ++i) {
            const NormalElement& element = elements[i];
            const CachedRule::Element& cached = rule->elements[at][i];
            Use use{rule, &element, cached.others, {}};
            const auto& needed = required[element.deny ? 1 : 0];
            if (element.any) use.peers.push_back(kAnyPeer);
            if (needed.empty()) {
                if (element.any_endpoint) use.peers.push_back(kAnyPeer);
                use.peers.insert(use.peers.end(), cached.endpoints.begin(), cached.endpoints.end());
            } else {
                add_required(element, needed, use.peers, acquired);
            }
            if (use.peers.empty()) continue;
            std::ranges::sort(use.peers);
            use.peers.erase(std::unique(use.peers.begin(), use.peers.end()), use.peers.end());
            for (const PortRule& ports : element.ports) {
                resolve(ports, subject, direction, use.ports);
            }
            if (!element.ports.empty() && use.ports.empty()) continue;
            uses.push_back(std::move(use));
        }
    }
    return uses;
}

void PolicyBuilder::add_required(const NormalElement& element,
                                 const std::vector<EndpointSelector>& required,
                                 std::vector<SelectorId>& peers,
                                 std::vector<SelectorId>& acquired) {
    std::vector<SelectorSpec> specs = element.endpoints;
    if (element.any_endpoint) specs.emplace_back();
    for (SelectorSpec& spec : specs) {
        auto& all = spec.requirements;
        for (const EndpointSelector& one : required) {
            all.insert(all.end(), one.requirements.begin(), one.requirements.end());
        }
        std::ranges::sort(all);
        all.erase(std::unique(all.begin(), all.end()), all.end());
        acquired.push_back(cache_.acquire(spec));
        peers.push_back(acquired.back());
    }
}

void PolicyBuilder::resolve(const PortRule& rule, const Subject& subject, Direction direction,
                            std::vector<PortUse>& out) {
    const NamedPorts* const names =
        direction == Direction::kIngress ? subject.own_ports : subject.peer_ports;
    const auto add = [&](const PortProtocol& port, std::uint8_t protocol) {
        std::uint16_t first = port.port;
        if (!port.name.empty()) {
            uses_peer_ports_ = uses_peer_ports_ || direction == Direction::kEgress;
            const auto found = names->find({port.name, protocol});
            if (found == names->end()) return;
            first = found->second;
        }
        const bool icmp = port.protocol == Protocol::kIcmp || port.protocol == Protocol::kIcmpv6;
        const bool all =
            port.name.empty() && first == 0 && (!icmp || options_.icmp_type_zero_is_any);
        const std::uint16_t last = port.end_port != 0 ? port.end_port : first;
        out.push_back({{protocol, first, last}, all, &rule, &port});
    };
    for (const PortProtocol& port : rule.ports) {
        if (port.protocol != Protocol::kAny) {
            add(port, static_cast<std::uint8_t>(port.protocol));
            continue;
        }
        for (const std::uint8_t protocol : kPortProtocols) add(port, protocol);
    }
}

std::map<PolicyBuilder::L4, std::uint16_t> PolicyBuilder::make_redirects(
    const std::vector<Use>& uses, Direction direction, EndpointPolicy& out) const {
    std::map<L4, std::uint16_t> numbers;
    for (const Use& use : uses) {
        for (const PortUse& port : use.ports) {
            if (!use.element->deny && is_redirect(*port.rule)) numbers.emplace(port.l4, 0);
        }
    }
    if (numbers.empty()) return numbers;
    for (auto& [l4, number] : numbers) {
        const auto& [protocol, first, last] = l4;
        const auto end = last != first ? last : std::uint16_t{0};
        out.redirects_.push_back({direction, protocol, first, end, {}, {}, {}});
        number = static_cast<std::uint16_t>(out.redirects_.size());
    }
    for (const Use& use : uses) {
        if (use.element->deny) continue;
        for (const PortUse& port : use.ports) {
            const auto found = numbers.find(port.l4);
            if (found == numbers.end() || port.all_ports) continue;
            PolicyRedirect& redirect = out.redirects_[found->second - 1U];
            for (const SelectorId peer : use.peers) {
                redirect.rules.push_back({peer, port.rule->rules});
            }
            if (!is_redirect(*port.rule)) continue;
            std::string parser = parser_of(*port.rule);
            // TLS rules are what other parsers look at first.
            if (redirect.parser.empty() || redirect.parser == "tls") {
                redirect.parser = std::move(parser);
            } else if (parser != redirect.parser && parser != "tls" && !out.conflict_) {
                out.conflict_ =
                    Error(Errc::kConflict,
                          fmt::format("L7 rules of {} and {} on one port: {} {} of protocol {}",
                                      redirect.parser, parser,
                                      direction == Direction::kIngress ? "ingress" : "egress",
                                      std::get<1>(port.l4), std::get<0>(port.l4)));
            }
            if (redirect.listener.empty()) redirect.listener = port.rule->listener;
        }
    }
    return numbers;
}

void PolicyBuilder::add_shapes(const Use& use, const std::map<L4, std::uint16_t>& redirects,
                               const EndpointPolicy& out, std::vector<PeerShape>& shapes) const {
    const NormalElement& element = *use.element;
    PolicyMapValue value{.precedence = element.deny ? kPrecedenceDeny : kPrecedenceAllow};
    if (element.authentication) {
        value.auth = static_cast<std::uint8_t>(*element.authentication);
        value.explicit_auth = true;
    }
    const auto add = [&](EntryShape shape, const PolicyMapValue& with) {
        shape.value = with;
        for (const SelectorId peer : use.peers) shapes.push_back({peer, shape});
    };
    if (element.ports.empty()) add({}, value);
    for (const PortUse& port : use.ports) {
        PolicyMapValue with = value;
        const auto& [protocol, first, last] = port.l4;
        if (!element.deny && is_redirect(*port.rule)) {
            with.redirect = redirects.at(port.l4);
            with.precedence = redirect_precedence(out.redirects_[with.redirect - 1U],
                                                  port.rule->listener_priority);
        }
        if (port.all_ports) {
            add({protocol, 8, 0, {}}, with);
            continue;
        }
        for (const EntryShape& block : port_blocks(protocol, first, last)) add(block, with);
    }
}

}  // namespace mesh::compile
