// The node's own proxies: HTTP (on threads of its own) and DNS, and what they need of policy: rules
// in, ports for rows and addresses of names out. Without them, redirects lead nowhere.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "engine/fqdn_names.hpp"
#include "engine/http_rules.hpp"
#include "engine/policy_engine.hpp"
#include "runtime/clock.hpp"
#include "serve/dns/dns_proxy.hpp"
#include "serve/dns/dns_rules.hpp"
#include "serve/l7/http_proxy.hpp"

namespace mesh::engine {

struct PolicyProxiesOptions {
    std::uint32_t proxy_mark = 0;
    std::string access_log;  ///< file of HTTP requests; empty: kept in memory only
    std::string fqdn_file;   ///< of the names that pods learnt; empty: none
    std::size_t http_threads = 1;
    /// Makes the way of packets to the proxies' sockets; tried again until it succeeds.
    std::function<Result<void>()> prepare;
    /// Wants a flush: names have got addresses, or lost some.
    std::function<void()> on_change;
};

/// @thread the executor's thread
class PolicyProxies {
  public:
    /// @param policy, clock outlive this object
    PolicyProxies(const boost::asio::any_io_executor& executor, PolicyProxiesOptions options,
                  PolicyEngine& policy, const Clock& clock, Logger log);
    /// After async_stop(), or if start() was never called.
    ~PolicyProxies();
    PolicyProxies(const PolicyProxies&) = delete;
    PolicyProxies& operator=(const PolicyProxies&) = delete;

    /// Opens the listeners and gives their ports to policy. A proxy that cannot start is logged and
    /// tried again; what would have to go through it does not pass until then.
    void start();
    [[nodiscard]] boost::asio::awaitable<void> async_stop();

    /// A flush has brought everything that was noted before it to the datapath.
    void flushed();

    /// For status: {"http": {...}, "dns": {...}, "names": {...}}.
    [[nodiscard]] boost::json::object status() const;
    /// The latest HTTP requests and DNS questions, a line of JSON each, oldest first; at most
    /// `count` of each.
    [[nodiscard]] std::vector<std::string> recent(std::size_t count) const;

  private:
    [[nodiscard]] Result<void> start_http();
    [[nodiscard]] Result<void> start_dns();
    [[nodiscard]] Result<std::uint16_t> listen_http(model::policy::Direction direction);
    [[nodiscard]] serve::dns::Decision decide(const serve::dns::DnsQuestion& question);
    void learn(const serve::dns::Learnt& learnt, std::function<void()> done);
    void tick();
    void wait();

    boost::asio::any_io_executor executor_;
    PolicyProxiesOptions options_;
    PolicyEngine& policy_;
    const Clock& clock_;
    Logger log_;
    FqdnNames names_;
    HttpRules http_rules_;
    serve::dns::DnsRuleSets dns_rules_;
    std::unique_ptr<serve::l7::HttpProxy> http_;
    std::unique_ptr<serve::dns::DnsProxy> dns_;
    bool prepared_ = false;
    std::string routes_error_, http_error_, dns_error_;
    std::vector<std::function<void()>> waiting_;  ///< answers, until what they say is in force
    std::deque<std::string> questions_;           ///< the latest
    boost::asio::steady_timer timer_;
    bool stopped_ = false;
};

}  // namespace mesh::engine
