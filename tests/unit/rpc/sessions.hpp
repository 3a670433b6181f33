// A client's and a server's session joined in memory, under a clock that the test moves.
#pragma once

#include <gtest/gtest.h>

#include <deque>

#include "rpc/client_session.hpp"
#include "rpc/server_session.hpp"

namespace mesh::rpc {

using namespace std::chrono_literals;

struct Outcome {
    std::vector<std::string> messages;
    std::optional<Status> status;
    Metadata headers;
    Metadata trailers;
    int writable = 0;
};

class SessionTest : public ::testing::Test {
  protected:
    SessionTest() {
        server_options_.keepalive_interval = Duration::zero();
        channel_options_.keepalive_interval = Duration::zero();
        channel_options_.host = "server";
        channel_options_.port = 1;
    }

    void open() {
        core_ = std::make_shared<detail::ServerCore>(detail::ServerCore{
            server_options_, clock_, {}, std::move(routes_), {}, {}, {}, {}, {}});
        auto peer = std::make_shared<Peer>();
        peer->common_name = "remote-two";
        server_ = std::make_unique<detail::ServerSession>(core_, peer);
        client_ = std::make_unique<detail::ClientSession>(channel_options_, clock_);
    }

    /// Carries bytes until both are silent. @return false when one broke
    bool run(std::size_t room = 1000) {
        for (int quiet = 0; quiet < 2;) {
            const bool a = carry(*client_, *server_, room);
            const bool b = carry(*server_, *client_, room);
            quiet = a || b ? 0 : quiet + 1;
        }
        return ok_;
    }

    bool carry(detail::Session& from, detail::Session& to, std::size_t room) {
        from.turn();
        std::string bytes;
        from.produce(bytes, room);
        if (!bytes.empty() && !to.receive(bytes, clock_.now())) ok_ = false;
        return !bytes.empty() || from.has_work();
    }

    ClientCallPtr call(std::string_view path, Outcome& outcome, CallOptions options = {}) {
        CallEvents events;
        events.on_headers = [&](const Metadata& m) { outcome.headers = m; };
        events.on_message = [&](std::string_view m) { outcome.messages.emplace_back(m); };
        events.on_writable = [&] { ++outcome.writable; };
        events.on_end = [&](const Status& s, const Metadata& t) {
            EXPECT_FALSE(outcome.status) << "on_end came twice";
            outcome.status = s;
            outcome.trailers = t;
        };
        return client_->call(path, options, std::move(events));
    }

    void add_echo() {
        routes_["/t.T/Echo"].stream = [](const ServerCallPtr& call) {
            call->on_message([call](std::string_view m) {
                EXPECT_EQ(call->write(make_frame(m)), Write::kQueued);
            });
            call->on_half_close([call] { call->finish({}, {{"seen", "all"}}); });
        };
    }

    /// One that outlives the sessions, which end their calls when they go.
    Outcome& outcome() { return outcomes_.emplace_back(); }

    std::deque<Outcome> outcomes_;
    ManualClock clock_;
    ServerOptions server_options_;
    ChannelOptions channel_options_;
    std::map<std::string, detail::Route, std::less<>> routes_;
    std::shared_ptr<detail::ServerCore> core_;
    std::unique_ptr<detail::ServerSession> server_;
    std::unique_ptr<detail::ClientSession> client_;
    bool ok_ = true;
};

}  // namespace mesh::rpc
