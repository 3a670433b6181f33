#include "datapath/bpf/flow_walk.hpp"

#include <bpf/bpf.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "datapath/bpf/libbpf_call.hpp"
#include "datapath/bpf/pin_directory.hpp"

namespace mesh::datapath {
FlowWalk::FlowWalk(int flows, int answers, std::uint64_t max_flows, const FlowTimeouts& timeouts)
    : flows_(flows), answers_(answers), timeouts_(timeouts) {
    stats_.max = max_flows;
}

bool FlowWalk::is_over(const mesh_answer& answer, std::uint8_t proto, std::uint64_t now) const {
    std::chrono::nanoseconds timeout = timeouts_.udp;
    if (proto == IPPROTO_TCP) {
        constexpr std::uint32_t kBoth = MESH_FLOW_CLIENT_FIN | MESH_FLOW_BACKEND_FIN;
        timeout = timeouts_.tcp;
        if ((answer.flags & MESH_FLOW_ANSWERED) == 0) timeout = timeouts_.tcp_syn;
        if ((answer.flags & MESH_FLOW_RESET) != 0 || (answer.flags & kBoth) == kBoth) {
            timeout = timeouts_.tcp_close;
        }
    }
    // Signed: a packet may have come after `now` was read.
    return static_cast<std::int64_t>(now - answer.last_used_ns) >= timeout.count();
}

void FlowWalk::look_at(const mesh_flow_key& key, const mesh_answer& answer, std::uint64_t now) {
    mesh_answer latest{};
    if (!is_over(answer, key.proto, now) || bpf_map_lookup_elem(answers_, &key, &latest) != 0 ||
        !is_over(latest, key.proto, now)) {
        ++live_so_far_;
        return;
    }
    mesh_flow_key forward{};
    forward.source = latest.client;
    forward.destination = latest.frontend;
    forward.source_port = latest.client_port;
    forward.destination_port = latest.frontend_port;
    forward.proto = key.proto;
    mesh_flow flow{};
    // The client may have begun another flow, with another backend.
    if (bpf_map_lookup_elem(flows_, &forward, &flow) == 0 && flow.choice == latest.choice &&
        std::memcmp(&flow.source, &key.destination, sizeof flow.source) == 0) {
        (void)bpf_map_delete_elem(flows_, &forward);
    }
    if (bpf_map_delete_elem(answers_, &key) == 0) ++stats_.expired;
}

Result<void> FlowWalk::step(std::size_t most, TimePoint time) {
    constexpr std::uint32_t kBatch = 256;
    std::vector<mesh_flow_key> keys(kBatch);
    std::vector<mesh_answer> values(kBatch);
    const auto options = sized<bpf_map_batch_opts>();
    // The clock of bpf_ktime_get_ns(), CLOCK_MONOTONIC, is that of TimePoint.
    const auto now =
        static_cast<std::uint64_t>(std::chrono::nanoseconds(time.time_since_epoch()).count());
    for (std::size_t done = 0; done < most;) {
        std::uint32_t count = kBatch;
        const int error =
            bpf_map_lookup_batch(answers_, at_start_ ? nullptr : &position_, &position_,
                                 keys.data(), values.data(), &count, &options);
        const bool last = error != 0;
        if (last && errno != ENOENT) return system_error("cannot read answers", errno);
        at_start_ = false;
        for (std::uint32_t i = 0; i < count; ++i) look_at(keys[i], values[i], now);
        done += std::max(count, 1U);
        if (!last) continue;
        at_start_ = true;
        stats_.live = std::exchange(live_so_far_, 0);
        ++stats_.rounds;
        break;
    }
    return {};
}

}  // namespace mesh::datapath
