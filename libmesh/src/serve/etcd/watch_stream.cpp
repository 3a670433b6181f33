#include "serve/etcd/watch_stream.hpp"

#include <algorithm>

#include "serve/etcd/etcd_status.hpp"

namespace mesh::serve {
namespace {

constexpr std::int64_t kNoWatch = -1;
// Control answers that may wait for a client that does not read; then we stop reading from it.
constexpr std::size_t kMostWaiting = 64;

/// An error as grpc-go's Error() prints it, which is what etcd puts into cancel_reason.
std::string as_go_error(std::string_view code, const rpc::Status& status) {
    return "rpc error: code = " + std::string(code) + " desc = " + status.message;
}

}  // namespace

/// One watch of the stream: what the store tells, as frames with the watch's id.
class WatchStream::Watch final : public store::WatchSink {
  public:
    Watch(WatchStream& stream, const etcdpb::WatchCreateRequest& request, std::int64_t id)
        : stream_(stream),
          key_{.watch_id = id, .prev_kv = request.prev_kv(), .fragment = request.fragment()},
          wants_progress(request.progress_notify()) {}
    ~Watch() {
        if (counted) stream_.core().clients->remove_watch(*stream_.peer_);
    }

    bool on_events(store::WatchId, const store::Delivery& delivery) override {
        if (!stream_.backlog_.empty() || stream_.held_back()) return refuse();
        ServiceCore& core = stream_.core();
        const WatchFrames frames = watch_frames(delivery, key_, core.header(),
                                                core.options.max_watch_response_bytes, core.stats);
        if (std::any_of(frames->begin(), frames->end(), [](const rpc::Frame& f) { return !f; })) {
            // A revision of gigabytes for a client that takes no fragments.
            stream_.call_->finish(to_status(store::Fault::kAnswerTooLarge));
            return true;
        }
        switch (stream_.call_->write(frames->front())) {
            case rpc::Write::kFull:
                return refuse();
            case rpc::Write::kEnded:
                return true;
            case rpc::Write::kQueued:
                break;
        }
        for (std::size_t i = 1; i < frames->size(); ++i) stream_.send((*frames)[i]);
        if (stream_.peer_) {
            std::size_t bytes = 0;
            for (const rpc::Frame& frame : *frames) bytes += frame.size();
            core.clients->sent(*stream_.peer_, bytes);
        }
        const std::size_t events =
            delivery.selection ? delivery.selection->size() : delivery.batch->events.size();
        core.stats.events_sent += events;
        stream_.events_ += events;
        told += events;
        quiet = false;
        return true;
    }

    void on_progress(store::WatchId, store::Revision revision) override {
        etcdpb::WatchResponse response;
        response.mutable_header()->set_revision(revision);
        stream_.send(response, key_.watch_id);
    }

    void on_cancelled(store::WatchId, store::CancelReason, store::Revision floor) override {
        etcdpb::WatchResponse response;
        response.set_canceled(true);
        response.set_compact_revision(floor);
        stream_.send(response, key_.watch_id);
        stream_.service_->schedule_catch_up();  // a progress request may have waited for this one
        const auto self = stream_.watches_.extract(key_.watch_id);  // dies at the end of this call
    }

  private:
    bool refuse() {
        full = true;
        stream_.any_full_ = true;
        return false;
    }
    WatchStream& stream_;
    WatchFrameKey key_;

  public:
    store::WatchId store_id{};
    bool wants_progress;
    bool quiet = true;  // no events since the last progress notification
    bool full = false;
    std::uint64_t told = 0;  // events
    bool counted = false;    // in the limits of its client
};

WatchStream::WatchStream(std::shared_ptr<WatchService> service, rpc::ServerCallPtr call,
                         ListenerPtr listener)
    : service_(std::move(service)),
      call_(std::move(call)),
      listener_(std::move(listener)),
      peer_(core().peer_of(*call_)),
      since_(service_->core().clock.now()) {}

WatchStream::~WatchStream() {
    close();
}

void WatchStream::start() {
    auto self = shared_from_this();
    call_->on_message([self](std::string_view bytes) { self->wait_for_turn(bytes); });
    call_->on_half_close([self] {
        self->half_closed_ = true;
        self->finish_when_done();
    });
    call_->on_writable([self] { self->on_writable(); });
    call_->on_end([self](const rpc::Status&) { self->close(); });
}

void WatchStream::close() {
    if (closed_) return;
    closed_ = true;
    for (const auto& [id, watch] : watches_) core().store.cancel_watch(watch->store_id);
    watches_.clear();
    backlog_.clear();
    refill_.reset();
    core().end_stream(call_);
    service_->closed(this);
}

WatchStreamInfo WatchStream::info() const {
    std::size_t blocked = 0;
    if (any_full_) {
        blocked = static_cast<std::size_t>(
            std::ranges::count_if(watches_, [](const auto& watch) { return watch.second->full; }));
    }
    return {.peer = call_->peer(),
            .listener = listener_->name,
            .since = since_,
            .watches = watches_.size(),
            .blocked = blocked,
            .queued_bytes = call_->queued_bytes(),
            .events_sent = events_};
}

void WatchStream::for_each_watch(const std::function<void(const WatchInfo&)>& visit) const {
    for (const auto& [id, watch] : watches_) {
        if (const auto state = core().store.watch_state(watch->store_id))
            visit({.id = id, .state = *state, .events_sent = watch->told});
    }
}

// --- Sending
// ------------------------------------------------------------------------------------------

void WatchStream::send(rpc::Frame frame) {
    if (closed_) return;
    if (backlog_.empty() && call_->write(frame) != rpc::Write::kFull) return;
    backlog_.push_back(std::move(frame));
    if (backlog_.size() < kMostWaiting || paused_) return;
    paused_ = true;
    call_->pause();
}

void WatchStream::send(etcdpb::WatchResponse& response, std::int64_t watch_id) {
    const WireHeader header = core().header();
    etcdpb::ResponseHeader& out = *response.mutable_header();
    out.set_cluster_id(header.cluster_id);
    out.set_member_id(header.member_id);
    if (out.revision() == 0) out.set_revision(header.revision);
    out.set_raft_term(header.raft_term);
    response.set_watch_id(watch_id);
    send(rpc::encode_frame(response));
}

void WatchStream::on_writable() {
    while (!backlog_.empty()) {
        if (call_->write(backlog_.front()) == rpc::Write::kFull) return;
        backlog_.pop_front();
    }
    if (std::exchange(paused_, false)) read_on();
    if (!std::exchange(any_full_, false)) return;
    for (const auto& [id, watch] : watches_)
        if (std::exchange(watch->full, false)) core().store.resume(watch->store_id);
    service_->schedule_catch_up();
}

bool WatchStream::held_back() {
    if (!peer_ || !peer_->out_limited) return false;
    const Duration wait = core().clients->hold_back(*peer_);
    if (wait <= Duration::zero()) return false;
    peer_->client->slot->counters.held_back.add();
    if (refill_) return true;
    refill_ = std::make_unique<boost::asio::steady_timer>(core().loop);
    // At most a second: the rate may be another by then.
    refill_->expires_after(std::chrono::ceil<std::chrono::microseconds>(
        std::min<Duration>(wait, std::chrono::seconds(1))));
    refill_->async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        const auto self = weak.lock();
        if (error || !self || self->closed_) return;
        self->refill_.reset();
        self->on_writable();
    });
    return true;
}

// --- Requests
// -----------------------------------------------------------------------------------------

void WatchStream::wait_for_turn(std::string_view bytes) {
    ++in_turn_;
    const auto run = [self = shared_from_this()](std::string_view message) {
        --self->in_turn_;
        self->on_message(message);
        self->read_on();
        self->finish_when_done();
    };
    if (!core().in_turn(peer_, call_, *listener_, bytes, run)) call_->pause();
}

void WatchStream::read_on() {
    if (in_turn_ == 0 && !paused_) call_->resume();
}

void WatchStream::finish_when_done() {
    if (half_closed_ && in_turn_ == 0) call_->finish({});
}

void WatchStream::on_message(std::string_view bytes) {
    if (closed_) return;
    etcdpb::WatchRequest request;
    if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
        return call_->finish(undecodable());
    switch (request.request_union_case()) {
        case etcdpb::WatchRequest::kCreateRequest:
            return create(request.create_request());
        case etcdpb::WatchRequest::kCancelRequest:
            return cancel(request.cancel_request().watch_id());
        case etcdpb::WatchRequest::kProgressRequest:
            if (!try_answer_progress()) service_->wait_for_progress(this);
            return;
        case etcdpb::WatchRequest::REQUEST_UNION_NOT_SET:
            return;
    }
}

void WatchStream::refuse(std::int64_t id, std::string reason) {
    etcdpb::WatchResponse response;
    response.set_created(true);
    response.set_canceled(true);
    response.set_cancel_reason(std::move(reason));
    send(response, id);
}

bool WatchStream::too_many() const {
    const EtcdServiceOptions& options = core().options;
    return watches_.size() >= options.max_watches_per_stream ||
           core().store.stats().watchers >= options.max_watches;
}

std::int64_t WatchStream::next_free_id() {
    while (watches_.count(next_id_) != 0) ++next_id_;
    return next_id_;
}

void WatchStream::create(const etcdpb::WatchCreateRequest& request) {
    // A watch begins at what is durable.
    core().flush();
    store::WatchRequest wanted{.range = {request.key(), request.range_end()},
                               .start_revision = request.start_revision()};
    static constexpr std::string_view kFirstKey("\0", 1);
    if (wanted.range.key.empty()) wanted.range.key = kFirstKey;
    for (const int filter : request.filters()) {
        wanted.no_put = wanted.no_put || filter == etcdpb::WatchCreateRequest::NOPUT;
        wanted.no_delete = wanted.no_delete || filter == etcdpb::WatchCreateRequest::NODELETE;
    }
    const rpc::Status allowed = core().check(*call_, *listener_, EtcdAction::kWatch, wanted.range);
    if (allowed.code == rpc::StatusCode::kPermissionDenied)
        return refuse(request.watch_id(), as_go_error("PermissionDenied", allowed));
    if (!allowed.ok()) return call_->finish(allowed);
    const std::int64_t wished = request.watch_id();  // 0 = none
    if (wished != 0 && watches_.count(wished) != 0)
        return refuse(kNoWatch, "mvcc: duplicate watch ID provided on the WatchStream");
    if (too_many()) return refuse(kNoWatch, "etcdserver: too many watches");
    if (peer_ && !core().clients->add_watch(*peer_)) {
        core().note_denial(*call_, *listener_, DenialReason::kWatches,
                           describe(DenialReason::kWatches), wanted.range);
        return refuse(kNoWatch, "etcdserver: too many watches of this client");
    }

    const std::int64_t id = wished != 0 ? wished : next_free_id();
    auto watch = std::make_unique<Watch>(*this, request, id);
    watch->counted = peer_ != nullptr;
    const auto added = core().store.watch(wanted, *watch);
    if (!added && added.error().fault() != store::Fault::kCompacted)
        return refuse(kNoWatch, std::string(to_string(added.error().fault())));
    if (wished == 0) ++next_id_;  // a refused watch takes none, a cancelled one does
    etcdpb::WatchResponse created;
    created.set_created(true);
    send(created, id);
    if (!added) {
        etcdpb::WatchResponse response;
        response.set_canceled(true);
        // -1 is etcd's for a store that was never compacted: a negative start is below even that.
        const store::Revision floor = core().store.watch_floor();
        response.set_compact_revision(floor != 0 ? floor : -1);
        return send(response, id);
    }
    watch->store_id = *added;
    watches_.emplace(id, std::move(watch));
    service_->schedule_catch_up();
}

void WatchStream::cancel(std::int64_t id) {
    const auto found = watches_.find(id);
    if (found == watches_.end()) return;
    core().store.cancel_watch(found->second->store_id);
    watches_.erase(found);
    service_->schedule_catch_up();  // a progress request may have waited for this one
    etcdpb::WatchResponse response;
    response.set_canceled(true);
    send(response, id);
}

void WatchStream::recheck() {
    if (closed_ || call_->ended()) return;
    std::vector<std::int64_t> gone;
    for (const auto& [id, watch] : watches_) {
        const AccessRequest request{.action = EtcdAction::kWatch,
                                    .method = call_->method(),
                                    .range = core().store.watched_range(watch->store_id),
                                    .peer = call_->peer(),
                                    .listener = listener_->name};
        if (!listener_->policy->allows(request)) gone.push_back(id);
    }
    for (const std::int64_t id : gone) {
        const auto found = watches_.find(id);
        const store::WatchId watch = found->second->store_id;
        core().note_denial(*call_, *listener_, DenialReason::kRevoked,
                           describe(DenialReason::kRevoked), core().store.watched_range(watch));
        core().store.cancel_watch(watch);
        watches_.erase(found);
        etcdpb::WatchResponse response;
        response.set_canceled(true);
        response.set_cancel_reason(as_go_error("PermissionDenied", permission_denied()));
        send(response, id);
    }
    if (!gone.empty()) service_->schedule_catch_up();
}

// --- Progress
// -----------------------------------------------------------------------------------------

void WatchStream::notify_progress() {
    for (const auto& [id, watch] : watches_)
        if (watch->wants_progress && std::exchange(watch->quiet, true))
            core().store.request_progress(watch->store_id);
}

bool WatchStream::try_answer_progress() {
    if (closed_) return true;
    core().flush();
    for (const auto& [id, watch] : watches_)
        if (!core().store.is_up_to_date(watch->store_id)) return false;
    etcdpb::WatchResponse response;
    send(response, kNoWatch);
    return true;
}

}  // namespace mesh::serve
