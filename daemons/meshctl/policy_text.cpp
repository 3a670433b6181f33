#include "meshctl/policy_text.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "meshctl/agents.hpp"
#include "meshctl/output.hpp"

namespace mesh::ctl {

namespace json = boost::json;

namespace {

constexpr std::size_t kMaxNamed = 4;  ///< more are counted

const json::object& object_in(const json::value& item) {
    static const json::object none;
    return item.is_object() ? item.get_object() : none;
}

std::string who(const json::object& side) {
    for (const char* key : {"pod", "address"}) {
        if (const std::string text = text_of(side, key); !text.empty()) return text;
    }
    return text_of(side, "asked");
}

std::string policy_name(const json::object& place) {
    const std::string space = text_of(place, "namespace");
    return fmt::format("{} {}{}", text_of(place, "kind"), space.empty() ? "" : space + "/",
                       text_of(place, "name"));
}

/// "shop.yaml: document 1: line 7".
std::string written_at(const json::object& place) {
    const std::string source = text_of(place, "source");
    const std::int64_t line = integer_of(place, "line");
    if (source.empty()) return {};
    return line == 0 ? source : fmt::format("{}: line {}", source, line);
}

// --- trace ------------------------------------------------------------------------------------

std::string sides_text(const json::object& trace) {
    Table table({"SIDE", "POD", "ADDRESS", "IDENTITY", "CLUSTER", "LABELS"});
    for (const char* which : {"source", "destination"}) {
        const json::object& side = object_of(trace, which);
        table.add({which, text_of(side, "pod"), text_of(side, "address"), text_of(side, "identity"),
                   text_of(side, "cluster"), short_labels(list_of(side, "labels"))});
    }
    table.drop_empty_columns();
    return table.text();
}

std::string facts_text(const json::object& trace) {
    Table table({"FACT", "LEARNT IN", "STATE", "LAST HEARD OF"});
    for (const char* which : {"source", "destination"}) {
        for (const json::value& item : list_of(object_of(trace, which), "facts")) {
            const json::object& fact = object_in(item);
            const std::string age = text_of(fact, "age_seconds");
            const std::string cluster = text_of(fact, "cluster");
            table.add({text_of(fact, "what"), cluster.empty() ? "this node" : cluster,
                       text_of(fact, "state"),
                       age.empty() ? ""
                                   : fmt::format("{:.1f}s ago",
                                                 fact.at("age_seconds").to_number<double>())});
        }
    }
    return table.empty() ? "" : "\n" + table.text();
}

void add_matches(Table& table, const json::array& matches, std::string_view how) {
    for (const json::value& item : matches) {
        const json::object& match = object_in(item);
        table.add({std::string(how), policy_name(match), text_of(match, "path"),
                   text_of(match, "peer"), written_at(match), text_of(match, "why")});
    }
}

std::string l7_text(const json::object& direction) {
    const json::array& rules = list_of(direction, "l7");
    if (rules.empty()) return {};
    Table table({"REQUEST", "RULE", "POLICY", "WHERE", "WRITTEN"});
    for (const json::value& item : rules) {
        const json::object& rule = object_in(item);
        const bool asked = rule.contains("passes");
        table.add({!asked                    ? "not asked"
                   : flag_of(rule, "passes") ? "passes"
                                             : "no match",
                   text_of(rule, "rule"), policy_name(rule), text_of(rule, "path"),
                   written_at(rule)});
    }
    return table.text();
}

std::string headline_of(const json::object& direction) {
    if (!flag_of(direction, "evaluated")) {
        return fmt::format("not decided here: {}", text_of(direction, "remark"));
    }
    std::string out = text_of(direction, "verdict");
    if (const std::string parser = text_of(direction, "parser"); !parser.empty()) {
        out += fmt::format(" to the {} proxy", parser);
        if (direction.contains("passes")) {
            out += flag_of(direction, "passes") ? ", which lets the request pass"
                                                : ", which refuses the request";
        }
    }
    if (const std::string remark = text_of(direction, "remark"); !remark.empty()) {
        out += fmt::format(" ({})", remark);
    }
    return out;
}

/// What of an endpoint on its node makes the rules alone no answer.
std::string endpoint_text(const json::object& endpoint) {
    const std::string enforcement = text_of(endpoint, "enforcement");
    const std::string state = text_of(endpoint, "state");
    std::string out;
    if (enforcement == "audit") out += "audit mode: what rules deny passes, and is told\n";
    if (enforcement == "locked") out += "the endpoint is locked: nothing passes but replies\n";
    if (!state.empty() && state != "ready") {
        const std::string error = text_of(endpoint, "error");
        out += fmt::format("its policy is not in force as it stands here: {}{}{}\n", state,
                           error.empty() ? "" : ", ", error);
    }
    return out;
}

std::string direction_text(const json::object& trace, const char* which, const char* side) {
    const json::object& direction = object_of(trace, which);
    std::string out =
        fmt::format("\n{} of {}: {}\n", which, who(object_of(trace, side)), headline_of(direction));
    if (!flag_of(direction, "evaluated")) return out;
    out += endpoint_text(object_of(direction, "endpoint"));
    Table table({"ROLE", "POLICY", "RULE", "PEER", "WRITTEN", "WHY"});
    add_matches(table, list_of(direction, "decided"), "decides");
    add_matches(table, list_of(direction, "lost"), "loses");
    if (list_of(direction, "decided").empty()) {
        for (const json::value& item : list_of(direction, "enforced_by")) {
            const json::object& place = object_in(item);
            table.add({"enforces", policy_name(place), text_of(place, "path"), "",
                       written_at(place), "denies what no rule allows"});
        }
    }
    if (!table.empty()) {
        table.drop_empty_columns();
        out += table.text();
    }
    return out + l7_text(direction);
}

std::string question_text(const json::object& trace) {
    std::string out = fmt::format("{} -> {} {}/{}", who(object_of(trace, "source")),
                                  who(object_of(trace, "destination")), integer_of(trace, "port"),
                                  text_of(trace, "protocol"));
    if (const json::object& http = object_of(trace, "http"); !http.empty()) {
        out += fmt::format(" {} {}", text_of(http, "method"), text_of(http, "path"));
    }
    if (const std::string dns = text_of(trace, "dns"); !dns.empty()) out += " name " + dns;
    return out;
}

// --- diff -------------------------------------------------------------------------------------

std::string outcome_text(const json::object& outcome) {
    std::string out = text_of(outcome, "verdict");
    if (const std::string parser = text_of(outcome, "parser"); !parser.empty()) {
        out = parser + " proxy";
        std::string rules;
        for (const json::value& item : list_of(outcome, "l7")) {
            if (item.is_string())
                rules += (rules.empty() ? "" : " | ") + std::string(item.get_string());
        }
        if (!rules.empty()) out += fmt::format(" [{}]", rules);
    }
    return out;
}

std::string peers_text(const json::object& peers) {
    const auto count = static_cast<std::size_t>(integer_of(peers, "count"));
    std::vector<std::string> named;
    for (const json::value& item : list_of(peers, "outside")) {
        if (item.is_string()) named.emplace_back(item.get_string());
    }
    for (const json::value& item : list_of(peers, "identities")) {
        named.push_back("identity " + json::serialize(item));
    }
    std::string out;
    if (count != 0 && named.size() == count && count <= kMaxNamed) {
        for (const std::string& one : named) out += (out.empty() ? "" : ", ") + one;
    } else if (count != 0) {
        out = fmt::format("{} identities", count);
    }
    const std::string common = short_labels(list_of(peers, "common_labels"));
    if (!list_of(peers, "identities").empty() && !common.empty()) {
        out += fmt::format(" ({})", common);
    }
    if (flag_of(peers, "unknown")) out += out.empty() ? "all others" : " and all others";
    return out;
}

std::string endpoints_text(const json::array& endpoints) {
    std::string out;
    for (const json::value& item : endpoints) {
        const json::object& one = object_in(item);
        const json::array& pods = list_of(one, "pods");
        if (!out.empty()) out += ", ";
        if (pods.empty()) {
            out += short_labels(list_of(one, "labels"));
        } else if (pods.size() <= kMaxNamed) {
            out += joined_texts(pods);
        } else {
            out += fmt::format("{} pods ({})", pods.size(), short_labels(list_of(one, "labels")));
        }
    }
    return out;
}

/// Protocols with the same change of all their ports are one row.
void add_changes(Table& table, const json::array& changes) {
    std::vector<std::pair<std::vector<std::string>, std::string>> rows;  // rest, protocols
    for (const json::value& item : changes) {
        const json::object& change = object_in(item);
        std::vector<std::string> rest{text_of(change, "ports"),
                                      outcome_text(object_of(change, "before")),
                                      outcome_text(object_of(change, "after"))};
        const std::string protocol = text_of(change, "protocol");
        bool joined = false;
        for (auto& [other, protocols] : rows) {
            if (other != rest || rest[0] != "all") continue;
            protocols += "," + protocol;
            joined = true;
        }
        if (!joined) rows.emplace_back(std::move(rest), protocol);
    }
    for (auto& [rest, protocols] : rows) {
        table.add({protocols, rest[0], rest[1], rest[2]});
    }
}

}  // namespace

std::string short_labels(const json::array& labels) {
    std::string out;
    for (const json::value& item : labels) {
        if (!item.is_string()) continue;
        std::string_view text = item.get_string();
        if (text.starts_with("k8s:")) text.remove_prefix(4);
        out += out.empty() ? "" : ",";
        out += text;
    }
    return out;
}

std::string trace_text(const json::object& trace) {
    return fmt::format("{}: {}\n\n{}", text_of(trace, "verdict"), question_text(trace),
                       sides_text(trace)) +
           facts_text(trace) + direction_text(trace, "egress", "source") +
           direction_text(trace, "ingress", "destination");
}

std::string diff_text(const json::object& diff) {
    std::string out;
    for (const json::value& item : list_of(diff, "conflicts")) {
        if (item.is_string())
            out += fmt::format("conflict: {}\n", std::string_view(item.get_string()));
    }
    const json::array& differences = list_of(diff, "differences");
    if (differences.empty()) return out + "no packet has another verdict\n";
    for (const json::value& item : differences) {
        const json::object& one = object_in(item);
        const bool ingress = text_of(one, "direction") == "ingress";
        if (!out.empty()) out += "\n";
        out += fmt::format("{} of {} {} {}\n", text_of(one, "direction"),
                           endpoints_text(list_of(one, "endpoints")), ingress ? "from" : "to",
                           peers_text(object_of(one, "peers")));
        Table table({"PROTOCOL", "PORTS", "BEFORE", "AFTER"});
        add_changes(table, list_of(one, "changes"));
        table.drop_empty_columns();
        out += table.text();
    }
    return out;
}

json::object merge_diffs(const std::vector<std::pair<std::string, json::object>>& by_node) {
    json::array differences, conflicts;
    std::map<std::string, std::size_t> seen;
    for (const auto& [node, diff] : by_node) {
        for (const json::value& item : list_of(diff, "conflicts")) {
            bool known = false;
            for (const json::value& one : conflicts) known = known || one == item;
            if (!known) conflicts.push_back(item);
        }
        for (const json::value& item : list_of(diff, "differences")) {
            json::object one = object_in(item);
            json::array endpoints = list_of(one, "endpoints");
            for (json::value& endpoint : endpoints) {
                if (endpoint.is_object()) endpoint.get_object()["node"] = node;
            }
            one["endpoints"] = json::array();
            const auto [at, added] = seen.try_emplace(json::serialize(one), differences.size());
            if (added) differences.push_back(std::move(one));
            json::array& all = differences[at->second].get_object()["endpoints"].get_array();
            all.insert(all.end(), endpoints.begin(), endpoints.end());
        }
    }
    return {{"differences", std::move(differences)}, {"conflicts", std::move(conflicts)}};
}

}  // namespace mesh::ctl
