#include "support/policy/cases.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string_view>

#include "sources/config/policy_documents.hpp"

namespace mesh::test {
namespace {

namespace json = boost::json;
using model::Label;

[[noreturn]] void give_up(const std::string& what) {
    std::fprintf(stderr, "policy cases: %s\n", what.c_str());
    std::abort();
}

std::string text(const json::value& value) {
    return std::string(value.as_string());
}

std::uint8_t protocol_number(std::string_view name) {
    if (name == "TCP") return 6;
    if (name == "UDP") return 17;
    if (name == "SCTP") return 132;
    if (name == "ICMP") return 1;
    if (name == "ICMPv6") return 58;
    give_up("unknown protocol " + std::string(name));
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

/// A pattern of DNS names: '*' is any text without a dot; alone it is every name.
bool pattern_matches(std::string_view pattern, std::string_view name) {
    if (pattern == "*") return true;
    if (pattern.empty()) return name.empty();
    if (pattern.front() != '*') {
        return !name.empty() && name.front() == pattern.front() &&
               pattern_matches(pattern.substr(1), name.substr(1));
    }
    for (std::size_t n = 0;; ++n) {
        if (pattern_matches(pattern.substr(1), name.substr(n))) return true;
        if (n == name.size() || name[n] == '.') return false;
    }
}

/// Labels of the addresses of names that some policy selects, as later versions give them.
void add_fqdn_labels(const json::object& names, RefWorld& world) {
    for (const auto& policy : world.policies) {
        for (const auto& rule : policy->rules) {
            for (const auto& element : rule.allow[1]) {
                if (!element.peers.fqdns) continue;
                for (const auto& selector : *element.peers.fqdns) {
                    for (const auto& [name, addresses] : names) {
                        const std::string_view n(name.data(), name.size());
                        const bool selected = selector.match_name.empty()
                                                  ? pattern_matches(selector.match_pattern, n)
                                                  : selector.match_name == n;
                        if (!selected) continue;
                        for (const auto& address : addresses.as_array()) {
                            const auto cidr = model::IpPrefix::parse(text(address));
                            for (auto& identity : world.identities) {
                                if (identity.cidr && cidr && *identity.cidr == *cidr) {
                                    identity.labels.push_back({"fqdn", selector.text(), ""});
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

void add_ports(const json::array& list, RefPorts& ports, std::set<RefPorts::key_type>& conflicts) {
    for (const auto& one : list) {
        const auto& port = one.as_object();
        const RefPorts::key_type key{text(port.at("name")),
                                     protocol_number(text(port.at("proto")))};
        const auto number = static_cast<std::uint16_t>(port.at("port").as_int64());
        if (const auto [at, added] = ports.emplace(key, number); !added && at->second != number) {
            conflicts.insert(key);
        }
    }
}

void read_ports(const json::object& from, RefWorld& world) {
    std::set<RefPorts::key_type> conflicts;
    if (const auto* own = from.if_contains("named_ports_subject"); own && own->is_array()) {
        add_ports(own->as_array(), world.subject_ports, conflicts);
    }
    conflicts.clear();
    if (const auto* peers = from.if_contains("named_ports_peers"); peers && peers->is_array()) {
        for (const auto& list : peers->as_array()) {
            add_ports(list.as_array(), world.peer_ports, conflicts);
        }
    }
    for (const auto& key : conflicts) world.peer_ports.erase(key);
}

void read_services(const json::object& from, RefWorld& world) {
    const auto* list = from.if_contains("services");
    if (list == nullptr || !list->is_array()) return;
    for (const auto& item : list->as_array()) {
        const auto& one = item.as_object();
        RefService& service = world.services.emplace_back();
        service.name = text(one.at("name"));
        service.namespace_ = text(one.at("namespace"));
        const auto labels = [&](const char* field, std::vector<Label>& out) {
            const auto* map = one.if_contains(field);
            if (map == nullptr || !map->is_object()) return;
            for (const auto& [key, value] : map->as_object()) {
                out.push_back({"", std::string_view(key.data(), key.size()), text(value)});
            }
        };
        labels("labels", service.labels);
        labels("selector", service.selector);
        for (const auto& backend : one.at("backends").as_array()) {
            const auto address = model::IpAddress::parse(text(backend));
            if (address) service.backends.push_back(*address);
        }
    }
}

void read_world(const json::object& from, RefWorld& world) {
    const auto& config = from.at("config").as_object();
    world.options = compile::PolicyOptions::as_of_1_15();
    world.options.cluster = text(config.at("cluster_name"));
    const std::string mode = text(config.at("enforcement"));
    world.options.enforcement = mode == "always"  ? compile::Enforcement::kAlways
                                : mode == "never" ? compile::Enforcement::kNever
                                                  : compile::Enforcement::kDefault;
    world.options.allow_localhost = text(config.at("allow_localhost")) == "always";
    world.options.host_firewall = config.at("host_firewall").as_bool();
    for (const auto& item : from.at("identities").as_array()) {
        const auto& one = item.as_object();
        RefIdentity& identity = world.identities.emplace_back();
        identity.id = static_cast<std::uint32_t>(one.at("id").as_int64());
        for (const auto& label : one.at("labels").as_array()) {
            identity.labels.push_back(read_label(text(label)));
        }
        if (const auto* cidr = one.if_contains("cidr")) {
            const auto parsed = model::IpPrefix::parse(text(*cidr));
            if (!parsed) give_up(parsed.error().message());
            identity.cidr = *parsed;
        }
    }
    for (const auto& document : from.at("policies").as_array()) {
        auto parsed = sources::config::parse_policies(text(document), "case",
                                                      sources::config::PolicyFeatures::all());
        if (!parsed.errors.empty()) give_up(parsed.errors.front());
        for (auto& policy : parsed.policies) world.policies.push_back(std::move(policy));
    }
    read_ports(from, world);
    read_services(from, world);
    if (const auto* names = from.if_contains("fqdn"); names && names->is_object()) {
        add_fqdn_labels(names->as_object(), world);
    }
    for (auto& identity : world.identities) std::ranges::sort(identity.labels);
}

std::vector<PolicyCase> read_cases() {
    std::ifstream in(MESH_SOURCE_DIR "/tests/golden/samples/policy-cases.jsonl");
    std::vector<json::object> lines;
    for (std::string line; std::getline(in, line);) {
        lines.push_back(json::parse(line).as_object());
    }
    std::vector<PolicyCase> all(lines.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
        PolicyCase& one = all[i];
        one.name = text(lines[i].at("name"));
        read_world(lines[i], one.world);
        one.expect = lines[i].at("expect").as_object();
        const auto find = [&](const json::value& id) -> const RefIdentity* {
            for (const auto& identity : one.world.identities) {
                if (identity.id == static_cast<std::uint32_t>(id.as_int64())) return &identity;
            }
            give_up(one.name + ": no such identity");
        };
        one.subject = find(lines[i].at("subject"));
        for (const auto& id : one.expect.at("verdict_ids").as_array()) {
            one.peers.push_back(find(id));
        }
    }
    return all;
}

}  // namespace

std::vector<PolicyCase::Row> PolicyCase::rows() const {
    std::vector<Row> all;
    const auto* better = expect.if_contains("rule_level_verdicts");
    const auto& from = better != nullptr ? better->as_array() : expect.at("verdicts").as_array();
    for (const auto& item : from) {
        const auto& row = item.as_array();
        all.push_back({text(row[0]) == "in" ? model::policy::Direction::kIngress
                                            : model::policy::Direction::kEgress,
                       protocol_number(text(row[1])), static_cast<std::uint16_t>(row[2].as_int64()),
                       text(row[3]), better != nullptr});
    }
    return all;
}

const std::vector<PolicyCase>& policy_cases() {
    static const std::vector<PolicyCase> kCases = read_cases();
    return kCases;
}

}  // namespace mesh::test
