#include "meshctl/documents.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <boost/json.hpp>

namespace mesh::ctl {

namespace json = boost::json;

json::object sandbox_document(const sandbox::Summary& summary) {
    json::object out{{"name", summary.name}, {"complete", false}};
    if (!summary.state) return out;
    const sandbox::State& state = *summary.state;
    json::array daemons, pods, cidrs, services;
    for (const auto& cidr : state.pod_cidrs) cidrs.emplace_back(cidr.to_string());
    for (const auto& cidr : state.service_cidrs) services.emplace_back(cidr.to_string());
    for (const auto& daemon : state.daemons) {
        daemons.push_back(json::object{{"name", daemon.name},
                                       {"node", daemon.node},
                                       {"running", sandbox::is_running(daemon.process)},
                                       {"pid", daemon.process.pid},
                                       {"socket", daemon.socket},
                                       {"log", daemon.log}});
    }
    for (const auto& [key, pod] : state.objects.pods) {
        json::array ips;
        for (const auto& ip : pod.ips) ips.emplace_back(ip.to_string());
        json::object entry{{"namespace", pod.namespace_},
                           {"name", pod.name},
                           {"node", pod.node},
                           {"ips", ips},
                           {"phase", to_string(pod.phase)},
                           {"ready", pod.ready},
                           {"message", pod.message}};
        if (pod.exit_code) entry["exit_code"] = *pod.exit_code;
        pods.push_back(std::move(entry));
    }
    out["complete"] = state.complete;
    out["cluster_id"] = state.cluster_id;
    out["pod_cidrs"] = cidrs;
    out["service_cidrs"] = services;
    out["nodes"] = state.nodes;
    out["routing"] = state.routing;
    out["encryption"] = state.encryption;
    out["etcd"] = state.etcd;
    out["daemons"] = daemons;
    out["pods"] = pods;
    return out;
}

json::object deleted_document(std::string_view name, bool deleted) {
    return {{"name", name}, {"deleted", deleted}};
}

json::array changes_document(const std::vector<sandbox::Change>& changes) {
    json::array out;
    for (const sandbox::Change& change : changes) {
        out.push_back(json::object{{"kind", change.object.kind},
                                   {"namespace", change.object.namespace_},
                                   {"name", change.object.name},
                                   {"change", change.what}});
    }
    return out;
}

json::object daemons_document(std::string_view daemon, std::size_t count) {
    return {{"daemon", daemon}, {"count", count}};
}

json::array connections_document(const std::vector<std::pair<std::string, std::string>>& directions,
                                 bool connected) {
    json::array out;
    for (const auto& [cluster, remote] : directions) {
        out.push_back(
            json::object{{"cluster", cluster}, {"remote", remote}, {"connected", connected}});
    }
    return out;
}

json::object authority_document(std::string_view folder, const pki::CertificateInfo& certificate) {
    const auto not_after = std::chrono::floor<std::chrono::seconds>(certificate.not_after);
    return {{"folder", folder},
            {"certificate", fmt::format("{}/ca.crt", folder)},
            {"common_name", certificate.common_name},
            {"not_after", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", not_after)}};
}

}  // namespace mesh::ctl
