#include "serve/etcd/service_core.hpp"

#include <boost/asio/post.hpp>
#include <map>
#include <string_view>
#include <utility>

#include "model/etcdpb/methods.hpp"
#include "serve/etcd/etcd_status.hpp"

namespace mesh::serve {

namespace {

EtcdAction action_of(std::string_view method) {
    static const std::map<std::string_view, EtcdAction> kActions = {
        {etcdpb::kRange, EtcdAction::kRange},
        {etcdpb::kWatch, EtcdAction::kWatch},
        {etcdpb::kPut, EtcdAction::kPut},
        {etcdpb::kDeleteRange, EtcdAction::kDelete},
        {etcdpb::kTxn, EtcdAction::kTxn},
        {etcdpb::kCompact, EtcdAction::kCompact},
        {etcdpb::kLeaseGrant, EtcdAction::kLease},
        {etcdpb::kLeaseRevoke, EtcdAction::kLease},
        {etcdpb::kLeaseKeepAlive, EtcdAction::kLease},
        {etcdpb::kLeaseTimeToLive, EtcdAction::kLease},
        {etcdpb::kLeaseLeases, EtcdAction::kLease},
        {etcdpb::kStatus, EtcdAction::kStatus},
        {etcdpb::kMemberList, EtcdAction::kMembers},
        {etcdpb::kAlarm, EtcdAction::kMaintenance},
        {etcdpb::kDefragment, EtcdAction::kMaintenance},
        {etcdpb::kHash, EtcdAction::kMaintenance},
        {etcdpb::kHashKV, EtcdAction::kMaintenance},
        {etcdpb::kDowngrade, EtcdAction::kMaintenance},
        {etcdpb::kSnapshot, EtcdAction::kMaintenance}};
    const auto found = kActions.find(method);
    return found != kActions.end() ? found->second : EtcdAction::kOther;
}

}  // namespace

ServiceCore::ServiceCore(boost::asio::any_io_executor loop_in, store::Store& store_in,
                         const Clock& clock_in, EtcdServiceOptions options_in, Logger logger)
    : loop(std::move(loop_in)),
      store(store_in),
      clock(clock_in),
      options(std::move(options_in)),
      log(std::move(logger)),
      raft_term(options.raft_term) {
    if (options.access) clients = std::make_shared<LoopClients>(loop, options.access, clock);
}

WireHeader ServiceCore::header() const {
    const store::Identity& identity = store.identity();
    return {.cluster_id = identity.cluster_id,
            .member_id = identity.member_id,
            .revision = store.revision(),
            .raft_term = raft_term};
}

void ServiceCore::begin_write() {
    if (group_open_ || !store.backend().durable()) return;
    group_open_ = true;
    store.hold();
    // What else this turn of the loop has to offer joins the group.
    boost::asio::post(loop, [weak = weak_from_this()] {
        if (auto self = weak.lock(); self && !self->stopped) self->flush();
    });
}

void ServiceCore::flush() {
    if (!group_open_) return;
    group_open_ = false;
    rpc::Status status;
    if (auto done = store.flush(); !done) {
        ++stats.commit_failures;
        if (!std::exchange(commits_fail_, true))
            log.error("{} answers of one commit failed (further ones are not told): {}",
                      waiting_.size(), done.error().to_error().message());
        status = to_status(done.error());
    } else if (std::exchange(commits_fail_, false)) {
        log.info("commits succeed again");
    }
    for (const auto& answer : std::exchange(waiting_, {})) answer(status);
}

void ServiceCore::after_commit(std::function<void(const rpc::Status&)> answer) {
    if (group_open_)
        waiting_.push_back(std::move(answer));
    else
        answer({});
}

void ServiceCore::trim_history() {
    const std::size_t keep = options.history_to_keep;
    if (keep == 0 || store.stats().log_entries <= keep + keep / 4) return;
    const store::Revision at = store.revision_keeping(keep);
    if (at <= store.compact_revision()) return;
    flush();
    if (auto done = store.compact(at); !done) {
        if (!std::exchange(trimming_fails_, true))
            log.error("history cannot be compacted at revision {}: {}", at,
                      done.error().to_error().message());
        return;
    }
    trimming_fails_ = false;
    ++stats.compactions;
}

void ServiceCore::reply(const rpc::ServerCallPtr& call, rpc::Frame frame) {
    if (!frame) return fail(call, to_status(store::Fault::kAnswerTooLarge));
    answered += frame.size();
    if (!group_open_) return call->reply(std::move(frame));
    constexpr std::size_t kLargeAnswer = 64U << 10;
    const bool large = frame.size() > kLargeAnswer;
    waiting_.push_back([call, frame = std::move(frame)](const rpc::Status& commit) {
        if (commit.ok())
            call->reply(frame);
        else
            call->finish(commit);
    });
    // Large answers do not pile up until the turn's end, where the bound of their connection
    // counts.
    if (large) flush();
}

void ServiceCore::fail(const rpc::ServerCallPtr& call, rpc::Status status) {
    if (!group_open_) return call->finish(std::move(status));
    // A refusal may rest on a write of the group, which may yet fail.
    waiting_.push_back([call, status = std::move(status)](const rpc::Status& commit) {
        call->finish(commit.ok() ? status : commit);
    });
}

rpc::Status ServiceCore::check(const rpc::ServerCall& call, const Listener& listener,
                               EtcdAction action, store::KeyRange range) {
    const AccessRequest request{.action = action,
                                .method = call.method(),
                                .range = range,
                                .peer = call.peer(),
                                .listener = listener.name};
    if (!listener.policy->allows(request)) return denied(*listener.policy, request);
    return ready ? rpc::Status{} : no_leader();
}

rpc::Status ServiceCore::admit(const rpc::ServerCall& call, const Listener& listener) {
    const AccessRequest request{.action = action_of(call.method()),
                                .method = call.method(),
                                .peer = call.peer(),
                                .listener = listener.name};
    if (listener.policy->admits(request)) return {};
    return denied(*listener.policy, request);
}

rpc::Status ServiceCore::denied(const AccessPolicy& policy, const AccessRequest& request) {
    ++stats.denied;
    rpc::Status denied = permission_denied();
    const auto advice = policy.advice(request);
    if (!advice.empty()) denied.message.append(": ").append(advice);
    if (clients) {
        const DenialReason reason = policy.reason(request);
        clients->control().denials().add(request, reason, describe(reason));
        clients->of(request.peer)->client->slot->counters.denied.add();
    }
    return denied;
}

// --- Clients
// -------------------------------------------------------------------------------------------------

void ServiceCore::start() {
    if (!clients) return;
    subscription_ = clients->control().subscribe(loop, [weak = weak_from_this()] {
        if (auto self = weak.lock(); self && !self->stopped) self->recheck_streams();
    });
}

void ServiceCore::stop() {
    subscription_.reset();
    table_changed_ = {};
    if (clients) clients->stop();
}

void ServiceCore::handle_unary(rpc::Server& server, const ListenerPtr& listener,
                               std::string_view path, rpc::UnaryHandler handler) {
    if (!clients) return server.handle_unary(path, std::move(handler));
    auto shared = std::make_shared<const rpc::UnaryHandler>(std::move(handler));
    server.handle_unary(path, [weak = weak_from_this(), listener, shared](
                                  const rpc::ServerCallPtr& call, std::string_view request) {
        auto self = weak.lock();
        if (!self) return call->finish(server_stopped());
        const bool kept =
            self->clients->in_turn(self->clients->of(call->peer()), request, self->answered,
                                   [call, shared](std::string_view bytes) {
                                       if (!call->ended()) (*shared)(call, bytes);
                                   });
        if (!kept) self->refuse_waiting(call, *listener);
    });
}

LoopPeerPtr ServiceCore::peer_of(const rpc::ServerCall& call) {
    return clients ? clients->of(call.peer()) : nullptr;
}

bool ServiceCore::in_turn(const LoopPeerPtr& peer, const rpc::ServerCallPtr& call,
                          const Listener& listener, std::string_view request,
                          std::function<void(std::string_view)> run) {
    if (!peer) {
        run(request);
        return true;
    }
    const auto ran = std::make_shared<bool>(false);
    const bool kept = clients->in_turn(peer, request, answered,
                                       [call, ran, run = std::move(run)](std::string_view bytes) {
                                           *ran = true;
                                           if (!call->ended()) run(bytes);
                                       });
    if (!kept) refuse_waiting(call, listener);
    return *ran;
}

void ServiceCore::again_in_turn(const rpc::ServerCallPtr& call, std::function<void()> run) {
    if (call->ended()) return;
    if (!clients) return run();
    const LoopPeerPtr peer = clients->of(call->peer());
    const bool kept = clients->in_turn(
        peer, {}, answered,
        [call, run = std::move(run)](std::string_view) {
            if (!call->ended()) run();
        },
        true);
    if (kept) return;
    call->finish(
        too_many_waiting(peer->client->slot->client->own.waiting.load(std::memory_order_relaxed)));
}

void ServiceCore::refuse_waiting(const rpc::ServerCallPtr& call, const Listener& listener) {
    const LoopPeerPtr peer = clients->of(call->peer());
    note_denial(*call, listener, DenialReason::kRequests, describe(DenialReason::kRequests));
    call->finish(
        too_many_waiting(peer->client->slot->client->own.waiting.load(std::memory_order_relaxed)));
}

rpc::Status ServiceCore::begin_stream(const rpc::ServerCallPtr& call, const ListenerPtr& listener) {
    if (!clients) return {};
    const LoopPeerPtr peer = clients->of(call->peer());
    if (!clients->add_stream(*peer)) {
        note_denial(*call, *listener, DenialReason::kStreams, describe(DenialReason::kStreams));
        return too_many_streams();
    }
    streams_.emplace(call, Stream{listener, peer});
    return {};
}

void ServiceCore::end_stream(const rpc::ServerCallPtr& call) {
    const auto stream = streams_.find(call);
    if (stream == streams_.end()) return;
    clients->remove_stream(*stream->second.peer);
    streams_.erase(stream);
}

void ServiceCore::note_denial(const rpc::ServerCall& call, const Listener& listener,
                              DenialReason reason, std::string_view why, store::KeyRange range) {
    ++stats.denied;
    if (!clients) return;
    clients->control().denials().add({.action = action_of(call.method()),
                                      .method = call.method(),
                                      .range = range,
                                      .peer = call.peer(),
                                      .listener = listener.name},
                                     reason, why);
    clients->of(call.peer())->client->slot->counters.denied.add();
}

void ServiceCore::recheck_streams() {
    std::vector<rpc::ServerCallPtr> ended;
    for (const auto& [call, stream] : streams_) {
        (void)clients->of(call->peer());  // its limits, too
        const AccessRequest request{.action = action_of(call->method()),
                                    .method = call->method(),
                                    .peer = call->peer(),
                                    .listener = stream.listener->name};
        if (!stream.listener->policy->admits(request)) ended.push_back(call);
    }
    for (const auto& call : ended) {
        const auto stream = streams_.find(call);
        if (stream == streams_.end()) continue;
        note_denial(*call, *stream->second.listener, DenialReason::kRevoked,
                    describe(DenialReason::kRevoked));
        call->finish(permission_denied());
    }
    if (table_changed_) table_changed_();
}

}  // namespace mesh::serve
