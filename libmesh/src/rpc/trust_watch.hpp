// Looks at a server's TLS files by the clock, and when what decides about trust has changed, asks
// for each connection whether its peer would still be let in. Internal to rpc/.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "rpc/connection.hpp"
#include "rpc/tls.hpp"

namespace mesh::rpc::detail {

/// @thread the loop's; kept alive by its own pending operations until stop()
class TrustWatch : public std::enable_shared_from_this<TrustWatch> {
  public:
    /// The connection with the lowest id above this one, or null.
    using Next = std::function<std::shared_ptr<Connection>(std::uint64_t after)>;
    /// The peer is to be let go; `first` of those with the same certificate.
    using Refuse = std::function<void(Connection& connection, const Error& why, bool first)>;

    TrustWatch(const boost::asio::any_io_executor& loop,
               std::shared_ptr<TlsCredentials> credentials, Next next, Refuse refuse);
    void start(Duration interval);
    void stop();

  private:
    void look();
    void step();
    void check(Connection& connection);

    boost::asio::steady_timer timer_;
    std::shared_ptr<TlsCredentials> credentials_;
    Next next_;
    Refuse refuse_;
    Duration interval_{};
    std::uint64_t seen_ = 0;     // version of the files at the last look
    std::uint64_t checked_ = 0;  // version that all connections were checked against
    std::uint64_t after_ = 0;    // the connection checked last
    std::map<std::string, std::optional<Error>> verdicts_;  // of this pass, by certificate
    bool stopped_ = false;
};

}  // namespace mesh::rpc::detail
