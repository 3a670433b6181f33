#include "engine/policy_document.hpp"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <charconv>
#include <chrono>

#include "compile/identities/reserved.hpp"
#include "engine/documents.hpp"
#include "model/policy_record.hpp"

namespace mesh::engine {

namespace json = boost::json;

namespace {

using model::policy::Direction;

json::array to_json(std::span<const model::Label> labels) {
    json::array all;
    for (const model::Label& label : labels) {
        all.emplace_back(label.value.empty()
                             ? fmt::format("{}:{}", label.source.view(), label.key.view())
                             : fmt::format("{}:{}={}", label.source.view(), label.key.view(),
                                           label.value.view()));
    }
    return all;
}

json::object to_json(const model::policy::PolicyKey& key, const PolicyStatus& status) {
    const auto& rules = status.policy->rules;
    return {{"kind", to_string(key.kind)},
            {"namespace", key.namespace_},
            {"name", key.name},
            {"file", status.file},
            {"document", status.document},
            {"line", rules.empty() ? 0U : rules.front().line},
            {"rules", rules.size()},
            {"revision", status.revision}};
}

std::string cluster_of(const state::ClusterTables& tables, std::uint32_t identity) {
    if (identity < 256 || compile::is_local_identity(identity)) return {};
    for (const auto& cluster : tables.clusters()) {
        if (tables.find_identity(cluster.name, model::IdentityId{identity})) return cluster.name;
    }
    return {};
}

/// Of a row whose prefix is of that length.
std::uint16_t last_port(const datapath::PolicyKey& key) {
    const unsigned free = key.length <= 8 ? 16 : 24U - key.length;
    return static_cast<std::uint16_t>(key.port | ((1U << free) - 1U));
}

std::string parser_of(const PolicyEngine& policy, std::uint16_t number,
                      const datapath::PolicyRow& row) {
    const auto* compiled = policy.compiler().find(number);
    if (compiled == nullptr) return {};
    const auto direction = row.key.egress ? Direction::kEgress : Direction::kIngress;
    for (const auto& redirect : compiled->redirects()) {
        const std::uint16_t last = redirect.end_port != 0 ? redirect.end_port : redirect.port;
        const bool in =
            redirect.port == 0 || (row.key.port >= redirect.port && row.key.port <= last);
        if (redirect.direction == direction && redirect.protocol == row.key.protocol && in) {
            return redirect.parser;
        }
    }
    return {};
}

}  // namespace

std::string_view to_string(datapath::EndpointEnforcement enforcement) noexcept {
    switch (enforcement) {
        case datapath::EndpointEnforcement::kNone:
            return "none";
        case datapath::EndpointEnforcement::kRules:
            return "rules";
        case datapath::EndpointEnforcement::kAudit:
            return "audit";
        case datapath::EndpointEnforcement::kLocked:
            return "locked";
    }
    return "?";
}

json::object policy_document(const PolicyEngine& policy) {
    const PolicyCounts counts = policy.counts();
    const auto& options = policy.options();
    json::array policies;
    for (const auto& [key, status] : policy.policies()) policies.push_back(to_json(key, status));
    json::array errors;
    for (const auto& endpoint : policy.endpoints()) {
        if (endpoint.why.empty()) continue;
        errors.push_back(json::object{{"endpoint", endpoint.pod.name},
                                      {"state", to_string(endpoint.state)},
                                      {"error", endpoint.why}});
    }
    return {{"enforcement", to_string(options.compile.enforcement)},
            {"audit", options.audit},
            {"default_local_cluster", options.compile.default_local_cluster},
            {"allow_localhost", options.compile.allow_localhost},
            {"synced", policy.synced()},
            {"revision", counts.revision},
            {"realised_revision", counts.realised},
            {"counts", json::object{{"policies", counts.policies},
                                    {"identities", counts.identities},
                                    {"local_identities", counts.local_identities},
                                    {"selectors", counts.selectors},
                                    {"bytes", counts.bytes},
                                    {"endpoints", counts.endpoints},
                                    {"waiting", counts.waiting},
                                    {"locked", counts.locked},
                                    {"conflicts", counts.conflicts},
                                    {"overflows", counts.overflows},
                                    {"failed", counts.failed},
                                    {"rows", counts.rows},
                                    {"max_rows_per_endpoint", policy.datapath().max_rows()}}},
            {"policies", std::move(policies)},
            {"errors", std::move(errors)}};
}

std::optional<json::object> one_policy_document(const PolicyEngine& policy,
                                                const state::ClusterTables& tables,
                                                std::string_view path) {
    const std::string etcd_key = std::string(model::kLocalPoliciesPrefix).append(path);
    const auto key = model::policy_key_of(model::parse_key(etcd_key));
    if (!key) return std::nullopt;
    const auto found = policy.policies().find(*key);
    const auto record = tables.find_policy(*key);
    if (found == policy.policies().end() || !record) return std::nullopt;
    json::object document = to_json(*key, found->second);
    json::error_code ec;
    document["policy"] = json::parse(record->text, ec);
    document["lines"] = json::array(record->lines.begin(), record->lines.end());
    return document;
}

json::object endpoint_document(const EndpointStatus& from, const PolicyEngine& policy) {
    json::object endpoint = to_json(from);
    const auto status = policy.endpoint(from.number);
    if (!status) return endpoint;
    endpoint["labels"] = to_json(status->labels);
    endpoint["policy"] = json::object{{"state", to_string(status->state)},
                                      {"error", status->why},
                                      {"enforcement", to_string(status->enforcement)},
                                      {"ingress", status->ingress},
                                      {"egress", status->egress},
                                      {"rows", status->rows},
                                      {"held_rows", status->held_rows}};
    return endpoint;
}

json::array rows_document(const PolicyEngine& policy, const state::ClusterTables& tables,
                          std::uint16_t number) {
    json::array all;
    const auto rows = policy.datapath().rows(number);
    if (!rows) return all;
    const auto& selectors = policy.compiler().selectors();
    for (const datapath::PolicyRow& row : *rows) {
        const auto slot = selectors.find(row.key.identity);
        const bool redirect = row.verdict.proxy_port != 0;
        all.push_back(json::object{
            {"direction", row.key.egress ? "egress" : "ingress"},
            {"identity", row.key.identity},
            {"labels", slot ? to_json(selectors.identity(*slot).labels) : json::array()},
            {"cluster", cluster_of(tables, row.key.identity)},
            {"protocol", row.key.protocol},
            {"port", row.key.port},
            {"last_port", last_port(row.key)},
            {"verdict", row.verdict.deny ? "deny"
                        : redirect       ? "redirect"
                                         : "allow"},
            {"proxy_port", row.verdict.proxy_port},
            {"precedence", row.verdict.precedence & 0xffU},
            {"parser", redirect ? parser_of(policy, number, row) : std::string()}});
    }
    return all;
}

json::array identities_document(const PolicyEngine& policy, const state::ClusterTables& tables,
                                std::span<const state::SessionStatus> clusters) {
    json::array all;
    const auto add = [&](std::uint32_t id, std::span<const model::Label> labels,
                         std::string_view kind, std::string_view cluster, std::string prefix,
                         json::value fresh) {
        all.push_back(json::object{{"id", id},
                                   {"labels", to_json(labels)},
                                   {"kind", kind},
                                   {"cluster", cluster},
                                   {"prefix", std::move(prefix)},
                                   {"fresh_seconds", std::move(fresh)}});
    };
    for (const auto& one : compile::reserved_identities(policy.options().local.dual_stack)) {
        add(one.id, one.labels, "reserved", "", {}, nullptr);
    }
    for (const auto& cluster : tables.clusters()) {
        json::value fresh = nullptr;
        for (const auto& status : clusters) {
            if (status.cluster != cluster.name || !status.last_proof_of_life) continue;
            fresh = std::chrono::duration<double>(*status.last_proof_of_life).count();
        }
        tables.for_each_identity(cluster.name, [&](const model::Identity& identity) {
            add(model::number(identity.id), identity.labels, "cluster", cluster.name, {}, fresh);
        });
    }
    for (const auto& one : policy.peers().local().identities()) {
        add(one.id, one.labels, "local", "", one.cidr ? one.cidr->to_string() : std::string(),
            nullptr);
    }
    return all;
}

}  // namespace mesh::engine
