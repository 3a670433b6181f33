// policy_reference: what the reference evaluator says of requests. One JSON list of questions on
// standard input, one list of answers on standard output; policy_test.py asks it once per case and
// compares the answers with what real requests met.
//
// A question is a cluster's view: {"options": {"cluster", "enforcement", "default_local_cluster"},
// "policies": [YAML text], "services": [{"name", "namespace", "selector", "backends"}],
// "identities": {name: {"labels": ["source:key=value"], "cidr", "ports": [{"name", "protocol",
// "port"}]}}, "checks": [{"subject", "peer", "direction", "protocol", "port", "names", "http",
// "dns"}]}. "names" are those by which the subject's node has learnt the peer's address; "http" and
// "dns" are what an L7 rule would look at. The answer has a word for each check: "allow", "deny",
// "drop" (nothing lets it pass), and of redirects "l7-allow", "l7-deny".
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <string>
#include <string_view>

#include "sources/config/policy_documents.hpp"
#include "support/policy/reference.hpp"

namespace mesh::test {
namespace {

namespace json = boost::json;
using model::Label;
using model::policy::Direction;
using model::policy::FqdnSelector;
using model::policy::HeaderMatch;
using model::policy::HeaderMismatch;
using model::policy::HttpRule;
using model::policy::L7Rules;

[[noreturn]] void give_up(const std::string& what) {
    std::fprintf(stderr, "policy_reference: %s\n", what.c_str());
    std::exit(1);
}

std::string text(const json::value& value) {
    return std::string(value.as_string());
}

const json::array& list_of(const json::object& from, std::string_view key) {
    static const json::array kNone;
    const json::value* found = from.if_contains(key);
    return found != nullptr ? found->as_array() : kNone;
}

std::uint8_t protocol_number(std::string_view name) {
    static const std::map<std::string_view, std::uint8_t> kNumbers{
        {"TCP", 6}, {"UDP", 17}, {"SCTP", 132}, {"ICMP", 1}, {"ICMPv6", 58}};
    const auto found = kNumbers.find(name);
    if (found == kNumbers.end()) give_up("unknown protocol " + std::string(name));
    return found->second;
}

std::uint16_t port_number(const json::object& from) {
    return static_cast<std::uint16_t>(from.at("port").as_int64());
}

/// "source:key=value"
Label read_label(std::string_view whole) {
    const auto colon = whole.find(':');
    const std::string_view source = whole.substr(0, colon);
    const std::string_view rest = whole.substr(colon + 1);
    const auto equals = rest.find('=');
    if (equals == std::string_view::npos) return {source, rest, ""};
    return {source, rest.substr(0, equals), rest.substr(equals + 1)};
}

// --- L7 ----------------------------------------------------------------------------------------

bool whole_matches(const std::string& expression, const std::string& value) {
    return std::regex_match(value, std::regex(expression));
}

/// '*' is any text without a dot; alone it is every name.
bool name_selected(const FqdnSelector& selector, const std::string& name) {
    if (!selector.match_name.empty()) return selector.match_name == name;
    if (selector.match_pattern == "*") return true;
    std::string expression;
    for (const char c : selector.match_pattern) {
        if (c == '*') {
            expression += "[^.]*";
        } else if (c == '.') {
            expression += "[.]";
        } else {
            expression += c;
        }
    }
    return whole_matches(expression, name);
}

struct HttpRequest {
    std::string method, path, host;
    std::map<std::string, std::string> headers;

    explicit HttpRequest(const json::object& from)
        : method(text(from.at("method"))),
          path(text(from.at("path"))),
          host(text(from.at("host"))) {
        for (const auto& [name, value] : from.at("headers").as_object()) {
            headers.emplace(std::string_view(name.data(), name.size()), text(value));
        }
    }

    /// "Name" or "Name: value"
    [[nodiscard]] bool has(const std::string& header) const {
        const auto colon = header.find(": ");
        const auto found = headers.find(header.substr(0, colon));
        return found != headers.end() &&
               (colon == std::string::npos || found->second == header.substr(colon + 2));
    }

    [[nodiscard]] bool passes(const HttpRule& rule) const {
        if (!rule.method.empty() && !whole_matches(rule.method, method)) return false;
        if (!rule.path.empty() && !whole_matches(rule.path, path)) return false;
        if (!rule.host.empty() && !whole_matches(rule.host, host)) return false;
        for (const std::string& header : rule.headers) {
            if (!has(header)) return false;
        }
        // With another action than to drop, a request that differs passes, too.
        return std::ranges::all_of(rule.header_matches, [this](const HeaderMatch& match) {
            return match.mismatch != HeaderMismatch::kDrop ||
                   has(match.value.empty() ? match.name : match.name + ": " + match.value);
        });
    }
};

bool passes(const L7Rules& rules, const json::object& check) {
    if (const auto* http = check.if_contains("http")) {
        const HttpRequest request(http->as_object());
        return std::ranges::any_of(rules.http,
                                   [&](const HttpRule& rule) { return request.passes(rule); });
    }
    if (const auto* dns = check.if_contains("dns")) {
        const std::string name = text(*dns);
        return std::ranges::any_of(
            rules.dns, [&](const FqdnSelector& one) { return name_selected(one, name); });
    }
    give_up("redirected by a rule, and not told of the request: " + json::serialize(check));
}

// --- a cluster's view --------------------------------------------------------------------------

class View {
  public:
    explicit View(const json::object& from) {
        read_options(from.at("options").as_object());
        for (const auto& document : from.at("policies").as_array()) {
            auto parsed = sources::config::parse_policies(text(document), "policy");
            if (!parsed.errors.empty()) give_up(parsed.errors.front());
            if (!parsed.skipped.empty()) give_up("no policy: " + *parsed.skipped.begin());
            for (auto& policy : parsed.policies) world_.policies.push_back(std::move(policy));
        }
        for (const auto& service : list_of(from, "services")) read_service(service.as_object());
        for (const auto& [name, identity] : from.at("identities").as_object()) {
            read_identity(std::string(name.data(), name.size()), identity.as_object());
        }
    }

    [[nodiscard]] std::string_view answer(const json::object& check) {
        const RefIdentity& subject = find(text(check.at("subject")));
        RefIdentity peer = find(text(check.at("peer")));
        for (const auto& name : list_of(check, "names")) add_fqdn_labels(text(name), peer);
        std::ranges::sort(peer.labels);
        world_.subject_ports = ports_[text(check.at("subject"))];
        world_.peer_ports = ports_[text(check.at("peer"))];
        RefPacket packet;
        packet.direction =
            text(check.at("direction")) == "ingress" ? Direction::kIngress : Direction::kEgress;
        packet.protocol = protocol_number(text(check.at("protocol")));
        packet.port = port_number(check);
        packet.peer = &peer;
        const Reference reference(world_);
        switch (reference.verdict(subject, packet)) {
            case RefVerdict::kAllow:
                return "allow";
            case RefVerdict::kDeny:
                return "deny";
            case RefVerdict::kDrop:
                return "drop";
            case RefVerdict::kRedirect:
                break;
        }
        const auto rules = reference.l7_rules(subject, packet, packet.port, 0);
        if (rules.empty()) give_up("a redirect of more than one port: " + json::serialize(check));
        return std::ranges::any_of(
                   rules, [&](const L7Rules* one) { return one == nullptr || passes(*one, check); })
                   ? "l7-allow"
                   : "l7-deny";
    }

  private:
    void read_options(const json::object& from) {
        world_.options.cluster = text(from.at("cluster"));
        world_.options.default_local_cluster = from.at("default_local_cluster").as_bool();
        const std::string mode = text(from.at("enforcement"));
        world_.options.enforcement = mode == "always"  ? compile::Enforcement::kAlways
                                     : mode == "never" ? compile::Enforcement::kNever
                                                       : compile::Enforcement::kDefault;
    }

    void read_service(const json::object& from) {
        RefService& service = world_.services.emplace_back();
        service.name = text(from.at("name"));
        service.namespace_ = text(from.at("namespace"));
        for (const auto& [key, value] : from.at("selector").as_object()) {
            service.selector.push_back({"", std::string_view(key.data(), key.size()), text(value)});
        }
        for (const auto& backend : list_of(from, "backends")) {
            auto address = model::IpAddress::parse(text(backend));
            if (!address) give_up(address.error().message());
            service.backends.push_back(*address);
        }
    }

    void read_identity(const std::string& name, const json::object& from) {
        RefIdentity& identity = identities_[name];
        for (const auto& label : from.at("labels").as_array()) {
            identity.labels.push_back(read_label(text(label)));
        }
        std::ranges::sort(identity.labels);
        if (const auto* cidr = from.if_contains("cidr")) {
            auto parsed = model::IpPrefix::parse(text(*cidr));
            if (!parsed) give_up(parsed.error().message());
            identity.cidr = *parsed;
        }
        for (const auto& item : list_of(from, "ports")) {
            const auto& port = item.as_object();
            ports_[name].emplace(RefPorts::key_type{text(port.at("name")),
                                                    protocol_number(text(port.at("protocol")))},
                                 port_number(port));
        }
    }

    void add_fqdn_labels(const std::string& name, RefIdentity& peer) const {
        for (const auto& policy : world_.policies) {
            for (const auto& rule : policy->rules) {
                for (const auto& element :
                     rule.allow[model::policy::index_of(Direction::kEgress)]) {
                    if (!element.peers.fqdns) continue;
                    for (const FqdnSelector& selector : *element.peers.fqdns) {
                        if (name_selected(selector, name)) {
                            peer.labels.push_back({"fqdn", selector.text(), ""});
                        }
                    }
                }
            }
        }
    }

    [[nodiscard]] const RefIdentity& find(const std::string& name) const {
        const auto found = identities_.find(name);
        if (found == identities_.end()) give_up("no identity named " + name);
        return found->second;
    }

    RefWorld world_;
    std::map<std::string, RefIdentity> identities_;
    std::map<std::string, RefPorts> ports_;
};

}  // namespace
}  // namespace mesh::test

int main() {
    namespace json = boost::json;
    const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
    json::array answers;
    const json::value questions = json::parse(input);
    for (const auto& question : questions.as_array()) {
        mesh::test::View view(question.as_object());
        json::array words;
        for (const auto& check : question.as_object().at("checks").as_array()) {
            words.emplace_back(view.answer(check.as_object()));
        }
        answers.push_back(std::move(words));
    }
    std::cout << json::serialize(answers) << '\n';
    return 0;
}
