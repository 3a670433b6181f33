// Attempts to talk through policies, and the rows that decide them. Nothing here waits for a time
// to pass: an attempt ends when its answer is there, or when a node tells that it was denied.
#pragma once

#include <sys/socket.h>

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "datapath/policy.hpp"
#include "fabric.hpp"

namespace mesh::test {

enum class Fate {
    kAnswered,
    kDenied,  ///< a packet of it was, by a policy
    kLost,    ///< neither within half a minute
};
std::ostream& operator<<(std::ostream& out, Fate fate);

struct Attempt {
    const Netns* client = nullptr;
    const Netns* server = nullptr;  ///< listens on all addresses of the target's family
    std::string ip;                 ///< where the client sends to
    std::uint16_t port = 7000;
    int type = SOCK_STREAM;
    std::uint16_t server_port = 0;  ///< 0: the same
};

/// A client's socket and what answers it. Datagrams are echoed.
class Conversation {
  public:
    Conversation(Fabric& fabric, const Attempt& attempt);
    ~Conversation();
    Conversation(const Conversation&) = delete;
    Conversation& operator=(const Conversation&) = delete;

    /// Connects, or sends a datagram, and waits for what becomes of it.
    Fate open();
    /// One byte more there and back.
    Fate exchange();
    /// The events of policies about this conversation so far.
    [[nodiscard]] const std::vector<datapath::PodEvent>& events() const { return events_; }
    /// Whom the server saw, "ip"; after open().
    [[nodiscard]] const std::string& seen_client() const { return seen_; }

  private:
    bool take_events();
    bool serve();
    Fate wait(bool (Conversation::*is_done)());
    bool is_connected();
    bool is_answered();

    Fabric& fabric_;
    Attempt attempt_;
    int client_ = -1, listener_ = -1, connection_ = -1;
    std::uint16_t client_port_ = 0;
    bool denied_ = false;
    std::string seen_;
    std::vector<datapath::PodEvent> events_;
};

/// open() of such an attempt.
Fate attempt(Fabric& fabric, const Attempt& attempt);
/// From pod to pod, at the target's address of that family.
Fate attempt(Fabric& fabric, const FabricPod& from, const FabricPod& to, int family, int type,
             std::uint16_t port = 7000);

// ---- Rows --------------------------------------------------------------------------------------

/// 24 bits of protocol and port, as the policy of a CNP compiles: allow.
datapath::PolicyRow allow(std::uint32_t identity, bool egress, std::uint8_t protocol = 0,
                          std::optional<std::uint16_t> port = {});
datapath::PolicyRow deny(std::uint32_t identity, bool egress, std::uint8_t protocol = 0,
                         std::optional<std::uint16_t> port = {});
datapath::PolicyRow redirect(std::uint32_t identity, bool egress, std::uint8_t protocol,
                             std::uint16_t port, std::uint16_t proxy_port);
/// Everything passes that way.
datapath::PolicyRow open_way(bool egress);

inline constexpr bool kIngress = false, kEgress = true;

}  // namespace mesh::test
