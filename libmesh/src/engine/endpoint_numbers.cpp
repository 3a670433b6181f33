#include "engine/endpoint_numbers.hpp"

#include <algorithm>
#include <limits>

namespace mesh::engine {

EndpointNumbers::EndpointNumbers(std::span<const datapath::Endpoint> endpoints,
                                 std::span<const datapath::PolicyOccupancy> policies) {
    for (const auto& endpoint : endpoints) {
        if (endpoint.id == 0) continue;
        former_.emplace(endpoint.address, Former{endpoint.id, endpoint.pod_mac});
        reserved_.insert(endpoint.id);
    }
    for (const auto& policy : policies) reserved_.insert(policy.endpoint);
    if (!reserved_.empty()) last_ = *reserved_.rbegin();
}

EndpointNumbers::Number EndpointNumbers::acquire(const std::string& pod,
                                                 const sources::config::EndpointFile& file) {
    if (const auto held = numbers_.find(pod); held != numbers_.end()) return held->second;
    for (const model::IpAddress& ip : file.ips) {
        const auto former = former_.find(ip);
        // Another link is another pod, which has got the address of one that is gone.
        if (former == former_.end() || former->second.pod_mac != file.pod_mac) continue;
        if (reserved_.erase(former->second.id) == 0) continue;
        used_.insert(former->second.id);
        return numbers_[pod] = {former->second.id, true};
    }
    constexpr unsigned kMost = std::numeric_limits<datapath::EndpointId>::max();
    for (unsigned tried = 0; tried < kMost; ++tried) {
        last_ = last_ == kMost ? 1 : static_cast<datapath::EndpointId>(last_ + 1);
        if (used_.contains(last_) || reserved_.contains(last_)) continue;
        used_.insert(last_);
        return numbers_[pod] = {last_, false};
    }
    return {};
}

void EndpointNumbers::release(const std::string& pod) {
    const auto held = numbers_.find(pod);
    if (held == numbers_.end()) return;
    used_.erase(held->second.id);
    numbers_.erase(held);
}

}  // namespace mesh::engine
