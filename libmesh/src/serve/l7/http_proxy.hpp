// The HTTP policy proxy. Connections that a redirect leads to its listeners are answered by
// HttpPolicy, request by request; what may pass goes to the server that the client meant, from the
// client's address. It fails closed: what it does not understand, and what goes wrong, does not
// pass. See README.md for what is matched and what is refused.
// Users: engine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "serve/l7/options.hpp"

namespace mesh::serve::l7 {

/// Since the proxy was made; gauges where named so.
struct HttpProxyStats {
    std::uint64_t connections = 0;  ///< gauge
    std::uint64_t accepted = 0;
    std::uint64_t refused_limit = 0;                                   ///< connections over a limit
    std::uint64_t forwarded = 0, denied = 0, refused = 0, errors = 0;  ///< requests, see Verdict
};

struct HttpListener {
    std::uint16_t port = 0;
    /// To be given to a BPF map of sockets; owned by the proxy.
    int descriptor = -1;
};

/// @thread any one thread at a time, but for what says otherwise; never a loop of its own
class HttpProxy {
  public:
    /// @param policy outlives the proxy
    /// @param on_line each line of the access log, on one of the proxy's threads; may be empty
    HttpProxy(HttpProxyOptions options, const PolicySource& policy, Logger log,
              std::function<void(std::string_view line)> on_line = {});
    /// As stop(0).
    ~HttpProxy();
    HttpProxy(const HttpProxy&) = delete;
    HttpProxy& operator=(const HttpProxy&) = delete;

    /// Makes the threads and opens the access log. Once, before listen().
    /// @errors kCapacity, kUnavailable (access log)
    [[nodiscard]] Result<void> start();
    /// Takes connections of one direction on an address; as often as wanted.
    /// @param endpoint port 0: of the kernel's choice
    /// @errors kUnavailable (in use), kPermission (transparent needs CAP_NET_ADMIN)
    [[nodiscard]] Result<HttpListener> listen(const Endpoint& endpoint,
                                              model::policy::Direction direction);

    /// Closes the listeners; connections end as soon as no request of theirs is in flight.
    void drain();
    /// drain(), waits for at most `grace`, then resets what is left. Idempotent. Blocks.
    void stop(Duration grace);

    [[nodiscard]] HttpProxyStats stats() const;  ///< @thread any thread
    /// The latest lines of the access log, oldest first. @thread any thread
    [[nodiscard]] std::vector<std::string> recent(std::size_t count) const;

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::serve::l7
