// The two sockets of a client and its server, and the filter between them. Internal to l7/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/poll_loop.hpp"
#include "serve/l7/filter.hpp"
#include "serve/l7/proxy_loop.hpp"
#include "serve/l7/sockets.hpp"

namespace mesh::serve::l7 {

/// @thread its loop's
class ProxyConnection final : private FilterHost, private PollLoop::Timer {
  public:
    ProxyConnection(ProxyLoop& loop, Descriptor client, Flow flow);
    ~ProxyConnection();
    ProxyConnection(const ProxyConnection&) = delete;
    ProxyConnection& operator=(const ProxyConnection&) = delete;

    /// @errors those of PollLoop::add
    [[nodiscard]] Result<void> start();
    void drain();
    /// Ends it now; both sides see a reset.
    void reset();
    [[nodiscard]] const Flow& flow() const noexcept override { return flow_; }

    std::size_t index = 0;  ///< in the loop's list

  private:
    struct Side final : PollLoop::Handler {
        Side(ProxyConnection& of, void (ProxyConnection::*call)(std::uint32_t))
            : owner(of), on_event(call) {}
        void on_ready(std::uint32_t ready) override;

        ProxyConnection& owner;
        void (ProxyConnection::*on_event)(std::uint32_t);
        Descriptor socket;
        std::uint32_t events = 0;
        bool polled = false;
        bool ended = false;  // it sends no more
        bool shut = false;   // we send no more
        TimePoint moved{};   // bytes last went or came
        TimePoint received{};
        TimePoint stalled = TimePoint::max();  // something waits for it, and it took nothing since
    };

    [[nodiscard]] FilterHost& host() noexcept { return *this; }
    // FilterHost
    const HttpLimits& limits() const noexcept override { return loop_.shared.options.limits; }
    TimePoint now() const noexcept override { return loop_.poll->now(); }
    const FlowPolicy& policy() override;
    bool logs(Verdict verdict) const noexcept override {
        return loop_.shared.access_log.wants(verdict);
    }
    void log(AccessRecord& record) override;
    void count(Verdict verdict) noexcept override;

    void on_client(std::uint32_t events);
    void on_server(std::uint32_t events);
    void on_timer() override;
    void read_client();
    [[nodiscard]] bool read_server();  // false: nothing there
    void choose_filter(std::string_view bytes);
    void connect();
    void connected();
    void fail_server(ServerFailure failure);
    void drop_server();
    void progress();
    [[nodiscard]] Outbox::Flush flush(Side& side, Outbox& box);
    void flush_server();
    [[nodiscard]] bool flush_both();
    void half_close();
    void linger();
    void update_interest();
    void set_interest(Side& side, std::uint32_t events);
    void arm_timer();
    [[nodiscard]] bool server_wanted() const noexcept;
    void close(bool reset);

    ProxyLoop& loop_;
    const Flow flow_;
    Side client_;
    Side server_;
    std::unique_ptr<Filter> filter_;
    std::string first_;  // until it is clear which filter it is
    FlowPolicy flow_policy_;
    std::uint64_t generation_ = 0;
    bool policy_known_ = false;
    bool connecting_ = false;
    bool server_gone_ = false;
    bool lingering_ = false;
    bool closed_ = false;
    std::size_t lingered_ = 0;
    TimePoint since_{};  // of the connect, or of lingering
};

}  // namespace mesh::serve::l7
