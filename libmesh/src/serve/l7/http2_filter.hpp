// HTTP/2 between a client and its server: an nghttp2 session towards each, and streams passed from
// one to the other, each by policy's leave. Bytes that one side has not taken are not acknowledged
// to the other: flow control holds it back. Internal to l7/; driven by ProxyConnection or a test.
//
// nghttp2 owns HTTP/2 and refuses malformed messages (RFC 9113 §8.1.1) with RST_STREAM. Its
// callbacks (http2_callbacks.cpp) only touch the other session.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "serve/l7/filter.hpp"

namespace mesh::serve::l7 {

struct Http2Field {
    std::string name, value;
    bool never_index = false;  ///< a secret: in no compression table
};

/// One direction of a stream: bytes that came and were not passed on, and what follows them.
struct Http2Pipe {
    std::string data;  // from head on
    std::size_t head = 0;
    bool ended = false;     // nothing will be added
    bool deferred = false;  // nghttp2 waits for resume_data
    std::vector<Http2Field> trailers;

    [[nodiscard]] std::size_t size() const noexcept { return data.size() - head; }
};

/// A request and its response. Lives until both sessions have closed their stream.
struct Http2Stream {
    std::int32_t client_id = -1, server_id = -1;  // -1: none, or closed
    std::vector<Http2Field> fields;               // of the block that is read
    std::size_t field_bytes = 0;
    bool too_large = false;
    bool requested = false;  // the request's head was taken
    bool answered = false;   // a final response's head was sent
    bool server_opened = false;
    bool request_ended = false;   // by the client
    bool response_ended = false;  // all of it was given to nghttp2
    Http2Pipe up, down;

    Verdict verdict = Verdict::kForwarded;
    std::string_view reason;  // static
    unsigned status = 0;
    TimePoint began{}, answered_at{};
    std::uint64_t request_bytes = 0, response_bytes = 0;
    std::string method, path, host, rule, mismatched;
};

class Http2Filter final : public Filter {
  public:
    /// @param host outlives the filter
    explicit Http2Filter(FilterHost& host);
    ~Http2Filter() override;
    Http2Filter(const Http2Filter&) = delete;
    Http2Filter& operator=(const Http2Filter&) = delete;

    /// From the connection preface on.
    void from_client(std::string_view bytes) override;
    void from_server(std::string_view bytes) override;
    void client_end() override;
    void server_end() override;
    void server_failed(ServerFailure failure) override;
    void advance() override;
    [[nodiscard]] bool wants_advance() const noexcept override;
    void request_timeout() override;
    void drain() override;
    [[nodiscard]] bool reads_client() const noexcept override;
    [[nodiscard]] bool reads_server() const noexcept override;
    [[nodiscard]] Waiting waiting() const noexcept override;
    [[nodiscard]] bool server_told_end() const noexcept override { return false; }
    [[nodiscard]] bool client_told_end() const noexcept override { return false; }
    [[nodiscard]] bool server_done() const noexcept override { return server_lost_; }
    [[nodiscard]] Ending ending() const noexcept override { return ending_; }
    [[nodiscard]] std::size_t streams() const noexcept { return streams_.size(); }

  private:
    struct Callbacks;
    friend struct Callbacks;
    friend struct Http2Glue;
    struct Freed {
        void operator()(nghttp2_session* session) const noexcept { nghttp2_session_del(session); }
    };
    using Session = std::unique_ptr<nghttp2_session, Freed>;

    // Told by the callbacks.
    void open_stream(std::int32_t id);
    void take_field(Http2Stream& stream, std::string_view name, std::string_view value,
                    bool never_index);
    void take_request(Http2Stream& stream, bool ended);
    void take_response(Http2Stream& stream, bool ended);
    void take_trailers(Http2Stream& stream, Http2Pipe& pipe, nghttp2_session* to, std::int32_t id);
    void end_pipe(Http2Pipe& pipe, nghttp2_session* to, std::int32_t id);
    void count_reset();
    void client_closed(Http2Stream& stream, std::uint32_t code);
    void server_closed(Http2Stream& stream, std::uint32_t code);

    [[nodiscard]] Problem check_request(Http2Stream& stream);
    void forward(Http2Stream& stream, bool ended);
    void answer(Http2Stream& stream, unsigned status, Verdict verdict, std::string_view reason);
    void answer_grpc(Http2Stream& stream, std::string_view reason);
    void submit_answer(Http2Stream& stream, const std::vector<Http2Field>& fields,
                       std::string_view body);
    void reset(Http2Stream& stream, std::uint32_t code);
    void edit(Http2Stream& stream) const;
    void finish(Http2Stream& stream);
    [[nodiscard]] bool open_server();
    void lose_server(ServerFailure failure);
    void give_up(std::uint32_t code);
    void produce();
    void settle();

    FilterHost& host_;
    const HttpLimits& limits_;
    Session client_, server_;
    std::unordered_map<std::int32_t, std::unique_ptr<Http2Stream>> streams_;  // by client_id
    std::vector<std::unique_ptr<Http2Stream>> orphans_;    // the client has closed them
    std::vector<std::unique_ptr<Http2Stream>> forgotten_;  // until callbacks have returned
    RequestHead request_;
    std::vector<Field> views_;
    Decision decision_;
    TimePoint head_since_;  // until SETTINGS, and while a header block is not complete
    double resets_left_;
    TimePoint resets_at_;
    bool settings_seen_ = false;
    bool server_lost_ = false;
    bool draining_ = false;
    Ending ending_ = Ending::kNone;
};

}  // namespace mesh::serve::l7
