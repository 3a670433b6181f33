// The client's side of a Session: calls become requests, answers become statuses. Internal to rpc/.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "rpc/client.hpp"
#include "rpc/session.hpp"

namespace mesh::rpc::detail {

class ClientSession final : public Session {
  public:
    ClientSession(const ChannelOptions& options, const Clock& clock);
    ~ClientSession() override;

    /// Starts a call; its on_end comes later also when it cannot be sent.
    [[nodiscard]] ClientCallPtr call(std::string_view path, const CallOptions& options,
                                     CallEvents events);
    /// The server's GOAWAY, for people; empty before.
    [[nodiscard]] const std::string& goaway_text() const noexcept { return goaway_text_; }
    /// The server's GOAWAY complained of keepalive pings.
    [[nodiscard]] bool too_many_pings() const noexcept { return too_many_pings_; }
    [[nodiscard]] const SessionCounters& counters() const noexcept { return counters_storage_; }

  private:
    friend class ClientStream;
    std::shared_ptr<Stream> make_stream() override { return nullptr; }
    void handle_goaway(std::uint32_t code, std::string_view debug) override;

    SessionCounters counters_storage_;
    const Clock& clock_;
    std::string scheme_;
    std::string authority_;
    std::string user_agent_;
    std::string goaway_text_;
    bool too_many_pings_ = false;
};

}  // namespace mesh::rpc::detail
