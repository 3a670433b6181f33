#include "compile/policy/policy_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace mesh::compile {

namespace json = boost::json;
using namespace model::policy;
using model::Label;

namespace {

std::string_view direction_text(Direction direction) {
    return direction == Direction::kIngress ? "ingress" : "egress";
}

std::string ports_text(std::uint16_t first, std::uint16_t last) {
    return first == last ? std::to_string(first) : fmt::format("{}-{}", first, last);
}

json::object to_json(const RulePlace& place) {
    return {{"kind", to_string(place.policy.kind)},
            {"namespace", place.policy.namespace_},
            {"name", place.policy.name},
            {"path", place.path},
            {"source", place.source},
            {"line", place.line}};
}

json::array to_json(const std::vector<RuleMatch>& matches) {
    json::array out;
    for (const RuleMatch& match : matches) {
        json::object one = to_json(match.place);
        one["peer"] = match.peer;
        one["action"] = match.deny ? "deny" : match.redirect != 0 ? "redirect" : "allow";
        one["why"] = match.why;
        if (!match.description.empty()) one["description"] = match.description;
        out.push_back(std::move(one));
    }
    return out;
}

json::object to_json(const PolicyEntry& entry) {
    const auto& [key, value] = entry;
    json::object out{{"identity", key.identity}, {"direction", direction_text(key.direction)}};
    if (key.length == 0) {
        out["protocol"] = "any";
        out["ports"] = "all";
    } else {
        const std::uint32_t last = key.port + (1U << (24U - key.length)) - 1;
        out["protocol"] = protocol_text(key.protocol);
        out["ports"] =
            key.length == 8 ? "all" : ports_text(key.port, static_cast<std::uint16_t>(last));
    }
    out["deny"] = value.deny();
    out["redirect"] = value.redirect != 0;
    out["precedence"] = value.precedence;
    return out;
}

json::object to_json(const TraceSide& side) {
    json::array facts;
    for (const TraceFact& fact : side.facts) {
        json::object one{{"what", fact.what}, {"cluster", fact.cluster}};
        if (!fact.state.empty()) one["state"] = fact.state;
        if (fact.age_seconds) one["age_seconds"] = *fact.age_seconds;
        facts.push_back(std::move(one));
    }
    json::object out{{"asked", side.asked}, {"identity", side.identity.id}};
    out["labels"] = labels_json(side.identity.labels);
    if (!side.pod.empty()) out["pod"] = side.pod;
    if (!side.address.empty()) out["address"] = side.address;
    if (!side.cluster.empty()) out["cluster"] = side.cluster;
    if (side.identity.cidr) out["cidr"] = side.identity.cidr->to_string();
    out["facts"] = std::move(facts);
    return out;
}

json::object direction_json(const std::optional<Explanation>& explanation,
                            const std::string& why_not) {
    if (!explanation) return {{"evaluated", false}, {"remark", why_not}};
    json::object out = to_json(*explanation);
    out["evaluated"] = true;
    return out;
}

json::object to_json(const PolicyOutcome& outcome) {
    json::object out{{"verdict", to_string(outcome.answer)}};
    if (!outcome.parser.empty()) out["parser"] = outcome.parser;
    if (!outcome.l7.empty()) {
        json::array rules;
        for (const std::string& one : outcome.l7) rules.emplace_back(one);
        out["l7"] = std::move(rules);
    }
    return out;
}

json::array to_json(const std::vector<PortChange>& changes) {
    json::array out;
    for (const PortChange& change : changes) {
        json::object one;
        one["protocol"] = change.protocol == PortChange::kAll      ? "any"
                          : change.protocol == PortChange::kOthers ? "others"
                                                                   : protocol_text(change.protocol);
        const bool all = change.first == 0 && change.last == 65'535;
        one["ports"] = all ? "all" : ports_text(change.first, change.last);
        one["before"] = to_json(change.before);
        one["after"] = to_json(change.after);
        out.push_back(std::move(one));
    }
    return out;
}

/// An identity of the compiler's, or one that the difference made up.
const PolicyIdentity* find_peer(std::uint32_t id, const PolicyDiff& diff,
                                const SelectorCache& identities) {
    if (const auto slot = identities.find(id)) return &identities.identity(*slot);
    const auto found = std::ranges::find(diff.made_up, id, &PolicyIdentity::id);
    return found == diff.made_up.end() ? nullptr : &*found;
}

json::object peers_json(const PolicyDifference& difference, const PolicyDiff& diff,
                        const SelectorCache& identities) {
    json::array named, outside;
    std::vector<Label> common;
    bool first = true;
    for (const std::uint32_t id : difference.peers) {
        const PolicyIdentity* const peer = find_peer(id, diff, identities);
        if (peer == nullptr) continue;
        const bool made_up = !identities.find(id);
        if (peer->cidr || made_up) {
            // Numbers of these are the node's own, or nobody's.
            if (outside.size() < kMaxNamedPeers) {
                outside.emplace_back(peer->cidr ? peer->cidr->to_string()
                                                : label_text(peer->labels.front()));
            }
        } else if (named.size() < kMaxNamedPeers) {
            named.emplace_back(id);
        }
        if (std::exchange(first, false)) {
            common = peer->labels;
            continue;
        }
        std::vector<Label> both;
        std::ranges::set_intersection(common, peer->labels, std::back_inserter(both));
        common = std::move(both);
    }
    return {{"count", difference.peers.size()},
            {"unknown", difference.other_peers},
            {"identities", std::move(named)},
            {"outside", std::move(outside)},
            {"common_labels", labels_json(common)}};
}

}  // namespace

std::string label_text(const Label& label) {
    std::string out = fmt::format("{}:{}", label.source.view(), label.key.view());
    if (!label.value.view().empty()) out += fmt::format("={}", label.value.view());
    return out;
}

json::array labels_json(const std::vector<Label>& labels) {
    json::array out;
    for (const Label& label : labels) out.emplace_back(label_text(label));
    return out;
}

json::object to_json(const Explanation& explanation) {
    json::object out{{"verdict", to_string(explanation.answer)},
                     {"allowed", explanation.allowed()},
                     {"enforced", explanation.enforced}};
    json::array enforcing;
    for (const RulePlace& place : explanation.enforcing) enforcing.push_back(to_json(place));
    out["enforced_by"] = std::move(enforcing);
    if (!explanation.remark.empty()) out["remark"] = explanation.remark;
    out["decided"] = to_json(explanation.decided);
    out["lost"] = to_json(explanation.lost);
    if (explanation.entry) out["entry"] = to_json(*explanation.entry);
    out["installed"] = explanation.installed;
    if (explanation.parser.empty()) return out;
    out["parser"] = explanation.parser;
    json::array rules;
    for (const L7Match& match : explanation.l7) {
        json::object one = to_json(match.place);
        one["rule"] = match.text;
        if (match.passes) one["passes"] = *match.passes;
        rules.push_back(std::move(one));
    }
    out["l7"] = std::move(rules);
    if (explanation.passes) out["passes"] = *explanation.passes;
    return out;
}

json::object to_json(const Trace& trace) {
    json::object out{{"verdict", to_string(trace.verdict())},
                     {"source", to_json(trace.source)},
                     {"destination", to_json(trace.destination)},
                     {"protocol", protocol_text(trace.question.protocol)},
                     {"port", trace.question.port}};
    if (const auto& http = trace.question.http) {
        out["http"] = {{"method", http->method}, {"path", http->path}, {"host", http->host}};
    }
    if (trace.question.dns) out["dns"] = *trace.question.dns;
    out["egress"] = direction_json(trace.egress, trace.no_egress);
    out["ingress"] = direction_json(trace.ingress, trace.no_ingress);
    return out;
}

json::object to_json(const PolicyDiff& diff, const SelectorCache& identities) {
    json::array differences, conflicts;
    for (const PolicyDifference& one : diff.differences) {
        json::array endpoints;
        for (const auto& subject : one.subjects) {
            json::array ids(subject.endpoints.begin(), subject.endpoints.end());
            endpoints.push_back(
                json::object{{"labels", labels_json(subject.labels)}, {"ids", std::move(ids)}});
        }
        differences.push_back(json::object{{"direction", direction_text(one.direction)},
                                           {"endpoints", std::move(endpoints)},
                                           {"peers", peers_json(one, diff, identities)},
                                           {"changes", to_json(one.ports)}});
    }
    for (const std::string& conflict : diff.conflicts) conflicts.emplace_back(conflict);
    return {{"differences", std::move(differences)}, {"conflicts", std::move(conflicts)}};
}

}  // namespace mesh::compile
