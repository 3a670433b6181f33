#include "report.hpp"

#include <fmt/format.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <utility>
#include <vector>

namespace mesh::operator_daemon {

namespace json = boost::json;
namespace k8s = model::k8s;
using model::policy::PolicyKind;

namespace {

constexpr k8s::Kind kKinds[] = {k8s::Kind::kNamespace, k8s::Kind::kNode, k8s::Kind::kPod,
                                k8s::Kind::kService, k8s::Kind::kEndpointSlice};

constexpr PolicyKind kPolicyKinds[] = {PolicyKind::kNetworkPolicy, PolicyKind::kCiliumNetworkPolicy,
                                       PolicyKind::kCiliumClusterwideNetworkPolicy};

class Metrics {
  public:
    void gauge(std::string name, std::string help, double value) {
        one(std::move(name), std::move(help), prometheus::MetricType::Gauge, value);
    }
    void counter(std::string name, std::string help, std::uint64_t value) {
        one(std::move(name), std::move(help), prometheus::MetricType::Counter,
            static_cast<double>(value));
    }
    prometheus::MetricFamily& family(std::string name, std::string help,
                                     prometheus::MetricType type) {
        families_.push_back({"mesh_operator_" + std::move(name), std::move(help), type, {}});
        return families_.back();
    }
    [[nodiscard]] std::string text() const {
        return prometheus::TextSerializer().Serialize(families_);
    }

  private:
    void one(std::string name, std::string help, prometheus::MetricType type, double value) {
        prometheus::ClientMetric metric;
        (type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) =
            value;
        family(std::move(name), std::move(help), type).metric.push_back(std::move(metric));
    }

    std::vector<prometheus::MetricFamily> families_;
};

json::object to_json(const publish::WorkloadReport& one) {
    json::array ips;
    for (const auto& ip : one.ips) ips.emplace_back(ip.to_string());
    json::array backends;
    for (const auto& backend : one.backends) {
        backends.push_back({{"service", backend.service},
                            {"portName", backend.port_name},
                            {"port", backend.port},
                            {"protocol", backend.protocol}});
    }
    return {{"name", one.name},
            {"namespace", one.namespace_},
            {"state", one.accepted ? "accepted" : "refused"},
            {"reason", one.reason},
            {"ips", std::move(ips)},
            {"backends", std::move(backends)},
            {"node", one.node}};
}

}  // namespace

std::string to_json(const Report& report) {
    const auto& p = report.publisher;
    json::object objects;
    const auto counts = report.manifests->set().counts();
    for (const k8s::Kind kind : kKinds) {
        const auto found = counts.find(kind);
        objects[k8s::to_string(kind)] = found == counts.end() ? 0 : found->second;
    }
    const auto policies = report.manifests->policies().counts();
    for (const PolicyKind kind : kPolicyKinds) {
        const auto found = policies.find(kind);
        objects[to_string(kind)] = found == policies.end() ? 0 : found->second;
    }
    json::array errors;
    if (!report.directory_error.empty()) errors.emplace_back(report.directory_error);
    for (const std::string& text : report.manifests->errors()) errors.emplace_back(text);
    json::array workloads;
    for (const publish::WorkloadReport& one : report.workloads) {
        workloads.push_back(to_json(one));
    }
    json::value last_error = nullptr;
    if (!p.last_error.empty()) {
        last_error = {{"message", p.last_error}, {"current", p.last_error_is_current}};
    }
    const json::object document{
        {"cluster",
         {{"name", report.cluster.name},
          {"id", number(report.cluster.id)},
          {"maxConnectedClusters", report.cluster.max_clusters}}},
        {"state", publish::to_string(p.state)},
        {"ready", p.ready},
        {"objects", std::move(objects)},
        {"manifests",
         {{"directory", report.manifests_directory},
          {"complete", !report.manifests->set().incomplete() &&
                           report.manifests->policies().unread().empty() &&
                           report.directory_error.empty()},
          {"errors", std::move(errors)}}},
        {"workloads", std::move(workloads)},
        {"etcd",
         {{"keys", p.keys},
          {"pending", p.pending},
          {"refused", p.refused},
          {"identities", p.identities},
          {"policies", p.policies},
          {"lease", fmt::format("{:x}", p.lease)},
          {"leasesLost", p.leases_lost},
          {"puts", p.puts},
          {"deletes", p.deletes},
          {"transactions", p.transactions},
          {"lists", p.lists},
          {"failures", p.failures}}},
        {"lastError", std::move(last_error)},
    };
    return json::serialize(document) + "\n";
}

std::string to_metrics(const Report& report) {
    const auto& p = report.publisher;
    Metrics metrics;
    metrics.gauge("ready", "1 once all has been published", p.ready ? 1 : 0);
    metrics.gauge("keys", "Keys wanted in etcd", static_cast<double>(p.keys));
    metrics.gauge("pending", "Writes to etcd that are due", static_cast<double>(p.pending));
    metrics.gauge("refused", "Keys whose value etcd refuses", static_cast<double>(p.refused));
    metrics.gauge("identities", "Identities of the cluster", static_cast<double>(p.identities));
    metrics.gauge("policies", "Network policies published", static_cast<double>(p.policies));
    auto& workloads = metrics.family("workloads", "Workloads that registered themselves, by state",
                                     prometheus::MetricType::Gauge);
    const auto add_workloads = [&](std::string state, std::size_t count) {
        prometheus::ClientMetric metric;
        metric.label.push_back({"state", std::move(state)});
        metric.gauge.value = static_cast<double>(count);
        workloads.metric.push_back(std::move(metric));
    };
    add_workloads("accepted", p.workloads);
    add_workloads("refused", p.workloads_refused);
    metrics.counter("puts_total", "Keys put", p.puts);
    metrics.counter("deletes_total", "Keys deleted", p.deletes);
    metrics.counter("transactions_total", "Transactions done", p.transactions);
    metrics.counter("lists_total", "Times that etcd's content was listed", p.lists);
    metrics.counter("failures_total", "Failures of etcd or of the way to it", p.failures);
    metrics.counter("leases_lost_total", "Leases that ended while held", p.leases_lost);
    metrics.gauge("manifest_errors", "Mistakes in manifests now",
                  static_cast<double>(report.manifests->errors().size()));
    auto& objects =
        metrics.family("objects", "Objects read, by kind", prometheus::MetricType::Gauge);
    const auto add = [&](std::string_view kind, std::size_t count) {
        prometheus::ClientMetric metric;
        metric.label.push_back({"kind", std::string(kind)});
        metric.gauge.value = static_cast<double>(count);
        objects.metric.push_back(std::move(metric));
    };
    for (const auto& [kind, count] : report.manifests->set().counts()) {
        add(k8s::to_string(kind), count);
    }
    for (const auto& [kind, count] : report.manifests->policies().counts()) {
        add(to_string(kind), count);
    }
    return metrics.text();
}

}  // namespace mesh::operator_daemon
