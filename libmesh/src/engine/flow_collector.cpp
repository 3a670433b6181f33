#include "engine/flow_collector.hpp"

#include <chrono>
#include <utility>

namespace mesh::engine {

namespace {
constexpr std::chrono::seconds kTick{1};
/// Of 131,072 flows, all within half a minute.
constexpr std::size_t kFlowsPerTick = 4096;
}  // namespace

FlowCollector::FlowCollector(const boost::asio::any_io_executor& executor,
                             datapath::PodDatapath& pods, const Clock& clock, Logger log)
    : pods_(pods), clock_(clock), log_(std::move(log)), timer_(executor) {}

void FlowCollector::stop() {
    stopped_ = true;
    timer_.cancel();
}

void FlowCollector::wait() {
    timer_.expires_after(kTick);
    timer_.async_wait([this](boost::system::error_code ec) {
        if (ec || stopped_) return;
        collect();
        wait();
    });
}

void FlowCollector::collect() {
    const auto done = pods_.collect_flows(kFlowsPerTick, clock_.now());
    if (!done && !failed_) log_.warn("flows of services: {}", done.error().message());
    failed_ = !done;
}

}  // namespace mesh::engine
