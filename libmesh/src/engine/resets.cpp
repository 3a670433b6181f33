#include "engine/resets.hpp"

#include <algorithm>
#include <utility>

namespace mesh::engine {
namespace {

bool is_unhealthy(const compile::BackendRow& backend) {
    using compile::Reason;
    return backend.reason == Reason::kFailsProbe || backend.reason == Reason::kNodeUnreachable ||
           backend.reason == Reason::kNodeGone;
}

}  // namespace

void Resets::note_row(const datapath::ServiceFrontend& frontend, const compile::FrontendRow& row,
                      TimePoint now) {
    if (row.reset_connections) {
        left_alone_.erase(frontend);
    } else {
        left_alone_.insert(frontend);
    }
    std::map<BackendKey, TimePoint> found;
    // Where a new connection would fare no better, the one there is has its chance.
    const bool replaced =
        std::ranges::any_of(row.backends, [](const auto& backend) { return backend.selected; });
    for (const compile::BackendRow& backend : row.backends) {
        if (!replaced || !is_unhealthy(backend)) continue;
        found.emplace(BackendKey{backend.address, backend.port}, now);
    }
    const auto held = unhealthy_.find(frontend);
    if (found.empty()) {
        if (held != unhealthy_.end()) unhealthy_.erase(held);
        return;
    }
    for (auto& [key, since] : found) {
        if (held != unhealthy_.end()) {
            if (const auto before = held->second.find(key); before != held->second.end()) {
                since = before->second;
                continue;
            }
        }
        due_now_ = true;
        due_.insert(now + options_.grace);
    }
    unhealthy_.insert_or_assign(frontend, std::move(found));
}

void Resets::note_removed(const datapath::ServiceFrontend& frontend) {
    unhealthy_.erase(frontend);
    left_alone_.erase(frontend);
}

void Resets::note_pod_gone(const model::IpAddress& address) {
    due_now_ = due_now_ || lingering_.contains(address);
}

bool Resets::take_due(TimePoint now) {
    bool due = std::exchange(due_now_, false);
    while (!due_.empty() && *due_.begin() <= now) {
        due_.erase(due_.begin());
        due = true;
    }
    return due;
}

std::optional<TimePoint> Resets::next_due() const {
    if (due_.empty()) return std::nullopt;
    return *due_.begin();
}

void Resets::begin_sweep() {
    lingering_.clear();
    gone_before_ = std::exchange(gone_, {});
}

bool Resets::ends(const datapath::ServiceSocket& socket, TimePoint now,
                  const std::function<bool(const model::IpAddress&)>& is_pod) {
    const datapath::ServiceFrontend frontend{socket.frontend, socket.frontend_port, socket.proto};
    if (left_alone_.contains(frontend)) return false;
    if (!socket.live) {
        // A datagram socket has nothing to finish: its next one is for another backend.
        if (socket.proto == datapath::Protocol::kUdp) return true;
        if (is_pod(socket.backend)) {
            lingering_.insert(socket.backend);
            return false;
        }
        const auto before = gone_before_.find(socket.backend);
        const auto since =
            gone_.try_emplace(socket.backend, before == gone_before_.end() ? now : before->second)
                .first->second;
        if (!socket.established || now >= since + kGoneGrace) return true;
        due_.insert(since + kGoneGrace);
        return false;
    }
    const auto row = unhealthy_.find(frontend);
    if (row == unhealthy_.end()) return false;
    const auto backend = row->second.find({socket.backend, socket.port});
    if (backend == row->second.end()) return false;
    return !socket.established || now >= backend->second + options_.grace;
}

std::size_t Resets::unhealthy() const noexcept {
    std::size_t count = 0;
    for (const auto& [frontend, backends] : unhealthy_) count += backends.size();
    return count;
}

}  // namespace mesh::engine
