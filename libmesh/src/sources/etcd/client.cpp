#include "sources/etcd/client.hpp"

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <limits>
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
    // The pointer is the object's own, and so is the callback.
    impl->on_connection_ = [inside = impl.get()](const ConnectionEvent& e) { inside->tell(e); };
    return std::unique_ptr<Client>(new Client(std::move(impl)));
}

void Client::Impl::tell(const ConnectionEvent& event) {
    using State = ConnectionEvent::State;
    ConnectionEvent told = event;
    if (event.state == State::kConnected) guard_.judged(event.endpoint);
    if (event.state == State::kFailed) guard_.failed(event.endpoint);
    if (guard_.refused() && event.state == State::kLost) return;
    if (guard_.refused() && event.state == State::kConnected) {
        told.state = State::kFailed;
        told.reason = unavailable(guard_.why());
    }
    if (!user_on_connection_) return;
    const auto callback = user_on_connection_;
    callback(told);
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
    impl_->user_on_connection_ = std::move(callback);
}
void Client::on_defect(std::function<void(std::string_view what)> callback) {
    impl_->on_defect_ = std::move(callback);
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

std::size_t most_kvs(const RangeRequest& request) {
    return request.limit > 0 ? static_cast<std::size_t>(request.limit)
                             : std::numeric_limits<std::size_t>::max();
}

asio::awaitable<Result<RangeResult>> range(std::shared_ptr<Client::Impl> impl,
                                           RangeRequest request) {
    rpc::Frame frame = rpc::encode_frame(detail::encode(request));
    std::string path(etcdpb::kRange);
    const rpc::UnaryResult answer =
        co_await Client::Impl::request(impl, std::move(path), std::move(frame), true);
    if (!answer.status.ok()) co_return detail::error_of(answer.status);
    detail::RangeView view;
    MESH_CO_CHECK(detail::parse_range(answer.message, view, most_kvs(request)));
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

/// A list names each key once, in order. A server that does otherwise could be read for ever.
/// @param from what was asked for; "" on the first page, whose keys are their reader's to judge
Result<void> check_order(std::string_view from, std::span<const KeyValueView> kvs) {
    std::string_view last;
    for (const KeyValueView& kv : kvs) {
        if (kv.key < from || (!last.empty() && kv.key <= last) || kv.key.empty())
            return Error(Errc::kCorrupt, "the keys of a list do not increase");
        last = kv.key;
    }
    return {};
}

/// What has been read of a list.
struct Extent {
    std::uint64_t keys = 0, bytes = 0;
    std::uint64_t count = 0;  // of all keys, as the server told with the first page
    [[nodiscard]] bool over(const ListBounds& bounds) const {
        return keys > bounds.max_keys || bytes > bounds.max_bytes;
    }
    [[nodiscard]] std::uint64_t left() const { return count > keys ? count - keys : 1; }
};

asio::awaitable<Result<Listed>> list(std::shared_ptr<Client::Impl> impl, RangeRequest request,
                                     PageCallback page, ListBounds bounds) {
    using namespace asio::experimental::awaitable_operators;  // NOLINT: made to be used so
    std::size_t keys = std::min(std::max<std::size_t>(impl->options_.page_keys, 1), kFirstPageKeys);
    request.limit = static_cast<std::int64_t>(keys);
    Header first;
    Extent read;
    std::string from;
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
        MESH_CO_CHECK(detail::parse_range(answer.message, view, most_kvs(request)));
        MESH_CO_CHECK(impl->note(view.has_header, view.header));
        MESH_CO_CHECK(check_order(from, view.kvs));
        read.keys += view.kvs.size();
        read.bytes += answer.message.size();
        if (first.cluster_id == 0) {
            first = view.header;
            read.count = static_cast<std::uint64_t>(std::max<std::int64_t>(view.count, 0));
            if (request.revision == 0) request.revision = first.revision;
            first.revision = request.revision;
        } else if (view.header.cluster_id != first.cluster_id) {
            co_return Error(Errc::kConflict, "the pages of a list came from two etcd clusters");
        }
        const bool over = view.more && read.over(bounds);
        if (!view.more || view.kvs.empty() || over) {
            if (page && (!view.kvs.empty() || !view.more)) page(first, view.kvs);
            const Listed listed{first, over ? read.left() : 0};
            co_return Result<Listed>(listed);
        }
        keys = next_page_keys(impl->options_, view.kvs.size(), answer.message.size());
        from = std::string(view.kvs.back().key) + '\0';
        request.range.key = from;
        request.limit = static_cast<std::int64_t>(keys);
        if (impl->paused_) co_await impl->wait_resumed();
        // etcd works on the next page while this one is read.
        auto next = page_ahead(impl, request);
        auto given = give_page(page, first, view.kvs);
        rpc::UnaryResult arrived = co_await (std::move(next) && std::move(given));
        answer = std::move(arrived);
    }
}

asio::awaitable<Result<Header>> whole_list(std::shared_ptr<Client::Impl> impl, RangeRequest request,
                                           PageCallback page) {
    const ListBounds none;
    const auto listed = co_await list(std::move(impl), std::move(request), std::move(page), none);
    if (!listed) co_return listed.error();
    co_return Result<Header>(listed->header);
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
    WatchHandle(std::shared_ptr<Client::Impl> impl, std::shared_ptr<detail::WatchState> state)
        : impl_(std::move(impl)), state_(std::move(state)) {}
    ~WatchHandle() override { impl_->watches_->remove(state_); }
    WatchHandle(const WatchHandle&) = delete;
    WatchHandle& operator=(const WatchHandle&) = delete;
    std::int64_t revision() const noexcept override { return state_->revision; }

  private:
    std::shared_ptr<Client::Impl> impl_;
    std::shared_ptr<detail::WatchState> state_;
};

}  // namespace

asio::awaitable<Result<RangeResult>> Client::async_range(RangeRequest request) {
    return range(impl_, std::move(request));
}
asio::awaitable<Result<Header>> Client::async_list(RangeRequest request, PageCallback page) {
    return whole_list(impl_, std::move(request), std::move(page));
}
asio::awaitable<Result<Listed>> Client::async_list_within(RangeRequest request, PageCallback page,
                                                          ListBounds bounds) {
    return list(impl_, std::move(request), std::move(page), bounds);
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
    auto state = impl_->watches_->add(std::move(options), std::move(events));
    return std::make_unique<WatchHandle>(impl_, std::move(state));
}

void Client::request_progress() {
    impl_->watches_->request_progress();
}

void Client::pause() {
    impl_->set_paused(true);
}
void Client::resume() {
    impl_->set_paused(false);
}

}  // namespace mesh::etcd
