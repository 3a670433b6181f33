#include "serve/etcd/etcd_service.hpp"

#include <array>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <type_traits>
#include <utility>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "serve/etcd/convert.hpp"
#include "serve/etcd/etcd_status.hpp"
#include "serve/etcd/lease_service.hpp"
#include "serve/etcd/range_cache.hpp"
#include "serve/etcd/read_gate.hpp"
#include "serve/etcd/service_core.hpp"
#include "serve/etcd/watch_service.hpp"
#include "serve/etcd/watch_stream.hpp"

namespace mesh::serve {

namespace {
constexpr auto kRangeSweep = std::chrono::seconds(5);
}  // namespace

/// KV, Maintenance, Cluster and Auth; Watch and Lease have classes of their own.
class EtcdService::Impl : public std::enable_shared_from_this<EtcdService::Impl> {
  public:
    Impl(boost::asio::any_io_executor loop, store::Store& store, const Clock& clock,
         EtcdServiceOptions options, Logger logger)
        : core(std::make_shared<ServiceCore>(std::move(loop), store, clock, std::move(options),
                                             std::move(logger))),
          watches(std::make_shared<WatchService>(core)),
          leases(std::make_shared<LeaseService>(core)),
          reads(std::make_shared<ReadGate>(core->loop, store, core->options)),
          ranges(core->options.range_cache_bytes),
          sweep_timer(core->loop) {
        reads->start();
        watches->start();
        leases->start();
        core->on_table_change([raw = watches.get()] { raw->recheck(); });
    }
    void start() { core->start(); }
    ~Impl() {
        core->flush();
        core->stopped = true;
        reads->stop();
        core->stop();
        watches->stop();
        leases->stop();
        sweep_timer.cancel();
    }

    void attach(rpc::Server& server, ListenerPtr listener);

    std::shared_ptr<ServiceCore> core;
    std::shared_ptr<WatchService> watches;
    std::shared_ptr<LeaseService> leases;
    std::shared_ptr<ReadGate> reads;
    RangeCache ranges;
    boost::asio::steady_timer sweep_timer;
    bool sweep_waits = false;

  private:
    using Call = rpc::ServerCallPtr;

    template <class Request>
    void unary(rpc::Server& server, const ListenerPtr& listener, std::string_view path,
               void (Impl::*method)(const Call&, const Listener&, const Request&));
    template <class Request, class Response>
    void administration(rpc::Server& server, const ListenerPtr& listener, std::string_view path,
                        EtcdAction action, void (Impl::*method)(const Request&, Response&));

    void range(const Call& call, const Listener& listener, const etcdpb::RangeRequest& request);
    void answer_range(const Call& call, const etcdpb::RangeRequest& request, ReadVerdict verdict);
    void reply_read(const Call& call, rpc::Frame frame, ReadVerdict verdict);
    /// In front of a mirror, where a txn can only read.
    void answer_txn(const Call& call, const etcdpb::TxnRequest& request, ReadVerdict verdict);
    void sweep_ranges();
    void put(const Call& call, const Listener& listener, const etcdpb::PutRequest& request);
    void delete_range(const Call& call, const Listener& listener,
                      const etcdpb::DeleteRangeRequest& request);
    void txn(const Call& call, const Listener& listener, const etcdpb::TxnRequest& request);
    void compact(const Call& call, const Listener& listener,
                 const etcdpb::CompactionRequest& request);
    rpc::Status check_txn(const rpc::ServerCall& call, const Listener& listener,
                          const store::TxnRequest& request);
    rpc::Status check_op(const rpc::ServerCall& call, const Listener& listener,
                         const store::TxnOp& op);

    void status(const etcdpb::StatusRequest& request, etcdpb::StatusResponse& response);
    void alarm(const etcdpb::AlarmRequest& request, etcdpb::AlarmResponse& response);
    void defragment(const etcdpb::DefragmentRequest& request, etcdpb::DefragmentResponse& response);
    void members(const etcdpb::MemberListRequest& request, etcdpb::MemberListResponse& response);
    void attach_refusals(rpc::Server& server, const ListenerPtr& listener);

    /// The answer to a write, or its refusal, once it is committed.
    template <class Response, class Answer>
    void answer(const Call& call, const store::Outcome<Answer>& outcome) {
        if (!outcome) return core->fail(call, to_status(outcome.error()));
        Response response;
        to_pb(*outcome, core->header(), response);
        core->reply(call, rpc::encode_frame(response));
    }
    template <class Response>
    static constexpr bool grows() {
        return std::is_same_v<Response, etcdpb::PutResponse> ||
               std::is_same_v<Response, etcdpb::TxnResponse>;
    }
    /// Likewise from the connection's own store, which is committed at once.
    template <class Response, class Ask>
    void in_shadow(const Call& call, const Listener& listener, Ask ask) {
        store::Store& shadow = listener.shadow->store_of(*call);
        if (InitLockShadow::full(shadow) && grows<Response>()) return call->finish(shadow_full());
        const auto outcome = ask(shadow);
        if (!outcome) return call->finish(to_status(outcome.error()));
        Response response;
        to_pb(*outcome, core->header(), response);
        call->reply(rpc::encode_frame(response));
    }
    template <class Request>
    bool too_large(const Call& call, const Request& request) {
        if (request.ByteSizeLong() <= core->options.max_request_bytes) return false;
        call->finish(request_too_large());
        return true;
    }
    bool refused(const Call& call, rpc::Status status) {
        if (status.ok()) return false;
        call->finish(std::move(status));
        return true;
    }
};

// --- KV
// -----------------------------------------------------------------------------------------------

void EtcdService::Impl::range(const Call& call, const Listener& listener,
                              const etcdpb::RangeRequest& request) {
    const store::RangeRequest wanted = from_pb(request);
    if (listener.shadow && InitLockShadow::covers(wanted.range)) {
        return in_shadow<etcdpb::RangeResponse>(
            call, listener, [&](store::Store& shadow) { return shadow.range(wanted); });
    }
    if (refused(call, core->check(*call, listener, EtcdAction::kRange, wanted.range))) return;
    if (!has_known_enumerators(request)) return call->finish(invalid_sort_option());
    if (reads->at_once(request.revision(), request.serializable()))
        return answer_range(call, request, ReadVerdict::kFresh);
    reads->pass(request.revision(), request.serializable(),
                [weak = weak_from_this(), call, request](ReadVerdict verdict) {
                    const auto self = weak.lock();
                    if (!self) return;
                    self->core->again_in_turn(call, [weak, call, request, verdict] {
                        if (const auto then = weak.lock())
                            then->answer_range(call, request, verdict);
                    });
                });
}

void EtcdService::Impl::answer_range(const Call& call, const etcdpb::RangeRequest& request,
                                     ReadVerdict verdict) {
    if (call->ended()) return;
    if (call->congested()) return call->finish(answers_wait());
    auto frame = ranges.range(core->store, from_pb(request), core->header());
    if (!frame) return core->fail(call, to_status(frame.error()));
    sweep_ranges();
    reply_read(call, *std::move(frame), verdict);
}

void EtcdService::Impl::reply_read(const Call& call, rpc::Frame frame, ReadVerdict verdict) {
    if (verdict == ReadVerdict::kFresh || !frame) return core->reply(call, std::move(frame));
    // Only a mirror's reads come here, which wait for no commit.
    core->answered += frame.size();
    if (call->write(std::move(frame)) == rpc::Write::kFull) return call->finish(answers_wait());
    call->finish({}, {{"mesh-stale", "true"}});
}

/// What a storm of clients left in the cache goes soon after it.
void EtcdService::Impl::sweep_ranges() {
    if (std::exchange(sweep_waits, true)) return;
    sweep_timer.expires_after(kRangeSweep);
    sweep_timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        const auto self = weak.lock();
        if (error || !self) return;
        self->sweep_waits = false;
        if (self->ranges.sweep()) self->sweep_ranges();
    });
}

void EtcdService::Impl::put(const Call& call, const Listener& listener,
                            const etcdpb::PutRequest& request) {
    const store::PutRequest wanted = from_pb(request);
    if (listener.shadow && InitLockShadow::covers(store::KeyRange{wanted.key, {}})) {
        return in_shadow<etcdpb::PutResponse>(call, listener, [&](store::Store& shadow) {
            listener.shadow->admit_leases(shadow, wanted);
            return shadow.put(wanted);
        });
    }
    if (refused(call, core->check(*call, listener, EtcdAction::kPut, {wanted.key, {}}))) return;
    if (too_large(call, request)) return;
    core->begin_write();
    answer<etcdpb::PutResponse>(call, core->store.put(wanted));
}

void EtcdService::Impl::delete_range(const Call& call, const Listener& listener,
                                     const etcdpb::DeleteRangeRequest& request) {
    const store::DeleteRangeRequest wanted = from_pb(request);
    if (listener.shadow && InitLockShadow::covers(wanted.range)) {
        return in_shadow<etcdpb::DeleteRangeResponse>(
            call, listener, [&](store::Store& shadow) { return shadow.delete_range(wanted); });
    }
    if (refused(call, core->check(*call, listener, EtcdAction::kDelete, wanted.range))) return;
    if (too_large(call, request)) return;
    core->begin_write();
    answer<etcdpb::DeleteRangeResponse>(call, core->store.delete_range(wanted));
}

rpc::Status EtcdService::Impl::check_op(const rpc::ServerCall& call, const Listener& listener,
                                        const store::TxnOp& op) {
    if (const auto* wanted = std::get_if<store::RangeRequest>(&op.request))
        return core->check(call, listener, EtcdAction::kRange, wanted->range);
    if (const auto* wanted = std::get_if<store::PutRequest>(&op.request))
        return core->check(call, listener, EtcdAction::kPut, {wanted->key, {}});
    if (const auto* wanted = std::get_if<store::DeleteRangeRequest>(&op.request))
        return core->check(call, listener, EtcdAction::kDelete, wanted->range);
    if (const auto* wanted = std::get_if<store::TxnRequest>(&op.request))
        return check_txn(call, listener, *wanted);
    return {};
}

rpc::Status EtcdService::Impl::check_txn(const rpc::ServerCall& call, const Listener& listener,
                                         const store::TxnRequest& request) {
    rpc::Status allowed = core->check(call, listener, EtcdAction::kTxn);
    if (!allowed.ok()) return allowed;
    for (const store::Compare& compare : request.compare) {
        rpc::Status status = core->check(call, listener, EtcdAction::kRange, compare.range);
        if (!status.ok()) return status;
    }
    for (const auto* branch : {&request.success, &request.failure})
        for (const store::TxnOp& op : *branch) {
            rpc::Status status = check_op(call, listener, op);
            if (!status.ok()) return status;
        }
    return {};
}

void EtcdService::Impl::txn(const Call& call, const Listener& listener,
                            const etcdpb::TxnRequest& request) {
    const store::TxnRequest wanted = from_pb(request);
    if (listener.shadow && has_known_enumerators(request) && InitLockShadow::covers(wanted)) {
        return in_shadow<etcdpb::TxnResponse>(call, listener, [&](store::Store& shadow) {
            listener.shadow->admit_leases(shadow, wanted);
            return shadow.txn(wanted);
        });
    }
    if (refused(call, check_txn(*call, listener, wanted))) return;
    if (too_large(call, request)) return;
    if (!has_known_enumerators(request)) return call->finish(undecodable());
    if (call->congested()) return call->finish(answers_wait());
    constexpr store::Revision kNewest = 0;
    if (!reads->at_once(kNewest, false)) {
        return reads->pass(kNewest, false,
                           [weak = weak_from_this(), call, request](ReadVerdict verdict) {
                               if (auto self = weak.lock())
                                   self->answer_txn(call, request, verdict);
                           });
    }
    core->begin_write();
    answer<etcdpb::TxnResponse>(call, core->store.txn(wanted));
}

void EtcdService::Impl::answer_txn(const Call& call, const etcdpb::TxnRequest& request,
                                   ReadVerdict verdict) {
    if (call->ended()) return;
    const auto outcome = core->store.txn(from_pb(request));
    if (!outcome) return core->fail(call, to_status(outcome.error()));
    etcdpb::TxnResponse response;
    to_pb(*outcome, core->header(), response);
    reply_read(call, rpc::encode_frame(response), verdict);
}

void EtcdService::Impl::compact(const Call& call, const Listener& listener,
                                const etcdpb::CompactionRequest& request) {
    if (refused(call, core->check(*call, listener, EtcdAction::kCompact))) return;
    // Not within a group: it has commits of its own, and must not fail with the puts of a full
    // disk.
    core->flush();
    const auto outcome = core->store.compact(request.revision());
    if (!outcome) return core->fail(call, to_status(outcome.error()));
    etcdpb::CompactionResponse response;
    to_pb(core->header(), *response.mutable_header());
    core->reply(call, rpc::encode_frame(response));
}

// --- Maintenance, Cluster
// -----------------------------------------------------------------------------

void EtcdService::Impl::status(const etcdpb::StatusRequest&, etcdpb::StatusResponse& response) {
    const WireHeader header = core->header();
    response.set_version(core->options.version);
    response.set_dbsize(static_cast<std::int64_t>(core->store.backend().size_bytes()));
    response.set_dbsizeinuse(static_cast<std::int64_t>(core->store.backend().size_in_use_bytes()));
    response.set_leader(header.member_id);
    response.set_raftterm(header.raft_term);
    // There is no raft log; what it would have applied is the history itself.
    response.set_raftindex(static_cast<std::uint64_t>(header.revision));
    response.set_raftappliedindex(static_cast<std::uint64_t>(header.revision));
}

void EtcdService::Impl::alarm(const etcdpb::AlarmRequest&, etcdpb::AlarmResponse& response) {
    response.clear_header();  // etcd tells none here
}
void EtcdService::Impl::defragment(const etcdpb::DefragmentRequest&, etcdpb::DefragmentResponse&) {}

void EtcdService::Impl::members(const etcdpb::MemberListRequest&,
                                etcdpb::MemberListResponse& response) {
    response.mutable_header()->set_revision(0);  // etcd tells none here
    etcdpb::Member& member = *response.add_members();
    member.set_id(core->store.identity().member_id);
    member.set_name(core->options.name);
    for (const std::string& url : core->options.client_urls) member.add_clienturls(url);
    for (const std::string& url : core->options.peer_urls) member.add_peerurls(url);
}

// --- Registration
// -------------------------------------------------------------------------------------

template <class Request>
void EtcdService::Impl::unary(rpc::Server& server, const ListenerPtr& listener,
                              std::string_view path,
                              void (Impl::*method)(const Call&, const Listener&, const Request&)) {
    core->handle_unary(
        server, listener, path,
        [weak = weak_from_this(), listener, method](const Call& call, std::string_view bytes) {
            auto self = weak.lock();
            if (!self) return call->finish(server_stopped());
            Request request;
            if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
                return call->finish(undecodable());
            ((*self).*method)(call, *listener, request);
        });
}

template <class Request, class Response>
void EtcdService::Impl::administration(rpc::Server& server, const ListenerPtr& listener,
                                       std::string_view path, EtcdAction action,
                                       void (Impl::*method)(const Request&, Response&)) {
    core->handle_unary(
        server, listener, path,
        [weak = weak_from_this(), listener, action, method](const Call& call,
                                                            std::string_view bytes) {
            auto self = weak.lock();
            if (!self) return call->finish(server_stopped());
            if (self->refused(call, self->core->check(*call, *listener, action))) return;
            Request request;
            if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
                return call->finish(undecodable());
            Response response;
            to_pb(self->core->header(), *response.mutable_header());
            ((*self).*method)(request, response);
            self->core->reply(call, rpc::encode_frame(response));
        });
}

void EtcdService::Impl::attach_refusals(rpc::Server& server, const ListenerPtr& listener) {
    const auto refuse = [&](std::string_view path, EtcdAction action, rpc::Status answer) {
        server.handle(path, [weak = weak_from_this(), listener, action, answer](const Call& call) {
            auto self = weak.lock();
            if (self && self->refused(call, self->core->check(*call, *listener, action))) return;
            call->finish(answer);
        });
    };
    for (const std::string_view path : etcdpb::kAuthAdministration)
        refuse(path, EtcdAction::kOther, auth_not_enabled());
    refuse(etcdpb::kAuthenticate, EtcdAction::kOther, auth_not_enabled());

    const auto unimplemented = [](std::string text) {
        return rpc::Status{rpc::StatusCode::kUnimplemented, std::move(text)};
    };
    const rpc::Status one_member =
        unimplemented("libmesh's etcd server has one member and its membership cannot be changed");
    for (const std::string_view path :
         {etcdpb::kMemberAdd, etcdpb::kMemberRemove, etcdpb::kMemberUpdate, etcdpb::kMemberPromote,
          etcdpb::kMoveLeader})
        refuse(path, EtcdAction::kOther, one_member);
    for (const std::string_view path : {etcdpb::kHash, etcdpb::kHashKV, etcdpb::kDowngrade})
        refuse(path, EtcdAction::kMaintenance,
               unimplemented("libmesh's etcd server has no such maintenance call"));
    refuse(etcdpb::kSnapshot, EtcdAction::kMaintenance,
           unimplemented("libmesh's etcd server gives no snapshots: copy its database directory "
                         "while it is stopped, or read all keys"));
    server.handle_unknown([weak = weak_from_this(), listener](const Call& call) {
        auto self = weak.lock();
        if (self && self->refused(call, self->core->check(*call, *listener, EtcdAction::kOther)))
            return;
        call->finish(
            {rpc::StatusCode::kUnimplemented, "unknown method " + std::string(call->method())});
    });
}

void EtcdService::Impl::attach(rpc::Server& server, ListenerPtr listener) {
    server.admit([weak = weak_from_this(), listener](const rpc::ServerCall& call) {
        auto self = weak.lock();
        return self ? self->core->admit(call, *listener) : server_stopped();
    });
    unary(server, listener, etcdpb::kRange, &Impl::range);
    unary(server, listener, etcdpb::kPut, &Impl::put);
    unary(server, listener, etcdpb::kDeleteRange, &Impl::delete_range);
    unary(server, listener, etcdpb::kTxn, &Impl::txn);
    unary(server, listener, etcdpb::kCompact, &Impl::compact);
    administration(server, listener, etcdpb::kStatus, EtcdAction::kStatus, &Impl::status);
    administration(server, listener, etcdpb::kAlarm, EtcdAction::kMaintenance, &Impl::alarm);
    administration(server, listener, etcdpb::kDefragment, EtcdAction::kMaintenance,
                   &Impl::defragment);
    administration(server, listener, etcdpb::kMemberList, EtcdAction::kMembers, &Impl::members);
    leases->attach(server, listener);
    server.handle(etcdpb::kWatch, [weak = std::weak_ptr(watches), listener](const Call& call) {
        auto service = weak.lock();
        if (!service) return call->finish(server_stopped());
        service->open(call, listener);
    });
    attach_refusals(server, listener);
}

EtcdService::EtcdService(boost::asio::any_io_executor loop, store::Store& store, const Clock& clock,
                         EtcdServiceOptions options, Logger logger)
    : impl_(std::make_shared<Impl>(std::move(loop), store, clock, std::move(options),
                                   std::move(logger))) {
    impl_->start();
}
EtcdService::~EtcdService() = default;

void EtcdService::attach(rpc::Server& server, std::string listener,
                         std::shared_ptr<const AccessPolicy> policy, bool init_locks) {
    auto shadow = init_locks ? std::make_shared<InitLockShadow>(impl_->core->clock) : nullptr;
    server.on_peer_gone([shadow, clients = impl_->core->clients](const rpc::Peer& peer) {
        if (shadow) shadow->peer_gone(peer);
        if (clients) clients->gone(peer);
    });
    impl_->attach(server, std::make_shared<Listener>(
                              Listener{std::move(listener), std::move(policy), std::move(shadow)}));
}

void EtcdService::set_ready(bool ready) {
    impl_->core->ready = ready;
}
void EtcdService::set_raft_term(std::uint64_t term) {
    impl_->core->raft_term = term;
}
EtcdServiceStats EtcdService::stats() const {
    EtcdServiceStats stats = impl_->core->stats;
    impl_->reads->count(stats);
    stats.ranges_shared = impl_->ranges.hits();
    stats.range_cache_bytes = impl_->ranges.bytes();
    return stats;
}
void EtcdService::for_each_watch_stream(
    const std::function<void(const WatchStreamInfo&)>& visit) const {
    for (const WatchStream* stream : impl_->watches->streams()) visit(stream->info());
}
void EtcdService::for_each_watch(
    const std::function<bool(const WatchStreamInfo&)>& which,
    const std::function<void(const WatchStreamInfo&, const WatchInfo&)>& visit) const {
    for (const WatchStream* stream : impl_->watches->streams()) {
        const WatchStreamInfo info = stream->info();
        if (!which(info)) continue;
        stream->for_each_watch([&](const WatchInfo& watch) { visit(info, watch); });
    }
}

}  // namespace mesh::serve
