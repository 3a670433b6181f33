// Which L7 rules hold for a connection that a redirect led to a proxy of this node. PolicyEngine
// keeps it up to date on the control thread; proxies ask it on theirs. What they ask is immutable
// and exchanged as a whole, so that nobody waits for anybody.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compile/policy/policy_compiler.hpp"
#include "datapath/policy.hpp"
#include "model/ip.hpp"
#include "model/policy.hpp"

namespace mesh::engine {

/// A connection, as its first packet had it.
struct L7Flow {
    model::policy::Direction direction = model::policy::Direction::kIngress;
    std::uint8_t protocol = 6;
    model::IpAddress client, server;
    std::uint16_t server_port = 0;
};

/// What policy says of it.
struct L7Answer {
    bool found = false;                 ///< else no redirect is for it, and nothing may pass
    datapath::EndpointId endpoint = 0;  ///< whose policy that is
    std::uint32_t client_identity = 0, server_identity = 0;
    /// Of which one must let a request pass; nullptr: everything passes.
    std::vector<std::shared_ptr<const model::policy::L7Rules>> any_of;
};

/// @thread control thread, but for what says otherwise
class L7Policy {
  public:
    /// The identity behind an address; called on any thread. 0: none is known.
    using IdentityOf = std::function<std::uint32_t(const model::IpAddress&)>;
    explicit L7Policy(IdentityOf identity_of) : identity_of_(std::move(identity_of)) {}

    /// @param parser of the proxy that asks: "http", "dns", ...
    /// @thread any thread
    [[nodiscard]] L7Answer find(std::string_view parser, const L7Flow& flow) const;
    /// Another number whenever find() may answer otherwise. @thread any thread
    [[nodiscard]] std::uint64_t generation() const noexcept {
        return generation_.load(std::memory_order_acquire);
    }

    /// An endpoint's policy, its addresses, or what they are became another.
    /// @param policy nullptr: the endpoint is gone, or nothing of it may pass
    void set(datapath::EndpointId id, const std::vector<model::IpAddress>& ips,
             std::shared_ptr<const compile::EndpointPolicy> policy);
    /// Its policy is not to be looked at any more: what was known of it stays as it is.
    void freeze(datapath::EndpointId id);
    /// An identity came or went, by number.
    void note_identity(std::uint32_t id) { identities_.insert(id); }
    /// Makes what was noted visible. @complexity endpoints with redirects, if any of them changed
    void flush(const compile::SelectorCache& selectors);

  private:
    using Members = std::vector<std::uint32_t>;  ///< identities, ascending
    struct Rule {
        bool any = false;
        std::shared_ptr<const Members> members;
        std::shared_ptr<const model::policy::L7Rules> rules;
    };
    struct Redirect {
        model::policy::Direction direction{};
        std::uint8_t protocol = 0;
        std::uint16_t port = 0, last_port = 0;
        std::string parser;
        std::vector<Rule> rules;
    };
    struct View {
        datapath::EndpointId id = 0;
        std::vector<Redirect> redirects;
    };
    using Views = std::map<model::IpAddress, std::shared_ptr<const View>>;
    struct Endpoint {
        std::vector<model::IpAddress> ips;
        std::shared_ptr<const compile::EndpointPolicy> policy;
        std::vector<compile::SelectorId> selectors;  ///< whose members it holds
        std::shared_ptr<const View> view;
    };
    struct Held {
        std::size_t users = 0;
        std::shared_ptr<const Members> members;
    };
    void release(Endpoint& endpoint);
    [[nodiscard]] std::shared_ptr<const Members> hold(compile::SelectorId selector,
                                                      const compile::SelectorCache& selectors);
    void build(datapath::EndpointId id, Endpoint& endpoint,
               const compile::SelectorCache& selectors);
    void mark_users(const compile::SelectorCache& selectors);

    IdentityOf identity_of_;
    std::map<datapath::EndpointId, Endpoint> endpoints_;
    std::map<compile::SelectorId, Held> held_;
    std::set<datapath::EndpointId> dirty_;
    std::set<std::uint32_t> identities_;
    bool gone_ = false;  ///< an endpoint was removed

    std::atomic<std::uint64_t> generation_{1};
    mutable std::mutex mutex_;  // guards views_
    std::shared_ptr<const Views> views_ = std::make_shared<Views>();
};

}  // namespace mesh::engine
