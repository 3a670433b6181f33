#include "engine/explanation.hpp"

#include "compile/policy/policy_json.hpp"

namespace mesh::engine {

namespace {

std::vector<std::string> label_texts(const std::vector<model::Label>& labels) {
    std::vector<std::string> texts;
    texts.reserve(labels.size());
    for (const auto& label : labels) texts.push_back(compile::label_text(label));
    return texts;
}

PacketEnd to_view(const compile::TraceSide& side) {
    PacketEnd to{.asked = side.asked,
                 .pod = side.pod,
                 .address = side.address,
                 .cluster = side.cluster,
                 .identity = side.identity.id,
                 .labels = label_texts(side.identity.labels),
                 .cidr = side.identity.cidr ? side.identity.cidr->to_string() : std::string(),
                 .facts = {}};
    for (const auto& fact : side.facts) {
        FactView& one = to.facts.emplace_back();
        one.what = fact.what;
        one.cluster = fact.cluster;
        one.state = fact.state;
        if (fact.age_seconds) {
            one.age = std::chrono::duration_cast<std::chrono::nanoseconds>(
                std::chrono::duration<double>(*fact.age_seconds));
        }
    }
    return to;
}

RulePlaceView to_view(const compile::RulePlace& place) {
    return {.kind = std::string(to_string(place.policy.kind)),
            .namespace_ = place.policy.namespace_,
            .name = place.policy.name,
            .path = place.path,
            .source = place.source,
            .line = place.line};
}

std::vector<RuleView> to_views(const std::vector<compile::RuleMatch>& matches) {
    std::vector<RuleView> all;
    for (const auto& match : matches) {
        all.push_back({.place = to_view(match.place),
                       .peer = match.peer,
                       .action = match.deny            ? "deny"
                                 : match.redirect != 0 ? "redirect"
                                                       : "allow",
                       .why = match.why,
                       .description = match.description});
    }
    return all;
}

DirectionView to_view(const std::optional<compile::Explanation>& explanation,
                      const std::string& why_not) {
    DirectionView to;
    if (!explanation) {
        to.remark = why_not;
        return to;
    }
    to.evaluated = true;
    to.remark = explanation->remark;
    to.verdict = to_string(explanation->answer);
    to.allowed = explanation->allowed();
    to.enforced = explanation->enforced;
    for (const auto& place : explanation->enforcing) to.enforced_by.push_back(to_view(place));
    to.decided = to_views(explanation->decided);
    to.lost = to_views(explanation->lost);
    to.installed = explanation->installed;
    to.parser = explanation->parser;
    for (const auto& match : explanation->l7) {
        to.l7.push_back(
            {.place = to_view(match.place), .rule = match.text, .passes = match.passes});
    }
    to.passes = explanation->passes;
    return to;
}

}  // namespace

Explanation to_view(const compile::Trace& trace) {
    return {.verdict = std::string(to_string(trace.verdict())),
            .source = to_view(trace.source),
            .destination = to_view(trace.destination),
            .protocol = compile::protocol_text(trace.question.protocol),
            .port = trace.question.port,
            .egress = to_view(trace.egress, trace.no_egress),
            .ingress = to_view(trace.ingress, trace.no_ingress)};
}

}  // namespace mesh::engine
