#include "serve/etcd/clients.hpp"

#include <algorithm>

namespace mesh::serve {

namespace {

void add(ClientStatus& to, const ClientCounters& counters) {
    to.requests += counters.requests.value();
    to.throttled += counters.throttled.value();
    to.queued += counters.queued.value();
    to.denied += counters.denied.value();
    to.bytes_in += counters.bytes_in.value();
    to.bytes_out += counters.bytes_out.value();
    to.held_back += counters.held_back.value();
}

}  // namespace

Duration ClientShare::wait(TimePoint now, const ClientLimits& limits) const noexcept {
    // One request must be there yet; of bytes, those of the last may have gone beyond.
    const std::uint64_t burst = std::max<std::uint64_t>(limits.request_burst, 1) - 1;
    return std::max(
        {requests.wait(now, limits.requests_per_second, burst),
         bytes_in.wait(now, limits.bytes_in_per_second, limits.bytes_in_per_second),
         bytes_out.wait(now, limits.bytes_out_per_second, limits.bytes_out_per_second)});
}

ClientSlot::~ClientSlot() {
    registry_->closed(*this);
}

std::shared_ptr<ClientSlot> ClientRegistry::open(std::string_view name, std::string_view address) {
    const std::lock_guard lock(mutex_);
    const Key key{std::string(name), std::string(address)};
    const auto [place, added] = clients_.try_emplace(key);
    Entry& entry = place->second;
    if (added) {
        auto& weak = names_[key.first];
        auto of_name = weak.lock();
        if (!of_name) weak = of_name = std::make_shared<ClientShare>();
        entry.client = std::make_shared<Client>();
        entry.client->name = key.first;
        entry.client->address = key.second;
        entry.client->of_name = std::move(of_name);
    } else if (entry.slots.empty()) {
        idle_.erase(entry.idle);
    }
    auto slot = std::make_shared<ClientSlot>(shared_from_this(), entry.client);
    entry.slots.push_back(slot.get());
    return slot;
}

void ClientRegistry::closed(const ClientSlot& slot) {
    const std::lock_guard lock(mutex_);
    const Key key{slot.client->name, slot.client->address};
    Entry& entry = clients_.find(key)->second;
    std::erase(entry.slots, &slot);
    add(entry.past, slot.counters);
    if (!entry.slots.empty()) return;
    idle_.push_back(key);
    entry.idle = std::prev(idle_.end());
    if (idle_.size() <= kMostIdle) return;
    const auto gone = clients_.find(idle_.front());
    idle_.pop_front();
    const std::string gone_name = gone->first.first;
    clients_.erase(gone);
    if (const auto of_name = names_.find(gone_name); of_name->second.expired())
        names_.erase(of_name);
}

void ClientRegistry::set_role(const Client& client, std::string_view role) {
    const std::lock_guard lock(mutex_);
    const auto place = clients_.find({client.name, client.address});
    if (place != clients_.end() && place->second.role != role) place->second.role = role;
}

std::vector<ClientStatus> ClientRegistry::clients() const {
    const std::lock_guard lock(mutex_);
    std::vector<ClientStatus> out;
    out.reserve(clients_.size());
    for (const auto& [key, entry] : clients_) {
        ClientStatus status = entry.past;
        status.name = key.first;
        status.address = key.second;
        status.role = entry.role;
        for (const ClientSlot* slot : entry.slots) {
            add(status, slot->counters);
            status.connections += slot->counters.connections.value();
        }
        status.streams = entry.client->own.streams.load(std::memory_order_relaxed);
        status.watches = entry.client->own.watches.load(std::memory_order_relaxed);
        status.waiting = entry.client->own.waiting.load(std::memory_order_relaxed);
        out.push_back(std::move(status));
    }
    return out;
}

}  // namespace mesh::serve
