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
      raft_term(options.raft_term) {}

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
    if (const auto advice = policy.advice(request); !advice.empty())
        denied.message.append(": ").append(advice);
    return denied;
}

}  // namespace mesh::serve
