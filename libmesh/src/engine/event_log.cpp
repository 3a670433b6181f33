#include "engine/event_log.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

namespace mesh::engine {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr std::chrono::seconds kTick{1};
constexpr int kTraceTicks = 5;
constexpr std::size_t kKept = 4096;
constexpr std::size_t kShown = 2000;

std::string protocol_name(std::uint8_t number) {
    switch (number) {
        case 1:
            return "ICMP";
        case 6:
            return "TCP";
        case 17:
            return "UDP";
        case 58:
            return "ICMPv6";
        case 132:
            return "SCTP";
        default:
            return std::to_string(number);
    }
}

json::object side(const model::IpAddress& address, std::uint16_t port, std::uint32_t identity,
                  const state::ClusterTables& tables) {
    json::object out{{"address", address.to_string()}, {"port", port}, {"identity", identity}};
    if (const auto match = tables.lookup(address)) {
        out["cluster"] = match->cluster.name;
        const std::string_view pod = match->pair.k8s_pod_name;
        if (!pod.empty()) {
            out["pod"] = fmt::format("{}/{}", std::string_view(match->pair.k8s_namespace), pod);
        }
    }
    return out;
}

std::string_view kind_name(datapath::PodEvent::Kind kind) {
    switch (kind) {
        case datapath::PodEvent::Kind::kDrop:
            return "drop";
        case datapath::PodEvent::Kind::kTrace:
            return "trace";
        case datapath::PodEvent::Kind::kPolicy:
            return "policy";
    }
    return "unknown";
}

/// What a policy said, and whose.
void add_verdict(json::object& out, const datapath::PodEvent& event) {
    out["verdict"] = to_string(event.verdict);
    out["direction"] = event.egress ? "egress" : "ingress";
    out["endpoint"] = event.endpoint;
    out["cookie"] = event.cookie;
    if (event.verdict == datapath::PodEvent::Verdict::kDenied) {
        out["reason"] = to_string(event.reason);
    }
}

json::object document(std::uint64_t number, const datapath::PodEvent& event,
                      const state::ClusterTables& tables) {
    using Kind = datapath::PodEvent::Kind;
    json::object out{{"number", number},
                     {"time_ns", event.time_ns},
                     {"kind", kind_name(event.kind)},
                     {"point", to_string(event.point)},
                     {"protocol", protocol_name(event.protocol)},
                     {"length", event.length},
                     {"ifindex", event.ifindex}};
    if (event.kind == Kind::kDrop) out["reason"] = to_string(event.reason);
    if (event.kind == Kind::kTrace) out["to"] = to_string(event.to);
    if (event.kind == Kind::kPolicy) add_verdict(out, event);
    out["source"] = side(event.source, event.source_port, event.source_identity, tables);
    out["destination"] =
        side(event.destination, event.destination_port, event.destination_identity, tables);
    return out;
}

}  // namespace

EventLog::EventLog(const asio::any_io_executor& executor, datapath::BpfPods& pods,
                   std::function<void(bool)> set_trace)
    : pods_(pods), set_trace_(std::move(set_trace)), timer_(executor) {}

void EventLog::start() {
    wait();
}

void EventLog::stop() {
    stopped_ = true;
    timer_.cancel();
    if (std::exchange(trace_ticks_, 0) > 0) set_trace_(false);
}

void EventLog::wait() {
    timer_.expires_after(kTick);
    timer_.async_wait([this](const boost::system::error_code& ec) {
        if (ec || stopped_) return;
        take();
        if (trace_ticks_ > 0 && --trace_ticks_ == 0) set_trace_(false);
        wait();
    });
}

// The kernel's ring holds about as much: a flood costs one look per tick, not one per packet.
void EventLog::take() {
    pods_.read_events(4 * kKept, [this](const datapath::PodEvent& event) {
        if (events_.size() == kKept) {
            events_.pop_front();
            ++first_;
        }
        events_.push_back(event);
    });
}

json::object EventLog::since(std::uint64_t number, bool trace, const state::ClusterTables& tables) {
    if (trace) {
        if (trace_ticks_ == 0) set_trace_(true);
        trace_ticks_ = kTraceTicks;
    }
    take();
    const std::uint64_t next = first_ + events_.size();
    const std::uint64_t kept = std::max(first_, next > kShown ? next - kShown : 1);
    const std::uint64_t from = std::clamp<std::uint64_t>(number, kept, next);
    json::array shown;
    for (std::uint64_t n = from; n < next; ++n) {
        shown.push_back(document(n, events_[n - first_], tables));
    }
    return {{"next", next},
            {"lost", number == 0 || number >= from ? 0 : from - number},
            {"events", std::move(shown)}};
}

}  // namespace mesh::engine
