#include "compile/services/traffic_notes.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "model/annotations.hpp"

namespace mesh::compile {
namespace {

using Notes = std::vector<std::string>;

void note_ruled_out(const ServiceTraffic& traffic, Notes& notes) {
    if (!traffic.policy.cluster_order.empty() && !traffic.ordered()) {
        notes.push_back(fmt::format("{} is ignored: the service has {}={}, which goes first",
                                    model::kClusterOrderAnnotation, model::kAffinityAnnotation,
                                    to_string(traffic.affinity)));
    }
    if (traffic.policy.min_local_backends > 0 && traffic.min_local() == 0) {
        notes.push_back(
            fmt::format("{} is ignored: it is for services with {}=local, and this one has {}",
                        model::kMinLocalBackendsAnnotation, model::kAffinityAnnotation,
                        to_string(traffic.affinity)));
    }
}

void note_unknown_clusters(const ServiceTraffic& traffic, Notes& notes) {
    const auto check = [&](std::string_view annotation, const std::string& cluster) {
        if (cluster == "*") return;
        if (std::ranges::find(traffic.clusters, cluster, &ClusterSteering::cluster) !=
            traffic.clusters.end()) {
            return;
        }
        notes.push_back(
            fmt::format("{} names {}, which has no service of this name", annotation, cluster));
    };
    for (const auto& [cluster, weight] : traffic.policy.cluster_weights) {
        check(model::kClusterWeightsAnnotation, cluster);
    }
    for (const std::string& cluster : traffic.policy.cluster_order) {
        check(model::kClusterOrderAnnotation, cluster);
    }
}

void note_clusters(const ServiceTraffic& traffic, const TrafficState& state, Notes& notes) {
    for (const ClusterSteering& cluster : traffic.clusters) {
        if (cluster.closed) {
            const bool connected = state.connected(cluster.cluster).value_or(false);
            notes.push_back(fmt::format(
                "{}: stale: {}no proof of life for {} s or longer ({}): its backends get no new "
                "connections",
                cluster.cluster, connected ? "" : "not connected, ",
                traffic.policy.close_when_stale->count(), model::kStalePolicyAnnotation));
        }
        if (cluster.percent < 100) {
            notes.push_back(fmt::format(
                "{}: slow start: at {}% of its share ({} {} s)", cluster.cluster, cluster.percent,
                model::kSlowStartAnnotation, traffic.policy.slow_start.count()));
        }
    }
}

/// "ape 80.0%, bee 20.0%"; empty unless several clusters get new connections.
std::string shares_text(const FrontendRow& row) {
    std::vector<std::pair<std::string_view, std::uint64_t>> clusters;
    std::uint64_t total = 0;
    for (const BackendRow& backend : row.backends) {
        if (!backend.selected) continue;
        if (clusters.empty() || clusters.back().first != backend.cluster.name) {
            clusters.emplace_back(backend.cluster.name, 0);
        }
        clusters.back().second += backend.weight;
        total += backend.weight;
    }
    std::string text;
    if (clusters.size() < 2) return text;
    for (const auto& [cluster, weight] : clusters) {
        text += fmt::format("{}{} {:.1f}%", text.empty() ? "" : ", ", cluster,
                            100.0 * static_cast<double>(weight) / static_cast<double>(total));
    }
    return text;
}

/// How many of the wanted local backends there are, if fewer than wanted.
std::string spill_text(const FrontendRow& row, const ServiceTraffic& traffic) {
    const bool spill = std::ranges::any_of(row.backends, [](const BackendRow& b) {
        return b.selected && b.reason == Reason::kSpillover;
    });
    if (!spill) return {};
    const auto here = std::ranges::count_if(row.backends, [&](const BackendRow& b) {
        return b.reason == Reason::kActive && b.state == model::BackendState::kActive &&
               b.cluster.name == traffic.clusters.front().cluster;
    });
    return fmt::format("{} of {} local backends are active, the rest spills over", here,
                       traffic.min_local());
}

void note_shares(const ServiceTraffic& traffic, const std::vector<FrontendRow>& rows,
                 Notes& notes) {
    for (const FrontendRow& row : rows) {
        std::string text = shares_text(row);
        if (text.empty()) continue;
        if (const std::string spill = spill_text(row, traffic); !spill.empty()) {
            text += fmt::format(" ({}: {})", model::kMinLocalBackendsAnnotation, spill);
        }
        // Frontends may differ, by family or by what their ports find.
        notes.push_back(fmt::format("{} port {}/{}: new connections: {}",
                                    row.key.address.to_string(), row.key.port,
                                    to_string(row.key.protocol), text));
    }
}

}  // namespace

std::vector<std::string> traffic_notes(const model::LocalService& local,
                                       const ServiceTraffic* traffic, const TrafficState& state,
                                       const std::vector<FrontendRow>& rows) {
    if (!model::has_traffic_annotations(local.annotations)) return {};
    const auto parsed = model::parse_traffic_annotations(local.annotations);
    Notes notes = parsed.warnings;
    if (!local.global && !parsed.policy.empty()) {
        notes.push_back(
            fmt::format("annotations below {} are ignored, as the service has not {}=true",
                        model::kTrafficPrefix, model::kGlobalAnnotation));
    }
    if (traffic == nullptr) return notes;
    note_ruled_out(*traffic, notes);
    note_unknown_clusters(*traffic, notes);
    note_clusters(*traffic, state, notes);
    note_shares(*traffic, rows, notes);
    return notes;
}

}  // namespace mesh::compile
