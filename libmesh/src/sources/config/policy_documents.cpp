#include "sources/config/policy_documents.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "model/names.hpp"
#include "sources/config/document.hpp"
#include "sources/config/field.hpp"
#include "sources/config/json_text.hpp"
#include "sources/config/policy_reader.hpp"

namespace mesh::sources::config {
namespace {

using namespace model::policy;
using policy_reader::Context;
using policy_reader::each_of;
using policy_reader::Keys;
using policy_reader::read_selector;

constexpr std::string_view kCiliumVersion = "cilium.io/v2";
constexpr std::string_view kKubernetesVersion = "networking.k8s.io/v1";

std::optional<AuthType> read_authentication(const Field& field, const Context& context) {
    if (!field.present()) return std::nullopt;
    field.only({"mode"});
    const Field mode = field["mode"];
    if (context.deny) field.expected("nothing here: a deny rule has no authentication");
    const std::string text = mode.required_string();
    std::optional<AuthType> type;
    if (text == "disabled") type = AuthType::kDisabled;
    if (text == "required") type = AuthType::kSpire;
    if (text == "test-always-fail") type = AuthType::kAlwaysFail;
    if (!type) mode.expected("one of disabled, required, test-always-fail");
    if (type && *type != AuthType::kDisabled && !context.features.authentication) {
        mode.expected("\"disabled\": other modes are not enforced");
    }
    return type;
}

RuleElement read_element(const Field& item, const Context& context) {
    if (context.direction == Direction::kIngress) {
        item.only({"fromEndpoints", "fromRequires", "fromEntities", "fromCIDR", "fromCIDRSet",
                   "fromNodes", "fromGroups", "toPorts", "icmps", "authentication"});
    } else {
        item.only({"toEndpoints", "toRequires", "toEntities", "toCIDR", "toCIDRSet", "toNodes",
                   "toGroups", "toServices", "toFQDNs", "toPorts", "icmps", "authentication"});
    }
    RuleElement element;
    element.line = item.line();
    element.peers = policy_reader::read_peers(item, context);
    element.ports = policy_reader::read_ports(item, context);
    element.authentication = read_authentication(item["authentication"], context);
    return element;
}

/// Only labels of source reserved and key init make a CiliumNetworkPolicy one for no pod at all.
bool selects_init(const EndpointSelector& selector) {
    return std::ranges::any_of(selector.requirements, [](const LabelRequirement& one) {
        return one.source == kSourceReserved && one.key == "init";
    });
}

void read_subject(const Field& spec, const PolicyKey& key, const PolicyFeatures& features,
                  Rule& rule) {
    const Field pods = spec["endpointSelector"];
    const Field nodes = spec["nodeSelector"];
    const bool clusterwide = key.kind == PolicyKind::kCiliumClusterwideNetworkPolicy;
    if (nodes.present() && !clusterwide) {
        nodes.expected("nothing here: only a CiliumClusterwideNetworkPolicy selects nodes");
    }
    if (nodes.present() && !features.nodes) {
        nodes.expected("nothing here: policies of nodes are not enforced");
    }
    if (pods.present() == nodes.present()) {
        spec.expected(clusterwide ? "one of endpointSelector and nodeSelector"
                                  : "an endpointSelector");
    }
    rule.selects_nodes = nodes.present();
    rule.subject.requirements = read_selector(nodes.present() ? nodes : pods, Keys::kSourced);
    if (clusterwide) return;
    if (selects_init(rule.subject)) pods.expected("no reserved:init, which is in no namespace");
    for (const LabelRequirement& one : rule.subject.requirements) {
        if (one.key != kNamespaceKey || (!one.source.empty() && one.source != kSourceK8s)) continue;
        if (one.op != SelectorOperator::kIn || one.values != std::vector{key.namespace_}) {
            pods.expected(fmt::format("no other namespace than the policy's, {}", key.namespace_));
        }
    }
}

Rule read_rule(const Field& spec, const PolicyKey& key, const PolicyFeatures& features) {
    spec.only({"endpointSelector", "nodeSelector", "ingress", "ingressDeny", "egress", "egressDeny",
               "enableDefaultDeny", "labels", "description"});
    Rule rule;
    rule.line = spec.line();
    read_subject(spec, key, features, rule);
    static constexpr std::array<std::string_view, 2> kAllow{"ingress", "egress"};
    static constexpr std::array<std::string_view, 2> kDeny{"ingressDeny", "egressDeny"};
    const Field defaults = spec["enableDefaultDeny"];
    defaults.only({"ingress", "egress"});
    for (const Direction direction : kDirections) {
        const std::size_t at = index_of(direction);
        Context context{direction, false, rule.selects_nodes, features};
        each_of(spec[kAllow[at]], kMaxPolicyList,
                [&](const Field& item) { rule.allow[at].push_back(read_element(item, context)); });
        context.deny = true;
        each_of(spec[kDeny[at]], kMaxPolicyList,
                [&](const Field& item) { rule.deny[at].push_back(read_element(item, context)); });
        if (const Field field = defaults[kAllow[at]]; field.present()) {
            rule.enable_default_deny[at] = field.boolean(true);
        }
    }
    // Bookkeeping of other tools: of no effect on traffic.
    each_of(spec["labels"], kMaxPolicyList, [](const Field& label) {
        label.only({"key", "value", "source"});
    });
    rule.description = spec["description"].string();
    return rule;
}

Rule read_network_policy(const Field& spec, const PolicyKey& key) {
    spec.only({"podSelector", "ingress", "egress", "policyTypes"});
    Rule rule;
    rule.line = spec.line();
    rule.subject.requirements = read_selector(spec["podSelector"], Keys::kK8s);
    std::array<bool, 2> listed{};
    each_of(spec["policyTypes"], kMaxPolicyList, [&](const Field& type) {
        const std::string name = type.string();
        if (name != "Ingress" && name != "Egress") type.expected("one of Ingress, Egress");
        listed[name == "Egress" ? 1 : 0] = true;
    });
    static constexpr std::array<std::string_view, 2> kLists{"ingress", "egress"};
    static constexpr std::array<std::string_view, 2> kPeers{"from", "to"};
    for (const Direction direction : kDirections) {
        const std::size_t at = index_of(direction);
        each_of(spec[kLists[at]], kMaxPolicyList, [&](const Field& item) {
            item.only({kPeers[at], "ports"});
            RuleElement element;
            element.line = item.line();
            policy_reader::read_network_policy_peers(item[kPeers[at]], key.namespace_, element);
            element.ports = policy_reader::read_network_policy_ports(item["ports"]);
            rule.allow[at].push_back(std::move(element));
        });
    }
    // Without types: ingress, and egress if it has rules.
    if (listed[0] || !listed[1]) rule.enable_default_deny[0] = true;
    if (listed[1]) rule.enable_default_deny[1] = true;
    return rule;
}

PolicyKey read_key(const Field& root, PolicyKind kind) {
    PolicyKey key{kind, {}, {}};
    const Field metadata = root["metadata"];
    const Field name = metadata["name"];
    key.name = name.required_string();
    if (!key.name.empty() && !model::is_dns_name(key.name, 253, true)) {
        name.expected("at most 253 of a-z, 0-9, '-' and '.', alphanumeric at both ends");
    }
    const Field space = metadata["namespace"];
    if (kind == PolicyKind::kCiliumClusterwideNetworkPolicy) {
        if (!space.string().empty()) space.expected("no namespace: this kind is clusterwide");
        return key;
    }
    key.namespace_ = space.string("default");
    if (!model::is_dns_name(key.namespace_, 63, false)) {
        space.expected("at most 63 of a-z, 0-9, '-', alphanumeric at both ends");
    }
    return key;
}

Policy read_policy(const Field& root, PolicyKind kind, const PolicyFeatures& features) {
    Policy policy{read_key(root, kind), {}};
    const Field spec = root["spec"];
    const auto add_rule = [&](Rule rule, std::string path) {
        rule.path = std::move(path);
        policy.rules.push_back(std::move(rule));
    };
    if (kind == PolicyKind::kNetworkPolicy) {
        root.only({"apiVersion", "kind", "metadata", "spec", "status"});
        if (spec.present()) add_rule(read_network_policy(spec, policy.key), "spec");
    } else {
        root.only({"apiVersion", "kind", "metadata", "spec", "specs", "status"});
        if (spec.present()) add_rule(read_rule(spec, policy.key, features), "spec");
        std::size_t number = 0;
        each_of(root["specs"], kMaxPolicyRules, [&](const Field& item) {
            add_rule(read_rule(item, policy.key, features), fmt::format("specs[{}]", number++));
        });
    }
    if (policy.rules.empty()) root.expected("a spec");
    return policy;
}

class PolicyReader {
  public:
    PolicyReader(std::string_view file, const PolicyFeatures& features, bool records,
                 ParsedPolicies& out)
        : file_(file), features_(features), records_(records), out_(out) {}

    void read(const Document& document) {
        std::optional<std::string> mistake;
        named_.reset();
        read(Field(document.root, mistake), document.number, mistake);
        report(document.number, mistake);
    }

  private:
    void read(const Field& root, std::uint32_t number, std::optional<std::string>& mistake) {
        const std::string version = root["apiVersion"].required_string();
        const std::string kind = root["kind"].required_string();
        if (mistake) return;
        if (version == "v1" && kind == "List") {
            // Each item is a document of its own, so that one mistake does not hide the others.
            root["items"].each([&](const Field& item) {
                next(number, mistake);
                read(item, number, mistake);
            });
            return;
        }
        static constexpr std::array kKinds{PolicyKind::kNetworkPolicy,
                                           PolicyKind::kCiliumNetworkPolicy,
                                           PolicyKind::kCiliumClusterwideNetworkPolicy};
        for (const PolicyKind known : kKinds) {
            const bool native = known == PolicyKind::kNetworkPolicy;
            if (version != (native ? kKubernetesVersion : kCiliumVersion)) continue;
            if (kind == to_string(known)) return add(root, known, number, mistake);
            // The items of an API server's typed list say neither kind nor version.
            if (kind == fmt::format("{}List", to_string(known))) {
                root["items"].each([&](const Field& item) {
                    next(number, mistake);
                    add(item, known, number, mistake);
                });
                return;
            }
        }
        if (is_network_policy(kind) || (!records_ && version.starts_with("cilium.io/"))) {
            root["kind"].expected(
                "CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy of cilium.io/v2, or "
                "NetworkPolicy of networking.k8s.io/v1");
            return;
        }
        out_.skipped.insert(fmt::format("{} {}", version, kind));
    }

    void next(std::uint32_t number, std::optional<std::string>& mistake) {
        report(number, mistake);
        mistake.reset();
        named_.reset();
    }

    void add(const Field& root, PolicyKind kind, std::uint32_t number,
             std::optional<std::string>& mistake) {
        if (records_) {
            std::optional<std::string> unnamed;
            const PolicyKey key = read_key(Field(*root.value(), unnamed), kind);
            if (!unnamed) named_ = key;
        }
        Policy policy = read_policy(root, kind, features_);
        policy.source = fmt::format("{}: document {}", file_, number);
        if (mistake) return;
        if (seen_.contains(policy.key)) {
            root["metadata"]["name"].expected(
                fmt::format("{} once in a file", policy.key.to_string()));
            return;
        }
        if (records_ && !add_record(root, policy, number)) return;
        seen_.insert(policy.key);
        out_.policies.push_back(std::make_shared<const Policy>(std::move(policy)));
    }

    /// What agents read must be what was read here.
    bool add_record(const Field& root, const Policy& policy, std::uint32_t number) {
        const bool native = policy.key.kind == PolicyKind::kNetworkPolicy;
        auto record = std::make_shared<model::PolicyRecord>();
        record->key = policy.key;
        record->file = file_;
        record->document = number;
        record->lines = model::lines_of(policy);
        record->text = kubernetes_json(*root.value(), native ? kKubernetesVersion : kCiliumVersion,
                                       to_string(policy.key.kind));
        const auto read = config::read_policy(*record, features_);
        if (!read || **read != policy) {
            root.expected("values that stay the same in JSON");
            return false;
        }
        out_.records.push_back(std::move(record));
        return true;
    }

    void report(std::uint32_t number, const std::optional<std::string>& mistake) {
        if (!mistake) return;
        out_.errors.push_back(fmt::format("{}: document {}: {}", file_, number, *mistake));
        if (records_) out_.unread.push_back(named_);
    }

    std::string_view file_;
    const PolicyFeatures& features_;
    bool records_;
    ParsedPolicies& out_;
    std::set<PolicyKey> seen_;
    std::optional<PolicyKey> named_;  ///< of the document at hand, if it is a policy with a name
};

ParsedPolicies parse(std::string_view text, std::string_view file, const PolicyFeatures& features,
                     bool records) {
    ParsedPolicies out;
    const auto fail = [&](std::string what) {
        out.errors.push_back(std::move(what));
        if (records) out.unread.emplace_back();
    };
    if (text.size() > kMaxPolicyText) {
        fail(fmt::format("{}: expected at most {} bytes, got {}", file, kMaxPolicyText,
                         text.size()));
        return out;
    }
    const auto documents = parse_documents(text, file);
    if (!documents) {
        fail(documents.error().detail());
        return out;
    }
    PolicyReader reader(file, features, records, out);
    for (const Document& document : *documents) reader.read(document);
    return out;
}

}  // namespace

bool is_network_policy(std::string_view kind) noexcept {
    return kind.find("NetworkPolicy") != std::string_view::npos;
}

ParsedPolicies parse_policies(std::string_view text, std::string_view file,
                              const PolicyFeatures& features) {
    return parse(text, file, features, false);
}

ParsedPolicies parse_policy_records(std::string_view text, std::string_view file,
                                    const PolicyFeatures& features) {
    return parse(text, file, features, true);
}

Result<PolicyPtr> read_policy(const model::PolicyRecord& record, const PolicyFeatures& features) {
    auto parsed = parse(record.text, record.key.to_string(), features, false);
    if (!parsed.errors.empty()) return invalid_argument(parsed.errors.front());
    if (parsed.policies.size() != 1 || parsed.policies.front()->key != record.key) {
        return invalid_argument(
            fmt::format("{}: expected one policy, of that kind and name", record.key.to_string()));
    }
    Policy policy = *parsed.policies.front();
    if (record.document != 0) {
        policy.source = fmt::format("{}: document {}", record.file, record.document);
    }
    if (!record.lines.empty() && !model::set_lines(policy, record.lines)) {
        return invalid_argument(
            fmt::format("{}: field lines: expected as many as it has rules and "
                        "elements",
                        record.key.to_string()));
    }
    return std::make_shared<const Policy>(std::move(policy));
}

}  // namespace mesh::sources::config
