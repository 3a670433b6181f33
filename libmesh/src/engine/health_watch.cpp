#include "engine/health_watch.hpp"

#include <boost/json/array.hpp>
#include <utility>

namespace mesh::engine {

namespace json = boost::json;
namespace health = sources::health;

namespace {

constexpr std::size_t kMostShown = 1000;

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

/// The prober's address and port are all that a remote chose of these texts.
json::object target_document(const health::Target& target, const health::TargetStatus& status,
                             TimePoint now) {
    json::object document{{"address", target.address.to_string()},
                          {"port", target.port},
                          {"state", to_string(status.state)},
                          {"since_seconds", seconds(now - status.since)},
                          {"last_error", status.last_error},
                          {"probes", status.probes},
                          {"failed", status.failed}};
    document["round_trip_seconds"] =
        status.round_trip ? json::value(seconds(*status.round_trip)) : json::value(nullptr);
    if (target.is_host()) {
        document["cluster"] = target.group;
    } else {
        document["check"] = to_string(target.check);
    }
    return document;
}

}  // namespace

HealthWatch::HealthWatch(boost::asio::any_io_executor executor, const Clock& clock, Rng rng,
                         HealthOptions options, state::ClusterKey own, std::string node_name,
                         NodeState& node, Logger log, std::function<void()> on_finding)
    : clock_(clock),
      options_(options),
      own_(std::move(own)),
      node_name_(std::move(node_name)),
      node_(node),
      log_(std::move(log)),
      on_finding_(std::move(on_finding)),
      prober_(executor, clock, rng, {.per_second = static_cast<double>(options.probes_per_second)},
              [this](const health::Verdict& verdict) { take(verdict); }),
      server_(executor, log_) {}

health::Target HealthWatch::to_target(const compile::HostProbe& probe) const {
    model::HealthCheck check;
    check.interval = options_.interval;
    check.timeout = options_.timeout;
    check.failures = static_cast<std::uint8_t>(options_.failures);
    return {.address = probe.address,
            .port = options_.port,
            .check = std::move(check),
            .group = probe.cluster};
}

void HealthWatch::refresh() {
    const auto to_backend = [](const compile::BackendProbe& probe) {
        return health::Target{
            .address = probe.address, .port = probe.port, .check = probe.check, .group = {}};
    };
    const compile::ProbeChanges changes = node_.take_probe_changes();
    for (const auto& probe : changes.hosts_removed) prober_.remove(to_target(probe));
    for (const auto& probe : changes.backends_removed) prober_.remove(to_backend(probe));
    for (const auto& probe : changes.hosts_added) prober_.add(to_target(probe));
    for (const auto& probe : changes.backends_added) prober_.add(to_backend(probe));
    listen();
}

/// At the InternalIPs of this node's record. An address that is not here (yet) is tried again.
void HealthWatch::listen() {
    const auto node = node_.tables().find_node(own_.name, node_name_);
    if (!node || !node->addresses) return;
    std::string error;
    for (const model::NodeAddress& address : *node->addresses) {
        model::IpAddress ip;
        if (address.type != "InternalIP" || !model::IpAddress::parse_into(address.ip, ip)) continue;
        if (auto listening = server_.listen(ip, options_.port); !listening && error.empty()) {
            error = listening.error().detail();
        }
    }
    if (!error.empty() && error != listen_error_) {
        log_.warn("{}; other nodes see that this one lives all the same, as it refuses", error);
    }
    listen_error_ = std::move(error);
}

void HealthWatch::take(const health::Verdict& verdict) {
    const health::Target& target = verdict.target;
    const bool healthy = verdict.status.state == health::State::kHealthy;
    const std::string what = target.is_host()
                                 ? "node " + target.group + " " + target.address.to_string()
                                 : "backend " + target.address.to_string() + " port " +
                                       std::to_string(target.port) + " " + to_string(target.check);
    if (!healthy) {
        log_.warn("{}: does not answer: {}", what, verdict.status.last_error);
    } else if (verdict.status.failed > 0) {
        log_.info("{}: answers", what);
    }
    const compile::Finding finding{healthy, healthy ? std::string() : verdict.status.last_error};
    if (target.is_host()) {
        node_.note_host({target.group, target.address}, finding);
    } else {
        node_.note_backend({target.address, target.port, target.check}, finding);
    }
    on_finding_();
}

boost::asio::awaitable<void> HealthWatch::async_stop() {
    prober_.stop();
    return server_.async_stop();
}

HealthCounts HealthWatch::count(bool hosts) const {
    HealthCounts counts;
    for (const auto& [target, status] : schedule().targets()) {
        if (target.is_host() != hosts) continue;
        ++(status.state == health::State::kHealthy     ? counts.healthy
           : status.state == health::State::kUnhealthy ? counts.unhealthy
                                                       : counts.unknown);
    }
    return counts;
}

json::object HealthWatch::status() const {
    const TimePoint now = clock_.now();
    json::array nodes;
    json::array backends;
    std::size_t healthy_backends = 0;
    for (const auto& [target, status] : schedule().targets()) {
        if (!target.is_host() && status.state == health::State::kHealthy) {
            ++healthy_backends;
            continue;
        }
        json::array& list = target.is_host() ? nodes : backends;
        if (list.size() < kMostShown) list.push_back(target_document(target, status, now));
    }
    return {{"port", options_.port},
            {"error", listen_error_},
            {"targets", schedule().size()},
            {"stretch", schedule().stretch()},
            {"nodes", std::move(nodes)},
            {"healthy_backends", healthy_backends},
            {"other_backends", std::move(backends)}};
}

}  // namespace mesh::engine
