#include "serve/etcd/lease_service.hpp"

#include <deque>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "serve/etcd/convert.hpp"
#include "serve/etcd/etcd_status.hpp"

namespace mesh::serve {
namespace {

using store::LeaseId;

template <class Message>
bool parse(Message& message, std::string_view bytes) {
    return message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

}  // namespace

/// Answers each message in order; a client that does not read is not read from either.
class LeaseService::KeepAliveStream : public std::enable_shared_from_this<KeepAliveStream> {
  public:
    KeepAliveStream(std::shared_ptr<ServiceCore> core, rpc::ServerCallPtr call,
                    ListenerPtr listener)
        : core_(std::move(core)),
          call_(std::move(call)),
          listener_(std::move(listener)),
          shadow_(listener_->shadow),
          peer_(core_->peer_of(*call_)) {}

    void start() {
        auto self = shared_from_this();
        call_->on_message([self](std::string_view bytes) { self->wait_for_turn(bytes); });
        call_->on_half_close([self] {
            self->half_closed_ = true;
            self->finish_when_done();
        });
        call_->on_writable([self] { self->on_writable(); });
        call_->on_end([self](const rpc::Status&) { self->core_->end_stream(self->call_); });
    }

  private:
    void wait_for_turn(std::string_view bytes) {
        ++in_turn_;
        const auto run = [self = shared_from_this()](std::string_view message) {
            --self->in_turn_;
            self->on_message(message);
            if (self->waiting_.empty()) self->call_->resume();
            self->finish_when_done();
        };
        if (!core_->in_turn(peer_, call_, *listener_, bytes, run)) call_->pause();
    }
    void finish_when_done() {
        if (!half_closed_ || in_turn_ != 0) return;
        core_->after_commit(
            [self = shared_from_this()](const rpc::Status&) { self->call_->finish({}); });
    }
    void on_message(std::string_view bytes) {
        etcdpb::LeaseKeepAliveRequest request;
        if (!parse(request, bytes)) return call_->finish(undecodable());
        if (shadow_ == nullptr) core_->begin_write();
        store::Store& store = shadow_ ? shadow_->store_of(*call_) : core_->store;
        const auto ttl = store.lease_keep_alive(LeaseId{request.id()}, core_->clock.now());
        if (!ttl && ttl.error().fault() != store::Fault::kLeaseNotFound)
            return call_->finish(to_status(ttl.error()));
        etcdpb::LeaseKeepAliveResponse response;
        to_pb(core_->header(), *response.mutable_header());
        response.set_id(request.id());
        response.set_ttl(ttl ? ttl->count() : 0);  // 0 = there is no such lease
        core_->after_commit([self = shared_from_this(), frame = rpc::encode_frame(response)](
                                const rpc::Status&) { self->send(frame); });
    }
    // A failed commit changes no renewal: the answer holds all the same.
    void send(const rpc::Frame& frame) {
        if (waiting_.empty() && call_->write(frame) != rpc::Write::kFull) return;
        waiting_.push_back(frame);
        call_->pause();
    }
    void on_writable() {
        while (!waiting_.empty()) {
            if (call_->write(waiting_.front()) == rpc::Write::kFull) return;
            waiting_.pop_front();
        }
        call_->resume();
    }

    std::shared_ptr<ServiceCore> core_;
    rpc::ServerCallPtr call_;
    ListenerPtr listener_;
    std::shared_ptr<InitLockShadow> shadow_;
    LoopPeerPtr peer_;
    std::size_t in_turn_ = 0;  // messages that wait for their turn
    bool half_closed_ = false;
    std::deque<rpc::Frame> waiting_;
};

LeaseService::LeaseService(std::shared_ptr<ServiceCore> core)
    : core_(std::move(core)), timer_(core_->loop) {}

void LeaseService::attach(rpc::Server& server, const ListenerPtr& listener) {
    const auto unary = [&](std::string_view path, auto method) {
        core_->handle_unary(
            server, listener, path,
            [weak = weak_from_this(), listener, method](const rpc::ServerCallPtr& call,
                                                        std::string_view bytes) {
                auto self = weak.lock();
                if (!self) return call->finish(server_stopped());
                if (listener->shadow) {
                    return method(*self, call, bytes, listener->shadow->store_of(*call), *listener);
                }
                rpc::Status allowed = self->core_->check(*call, *listener, EtcdAction::kLease);
                if (!allowed.ok()) return call->finish(std::move(allowed));
                method(*self, call, bytes, self->core_->store, *listener);
            });
    };
    using Bytes = std::string_view;
    unary(etcdpb::kLeaseGrant, [](LeaseService& self, const auto& call, Bytes bytes,
                                  store::Store& store, const Listener&) {
        self.grant(call, bytes, store);
        self.arm();
    });
    unary(etcdpb::kLeaseRevoke,
          [](LeaseService& self, const auto& call, Bytes bytes, store::Store& store,
             const Listener& on) { self.revoke(call, bytes, store, on); });
    unary(etcdpb::kLeaseTimeToLive,
          [](LeaseService& self, const auto& call, Bytes bytes, store::Store& store,
             const Listener& on) { self.time_to_live(call, bytes, store, on); });
    unary(etcdpb::kLeaseLeases, [](LeaseService& self, const auto& call, Bytes, store::Store& store,
                                   const Listener&) { self.list(call, store); });
    server.handle(etcdpb::kLeaseKeepAlive, [self = shared_from_this(),
                                            listener](const rpc::ServerCallPtr& call) {
        if (!listener->shadow) {
            rpc::Status allowed = self->core_->check(*call, *listener, EtcdAction::kLease);
            if (!allowed.ok()) return call->finish(std::move(allowed));
        }
        if (auto begun = self->core_->begin_stream(call, listener); !begun.ok())
            return call->finish(std::move(begun));
        std::make_shared<KeepAliveStream>(self->core_, call, listener)->start();
    });
}

void LeaseService::begin_write(const store::Store& store) {
    if (&store == &core_->store) core_->begin_write();
}

void LeaseService::grant(const rpc::ServerCallPtr& call, std::string_view bytes,
                         store::Store& store) {
    etcdpb::LeaseGrantRequest request;
    if (!parse(request, bytes)) return call->finish(undecodable());
    if (&store != &core_->store && InitLockShadow::full(store)) return call->finish(shadow_full());
    begin_write(store);
    const auto granted = store.lease_grant(LeaseId{request.id()},
                                           std::chrono::seconds(request.ttl()), core_->clock.now());
    if (!granted) return core_->fail(call, to_status(granted.error()));
    etcdpb::LeaseGrantResponse response;
    to_pb(core_->header(), *response.mutable_header());
    response.set_id(number(granted->id));
    response.set_ttl(granted->ttl.count());
    core_->reply(call, rpc::encode_frame(response));
}

rpc::Status LeaseService::check_keys(const rpc::ServerCall& call, const Listener& listener,
                                     EtcdAction action, LeaseId id) {
    const store::LeaseInfo info = core_->store.lease_time_to_live(id, true, core_->clock.now());
    for (const std::string& key : info.keys) {
        rpc::Status status = core_->check(call, listener, action, {key, {}});
        if (!status.ok()) return status;
    }
    return {};
}

void LeaseService::revoke(const rpc::ServerCallPtr& call, std::string_view bytes,
                          store::Store& store, const Listener& listener) {
    etcdpb::LeaseRevokeRequest request;
    if (!parse(request, bytes)) return call->finish(undecodable());
    if (&store == &core_->store) {
        rpc::Status allowed =
            check_keys(*call, listener, EtcdAction::kDelete, LeaseId{request.id()});
        if (!allowed.ok()) return call->finish(std::move(allowed));
    }
    begin_write(store);
    const auto revoked = store.lease_revoke(LeaseId{request.id()});
    if (!revoked) return core_->fail(call, to_status(revoked.error()));
    etcdpb::LeaseRevokeResponse response;
    to_pb(core_->header(), *response.mutable_header());
    core_->reply(call, rpc::encode_frame(response));
}

void LeaseService::time_to_live(const rpc::ServerCallPtr& call, std::string_view bytes,
                                store::Store& store, const Listener& listener) {
    etcdpb::LeaseTimeToLiveRequest request;
    if (!parse(request, bytes)) return call->finish(undecodable());
    if (&store == &core_->store && request.keys()) {
        rpc::Status allowed =
            check_keys(*call, listener, EtcdAction::kRange, LeaseId{request.id()});
        if (!allowed.ok()) return call->finish(std::move(allowed));
    }
    const store::LeaseInfo info =
        store.lease_time_to_live(LeaseId{request.id()}, request.keys(), core_->clock.now());
    etcdpb::LeaseTimeToLiveResponse response;
    to_pb(core_->header(), *response.mutable_header());
    response.set_id(request.id());
    response.set_ttl(info.remaining.count());
    response.set_grantedttl(info.granted.count());
    for (const std::string& key : info.keys) response.add_keys(key);
    core_->reply(call, rpc::encode_frame(response));
}

void LeaseService::list(const rpc::ServerCallPtr& call, store::Store& store) {
    etcdpb::LeaseLeasesResponse response;
    to_pb(core_->header(), *response.mutable_header());
    for (const LeaseId id : store.leases()) response.add_leases()->set_id(number(id));
    core_->reply(call, rpc::encode_frame(response));
}

// --- The clock
// ----------------------------------------------------------------------------------------

void LeaseService::arm() {
    const Duration wait = pace_.wait(core_->store.next_tick(), core_->clock.now());
    const auto due = boost::asio::steady_timer::clock_type::now() + wait;
    if (waiting_ && timer_.expiry() <= due) return;
    waiting_ = true;
    timer_.expires_at(due);
    timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        auto self = weak.lock();
        if (error || !self || self->core_->stopped) return;
        self->waiting_ = false;
        self->tick();
        self->arm();
    });
}

void LeaseService::tick() {
    core_->flush();
    const auto expired = core_->store.tick(core_->clock.now());
    const std::uint64_t failures = pace_.failures();
    if (pace_.on_tick(expired.has_value())) {
        if (expired)
            core_->log.info("leases expire again, after {} failed attempts", failures);
        else
            core_->log.error("leases cannot expire (this is tried on): {}",
                             expired.error().to_error().message());
    }
    core_->trim_history();
}

}  // namespace mesh::serve
