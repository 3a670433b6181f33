#include "sources/etcd/client.hpp"

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "sources/etcd/client_impl.hpp"
#include "sources/etcd/codec.hpp"
#include "sources/etcd/views.hpp"
#include "sources/etcd/watch_stream.hpp"

namespace mesh::etcd {

namespace asio = boost::asio;

namespace {
constexpr std::size_t kFirstPageKeys = 1'000;
constexpr std::size_t kLeastPageKeys = 16;
}  // namespace

Result<std::unique_ptr<Client>> Client::make(asio::any_io_executor loop, ClientOptions options,
                                             const Clock& clock, Rng rng, Logger logger) {
    if (options.endpoints.empty()) return invalid_argument("endpoints: expected at least one");
    const bool default_tls = !options.ca_file.empty() || !options.cert_file.empty();
    std::vector<Endpoint> endpoints;
    bool any_tls = false;
    for (const std::string& text : options.endpoints) {
        MESH_TRY(Endpoint endpoint, parse_endpoint(text, default_tls));
        any_tls = any_tls || endpoint.tls;
        endpoints.push_back(std::move(endpoint));
    }
    std::shared_ptr<rpc::TlsCredentials> tls;
    if (any_tls) {
        rpc::TlsOptions t;
        t.ca_file = options.ca_file;
        t.cert_file = options.cert_file;
        t.key_file = options.key_file;
        t.skip_verify = options.insecure_skip_verify;
        MESH_TRY(tls, rpc::TlsCredentials::load(rpc::TlsRole::kClient, std::move(t), logger));
    }
    auto impl = std::make_shared<Impl>(std::move(loop), std::move(options), std::move(endpoints),
                                       std::move(tls), clock, rng, std::move(logger));
    return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Client::Client(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

void Client::start() {
    impl_->start();
}
asio::awaitable<void> Client::async_stop() {
    return Impl::stop(impl_);
}
void Client::on_connection(std::function<void(const ConnectionEvent&)> callback) {
    impl_->on_connection_ = std::move(callback);
}
bool Client::connected() const noexcept {
    return impl_->usable();
}
const Header& Client::newest_header() const noexcept {
    return impl_->newest_;
}
TimePoint Client::last_heard() const noexcept {
    return impl_->last_heard_;
}
void Client::reconnect(std::string_view why) {
    if (impl_->channel_) impl_->drop(std::string(why));
}

namespace {

/// Sends, parses, notes the header. Header is in a field called header() in all of etcd's answers.
template <class Response>
asio::awaitable<Result<Response>> exchange(std::shared_ptr<Client::Impl> impl, std::string path,
                                           rpc::Frame frame, bool retry) {
    const rpc::UnaryResult answer =
        co_await Client::Impl::request(impl, std::move(path), std::move(frame), retry);
    if (!answer.status.ok()) co_return detail::error_of(answer.status);
    Response response;
    if (!response.ParseFromArray(answer.message.data(), static_cast<int>(answer.message.size())))
        co_return Error(Errc::kCorrupt, "etcd's answer is no valid message of its type");
    const Header header = detail::decode(response.header());
    MESH_CO_CHECK(impl->note(response.has_header(), header));
    co_return Result<Response>(std::move(response));
}

asio::awaitable<Result<RangeResult>> range(std::shared_ptr<Client::Impl> impl,
                                           RangeRequest request) {
    rpc::Frame frame = rpc::encode_frame(detail::encode(request));
    std::string path(etcdpb::kRange);
    const rpc::UnaryResult answer =
        co_await Client::Impl::request(impl, std::move(path), std::move(frame), true);
    if (!answer.status.ok()) co_return detail::error_of(answer.status);
    detail::RangeView view;
    MESH_CO_CHECK(detail::parse_range(answer.message, view));
    MESH_CO_CHECK(impl->note(view.has_header, view.header));
    RangeResult result;
    result.header = view.header;
    result.more = view.more;
    result.count = view.count;
    result.kvs.reserve(view.kvs.size());
    for (const KeyValueView& kv : view.kvs) result.kvs.push_back(detail::copy(kv));
    co_return Result<RangeResult>(std::move(result));
}

asio::awaitable<rpc::UnaryResult> range_page(std::shared_ptr<Client::Impl> impl,
                                             const RangeRequest& request) {
    rpc::Frame frame = rpc::encode_frame(detail::encode(request));
    std::string path(etcdpb::kRange);
    return Client::Impl::request(std::move(impl), std::move(path), std::move(frame), true);
}

/// A page asked for ahead. It runs beside give_page() with a cancellation state of its own: when
/// cancelled it answers so, as range_page() would below the caller.
asio::awaitable<rpc::UnaryResult> page_ahead(std::shared_ptr<Client::Impl> impl,
                                             const RangeRequest& request) {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_return co_await range_page(std::move(impl), request);
}

/// Gives a page to its reader after a turn of the loop, in which what was asked for ahead is sent.
/// The arguments outlive it: list() waits for it.
asio::awaitable<void> give_page(const PageCallback& page, const Header& header,
                                std::span<const KeyValueView> kvs) {
    co_await asio::this_coro::throw_if_cancelled(false);
    const auto executor = co_await asio::this_coro::executor;
    co_await asio::post(executor, asio::use_awaitable);
    const auto cancelled = (co_await asio::this_coro::cancellation_state).cancelled();
    if (page && cancelled == asio::cancellation_type::none) page(header, kvs);
}

/// How many keys the next page should have, by the size of this one.
std::size_t next_page_keys(const ClientOptions& options, std::size_t kvs, std::size_t bytes) {
    const std::size_t most = std::max<std::size_t>(options.page_keys, 1);
    const double fits = static_cast<double>(options.page_bytes) /
                        static_cast<double>(std::max<std::size_t>(bytes, 1));
    const double wanted = static_cast<double>(kvs) * std::min(fits, 16.0);
    return std::clamp(static_cast<std::size_t>(wanted), std::min(kLeastPageKeys, most), most);
}

asio::awaitable<Result<Header>> list(std::shared_ptr<Client::Impl> impl, RangeRequest request,
                                     PageCallback page) {
    using namespace asio::experimental::awaitable_operators;  // NOLINT: made to be used so
    std::size_t keys = std::min(std::max<std::size_t>(impl->options_.page_keys, 1), kFirstPageKeys);
    request.limit = static_cast<std::int64_t>(keys);
    Header first;
    detail::RangeView view;
    rpc::UnaryResult answer = co_await range_page(impl, request);
    for (;;) {
        if (answer.status.code == rpc::StatusCode::kResourceExhausted && keys > 1) {
            // A page of values this large does not fit into a message.
            keys = std::max<std::size_t>(keys / 8, 1);
            request.limit = static_cast<std::int64_t>(keys);
            answer = co_await range_page(impl, request);
            continue;
        }
        if (!answer.status.ok()) co_return detail::error_of(answer.status);
        view.kvs.clear();
        view.more = false;
        view.has_header = false;
        MESH_CO_CHECK(detail::parse_range(answer.message, view));
        MESH_CO_CHECK(impl->note(view.has_header, view.header));
        if (first.cluster_id == 0) {
            first = view.header;
            if (request.revision == 0) request.revision = first.revision;
            first.revision = request.revision;
        } else if (view.header.cluster_id != first.cluster_id) {
            co_return Error(Errc::kConflict, "the pages of a list came from two etcd clusters");
        }
        if (!view.more || view.kvs.empty()) {
            if (page && (!view.kvs.empty() || !view.more)) page(first, view.kvs);
            co_return Result<Header>(first);
        }
        keys = next_page_keys(impl->options_, view.kvs.size(), answer.message.size());
        request.range.key = std::string(view.kvs.back().key) + '\0';
        request.limit = static_cast<std::int64_t>(keys);
        // etcd works on the next page while this one is read.
        auto next = page_ahead(impl, request);
        auto given = give_page(page, first, view.kvs);
        rpc::UnaryResult arrived = co_await (std::move(next) && std::move(given));
        answer = std::move(arrived);
    }
}

asio::awaitable<Result<PutResult>> put(std::shared_ptr<Client::Impl> impl, std::string key,
                                       std::string value, PutOptions options) {
    etcdpb::PutRequest request;
    request.set_key(std::move(key));
    request.set_value(std::move(value));
    request.set_lease(options.lease);
    request.set_prev_kv(options.prev_kv);
    rpc::Frame frame = rpc::encode_frame(request);
    std::string path(etcdpb::kPut);
    auto answer = co_await exchange<etcdpb::PutResponse>(std::move(impl), std::move(path),
                                                         std::move(frame), false);
    if (!answer) co_return answer.error();
    PutResult result;
    result.header = detail::decode(answer->header());
    if (answer->has_prev_kv()) result.prev_kv = detail::decode(answer->prev_kv());
    co_return Result<PutResult>(std::move(result));
}

asio::awaitable<Result<DeleteResult>> erase(std::shared_ptr<Client::Impl> impl, KeyRange range) {
    etcdpb::DeleteRangeRequest request;
    request.set_key(std::move(range.key));
    request.set_range_end(std::move(range.end));
    rpc::Frame frame = rpc::encode_frame(request);
    std::string path(etcdpb::kDeleteRange);
    auto answer = co_await exchange<etcdpb::DeleteRangeResponse>(std::move(impl), std::move(path),
                                                                 std::move(frame), false);
    if (!answer) co_return answer.error();
    DeleteResult result;
    result.header = detail::decode(answer->header());
    result.deleted = answer->deleted();
    co_return Result<DeleteResult>(std::move(result));
}

asio::awaitable<Result<TxnResult>> transact(std::shared_ptr<Client::Impl> impl, Txn txn) {
    rpc::Frame frame = rpc::encode_frame(detail::encode(txn));
    std::string path(etcdpb::kTxn);
    auto answer = co_await exchange<etcdpb::TxnResponse>(std::move(impl), std::move(path),
                                                         std::move(frame), false);
    if (!answer) co_return answer.error();
    co_return Result<TxnResult>(detail::decode(*answer));
}

asio::awaitable<Result<LeaseGrant>> grant(std::shared_ptr<Client::Impl> impl, std::int64_t ttl,
                                          std::int64_t id) {
    etcdpb::LeaseGrantRequest request;
    request.set_ttl(ttl);
    request.set_id(id);
    rpc::Frame frame = rpc::encode_frame(request);
    std::string path(etcdpb::kLeaseGrant);
    auto answer = co_await exchange<etcdpb::LeaseGrantResponse>(std::move(impl), std::move(path),
                                                                std::move(frame), false);
    if (!answer) co_return answer.error();
    if (!answer->error().empty()) co_return Error(Errc::kInvalidArgument, answer->error());
    LeaseGrant result;
    result.header = detail::decode(answer->header());
    result.id = answer->id();
    result.ttl_seconds = answer->ttl();
    co_return Result<LeaseGrant>(result);
}

asio::awaitable<Result<void>> revoke(std::shared_ptr<Client::Impl> impl, std::int64_t id) {
    etcdpb::LeaseRevokeRequest request;
    request.set_id(id);
    rpc::Frame frame = rpc::encode_frame(request);
    std::string path(etcdpb::kLeaseRevoke);
    auto answer = co_await exchange<etcdpb::LeaseRevokeResponse>(std::move(impl), std::move(path),
                                                                 std::move(frame), false);
    if (!answer) co_return answer.error();
    co_return Result<void>();
}

asio::awaitable<Result<MemberStatus>> status(std::shared_ptr<Client::Impl> impl) {
    rpc::Frame frame = rpc::make_frame("");
    std::string path(etcdpb::kStatus);
    auto answer = co_await exchange<etcdpb::StatusResponse>(std::move(impl), std::move(path),
                                                            std::move(frame), true);
    if (!answer) co_return answer.error();
    MemberStatus result;
    result.header = detail::decode(answer->header());
    result.version = answer->version();
    result.db_size = answer->dbsize();
    result.leader = answer->leader();
    result.raft_term = answer->raftterm();
    result.errors.assign(answer->errors().begin(), answer->errors().end());
    co_return Result<MemberStatus>(std::move(result));
}

asio::awaitable<Result<MemberList>> members(std::shared_ptr<Client::Impl> impl) {
    rpc::Frame frame = rpc::make_frame("");
    std::string path(etcdpb::kMemberList);
    auto answer = co_await exchange<etcdpb::MemberListResponse>(std::move(impl), std::move(path),
                                                                std::move(frame), true);
    if (!answer) co_return answer.error();
    MemberList result;
    result.header = detail::decode(answer->header());
    for (const auto& one : answer->members()) {
        Member& member = result.members.emplace_back();
        member.id = one.id();
        member.name = one.name();
        member.peer_urls.assign(one.peerurls().begin(), one.peerurls().end());
        member.client_urls.assign(one.clienturls().begin(), one.clienturls().end());
        member.learner = one.islearner();
    }
    co_return Result<MemberList>(std::move(result));
}

class WatchHandle final : public Watch {
  public:
    WatchHandle(std::shared_ptr<Client::Impl> impl, std::shared_ptr<detail::WatchState> state,
                std::shared_ptr<bool> waits)
        : impl_(std::move(impl)), state_(std::move(state)), waits_(std::move(waits)) {}
    ~WatchHandle() override {
        impl_->create_done(*waits_);
        impl_->watches_->remove(state_);
    }
    WatchHandle(const WatchHandle&) = delete;
    WatchHandle& operator=(const WatchHandle&) = delete;
    std::int64_t revision() const noexcept override { return state_->revision; }

  private:
    std::shared_ptr<Client::Impl> impl_;
    std::shared_ptr<detail::WatchState> state_;
    std::shared_ptr<bool> waits_;  // for the server to take it
};

/// The callback, which may destroy the watch and so itself, behind what we have to do first.
template <class Argument>
std::function<void(Argument)> behind(std::function<void()> first,
                                     std::function<void(Argument)> callback) {
    return [first = std::move(first), callback = std::move(callback)](Argument argument) {
        const auto running = callback;
        first();
        if (running) running(argument);
    };
}

/// The same events, with the client told when the watch waits for the server and when no more.
WatchEvents observed(const std::shared_ptr<Client::Impl>& impl, const std::shared_ptr<bool>& waits,
                     WatchEvents events) {
    const auto done = [weak = std::weak_ptr(impl), waits] {
        if (const auto live = weak.lock()) live->create_done(*waits);
    };
    const auto again = [weak = std::weak_ptr(impl), waits] {
        if (const auto live = weak.lock()) live->await_create(*waits);
    };
    events.on_created = behind<const Header&>(done, std::move(events.on_created));
    events.on_lost = behind<const Error&>(again, std::move(events.on_lost));
    events.on_end = behind<const WatchEnd&>(done, std::move(events.on_end));
    return events;
}

}  // namespace

asio::awaitable<Result<RangeResult>> Client::async_range(RangeRequest request) {
    return range(impl_, std::move(request));
}
asio::awaitable<Result<Header>> Client::async_list(RangeRequest request, PageCallback page) {
    return list(impl_, std::move(request), std::move(page));
}
asio::awaitable<Result<PutResult>> Client::async_put(std::string key, std::string value,
                                                     PutOptions options) {
    return put(impl_, std::move(key), std::move(value), options);
}
asio::awaitable<Result<DeleteResult>> Client::async_delete(KeyRange range) {
    return erase(impl_, std::move(range));
}
asio::awaitable<Result<TxnResult>> Client::async_txn(Txn txn) {
    return transact(impl_, std::move(txn));
}
asio::awaitable<Result<LeaseGrant>> Client::async_lease_grant(std::int64_t ttl_seconds,
                                                              std::int64_t id) {
    return grant(impl_, ttl_seconds, id);
}
asio::awaitable<Result<void>> Client::async_lease_revoke(std::int64_t id) {
    return revoke(impl_, id);
}
asio::awaitable<Result<MemberStatus>> Client::async_status() {
    return status(impl_);
}
asio::awaitable<Result<MemberList>> Client::async_member_list() {
    return members(impl_);
}

std::unique_ptr<Watch> Client::watch(WatchOptions options, WatchEvents events) {
    auto waits = std::make_shared<bool>(false);
    impl_->await_create(*waits);
    events = observed(impl_, waits, std::move(events));
    auto state = impl_->watches_->add(std::move(options), std::move(events));
    return std::make_unique<WatchHandle>(impl_, std::move(state), std::move(waits));
}

void Client::request_progress() {
    impl_->watches_->request_progress();
}

}  // namespace mesh::etcd
