#include "engine/policy_trace.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "compile/identities/reserved.hpp"
#include "compile/policy/policy_json.hpp"
#include "compile/policy/trace.hpp"
#include "engine/policy_document.hpp"
#include "engine/policy_peers.hpp"
#include "model/policy_record.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::engine {

namespace json = boost::json;
using compile::TraceSide;
using compile::TraceTarget;

namespace {

constexpr std::size_t kMaxCandidates = 5;
constexpr std::uint32_t kHost = 1, kRemoteNode = 6;

/// Looks an end of the packet up.
class Finder {
  public:
    explicit Finder(const TraceSources& from)
        : from_(from), selectors_(from.policy.compiler().selectors()) {}

    [[nodiscard]] Result<TraceSide> find(const TraceTarget& target) const {
        switch (target.kind) {
            case TraceTarget::Kind::kIdentity:
                return side_of(target.text, target.identity);
            case TraceTarget::Kind::kLabels:
                return find_labels(target);
            case TraceTarget::Kind::kAddress:
                return find_address(target);
            case TraceTarget::Kind::kPod:
                break;
        }
        return find_pod(target);
    }

  private:
    [[nodiscard]] compile::TraceFact fact(std::string what, std::string_view cluster) const {
        compile::TraceFact out{std::move(what), std::string(cluster), {}, {}};
        for (const state::SessionStatus& status : from_.clusters) {
            if (status.cluster != cluster) continue;
            out.state = to_string(status.state);
            if (status.last_proof_of_life) {
                out.age_seconds = std::chrono::duration<double>(*status.last_proof_of_life).count();
            }
        }
        return out;
    }

    [[nodiscard]] Result<TraceSide> side_of(const std::string& asked, std::uint32_t id) const {
        const auto slot = selectors_.find(id);
        if (!slot) {
            return not_found(fmt::format("{}: identity {} is not known to this node", asked, id));
        }
        TraceSide side;
        side.asked = asked;
        side.identity = selectors_.identity(*slot);
        for (const auto& cluster : from_.tables.clusters()) {
            if (!from_.tables.find_identity(cluster.name, model::IdentityId{id})) continue;
            side.cluster = cluster.name;
            break;
        }
        side.facts.push_back(fact(fmt::format("identity {}", id), side.cluster));
        return side;
    }

    [[nodiscard]] Result<TraceSide> find_labels(const TraceTarget& target) const {
        std::vector<std::uint32_t> found;
        for (compile::IdentitySlot slot = 0; slot < selectors_.slots(); ++slot) {
            const auto& identity = selectors_.identity(slot);
            if (identity.id == 0 || !std::ranges::includes(identity.labels, target.labels)) {
                continue;
            }
            if (identity.labels == target.labels) return side_of(target.text, identity.id);
            found.push_back(identity.id);
        }
        if (found.size() == 1) return side_of(target.text, found.front());
        if (found.empty()) {
            return not_found(fmt::format("{}: no identity has these labels", target.text));
        }
        std::ranges::sort(found);
        std::string list;
        for (std::size_t i = 0; i < std::min(found.size(), kMaxCandidates); ++i) {
            const auto& labels = selectors_.identity(*selectors_.find(found[i])).labels;
            std::vector<std::string> texts;
            for (const auto& label : labels) texts.push_back(compile::label_text(label));
            list += fmt::format("\n  {} {}", found[i], fmt::join(texts, ","));
        }
        return invalid_argument(fmt::format("{} identities have the labels {}: expected one{}",
                                            found.size(), target.text, list));
    }

    // --- addresses ----------------------------------------------------------------------------

    [[nodiscard]] Result<TraceSide> side_of_record(const std::string& asked,
                                                   std::string_view cluster,
                                                   const model::IpIdentityPair& pair) const {
        MESH_TRY(TraceSide side, side_of(asked, model::number(pair.id)));
        side.address = pair.ip.to_string();
        side.cluster = cluster;
        if (!pair.k8s_pod_name.empty()) {
            side.pod = fmt::format("{}/{}", pair.k8s_namespace.view(), pair.k8s_pod_name.view());
        }
        side.ports = named_ports(pair);
        side.facts.push_back(fact(fmt::format("address {}", side.address), cluster));
        return side;
    }

    [[nodiscard]] Result<TraceSide> find_address(const TraceTarget& target) const {
        for (const auto& endpoint : from_.policy.endpoints()) {
            const auto& ips = endpoint.pod.ips;
            if (std::ranges::find(ips, target.address) != ips.end()) {
                return side_of_endpoint(target, endpoint);
            }
        }
        const model::IpPrefix host(target.address, 128);
        const auto found = from_.tables.lookup(target.address);
        if (found && found->prefix == host) {
            return side_of_record(target.text, found->cluster.name, found->pair);
        }
        if (auto node = find_node(target)) return *std::move(node);
        return find_outside(target, host);
    }

    /// The node that has the address, if one has.
    [[nodiscard]] std::optional<Result<TraceSide>> find_node(const TraceTarget& target) const {
        const std::string text = target.address.to_string();
        for (const auto& cluster : from_.tables.clusters()) {
            std::optional<std::string> name;
            from_.tables.for_each_node(cluster.name, [&](const model::Node& node) {
                if (!node.addresses) return;
                for (const auto& one : *node.addresses) {
                    if (one.ip == text) name = node.name;
                }
            });
            if (!name) continue;
            const bool own = cluster.name == from_.tables.own_cluster() && *name == from_.own_node;
            auto side = side_of(target.text, own ? kHost : kRemoteNode);
            if (side) {
                side->address = text;
                side->cluster = cluster.name;
                side->facts.push_back(fact(fmt::format("node {}", *name), cluster.name));
            }
            return side;
        }
        return std::nullopt;
    }

    /// An address of no cluster: of the narrowest block that policies name, or of the world.
    [[nodiscard]] Result<TraceSide> find_outside(const TraceTarget& target,
                                                 const model::IpPrefix& host) const {
        const auto& local = from_.policy.peers().local();
        std::optional<std::uint32_t> id = local.find(host);
        if (!id) {
            std::optional<model::IpPrefix> narrowest;
            for (const auto& one : local.identities()) {
                if (!one.cidr || !one.cidr->contains(host)) continue;
                if (narrowest && narrowest->length() >= one.cidr->length()) continue;
                // Names' addresses are in their block, but are not it.
                if (local.find(*one.cidr) != one.id) continue;
                narrowest = one.cidr;
                id = one.id;
            }
        }
        if (!id) {
            const bool dual = from_.policy.options().local.dual_stack;
            id = !dual ? 2U : host.is_v4() ? 9U : 10U;
        }
        MESH_TRY(TraceSide side, side_of(target.text, *id));
        side.address = target.address.to_string();
        return side;
    }

    // --- pods ---------------------------------------------------------------------------------

    [[nodiscard]] Result<TraceSide> side_of_endpoint(const TraceTarget& target,
                                                     const PolicyEndpointStatus& endpoint) const {
        constexpr std::uint32_t kInit = 5;
        MESH_TRY(TraceSide side,
                 side_of(target.text, endpoint.identity != 0 ? endpoint.identity : kInit));
        const std::string own(from_.tables.own_cluster());
        side.pod = fmt::format("{}/{}", endpoint.pod.namespace_, endpoint.pod.pod);
        side.cluster = own;
        if (!endpoint.pod.ips.empty()) side.address = endpoint.pod.ips.front().to_string();
        if (const auto what = from_.policy.compiler().endpoint(endpoint.pod.id)) {
            side.identity.labels = what->labels;
            side.ports = what->ports;
        }
        side.facts.push_back(fact(fmt::format("endpoint {}", endpoint.pod.id), {}));
        return side;
    }

    [[nodiscard]] Result<TraceSide> find_pod(const TraceTarget& target) const {
        const bool own = target.cluster.empty() || target.cluster == from_.tables.own_cluster();
        if (own) {
            for (const auto& endpoint : from_.policy.endpoints()) {
                if (endpoint.pod.namespace_ == target.namespace_ &&
                    endpoint.pod.pod == target.name) {
                    return side_of_endpoint(target, endpoint);
                }
            }
        }
        std::optional<std::pair<std::string, model::IpIdentityPair>> found;
        std::vector<std::string> clusters;
        for (const auto& cluster : from_.tables.clusters()) {
            if (!target.cluster.empty() && target.cluster != cluster.name) continue;
            bool here = false;
            from_.tables.for_each_ip(cluster.name, [&](const model::IpIdentityPair& pair) {
                if (here || pair.k8s_pod_name != target.name ||
                    pair.k8s_namespace != target.namespace_) {
                    return;
                }
                here = true;
                if (!found) found.emplace(cluster.name, pair);
            });
            if (here) clusters.push_back(cluster.name);
            // The own cluster's comes first, and is meant where none is named.
            if (here && cluster.name == from_.tables.own_cluster()) break;
        }
        if (!found) return not_found(fmt::format("pod {}: no cluster has it", target.text));
        if (clusters.size() > 1) {
            return invalid_argument(fmt::format("pod {}: expected a cluster before it, one of {}",
                                                target.text, fmt::join(clusters, ", ")));
        }
        return side_of_record(target.text, found->first, found->second);
    }

    const TraceSources& from_;
    const compile::SelectorCache& selectors_;
};

/// How it stands with the endpoint on this node that has the address.
void add_endpoint(json::object& document, std::string_view direction, const TraceSide& side,
                  const PolicyEngine& policy) {
    for (const auto& endpoint : policy.endpoints()) {
        const bool same = std::ranges::any_of(
            endpoint.pod.ips, [&](const auto& ip) { return ip.to_string() == side.address; });
        if (!same) continue;
        document[direction].as_object()["endpoint"] = {
            {"state", to_string(endpoint.state)},
            {"enforcement", to_string(endpoint.enforcement)},
            {"error", endpoint.why}};
    }
}

}  // namespace

Result<compile::Trace> trace_packet(const TraceSources& sources, const PolicyTraceQuery& query) {
    MESH_TRY(const TraceTarget source, compile::parse_trace_target(query.source));
    MESH_TRY(const TraceTarget destination, compile::parse_trace_target(query.destination));
    MESH_TRY(auto question,
             compile::parse_trace_question(query.dport, query.http, query.headers, query.dns));
    const Finder finder(sources);
    MESH_TRY(TraceSide from, finder.find(source));
    MESH_TRY(TraceSide to, finder.find(destination));
    return compile::trace(sources.policy.compiler(), std::move(from), std::move(to),
                          std::move(question));
}

Result<json::object> trace_document(const TraceSources& sources, const PolicyTraceQuery& query) {
    MESH_TRY(const auto trace, trace_packet(sources, query));
    json::object document = compile::to_json(trace);
    add_endpoint(document, "egress", trace.source, sources.policy);
    add_endpoint(document, "ingress", trace.destination, sources.policy);
    return document;
}

EndpointNames endpoint_names(const PolicyEngine& policy) {
    EndpointNames names;
    for (const auto& endpoint : policy.endpoints()) {
        names[endpoint.pod.id] = fmt::format("{}/{}", endpoint.pod.namespace_, endpoint.pod.pod);
    }
    return names;
}

json::object diff_document(PolicyEngine& policy, const EndpointNames& names,
                           const std::vector<model::policy::PolicyPtr>& policies, bool prune) {
    compile::PolicyUpdate update{policies, {}};
    if (prune) {
        std::set<model::policy::PolicyKey> kept;
        for (const auto& one : policies) kept.insert(one->key);
        for (const auto& [key, status] : policy.policies()) {
            if (!kept.contains(key)) update.removals.push_back(key);
        }
    }
    json::object document =
        compile::to_json(compile::diff(policy.compiler(), update), policy.compiler().selectors());
    for (json::value& difference : document["differences"].as_array()) {
        for (json::value& sort : difference.as_object()["endpoints"].as_array()) {
            json::array pods;
            for (const json::value& id : sort.as_object()["ids"].as_array()) {
                const auto name = names.find(id.to_number<std::uint32_t>());
                pods.emplace_back(name == names.end() ? "" : name->second);
            }
            sort.as_object()["pods"] = std::move(pods);
        }
    }
    return document;
}

Result<json::object> diff_document(PolicyEngine& policy, std::string_view request) {
    boost::system::error_code error;
    const json::value body = json::parse({request.data(), request.size()}, error);
    const auto* object = error ? nullptr : body.if_object();
    const auto* list = object != nullptr ? object->if_contains("policies") : nullptr;
    if (list == nullptr || !list->is_array()) {
        return invalid_argument("the request's body: expected {\"policies\": [...]}");
    }
    std::vector<model::policy::PolicyPtr> policies;
    for (const json::value& item : list->get_array()) {
        const auto* one = item.if_object();
        const auto* key = one != nullptr ? one->if_contains("key") : nullptr;
        const auto* value = one != nullptr ? one->if_contains("value") : nullptr;
        if (key == nullptr || value == nullptr || !key->is_string() || !value->is_string()) {
            return invalid_argument("policies: expected objects of \"key\" and \"value\"");
        }
        MESH_TRY(const auto record,
                 model::parse_policy_record(std::string_view(key->get_string()),
                                            std::string_view(value->get_string())));
        MESH_TRY(auto read,
                 sources::config::read_policy(record, sources::config::PolicyFeatures::enforced()));
        policies.push_back(std::move(read));
    }
    const auto* prune = object->if_contains("prune");
    return diff_document(policy, endpoint_names(policy), policies,
                         prune != nullptr && prune->is_bool() && prune->get_bool());
}

Result<std::vector<model::policy::PolicyPtr>> read_policy_text(std::string_view documents) {
    auto parsed = sources::config::parse_policies(documents, "policies",
                                                  sources::config::PolicyFeatures::enforced());
    if (!parsed.errors.empty()) {
        return invalid_argument(fmt::format("{}", fmt::join(parsed.errors, "\n")));
    }
    return std::move(parsed.policies);
}

}  // namespace mesh::engine
