#include "reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace asio = boost::asio;

namespace mesh::soak {

namespace {
constexpr Duration kPause = std::chrono::milliseconds(50);
constexpr std::int64_t kAllWatches = -1;  // the id of an answer to a progress request

bool says_stale(const rpc::Metadata& trailers) {
    return rpc::find_metadata(trailers, "mesh-stale") == "true";
}

}  // namespace

Reader::Reader(asio::any_io_executor loop, const Clock& clock, Rng rng, ReaderOptions options,
               Report& report)
    : loop_(std::move(loop)),
      clock_(clock),
      rng_(rng),
      options_(std::move(options)),
      report_(report),
      wake_(loop_) {
    std::int64_t id = 0;
    for (const WatchSpec& spec : options_.watches) {
        auto watch = std::make_unique<WatchState>();
        watch->spec = spec;
        // 0 would be "choose one".
        watch->asked_id = options_.own_ids ? ++id : 0;
        if (spec.without_list) {
            spec.checker->begin_after(0);
            watch->needs_list = false;
        }
        watches_.push_back(std::move(watch));
    }
}

asio::awaitable<void> Reader::run(std::shared_ptr<Reader> self) {
    while (!self->stopping_) {
        const bool connected = co_await self->connect();
        if (connected) co_await self->serve();
        self->drop();
        if (!self->stopping_) co_await sleep_for(self->loop_, kPause);
    }
}

asio::awaitable<bool> Reader::connect() {
    rpc::ChannelOptions options;
    options.host = "127.0.0.1";
    options.port = port_ = options_.ports[rng_.below(options_.ports.size())];
    options.tls = options_.tls;
    options.connect_timeout = std::chrono::seconds(3);
    options.keepalive_interval = std::chrono::seconds(10);
    options.keepalive_timeout = std::chrono::seconds(5);
    if (options_.slow) {
        options.stream_window = 64 << 10;
        options.connection_window = 128 << 10;
    }
    auto channel = std::make_shared<rpc::Channel>(loop_, std::move(options), clock_, Logger());
    channel->on_closed([weak = weak_from_this()](const Error&) {
        if (auto self = weak.lock()) self->lose();
    });
    auto connected = co_await channel->async_connect();
    if (!connected) {
        report_.count("failed connects");
        co_return false;
    }
    report_.count("connects");
    channel_ = std::move(channel);
    lost_ = false;
    seen_here_ = 0;
    co_return true;
}

asio::awaitable<void> Reader::serve() {
    while (!stopping_ && !lost_) {
        for (auto& watch : watches_) {
            if (lost_ || stopping_) co_return;
            if (watch->needs_list) {
                const bool listed = co_await list(*watch);
                if (!listed || stopping_) co_return;
            }
            if (watch->needs_create) create(*watch);
        }
        wake_.expires_after(std::chrono::seconds(1));
        boost::system::error_code ignored;
        const bool wanted = std::ranges::any_of(
            watches_, [](const auto& watch) { return watch->needs_list || watch->needs_create; });
        if (!wanted && !lost_ && !stopping_)
            co_await wake_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
}

asio::awaitable<bool> Reader::list(WatchState& watch) {
    const Selection& selection = watch.spec.checker->selection();
    std::vector<Change> keys;
    etcdpb::RangeRequest request;
    request.set_key(selection.range.key);
    request.set_range_end(selection.range.end);
    request.set_limit(watch.spec.list_limit);
    bool more = true;
    while (more) {
        const auto channel = channel_;
        rpc::CallOptions options;
        options.deadline = std::chrono::seconds(5);
        const std::int64_t reached = reached_;  // before it is asked; events may come meanwhile
        rpc::UnaryResult answer = co_await channel->async_unary(
            std::string(etcdpb::kRange), rpc::encode_frame(request), std::move(options));
        if (stopping_) co_return false;
        const auto page = answer.parse<etcdpb::RangeResponse>();
        if (!page) {
            using rpc::StatusCode;
            const StatusCode code = answer.status.code;
            // A later page: its revision is compacted, or another replica has not reached it.
            if (code == StatusCode::kOutOfRange) co_return true;
            if (code != StatusCode::kUnavailable && code != StatusCode::kDeadlineExceeded &&
                code != StatusCode::kCancelled && code != StatusCode::kResourceExhausted)
                fail("a list failed: " + page.error().message());
            co_return false;
        }
        check_header(page->header());
        if (request.revision() == 0) {
            if (page->header().revision() < reached) {
                // Only a mirror that cannot ask its etcd may be behind, and says so.
                report_.count("lists of a stale mirror, behind the reader");
                if (!says_stale(answer.trailers))
                    fail(fmt::format("a list of revision {}, after {}", page->header().revision(),
                                     reached));
                co_return false;
            }
            request.set_revision(page->header().revision());
        }
        for (const auto& kv : page->kvs()) keys.push_back(to_change(kv));
        more = page->more();
        if (more) request.set_key(keys.back().key + '\0');
    }
    report_.count("lists");
    watch.spec.checker->on_list(request.revision(), keys);
    reached_ = std::max(reached_, request.revision());
    watch.needs_list = false;
    watch.needs_create = true;
    co_return true;
}

Reader::Stream& Reader::open_stream() {
    auto stream = std::make_unique<Stream>();
    rpc::CallEvents events;
    events.on_message = [this, at = stream.get()](std::string_view bytes) {
        on_message(*at, bytes);
    };
    events.on_end = [this](const rpc::Status& status, const rpc::Metadata&) {
        using rpc::StatusCode;
        if (status.code != StatusCode::kUnavailable && status.code != StatusCode::kCancelled &&
            status.code != StatusCode::kOk)
            fail("a stream ended: " + status.message);
        lose();
    };
    stream->call = channel_->call(etcdpb::kWatch, {}, std::move(events));
    if (stalled_) stream->call->pause();
    streams_.push_back(std::move(stream));
    return *streams_.back();
}

void Reader::create(WatchState& watch) {
    if (watch.stream == nullptr) {
        Stream& stream = options_.stream_each || streams_.empty() ? open_stream() : *streams_[0];
        stream.watches.push_back(&watch);
        watch.stream = &stream;
    }
    const Selection& selection = watch.spec.checker->selection();
    etcdpb::WatchRequest request;
    auto& create = *request.mutable_create_request();
    create.set_key(selection.range.key);
    create.set_range_end(selection.range.end);
    create.set_start_revision(watch.start = watch.spec.checker->position() + 1);
    create.set_watch_id(watch.asked_id);
    create.set_prev_kv(watch.spec.prev_kv);
    create.set_progress_notify(watch.spec.progress_notify);
    create.set_fragment(watch.spec.fragment);
    if (selection.no_put) create.add_filters(etcdpb::WatchCreateRequest::NOPUT);
    if (selection.no_delete) create.add_filters(etcdpb::WatchCreateRequest::NODELETE);
    watch.needs_create = watch.created = false;
    watch.fragments.clear();
    watch.stream->asked.push_back(&watch);
    if (watch.stream->call->write(rpc::encode_frame(request)) != rpc::Write::kQueued) lose();
}

void Reader::drop() {
    for (auto& stream : streams_) stream->call->abandon();
    streams_.clear();
    channel_.reset();
    port_ = 0;
    for (auto& watch : watches_) {
        watch->stream = nullptr;
        watch->needs_create = true;
        watch->created = false;
    }
}

void Reader::check_header(const etcdpb::ResponseHeader& header) {
    if (options_.cluster_id == 0) options_.cluster_id = header.cluster_id();
    if (header.cluster_id() != options_.cluster_id)
        fail(fmt::format("an answer of cluster {:x}, not {:x}", header.cluster_id(),
                         options_.cluster_id));
    seen_here_ = std::max(seen_here_, header.revision());
}

void Reader::on_message(Stream& stream, std::string_view bytes) {
    etcdpb::WatchResponse response;
    if (!response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
        return fail("a watch answer makes no sense");
    // Of a compaction etcd tells without a header's ids.
    if (response.header().cluster_id() != 0) check_header(response.header());
    if (response.created()) return on_created(stream, response);
    if (response.watch_id() == kAllWatches) {
        for (WatchState* watch : stream.watches) {
            // What it promises is nothing to a watch that begins later.
            if (!watch->created || watch->needs_list) continue;
            if (response.header().revision() >= watch->start)
                watch->spec.checker->on_progress(response.header().revision());
        }
        return;
    }
    const auto watch = std::ranges::find_if(stream.watches, [&](const WatchState* candidate) {
        return candidate->created && candidate->id == response.watch_id();
    });
    if (watch == stream.watches.end())
        return fail(fmt::format("an answer for watch {}, which is none", response.watch_id()));
    if (response.canceled()) return on_cancelled(**watch, response);
    on_events(**watch, response);
}

void Reader::on_created(Stream& stream, const etcdpb::WatchResponse& response) {
    if (stream.asked.empty()) return fail("a watch was created that nobody asked for");
    WatchState& watch = *stream.asked.front();
    stream.asked.pop_front();
    if (response.canceled()) {
        fail("a watch was refused: " + response.cancel_reason());
        return;
    }
    if (watch.asked_id != 0 && response.watch_id() != watch.asked_id)
        fail("a watch was created under another id than was asked for");
    watch.id = response.watch_id();
    watch.created = true;
}

void Reader::on_cancelled(WatchState& watch, const etcdpb::WatchResponse& response) {
    watch.created = false;
    if (response.compact_revision() == 0) {
        // A mirror that may serve no more says so; the same server is asked again.
        report_.count("watches cancelled");
        if (!response.cancel_reason().empty())
            fail("a watch was cancelled: " + response.cancel_reason());
    }
    report_.count("told compaction");
    watch.needs_list = true;
    wake_.cancel();
}

void Reader::on_events(WatchState& watch, const etcdpb::WatchResponse& response) {
    Checker& checker = *watch.spec.checker;
    if (response.events_size() == 0 && watch.fragments.empty()) {
        if (!response.fragment()) checker.on_progress(response.header().revision());
        return;
    }
    // A revision may be cut in the middle: what is not complete is not known, should it break.
    for (const auto& event : response.events()) watch.fragments.push_back(to_change(event));
    if (response.fragment()) return report_.count("fragments");
    const std::vector<Change> changes = std::exchange(watch.fragments, {});
    if (changes.front().revision < watch.start)
        fail(fmt::format("{}: revision {} was told, asked was from {} on", checker.name(),
                         changes.front().revision, watch.start));
    checker.on_events(changes);
    reached_ = std::max(reached_, checker.position());
    report_.count("events", changes.size());
}

void Reader::stop() {
    stopping_ = true;
    wake_.cancel();
}

void Reader::disconnect() {
    lose();
}

void Reader::stall() {
    stalled_ = true;
    for (auto& stream : streams_) stream->call->pause();
}

void Reader::go_on() {
    stalled_ = false;
    for (auto& stream : streams_) stream->call->resume();
}

void Reader::ask_progress() {
    if (!options_.asks_progress) return;
    etcdpb::WatchRequest request;
    request.mutable_progress_request();
    for (auto& stream : streams_)
        static_cast<void>(stream->call->write(rpc::encode_frame(request)));
}

std::int64_t Reader::position() const {
    std::int64_t lowest = watches_.front()->spec.checker->position();
    for (const auto& watch : watches_) {
        lowest = std::min(lowest, watch->needs_list ? 0 : watch->spec.checker->position());
    }
    return lowest;
}

std::int64_t Reader::seen_of(std::uint16_t port) const {
    return channel_ && port == port_ ? seen_here_ : 0;
}

std::string Reader::state() const {
    std::string text =
        fmt::format("{}: {}", options_.name, channel_ ? "connected" : "no connection");
    for (const auto& watch : watches_) {
        text += fmt::format("; {} at {}{}{}", watch->spec.checker->name(),
                            watch->spec.checker->position(), watch->needs_list ? ", to list" : "",
                            watch->created ? "" : ", not created");
    }
    return text;
}

}  // namespace mesh::soak
