// The own cluster's policies for whoever asks what they say, on a node that enforces none: compiled
// from the tables with the first question, kept up with them while questions come, and dropped when
// none has come for a while. So a node that is never asked pays nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/log.hpp"
#include "datapath/memory_policy.hpp"
#include "engine/policy_engine.hpp"
#include "runtime/clock.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

/// @thread same object not concurrently
class PolicyView {
  public:
    /// Without a question for so long, what was compiled goes with the next change.
    static constexpr Duration kKept = std::chrono::seconds(60);

    /// @param tables, clock outlive it
    PolicyView(PolicyEngineOptions options, state::ClusterKey own,
               const state::ClusterTables& tables, const Clock& clock, Rng rng, Logger log);
    ~PolicyView();
    PolicyView(const PolicyView&) = delete;
    PolicyView& operator=(const PolicyView&) = delete;

    /// Give it every effect of the tables, in order.
    void note(const state::Effect& effect);
    /// With no endpoints, and all that was noted.
    /// @complexity O(objects of all clusters) with the first question
    [[nodiscard]] PolicyEngine& engine();

    /// Names of endpoints of the compiler, by number.
    using Names = std::map<std::uint32_t, std::string>;
    /// Calls with the pods of the own cluster as the compiler's endpoints, for as long as that.
    /// @complexity O(ips of the own cluster), and that of compiling their policies
    template <class Call>
    auto with_pods(Call&& call) {
        const Pods pods(*this);
        return call(engine(), pods.names());
    }

  private:
    class Pods {
      public:
        explicit Pods(PolicyView& view);
        ~Pods();
        Pods(const Pods&) = delete;
        Pods& operator=(const Pods&) = delete;
        [[nodiscard]] const Names& names() const noexcept { return names_; }

      private:
        PolicyView& view_;
        Names names_;
    };
    void build();

    const PolicyEngineOptions options_;
    const state::ClusterKey own_;
    const state::ClusterTables& tables_;
    const Clock& clock_;
    Rng rng_;
    const Logger log_;
    datapath::MemoryPolicy datapath_;
    std::unique_ptr<PolicyEngine> engine_;
    TimePoint asked_{};
};

}  // namespace mesh::engine
