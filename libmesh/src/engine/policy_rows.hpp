// Entries as compile/policy has them → rows of the datapath.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compile/policy/policy_compiler.hpp"
#include "datapath/policy.hpp"

namespace mesh::engine {

/// Where the node's own proxies listen, by what they parse ("http", "dns", ...) and direction.
class ProxyPorts {
  public:
    /// @param port 0: there is none (any more)
    /// @return whether that is another one than before
    bool set(const std::string& parser, model::policy::Direction direction, std::uint16_t port);
    /// Without a proxy that can read it, a port on which nobody listens: then nothing passes.
    [[nodiscard]] std::uint16_t find(const std::string& parser,
                                     model::policy::Direction direction) const;

  private:
    std::map<std::pair<std::string, model::policy::Direction>, std::uint16_t> ports_;
};

/// tcpmux, which no proxy of ours ever has.
inline constexpr std::uint16_t kNoProxyPort = 1;

[[nodiscard]] datapath::PolicyKey to_key(const compile::PolicyMapKey& key);
/// @param policy whose redirects the value names
[[nodiscard]] datapath::PolicyVerdict to_verdict(const compile::PolicyMapValue& value,
                                                 const compile::EndpointPolicy& policy,
                                                 const ProxyPorts& proxies);
/// All rows, in no order that means something. @complexity O(entries)
[[nodiscard]] std::vector<datapath::PolicyRow> to_rows(const compile::EndpointPolicy& policy,
                                                       const compile::SelectorCache& selectors,
                                                       const ProxyPorts& proxies);
/// Each key once, with what it has in the end.
[[nodiscard]] std::vector<datapath::PolicyRowChange> to_row_changes(
    const compile::PolicyChange& change, const ProxyPorts& proxies);

}  // namespace mesh::engine
