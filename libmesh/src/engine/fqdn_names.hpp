// toFQDNs of this node's policies: names that pods learnt → addresses → identities that only this
// node knows. Keeps what was learnt in a file, for the next agent.
#pragma once

#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/log.hpp"
#include "compile/identities/local_identities.hpp"
#include "runtime/clock.hpp"
#include "serve/dns/fqdn_cache.hpp"

namespace mesh::engine {

/// @thread same object not concurrently
class FqdnNames {
  public:
    /// @param file of the cache; empty: none
    /// @param local, clock outlive this object
    FqdnNames(std::string file, compile::LocalIdentities& local, const Clock& clock, Logger log);

    /// Takes what an earlier agent knew. Before the first policy.
    void load();
    /// A policy came, changed or (nullptr) went.
    void note_policy(const model::policy::Policy* before, const model::policy::Policy* after);
    /// An endpoint got an answer. @return whether an identity is to come of it
    bool learn(serve::dns::EndpointId endpoint, std::string_view name,
               std::span<const model::IpAddress> addresses, Duration ttl);
    void remove_endpoint(serve::dns::EndpointId endpoint);
    /// Lets go of what is over. @return whether something changed
    bool expire(const serve::dns::FqdnCache::Alive& alive);
    [[nodiscard]] std::optional<TimePoint> next_due() const { return cache_.next_due(); }
    /// Writes the file if there is something new. What fails is logged, and tried again.
    void save();

    [[nodiscard]] const serve::dns::FqdnCache& cache() const noexcept { return cache_; }

  private:
    bool take(const serve::dns::SelectorChanges& changes);
    void count(const model::policy::Policy& policy, bool add);

    std::string file_;
    compile::LocalIdentities& local_;
    const Clock& clock_;
    Logger log_;
    serve::dns::FqdnCache cache_;
    std::uint64_t saved_revision_ = 0;
    bool save_failed_ = false;
};

}  // namespace mesh::engine
