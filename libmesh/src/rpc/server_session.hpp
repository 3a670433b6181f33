// The server's side of a Session: requests become ServerCalls and find their handlers by path.
// Internal to rpc/; sans-I/O, so that a fuzzer can drive it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "rpc/server.hpp"
#include "rpc/session.hpp"
#include "runtime/clock.hpp"

namespace mesh::rpc::detail {

struct Route {
    StreamHandler stream;
    UnaryHandler unary;  // one of the two
};

/// What all connections of one server share.
struct ServerCore {
    ServerOptions options;
    const Clock& clock;
    Logger logger;
    std::map<std::string, Route, std::less<>> routes;
    StreamHandler unknown;
    ServerStats stats;
    SessionCounters counters;
    std::function<Status(const ServerCall&)> admit;
    std::map<std::string, std::size_t, std::less<>> connections_by_name;  // by common name
    Rng rng{};
};

class ServerSession final : public Session {
  public:
    ServerSession(std::shared_ptr<ServerCore> core, std::shared_ptr<const Peer> peer);
    ~ServerSession() override;

  private:
    friend class ServerStream;
    std::shared_ptr<Stream> make_stream() override;

    std::shared_ptr<ServerCore> core_;
    std::shared_ptr<const Peer> peer_;
};

}  // namespace mesh::rpc::detail
