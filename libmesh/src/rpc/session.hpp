// One HTTP/2 connection without the connection: bytes in, bytes out, time as an argument. nghttp2
// owns HTTP/2; here are gRPC's messages on top of it, flow control by messages delivered, bounded
// send queues, keepalive and the end of a connection. ServerSession and ClientSession add the two
// roles.
//
// nghttp2's callbacks only record events; they are dispatched after nghttp2 has returned, so that a
// handler may do anything, also end the session. Internal to rpc/; driven by Connection, or by a
// test.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rpc/fetch_lines.hpp"
#include "rpc/flood_guard.hpp"
#include "rpc/frame.hpp"
#include "rpc/message_reader.hpp"
#include "rpc/server.hpp"
#include "rpc/status.hpp"
#include "runtime/clock.hpp"

namespace mesh::rpc::detail {

class Session;

// Of nghttp2's session: about what a small write touches.
inline constexpr std::size_t kHttp2Lines = 3072;

/// What both ends of a call need: the send queue, the message reader, pausing.
/// @thread the session's
class Stream : public std::enable_shared_from_this<Stream> {
  public:
    explicit Stream(Session& session) noexcept : session_(&session) {}
    virtual ~Stream() = default;
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

  protected:
    friend class Session;

    /// Queues unless the stream's queue or the connection's is at its bound. The caller has
    /// submitted headers.
    [[nodiscard]] Write enqueue(Frame frame);
    /// Queues in any case. For what is small, and what must be told.
    void enqueue_always(Frame frame);
    void pause_reading() noexcept { paused_ = true; }
    void resume_reading();
    void drop_queue();
    [[nodiscard]] bool mid_frame() const noexcept { return offset_ != 0; }

    // Told by the session, in the order of arrival.
    virtual void handle_header(std::string_view name, std::string_view value) = 0;
    virtual void handle_headers(bool end_of_stream) = 0;
    virtual void handle_message(std::string_view message) = 0;
    virtual void handle_remote_end() = 0;
    virtual void handle_writable() = 0;
    /// What arrived breaks the protocol or a bound: end the call with this.
    virtual void handle_failure(Status status) = 0;
    virtual void handle_deadline() = 0;
    /// The session asks for the end of the call.
    virtual void handle_ended(const Status& why) = 0;
    /// The stream is gone. @param lost set when the whole connection is
    virtual void handle_closed(std::uint32_t http2_error, const Status* lost) = 0;
    /// Fields to send behind the last message (server); a client has none.
    [[nodiscard]] virtual bool has_trailers() const noexcept = 0;
    virtual void submit_trailers() = 0;

    Session* session_;  // null when the stream is over
    std::int32_t id_ = -1;
    std::vector<Frame> queue_;  // from head_ on
    std::size_t head_ = 0;
    std::size_t offset_ = 0;  // bytes of the first frame already out
    std::size_t queued_bytes_ = 0;
    MessageReader reader_;
    std::string held_;               // arrived while paused; its window is not given back
    std::size_t request_bytes_ = 0;  // of messages that were taken and wait for their end
    std::size_t accounted_ = 0;      // of all three, in Session::buffered_
    std::optional<TimePoint> deadline_;
    std::size_t header_bytes_ = 0;
    int header_blocks_ = 0;  // read to their end; they are handled in a later turn
    bool deferred_ = false;       // nghttp2 waits for resume_data
    bool body_complete_ = false;  // nothing will be queued any more
    bool refused_write_ = false;
    bool starved_ = false;  // refused by the bound of the connection
    bool paused_ = false;
    bool remote_ended_ = false;
    bool end_told_ = false;
    bool failed_ = false;  // reading has stopped for good
    bool closed_while_paused_ = false;
};

struct SessionOptions {
    bool server = false;
    std::size_t max_message_bytes = 4U << 20;
    std::size_t max_buffered_bytes = 64U << 20;  // received and not handled, all streams together
    std::uint32_t max_header_bytes = 16U << 10;
    std::size_t max_send_queue_bytes = 1U << 20;
    // Of all streams together; beyond it only what is small is taken.
    std::size_t max_connection_queue_bytes = std::numeric_limits<std::size_t>::max();
    std::uint32_t max_concurrent_streams = 1000;
    std::int32_t stream_window = 256 << 10;
    std::int32_t connection_window = 1 << 20;
    Duration keepalive_interval{};
    Duration keepalive_timeout{};
    bool keepalive_without_calls = true;
    Duration max_age{};         // then the peer is told to go elsewhere; 0 = never
    Duration max_age_grace{};   // and after that its calls end; 0 = by themselves only
    Duration header_timeout{};  // from the first byte of a header block to its last; 0 = no bound
    Duration min_ping_interval{};
    // Of a peer: streams that it resets, or makes us reset; frames that carry nothing.
    std::int64_t reset_burst = 2'000;
    std::int64_t resets_per_second = 100;
    std::int64_t control_burst = 5'000;
    std::int64_t controls_per_second = 500;
};

/// Counters that the owner of several sessions adds up.
struct SessionCounters {
    std::uint64_t messages_received = 0;
    std::uint64_t messages_sent = 0;
    std::uint64_t too_many_pings = 0;
    std::uint64_t too_many_resets = 0;
    std::uint64_t too_many_controls = 0;
    std::uint64_t silent = 0;  // did not answer a keepalive ping
    std::uint64_t aged = 0;
};

class Session {
  public:
    Session(SessionOptions options, TimePoint now, SessionCounters& counters);
    virtual ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    /// Takes what arrived and calls handlers. When the peer breaks HTTP/2, produce() gives the
    /// GOAWAY that says so and finished() becomes true; what nghttp2 cannot go on after is a
    /// failure.
    [[nodiscard]] Result<void> receive(std::string_view bytes, TimePoint now);
    /// Runs what was asked for outside of receive(): resumed reads, cancelled calls.
    void turn();
    /// Appends bytes to send until `out` has about `room` bytes. @return false when nothing is left
    bool produce(std::string& out, std::size_t room);
    /// The next time at which on_timeout() wants to be called.
    [[nodiscard]] TimePoint next_timeout() const noexcept;
    void on_timeout(TimePoint now);
    /// The peer's SETTINGS have arrived.
    [[nodiscard]] bool ready() const noexcept { return ready_; }
    /// Nothing will be read or written any more: close the transport. failure() says why.
    [[nodiscard]] bool finished() const noexcept;
    [[nodiscard]] const std::string& failure() const noexcept { return failure_; }
    /// The transport is gone, or is to be closed: ends all calls. Idempotent.
    void end_all(const Status& why);
    /// Ends each call with a status that the peer is told; callbacks come later.
    void end_calls(const Status& why);
    /// No new calls; those that run may end. A server says so in two steps (RFC 9113, 6.8): calls
    /// that were on their way when the first came are still taken, until a ping has gone there and
    /// back, or a bounded time has passed.
    void go_away(TimePoint now);
    /// The same without the time in between.
    void go_away_now();
    [[nodiscard]] bool going_away() const noexcept {
        return draining_ || goaway_sent_ || goaway_received_;
    }
    [[nodiscard]] std::size_t live_streams() const noexcept { return streams_.size(); }
    /// Bytes of messages that wait for produce(), or for the peer to take them.
    [[nodiscard]] std::size_t queued_bytes() const noexcept { return queued_; }
    /// Bytes of messages that produce() gave so far: they move only as the peer takes them.
    [[nodiscard]] std::uint64_t data_sent() const noexcept { return data_sent_; }
    /// As much is queued as may be.
    [[nodiscard]] bool congested() const noexcept {
        return queued_ >= options_.max_connection_queue_bytes;
    }
    /// Frames that wait for produce().
    [[nodiscard]] std::size_t waiting_frames() const noexcept {
        return nghttp2_session_get_outbound_queue_size(http2_);
    }
    /// Asks the CPU to load what produce() will touch first of nghttp2's.
    void fetch_http2() const noexcept { fetch_lines(http2_, kHttp2Lines); }
    /// turn() has something to run.
    [[nodiscard]] bool has_work() const noexcept { return !dead_ && !later_.empty(); }
    [[nodiscard]] TimePoint last_received() const noexcept { return last_received_; }

    /// Set by the driver: something is to be sent or run; call turn() and produce() soon.
    std::function<void()> on_wake;

  protected:
    friend class Stream;

    enum class EventKind : std::uint8_t {
        kHeaders,
        kHeadersAndEnd,
        kData,
        kEnd,
        kClosed,
        kWritable
    };
    struct Event {
        EventKind kind;
        std::shared_ptr<Stream> stream;
        std::string_view data;
        std::uint32_t code = 0;
    };

    /// Server: a request begins. @return null to refuse the stream
    [[nodiscard]] virtual std::shared_ptr<Stream> make_stream() = 0;
    virtual void handle_goaway(std::uint32_t /*code*/, std::string_view /*debug*/) {}

    void add(std::int32_t id, std::shared_ptr<Stream> stream);
    void resume_data(Stream& stream);
    void reset(Stream& stream, std::uint32_t code);
    /// Takes the place of the one before. @param at nullopt = none
    void set_deadline(Stream& stream, std::optional<TimePoint> at);
    /// What the stream holds of received bytes has changed.
    void account(Stream& stream) noexcept;
    void wake();
    /// Asks for turn() to call `run` with the stream, if both still live then.
    void later(std::shared_ptr<Stream> stream, void (*run)(Session&, Stream&));
    void fail_session(std::string why);
    /// For callbacks of nghttp2: what arrived is not to be borne, and the connection ends.
    void abused(const char* what, std::uint64_t& counter);
    [[nodiscard]] nghttp2_data_provider body_of(Stream& stream) noexcept;
    /// The stream's close event was seen, or everything ends.
    void forget(Stream& stream, std::uint32_t code, const Status* lost);

    SessionOptions options_;
    SessionCounters& counters_;
    nghttp2_session* http2_ = nullptr;
    bool dead_ = false;

  private:
    struct Callbacks;
    friend struct Callbacks;

    void dispatch();
    void dispatch_one(const Event& event);
    void take_data(Stream& stream, std::string_view data);
    void feed(Stream& stream, std::string_view data);
    void tell_end(Stream& stream);
    void fail_stream(Stream& stream, Status status);
    void check_buffered(Stream& stream);
    /// Tells streams that the connection's bound refused when half of it is free again.
    void relieve();
    [[nodiscard]] bool keepalive_on() const noexcept;
    void give_up();
    void spend_control() {
        if (options_.server && !controls_.take(last_received_))
            abused("too many frames that carry nothing", counters_.too_many_controls);
    }
    void spend_reset() {
        if (options_.server && !resets_.take(last_received_))
            abused("too many streams were reset", counters_.too_many_resets);
    }
    void take_ping(bool ack, const std::uint8_t* data);
    void on_age(TimePoint now);

    std::unordered_map<std::int32_t, std::shared_ptr<Stream>> streams_;
    std::vector<Event> events_;
    std::vector<std::pair<std::shared_ptr<Stream>, void (*)(Session&, Stream&)>> later_;
    std::vector<std::shared_ptr<Stream>> lingering_;  // closed by the peer while paused
    std::set<std::pair<TimePoint, std::int32_t>> deadlines_;
    std::string* out_ = nullptr;  // during produce()
    std::size_t room_ = 0;
    std::size_t buffered_ = 0;  // received and not handled
    std::size_t queued_ = 0;    // of all send queues
    std::uint64_t data_sent_ = 0;
    std::vector<std::int32_t> starved_;  // streams to be told when queued_ is down
    TimePoint last_received_;
    std::optional<TimePoint> ping_sent_;
    PingGuard pings_;
    TokenBucket resets_;
    TokenBucket controls_;
    const char* abuse_ = nullptr;             // why the connection is to end
    TimePoint age_at_ = TimePoint::max();     // when the peer is told to go
    TimePoint end_at_ = TimePoint::max();     // when its calls end, after that
    TimePoint final_at_ = TimePoint::max();   // when the second step of GOAWAY is due
    TimePoint header_by_ = TimePoint::max();  // when the header block that arrives is to be whole
    std::string failure_;
    std::string http2_text_;
    bool ready_ = false;
    bool draining_ = false;     // the first step of GOAWAY
    bool goaway_sent_ = false;  // the second
    bool given_up_ = false;     // for abuse_
    bool terminated_ = false;   // GOAWAY with an error was sent
    bool goaway_received_ = false;
    bool failed_ = false;
};

/// A header field that nghttp2 reads during the call that gets it.
[[nodiscard]] inline nghttp2_nv field(std::string_view name, std::string_view value,
                                      std::uint8_t flags = NGHTTP2_NV_FLAG_NONE) noexcept {
    // nghttp2's struct has no const; it copies both texts before it returns.
    auto bytes = [](std::string_view text) {
        return const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(text.data()));
    };
    return {bytes(name), bytes(value), name.size(), value.size(), flags};
}

}  // namespace mesh::rpc::detail
