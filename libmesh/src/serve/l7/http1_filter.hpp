// HTTP/1.x between a client and its server. What may pass goes on as it was sent, byte for byte
// (but for headers that policy changes); the proxy answers in place of the server what may not, in
// the order of the requests. Bodies stream through. Internal to l7/; driven by ProxyConnection or a
// test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "serve/l7/body_reader.hpp"
#include "serve/l7/filter.hpp"
#include "serve/l7/http_head.hpp"

namespace mesh::serve::l7 {

/// Memory that the filters of one loop share, since only one of them works at a time.
struct Http1Scratch {
    RequestHead request;
    ResponseHead response;
    Decision decision;
    std::string text;
};

class Http1Filter final : public Filter {
  public:
    /// Both outlive the filter.
    Http1Filter(FilterHost& host, Http1Scratch& scratch);

    void from_client(std::string_view bytes) override;
    void from_server(std::string_view bytes) override;
    void client_end() override;
    void server_end() override;
    void server_failed(ServerFailure failure) override;
    void advance() override;
    void request_timeout() override;
    void drain() override;
    [[nodiscard]] bool reads_client() const noexcept override;
    [[nodiscard]] bool reads_server() const noexcept override;
    [[nodiscard]] Waiting waiting() const noexcept override;
    [[nodiscard]] bool server_told_end() const noexcept override;
    [[nodiscard]] bool client_told_end() const noexcept override;
    [[nodiscard]] bool server_done() const noexcept override { return server_ended_; }
    [[nodiscard]] Ending ending() const noexcept override { return ending_; }

  private:
    enum class Reading : std::uint8_t {
        kHead,
        kBody,
        kDiscard,  ///< the body of a request that was denied
        kUpgrade,  ///< nothing until the server has answered an upgrade
        kOver,     ///< no more requests
    };
    /// A request whose response is not complete. Memory is kept from one to the next.
    struct Exchange {
        unsigned status = 0;  ///< not 0: answered by us
        bool to_head = false;
        bool websocket = false;
        bool http10 = false;
        bool close = false;  ///< behind our answer
        Verdict verdict = Verdict::kForwarded;
        std::string_view reason;  ///< static
        TimePoint began{}, answered{};
        std::uint64_t request_bytes = 0, response_bytes = 0;
        std::string method, path, host, rule, mismatched;  ///< for the access log
    };

    [[nodiscard]] std::size_t run(std::string_view bytes);
    void run_held();
    [[nodiscard]] std::size_t step(std::string_view bytes);
    [[nodiscard]] std::size_t step_head(std::string_view bytes);
    [[nodiscard]] std::size_t step_body(std::string_view bytes);
    void take_request(std::string_view head);
    void forward(std::string_view head, Exchange& exchange);
    void append_edited(std::string_view head, bool drop_upgrade, std::string& out) const;
    void deny(std::string_view reason, Exchange& exchange);
    void refuse(Problem problem);
    void note(Exchange& exchange) const;

    [[nodiscard]] std::size_t server_step(std::string_view bytes);
    [[nodiscard]] std::size_t server_step_head(std::string_view bytes);
    void take_response(std::string_view head);
    void bad_response(Problem problem);
    void complete_front(unsigned status);
    void answer_front(unsigned status, Verdict verdict, std::string_view reason);
    void answer_ours();
    void finish(Exchange& exchange, unsigned status);
    void lose_server(std::string_view why, unsigned status);
    void settle();

    [[nodiscard]] bool blocked() const noexcept;
    [[nodiscard]] Exchange& push();
    [[nodiscard]] Exchange& front() noexcept { return ring_[first_]; }
    void pop() noexcept;
    /// The exchange whose body is read, if it is still there.
    [[nodiscard]] Exchange* open_exchange() noexcept;

    FilterHost& host_;
    Http1Scratch& scratch_;
    const HttpLimits& limits_;

    Reading reading_ = Reading::kHead;
    std::string held_;  // of the client: a head that is not complete, or what waits
    std::size_t scanned_ = 0;
    TimePoint head_since_ = TimePoint::max();
    bool skipped_line_ = false;
    BodyReader request_body_;
    std::uint64_t discarded_ = 0;
    std::uint64_t request_start_ = 0;  // position of the last request in to_server

    std::string server_held_;
    std::size_t server_scanned_ = 0;
    bool in_response_ = false;  // its head was passed on, its body is not complete
    bool response_begun_ = false;
    BodyReader response_body_;
    std::uint64_t responses_ = 0;

    std::vector<Exchange> ring_;  // count_ of them from first_ on
    std::size_t first_ = 0, count_ = 0;
    std::uint64_t first_number_ = 0;  // of the front among all
    bool tunnel_ = false;
    bool client_ended_ = false, server_ended_ = false;
    bool draining_ = false;
    bool settling_ = false;
    Ending ending_ = Ending::kNone;
};

}  // namespace mesh::serve::l7
