#include "serve/etcd/loop_clients.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>

namespace mesh::serve {

namespace {

bool take(std::atomic<std::uint64_t>& count, std::uint64_t most) {
    const std::uint64_t before = count.fetch_add(1, std::memory_order_relaxed);
    if (most == 0 || before < most) return true;
    count.fetch_sub(1, std::memory_order_relaxed);
    return false;
}

/// Of the client's own and of its name's, or of neither.
bool take_both(LoopPeer& peer, std::atomic<std::uint64_t> ClientShare::*count,
               std::uint64_t ClientLimits::*most) {
    Client& client = *peer.client->slot->client;
    if (!take(client.own.*count, peer.limits().*most)) return false;
    if (take((*client.of_name).*count, peer.limits_per_name().*most)) return true;
    (client.own.*count).fetch_sub(1, std::memory_order_relaxed);
    return false;
}

void give_both(LoopPeer& peer, std::atomic<std::uint64_t> ClientShare::*count) {
    Client& client = *peer.client->slot->client;
    (client.own.*count).fetch_sub(1, std::memory_order_relaxed);
    ((*client.of_name).*count).fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace

LoopClients::LoopClients(boost::asio::any_io_executor loop, std::shared_ptr<AccessControl> control,
                         const Clock& clock)
    : loop_(std::move(loop)), control_(std::move(control)), clock_(clock), timer_(loop_) {}

const LoopPeerPtr& LoopClients::of(const rpc::Peer& peer) {
    LoopPeerPtr& place = peers_[&peer];
    if (place) {
        if (place->generation != control_->generation()) look_up(*place, peer);
        return place;
    }
    const std::string& name = name_of(peer);
    const std::string_view address = address_of(peer);
    std::weak_ptr<LoopClient>& weak = clients_[Key(name, address)];
    auto client = weak.lock();
    if (!client)
        weak = client = std::make_shared<LoopClient>(control_->clients().open(name, address));
    client->slot->counters.connections.add();
    place = std::make_shared<LoopPeer>();
    place->client = std::move(client);
    look_up(*place, peer);
    return place;
}

void LoopClients::look_up(LoopPeer& peer, const rpc::Peer& from) {
    peer.generation = control_->generation();
    peer.table = control_->table();
    peer.role = peer.table->role_of(from);
    peer.out_limited =
        peer.limits().bytes_out_per_second != 0 || peer.limits_per_name().bytes_out_per_second != 0;
    control_->clients().set_role(*peer.client->slot->client,
                                 peer.role != nullptr ? peer.role->name() : std::string_view());
}

void LoopClients::gone(const rpc::Peer& peer) {
    const auto place = peers_.find(&peer);
    if (place == peers_.end()) return;
    const LoopPeerPtr state = std::move(place->second);
    peers_.erase(place);
    state->client->slot->counters.connections.subtract();
    if (state->client->slot->counters.connections.value() != 0) return;
    const Client& client = *state->client->slot->client;
    clients_.erase(Key(client.name, client.address));
}

void LoopClients::stop() {
    stopped_ = true;
    timer_.cancel();
    queue_.clear();
}

void LoopClients::schedule() {
    if (scheduled_ || stopped_) return;
    scheduled_ = true;
    boost::asio::post(loop_, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->turn();
    });
}

void LoopClients::turn() {
    scheduled_ = false;
    if (stopped_) return;
    const RequestQueue::Next next = queue_.run(clock_.now());
    if (next.more) return schedule();
    if (!next.at) return;
    // At most a second: what the table says of rates may change meanwhile.
    const Duration due = std::clamp<Duration>(
        *next.at - clock_.now(), std::chrono::microseconds(50), std::chrono::seconds(1));
    timer_.expires_after(std::chrono::ceil<std::chrono::microseconds>(due));
    timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        const auto self = weak.lock();
        if (!error && self) self->schedule();
    });
}

bool LoopClients::add_stream(LoopPeer& peer) {
    return take_both(peer, &ClientShare::streams, &ClientLimits::streams);
}
void LoopClients::remove_stream(LoopPeer& peer) {
    give_both(peer, &ClientShare::streams);
}
bool LoopClients::add_watch(LoopPeer& peer) {
    return take_both(peer, &ClientShare::watches, &ClientLimits::watches);
}
void LoopClients::remove_watch(LoopPeer& peer) {
    give_both(peer, &ClientShare::watches);
}

Duration LoopClients::hold_back(const LoopPeer& peer) const {
    if (!peer.out_limited) return {};
    const TimePoint now = clock_.now();
    const Client& client = *peer.client->slot->client;
    const auto of = [&](const ClientShare& share, const ClientLimits& limits) {
        return share.bytes_out.wait(now, limits.bytes_out_per_second, limits.bytes_out_per_second);
    };
    return std::max(of(client.own, peer.limits()), of(*client.of_name, peer.limits_per_name()));
}

void LoopClients::sent(LoopPeer& peer, std::size_t bytes) {
    peer.client->slot->counters.bytes_out.add(bytes);
    if (!peer.out_limited) return;
    const TimePoint now = clock_.now();
    Client& client = *peer.client->slot->client;
    client.own.bytes_out.take(now, bytes, peer.limits().bytes_out_per_second);
    client.of_name->bytes_out.take(now, bytes, peer.limits_per_name().bytes_out_per_second);
}

}  // namespace mesh::serve
