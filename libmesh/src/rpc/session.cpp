#include "rpc/session.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "rpc/session_callbacks.hpp"

namespace mesh::rpc::detail {

// ---- Stream ----

Write Stream::enqueue(Frame frame) {
    if (session_ == nullptr || body_complete_) return Write::kEnded;
    if (queued_bytes_ != 0 &&
        queued_bytes_ + frame.size() > session_->options_.max_send_queue_bytes) {
        refused_write_ = true;
        return Write::kFull;
    }
    // The message that goes beyond this bound is taken: so one of any size has its way when not
    // much else waits.
    if (session_->congested()) {
        if (!std::exchange(starved_, true)) session_->starved_.push_back(id_);
        return Write::kFull;
    }
    enqueue_always(std::move(frame));
    return Write::kQueued;
}

void Stream::enqueue_always(Frame frame) {
    queued_bytes_ += frame.size();
    session_->queued_ += frame.size();
    queue_.push_back(std::move(frame));
    ++session_->counters_.messages_sent;
    session_->resume_data(*this);
}

void Stream::drop_queue() {
    queue_.clear();
    head_ = 0;
    offset_ = 0;
    if (session_ != nullptr) session_->queued_ -= queued_bytes_;
    queued_bytes_ = 0;
    if (session_ != nullptr) session_->relieve();
}

void Stream::resume_reading() {
    if (!paused_) return;
    paused_ = false;
    if (session_ == nullptr) return;
    session_->later(shared_from_this(), [](Session& session, Stream& stream) {
        if (stream.paused_) return;
        std::string held;
        held.swap(stream.held_);
        session.feed(stream, held);
        session.tell_end(stream);
        if (stream.closed_while_paused_ && stream.held_.empty() && !stream.paused_) {
            std::erase_if(session.lingering_,
                          [&](const auto& one) { return one.get() == &stream; });
            session.forget(stream, NGHTTP2_NO_ERROR, nullptr);
        }
    });
}

// ---- Session ----

namespace {
constexpr std::uint8_t kDrainPing[8] = {'g', 'o', 'o', 'd', 'b', 'y', 'e', '!'};
// A peer that does not answer it is told all the same.
constexpr Duration kDrainBound = std::chrono::seconds(1);
}  // namespace

Session::Session(SessionOptions options, TimePoint now, SessionCounters& counters)
    : options_(options),
      counters_(counters),
      last_received_(now),
      pings_(options.min_ping_interval),
      resets_(options.reset_burst, options.resets_per_second, now),
      controls_(options.control_burst, options.controls_per_second, now) {
    if (options_.max_age > Duration::zero()) age_at_ = now + options_.max_age;
    struct Deleter {
        void operator()(nghttp2_session_callbacks* p) const { nghttp2_session_callbacks_del(p); }
        void operator()(nghttp2_option* p) const { nghttp2_option_del(p); }
    };
    const std::unique_ptr<nghttp2_session_callbacks, Deleter> callbacks(Callbacks::make());
    nghttp2_option* raw_option = nullptr;
    if (nghttp2_option_new(&raw_option) != 0) throw std::bad_alloc();
    const std::unique_ptr<nghttp2_option, Deleter> option(raw_option);
    nghttp2_option_set_no_auto_window_update(raw_option, 1);
    nghttp2_option_set_no_closed_streams(raw_option, 1);
    // Ours says why, counts, and goes by our clock.
    constexpr std::uint64_t kNoBound = 1U << 30;
    nghttp2_option_set_stream_reset_rate_limit(raw_option, kNoBound, kNoBound);
    const int made = options_.server
                         ? nghttp2_session_server_new2(&http2_, callbacks.get(), this, raw_option)
                         : nghttp2_session_client_new2(&http2_, callbacks.get(), this, raw_option);
    if (made != 0) throw std::bad_alloc();

    std::vector<nghttp2_settings_entry> settings = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(options_.stream_window)},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, options_.max_header_bytes},
    };
    if (options_.server) {
        settings.push_back(
            {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options_.max_concurrent_streams});
    } else {
        settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
    }
    if (nghttp2_submit_settings(http2_, NGHTTP2_FLAG_NONE, settings.data(), settings.size()) != 0)
        throw std::bad_alloc();
    nghttp2_session_set_local_window_size(http2_, NGHTTP2_FLAG_NONE, 0, options_.connection_window);
}

Session::~Session() {
    // Calls that somebody still holds must not reach back here.
    end_all({StatusCode::kUnavailable, "the connection is closed"});
    nghttp2_session_del(http2_);
}

Result<void> Session::receive(std::string_view bytes, TimePoint now) {
    if (dead_) return unavailable("the connection is closed");
    if (abuse_ != nullptr) return {};
    last_received_ = now;
    ping_sent_.reset();
    const ssize_t taken = nghttp2_session_mem_recv(
        http2_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    if (abuse_ != nullptr && taken >= 0) {
        give_up();
        return {};
    }
    dispatch();
    if (taken < 0) {
        std::string why = nghttp2_strerror(static_cast<int>(taken));
        if (!http2_text_.empty()) why.append(" (").append(http2_text_).append(")");
        fail_session(std::move(why));
        return Error(Errc::kCorrupt, failure_);
    }
    if (!http2_text_.empty() && nghttp2_session_want_read(http2_) == 0 && failure_.empty())
        failure_ = http2_text_;
    return {};
}

void Session::turn() {
    auto todo = std::exchange(later_, {});
    for (auto& [stream, run] : todo) {
        if (dead_) return;
        if (stream->session_ != nullptr) run(*this, *stream);
    }
}

bool Session::produce(std::string& out, std::size_t room) {
    if (failed_ || dead_) return false;
    out_ = &out;
    room_ = room;
    const int sent = nghttp2_session_send(http2_);
    out_ = nullptr;
    if (sent != 0) fail_session(nghttp2_strerror(sent));
    if (abuse_ != nullptr) give_up();
    dispatch();
    return nghttp2_session_want_write(http2_) != 0;
}

bool Session::finished() const noexcept {
    if (dead_ || failed_ || terminated_) return true;
    if (nghttp2_session_want_read(http2_) == 0 && nghttp2_session_want_write(http2_) == 0)
        return true;
    return (goaway_sent_ || goaway_received_) && streams_.empty() && lingering_.empty() &&
           nghttp2_session_want_write(http2_) == 0;
}

bool Session::keepalive_on() const noexcept {
    return options_.keepalive_interval > Duration::zero() && ready_ &&
           (options_.keepalive_without_calls || !streams_.empty());
}

TimePoint Session::next_timeout() const noexcept {
    TimePoint next = TimePoint::max();
    if (dead_) return next;
    if (!deadlines_.empty()) next = deadlines_.begin()->first;
    next = std::min({next, age_at_, end_at_, final_at_, header_by_});
    if (ping_sent_) {
        next = std::min(next, *ping_sent_ + options_.keepalive_timeout);
    } else if (keepalive_on()) {
        next = std::min(next, last_received_ + options_.keepalive_interval);
    }
    return next;
}

void Session::on_timeout(TimePoint now) {
    while (!dead_ && !deadlines_.empty() && deadlines_.begin()->first <= now) {
        const std::int32_t id = deadlines_.begin()->second;
        deadlines_.erase(deadlines_.begin());
        if (const auto it = streams_.find(id); it != streams_.end()) {
            const auto stream = it->second;
            stream->deadline_.reset();
            stream->handle_deadline();
        }
    }
    if (dead_) return;
    if (now >= header_by_) return fail_session("a header block did not end in time");
    on_age(now);
    if (dead_) return;
    if (ping_sent_ && now >= *ping_sent_ + options_.keepalive_timeout) {
        ++counters_.silent;
        fail_session("the other side did not answer a keepalive ping");
    } else if (!ping_sent_ && keepalive_on() &&
               now >= last_received_ + options_.keepalive_interval) {
        nghttp2_submit_ping(http2_, NGHTTP2_FLAG_NONE, nullptr);
        ping_sent_ = now;
        wake();
    }
}

void Session::end_all(const Status& why) {
    if (dead_) return;
    dead_ = true;
    auto streams = std::exchange(streams_, {});
    auto lingering = std::exchange(lingering_, {});
    events_.clear();
    later_.clear();
    deadlines_.clear();
    // By number, so that the order does not depend on the hash.
    std::vector<std::shared_ptr<Stream>> ordered = std::move(lingering);
    for (auto& [id, stream] : streams) ordered.push_back(stream);
    std::sort(ordered.begin(), ordered.end(),
              [](const auto& a, const auto& b) { return a->id_ < b->id_; });
    for (auto& stream : ordered) {
        nghttp2_session_set_stream_user_data(http2_, stream->id_, nullptr);
        forget(*stream, NGHTTP2_CANCEL, &why);
    }
}

void Session::end_calls(const Status& why) {
    if (dead_) return;
    std::vector<std::shared_ptr<Stream>> ordered;
    for (auto& [id, stream] : streams_) ordered.push_back(stream);
    std::sort(ordered.begin(), ordered.end(),
              [](const auto& a, const auto& b) { return a->id_ < b->id_; });
    for (auto& stream : ordered) stream->handle_ended(why);
}

void Session::on_age(TimePoint now) {
    if (now >= final_at_) go_away_now();
    if (now >= age_at_) {
        age_at_ = TimePoint::max();
        ++counters_.aged;
        if (options_.max_age_grace > Duration::zero()) end_at_ = now + options_.max_age_grace;
        go_away(now);
    }
    if (now >= end_at_) {
        end_at_ = TimePoint::max();
        go_away_now();
        end_calls({StatusCode::kUnavailable, "the connection has reached its greatest age"});
    }
}

void Session::take_ping(bool ack, const std::uint8_t* data) {
    if (!ack) {
        if (options_.min_ping_interval > Duration::zero() && !pings_.take(last_received_))
            abused("too_many_pings", counters_.too_many_pings);
    } else if (draining_ && !goaway_sent_ && std::equal(data, data + 8, kDrainPing)) {
        final_at_ = TimePoint::min();
        wake();
    }
}

void Session::abused(const char* what, std::uint64_t& counter) {
    if (abuse_ != nullptr) return;
    abuse_ = what;
    ++counter;
}

void Session::give_up() {
    if (std::exchange(given_up_, true)) return;
    events_.clear();
    goaway_sent_ = true;
    nghttp2_submit_goaway(http2_, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(http2_),
                          NGHTTP2_ENHANCE_YOUR_CALM, reinterpret_cast<const std::uint8_t*>(abuse_),
                          std::strlen(abuse_));
    wake();
}

void Session::go_away(TimePoint now) {
    if (dead_ || draining_ || goaway_sent_) return;
    if (!options_.server) return go_away_now();
    draining_ = true;
    nghttp2_submit_shutdown_notice(http2_);
    nghttp2_submit_ping(http2_, NGHTTP2_FLAG_NONE, kDrainPing);
    final_at_ = now + kDrainBound;
    wake();
}

void Session::go_away_now() {
    final_at_ = TimePoint::max();
    if (dead_ || goaway_sent_) return;
    goaway_sent_ = true;
    nghttp2_submit_goaway(http2_, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(http2_), NGHTTP2_NO_ERROR,
                          nullptr, 0);
    wake();
}

void Session::add(std::int32_t id, std::shared_ptr<Stream> stream) {
    stream->id_ = id;
    streams_.emplace(id, std::move(stream));
}

void Session::resume_data(Stream& stream) {
    if (stream.deferred_) {
        stream.deferred_ = false;
        nghttp2_session_resume_data(http2_, stream.id_);
    }
    wake();
}

void Session::reset(Stream& stream, std::uint32_t code) {
    nghttp2_submit_rst_stream(http2_, NGHTTP2_FLAG_NONE, stream.id_, code);
    wake();
}

void Session::set_deadline(Stream& stream, std::optional<TimePoint> at) {
    if (stream.deadline_) deadlines_.erase({*stream.deadline_, stream.id_});
    stream.deadline_ = at;
    if (!at) return;
    deadlines_.emplace(*at, stream.id_);
    wake();
}

void Session::account(Stream& stream) noexcept {
    const std::size_t now = stream.reader_.buffered() + stream.held_.size() + stream.request_bytes_;
    buffered_ += now;
    buffered_ -= std::exchange(stream.accounted_, now);
}

void Session::relieve() {
    if (starved_.empty() || dead_ || queued_ > options_.max_connection_queue_bytes / 2) return;
    for (const std::int32_t id : std::exchange(starved_, {})) {
        const auto it = streams_.find(id);
        if (it == streams_.end() || !std::exchange(it->second->starved_, false)) continue;
        events_.push_back({EventKind::kWritable, it->second, {}});
    }
    wake();
}

void Session::wake() {
    if (on_wake && !dead_) on_wake();
}

void Session::later(std::shared_ptr<Stream> stream, void (*run)(Session&, Stream&)) {
    later_.emplace_back(std::move(stream), run);
    wake();
}

void Session::fail_session(std::string why) {
    if (failure_.empty()) failure_ = std::move(why);
    failed_ = true;
    wake();
}

nghttp2_data_provider Session::body_of(Stream& stream) noexcept {
    nghttp2_data_provider provider{};
    provider.source.ptr = &stream;
    provider.read_callback = Callbacks::read_body;
    return provider;
}

void Session::forget(Stream& stream, std::uint32_t code, const Status* lost) {
    if (stream.session_ == nullptr) return;
    const auto keep = stream.shared_from_this();
    if (stream.deadline_) deadlines_.erase({*stream.deadline_, stream.id_});
    buffered_ -= std::exchange(stream.accounted_, 0);
    streams_.erase(stream.id_);
    stream.drop_queue();
    stream.session_ = nullptr;
    stream.handle_closed(code, lost);
}

void Session::dispatch() {
    // Handlers cause new events only by making room for others; nghttp2 is not entered in here.
    while (!events_.empty()) {
        auto events = std::exchange(events_, {});
        for (const Event& event : events) {
            if (dead_) return;
            if (event.stream->session_ != nullptr) dispatch_one(event);
        }
        if (events_.empty()) {
            events.clear();
            events_ = std::move(events);
        }
    }
}

void Session::dispatch_one(const Event& event) {
    Stream& stream = *event.stream;
    switch (event.kind) {
        case EventKind::kHeaders:
        case EventKind::kHeadersAndEnd: {
            const bool end = event.kind == EventKind::kHeadersAndEnd;
            if (stream.header_bytes_ > options_.max_header_bytes) {
                fail_stream(stream, {StatusCode::kResourceExhausted,
                                     "header fields of " + std::to_string(stream.header_bytes_) +
                                         " bytes, at most " +
                                         std::to_string(options_.max_header_bytes) + " are taken"});
                break;
            }
            stream.header_bytes_ = 0;
            stream.handle_headers(end);
            if (end) {
                stream.remote_ended_ = true;
                tell_end(stream);
            }
            break;
        }
        case EventKind::kData:
            take_data(stream, event.data);
            break;
        case EventKind::kEnd:
            stream.remote_ended_ = true;
            tell_end(stream);
            break;
        case EventKind::kWritable:
            stream.handle_writable();
            break;
        case EventKind::kClosed:
            // Also between resume() and the turn that reads on. A server's call that is closed is
            // over: what it holds is of no use to anybody.
            if (event.code == NGHTTP2_NO_ERROR && !options_.server && !stream.held_.empty()) {
                stream.closed_while_paused_ = true;
                lingering_.push_back(event.stream);
                streams_.erase(stream.id_);
            } else {
                forget(stream, event.code, nullptr);
            }
            break;
    }
}

void Session::take_data(Stream& stream, std::string_view data) {
    // The connection's window is given back at once: a stream that pauses must not stop the others.
    nghttp2_session_consume_connection(http2_, data.size());
    if (stream.failed_) {
        nghttp2_session_consume_stream(http2_, stream.id_, data.size());
    } else if (stream.paused_ || !stream.held_.empty()) {
        stream.held_.append(data);
        account(stream);
        check_buffered(stream);
    } else {
        feed(stream, data);
    }
}

void Session::feed(Stream& stream, std::string_view data) {
    const std::size_t offered = data.size();
    const auto keep = stream.shared_from_this();
    while (!data.empty() && !dead_ && stream.session_ != nullptr && !stream.failed_) {
        if (stream.paused_) {
            stream.held_.assign(data);
            break;
        }
        std::string_view message;
        const auto outcome = stream.reader_.next(data, message, options_.max_message_bytes);
        if (outcome == MessageReader::Outcome::kNeedMore) break;
        switch (outcome) {
            case MessageReader::Outcome::kMessage:
                ++counters_.messages_received;
                stream.handle_message(message);
                break;
            case MessageReader::Outcome::kCompressed:
                fail_stream(stream, {StatusCode::kInternal,
                                     "a compressed message, though its encoding is identity"});
                break;
            case MessageReader::Outcome::kTooLarge:
                fail_stream(stream, {StatusCode::kResourceExhausted,
                                     "a message is larger than the limit of " +
                                         std::to_string(options_.max_message_bytes) + " bytes"});
                break;
            default:
                fail_stream(stream,
                            {StatusCode::kInternal, "a message's flag byte is neither 0 nor 1"});
                break;
        }
    }
    if (dead_ || stream.session_ == nullptr) return;
    if (stream.failed_) {
        stream.reader_.drop();
    } else {
        stream.reader_.release();
    }
    account(stream);
    check_buffered(stream);
    if (dead_ || stream.session_ == nullptr) return;
    const std::size_t consumed = offered - stream.held_.size();
    if (consumed > 0 && !stream.remote_ended_) {
        nghttp2_session_consume_stream(http2_, stream.id_, consumed);
        wake();
    }
}

void Session::check_buffered(Stream& stream) {
    if (buffered_ <= options_.max_buffered_bytes || stream.failed_) return;
    const auto keep = stream.shared_from_this();
    fail_stream(stream,
                {StatusCode::kResourceExhausted, "unfinished messages of more than " +
                                                     std::to_string(options_.max_buffered_bytes) +
                                                     " bytes on one connection"});
    if (!dead_ && stream.session_ != nullptr) {
        stream.reader_.drop();
        account(stream);
    }
}

void Session::tell_end(Stream& stream) {
    if (!stream.remote_ended_ || stream.end_told_ || !stream.held_.empty() || stream.failed_ ||
        stream.session_ == nullptr)
        return;
    stream.end_told_ = true;
    if (stream.reader_.partial()) {
        fail_stream(stream, {StatusCode::kInternal, "the stream ended inside a message"});
        return;
    }
    stream.handle_remote_end();
}

void Session::fail_stream(Stream& stream, Status status) {
    stream.failed_ = true;
    std::string().swap(stream.held_);
    stream.handle_failure(std::move(status));
}

}  // namespace mesh::rpc::detail
