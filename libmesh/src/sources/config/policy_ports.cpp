// Ports, ICMP types and L7 rules of network policies.
#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "model/names.hpp"
#include "sources/config/policy_reader.hpp"

namespace mesh::sources::config::policy_reader {

using namespace model::policy;
using Kind = DocumentValue::Kind;

namespace {

std::string lower(std::string text) {
    std::ranges::transform(text, text.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return text;
}

/// As Go's strconv.ParseUint with base 0: a leading 0 makes it octal. (0x50 is a name.)
std::optional<std::uint16_t> port_number(std::string_view text) {
    const bool octal = text.size() > 1 && text.front() == '0';
    std::uint16_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, failure] = std::from_chars(text.data(), end, number, octal ? 8 : 10);
    if (failure != std::errc{} || stop != end || text.empty()) return std::nullopt;
    return number;
}

void read_port(const Field& field, std::string text, PortProtocol& out) {
    if (model::is_port_name(text)) {
        out.name = lower(std::move(text));
    } else if (const auto number = port_number(text)) {
        out.port = *number;
    } else {
        field.expected("a port 0..65535 or its name (at most 15 letters, digits and '-')");
    }
}

Protocol read_protocol(const Field& field, bool any_case) {
    const std::string text = field.string();
    const std::string name = any_case ? lower(text) : text;
    static constexpr std::array<std::pair<std::string_view, Protocol>, 4> kKnown{
        {{"any", Protocol::kAny},
         {"tcp", Protocol::kTcp},
         {"udp", Protocol::kUdp},
         {"sctp", Protocol::kSctp}}};
    for (const auto& [known, protocol] : kKnown) {
        if (name == known) return protocol;
    }
    field.expected("one of TCP, UDP, SCTP, ANY");
    return Protocol::kAny;
}

void read_end_port(const Field& field, PortProtocol& out) {
    if (!field.present()) return;
    out.end_port = static_cast<std::uint16_t>(field.integer(0, 65'535, 0));
    if (out.end_port == 0) return;
    if (!out.name.empty() || out.port == 0) field.expected("no endPort with a named port or 0");
    if (out.end_port < out.port) field.expected(fmt::format("a port from {} on", out.port));
}

PortProtocol read_port_protocol(const Field& item) {
    item.only({"port", "protocol", "endPort"});
    PortProtocol one;
    const Field port = item["port"];
    read_port(port, port.required_string(), one);
    if (const Field protocol = item["protocol"]; protocol.present() && !protocol.string().empty()) {
        one.protocol = read_protocol(protocol, true);
    }
    read_end_port(item["endPort"], one);
    return one;
}

/// What L7 rules ask of their ports.
void check_l7_ports(const Field& element, const L7Rules& rules, const PortRule& port_rule,
                    const Context& context) {
    const Field ports = element["ports"];
    const bool dns = !rules.dns.empty();
    if (dns && context.direction == Direction::kIngress) {
        element["rules"]["dns"].expected("no dns rules on ingress");
    }
    if (port_rule.ports.empty() && dns) ports.expected("port 53 with dns rules");
    for (const PortProtocol& port : port_rule.ports) {
        if (port.name.empty() && port.port == 0) ports.expected("no port 0 with L7 rules");
        if (dns && port.end_port != 0) ports.expected("no range with dns rules");
        if (!dns && port.protocol != Protocol::kTcp) {
            ports.expected("protocol TCP with L7 rules other than dns");
        }
    }
}

void read_listener(const Field& field, const Context& context, PortRule& out) {
    if (!field.present()) return;
    if (!context.features.listeners) {
        field.expected("nothing here: Envoy listeners are not enforced");
        return;
    }
    field.only({"name", "envoyConfig", "priority"});
    if (context.direction == Direction::kIngress) field.expected("no listener on ingress");
    const Field config = field["envoyConfig"];
    config.only({"kind", "name"});
    out.listener = fmt::format(
        "{}/{}/{}",
        config["kind"].choice({"CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"}, ""),
        config["name"].required_string(), field["name"].required_string());
    out.listener_priority = static_cast<std::uint16_t>(field["priority"].integer(0, 100, 0));
}

void read_server_names(const Field& list, const Context& context, L7Rules& rules) {
    each_of(list, kMaxPolicyList, [&](const Field& item) {
        rules.server_names.push_back(lower(item.required_string()));
    });
    if (rules.server_names.empty()) return;
    if (!context.features.server_names)
        list.expected("nothing here: server names are not enforced");
    if (!rules.http.empty() || !rules.kafka.empty() || !rules.l7proto.empty()) {
        list.expected("no other L7 rules beside serverNames (TLS is not terminated)");
    }
}

PortRule read_port_rule(const Field& element, const Context& context) {
    element.only({"ports", "rules", "serverNames", "listener", "terminatingTLS", "originatingTLS"});
    PortRule out;
    each_of(element["ports"], kMaxPolicyPorts,
            [&](const Field& item) { out.ports.push_back(read_port_protocol(item)); });
    for (const std::string_view tls : {"terminatingTLS", "originatingTLS"}) {
        if (element[tls].present()) element[tls].expected("nothing here: TLS is not terminated");
    }
    L7Rules rules;
    const Field l7 = element["rules"];
    if (l7.present()) read_l7(l7, context, rules);
    read_server_names(element["serverNames"], context, rules);
    read_listener(element["listener"], context, out);
    const bool redirects = !rules.empty() || !out.listener.empty();
    if (redirects) {
        if (context.deny) element.expected("ports only: a deny rule has no L7 rules");
        if (context.nodes && rules.dns.empty()) {
            element.expected("ports only: of L7 rules, node policies have those for dns only");
        }
        check_l7_ports(element, rules, out, context);
    }
    if (!rules.empty()) out.rules = std::make_shared<const L7Rules>(std::move(rules));
    return out;
}

// Of the IANA's names those that Cilium's CRD lists.
using IcmpNames = std::span<const std::pair<std::string_view, std::uint16_t>>;
constexpr std::array<std::pair<std::string_view, std::uint16_t>, 11> kIcmpTypes{
    {{"EchoReply", 0},
     {"DestinationUnreachable", 3},
     {"Redirect", 5},
     {"Echo", 8},
     {"EchoRequest", 8},
     {"RouterAdvertisement", 9},
     {"RouterSelection", 10},
     {"TimeExceeded", 11},
     {"ParameterProblem", 12},
     {"Timestamp", 13},
     {"TimestampReply", 14}}};
constexpr std::array<std::pair<std::string_view, std::uint16_t>, 17> kIcmpv6Types{
    {{"DestinationUnreachable", 1},
     {"PacketTooBig", 2},
     {"TimeExceeded", 3},
     {"ParameterProblem", 4},
     {"EchoRequest", 128},
     {"EchoReply", 129},
     {"MulticastListenerQuery", 130},
     {"MulticastListenerReport", 131},
     {"MulticastListenerDone", 132},
     {"RouterSolicitation", 133},
     {"RouterAdvertisement", 134},
     {"NeighborSolicitation", 135},
     {"NeighborAdvertisement", 136},
     {"RedirectMessage", 137},
     {"RouterRenumbering", 138},
     {"DuplicateAddressRequest", 157},
     {"DuplicateAddressConfirmation", 158}}};

PortProtocol read_icmp(const Field& item) {
    item.only({"family", "type"});
    PortProtocol one;
    const bool v6 = item["family"].choice({"IPv4", "IPv6"}, "IPv4") == "IPv6";
    one.protocol = v6 ? Protocol::kIcmpv6 : Protocol::kIcmp;
    const Field type = item["type"];
    if (type.kind() != Kind::kString) {
        one.port = static_cast<std::uint16_t>(type.integer(0, 255, std::nullopt));
        return one;
    }
    const std::string text = type.string();
    const IcmpNames names = v6 ? IcmpNames(kIcmpv6Types) : IcmpNames(kIcmpTypes);
    const auto at =
        std::ranges::find(names, std::string_view(text), [](const auto& n) { return n.first; });
    if (at != names.end()) {
        one.port = at->second;
    } else if (const auto number = port_number(text); number && *number <= 255) {
        one.port = *number;
    } else {
        type.expected("a type 0..255 or its name in CamelCase");
    }
    return one;
}

// --- L7 ---------------------------------------------------------------------------------------

std::string read_regex(const Field& field) {
    std::string text = field.string();
    if (text.empty()) return text;
    RE2::Options options;
    options.set_log_errors(false);
    options.set_max_mem(1 << 20);
    if (const RE2 regex(text, options); !regex.ok()) {
        field.expected(fmt::format("a regular expression (RE2: {})", regex.error()));
    }
    return text;
}

bool is_token(std::string_view text) {
    constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
    return !text.empty() && std::ranges::all_of(text, [&](char c) {
        return model::is_alnum(c) || kMarks.find(c) != std::string_view::npos;
    });
}

bool is_header_value(std::string_view text) {
    return text.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos;
}

HttpRule read_http(const Field& item) {
    item.only({"method", "path", "host", "headers", "headerMatches"});
    HttpRule one{
        read_regex(item["method"]), read_regex(item["path"]), read_regex(item["host"]), {}, {}};
    each_of(item["headers"], kMaxPolicyList, [&](const Field& header) {
        std::string text = header.required_string();
        const std::string_view view = text;
        const auto end = view.find(':');
        if (!is_token(view.substr(0, end)) || !is_header_value(view)) {
            header.expected("a header as \"Name\" or \"Name: value\"");
        }
        one.headers.push_back(std::move(text));
    });
    each_of(item["headerMatches"], kMaxPolicyList, [&](const Field& match) {
        match.only({"name", "value", "mismatch", "secret"});
        HeaderMatch header;
        header.name = match["name"].required_string();
        if (!is_token(header.name)) match["name"].expected("a header's name");
        header.value = match["value"].string();
        if (!is_header_value(header.value)) match["value"].expected("a header's value");
        if (match["secret"].present())
            match["secret"].expected("nothing here: secrets are not read");
        const std::string action =
            match["mismatch"].choice({"LOG", "ADD", "DELETE", "REPLACE"}, "");
        static constexpr std::array<std::string_view, 5> kActions{"", "LOG", "ADD", "DELETE",
                                                                  "REPLACE"};
        header.mismatch =
            static_cast<HeaderMismatch>(std::ranges::find(kActions, action) - kActions.begin());
        if (header.mismatch >= HeaderMismatch::kAdd && header.value.empty()) {
            match["value"].expected("a value to add, delete or replace");
        }
        one.header_matches.push_back(std::move(header));
    });
    return one;
}

KafkaRule read_kafka(const Field& item) {
    item.only({"role", "apiKey", "apiVersion", "clientID", "topic"});
    KafkaRule one{item["role"].choice({"produce", "consume"}, ""), lower(item["apiKey"].string()),
                  item["apiVersion"].string(), item["clientID"].string(), item["topic"].string()};
    if (!one.role.empty() && !one.api_key.empty()) item["apiKey"].expected("nothing beside role");
    if (one.topic.size() > 255) item["topic"].expected("at most 255 characters");
    return one;
}

}  // namespace

void read_l7(const Field& rules, const Context& context, L7Rules& out) {
    rules.only({"http", "dns", "kafka", "l7proto", "l7"});
    each_of(rules["http"], kMaxPolicyList,
            [&](const Field& item) { out.http.push_back(read_http(item)); });
    out.dns = read_fqdns(rules["dns"]);
    each_of(rules["kafka"], kMaxPolicyList,
            [&](const Field& item) { out.kafka.push_back(read_kafka(item)); });
    out.l7proto = rules["l7proto"].string();
    const Field generic = rules["l7"];
    each_of(generic, kMaxPolicyList, [&](const Field& item) {
        GenericRule& one = out.l7.emplace_back();
        item.each_member([&](const std::string& key, const Field& value) {
            one.emplace_back(key, value.string());
        });
        std::ranges::sort(one);
    });
    if (!out.l7.empty() && out.l7proto.empty()) generic.expected("l7proto beside l7");
    const auto kinds = static_cast<int>(!out.http.empty()) + static_cast<int>(!out.dns.empty()) +
                       static_cast<int>(!out.kafka.empty()) +
                       static_cast<int>(!out.l7proto.empty());
    if (kinds > 1) rules.expected("rules of one kind");
    if (!out.kafka.empty() && !context.features.kafka) {
        rules["kafka"].expected("nothing here: Kafka rules are not enforced");
    }
    if (!out.l7proto.empty() && !context.features.generic_l7) {
        rules["l7proto"].expected("nothing here: generic L7 rules are not enforced");
    }
}

std::vector<PortRule> read_ports(const Field& element, const Context& context) {
    std::vector<PortRule> all;
    const Field ports = element["toPorts"];
    const Field icmps = element["icmps"];
    each_of(ports, kMaxPolicyList,
            [&](const Field& item) { all.push_back(read_port_rule(item, context)); });
    if (icmps.size() != 0 && ports.size() != 0) icmps.expected("nothing beside toPorts");
    each_of(icmps, kMaxPolicyList, [&](const Field& item) {
        item.only({"fields"});
        PortRule& rule = all.emplace_back();
        each_of(item["fields"], kMaxPolicyPorts,
                [&](const Field& field) { rule.ports.push_back(read_icmp(field)); });
    });
    return all;
}

std::vector<PortRule> read_network_policy_ports(const Field& list) {
    std::vector<PortRule> all;
    if (list.size() == 0) return all;
    PortRule& rule = all.emplace_back();
    each_of(list, kMaxPolicyList, [&](const Field& item) {
        item.only({"port", "protocol", "endPort"});
        PortProtocol one;
        one.protocol = Protocol::kTcp;
        if (const Field protocol = item["protocol"]; protocol.present()) {
            const std::string name = protocol.choice({"TCP", "UDP", "SCTP"}, "TCP");
            one.protocol = name == "UDP"    ? Protocol::kUdp
                           : name == "SCTP" ? Protocol::kSctp
                                            : Protocol::kTcp;
        }
        const Field port = item["port"];
        if (port.kind() == Kind::kNumber) {
            one.port = static_cast<std::uint16_t>(port.integer(0, 65'535, 0));
        } else if (port.present()) {
            read_port(port, port.string(), one);
        }
        read_end_port(item["endPort"], one);
        rule.ports.push_back(std::move(one));
    });
    return all;
}

}  // namespace mesh::sources::config::policy_reader
