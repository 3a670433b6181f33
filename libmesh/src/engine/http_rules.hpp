// The HTTP rules of connections, as the HTTP proxy asks for them: L7Policy's answers, compiled once
// for each set of rules.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/log.hpp"
#include "engine/l7_policy.hpp"
#include "serve/l7/options.hpp"

namespace mesh::engine {

/// @thread any thread, several at a time
class HttpRules final : public serve::l7::PolicySource {
  public:
    /// @param policy outlives this object
    /// @param proxy_mark of PolicySettings; 0: sockets to servers have no mark of their own
    HttpRules(const L7Policy& policy, std::uint32_t proxy_mark, Logger log)
        : policy_(policy), proxy_mark_(proxy_mark), log_(std::move(log)) {}

    [[nodiscard]] std::uint64_t generation() const noexcept override {
        return policy_.generation();
    }
    [[nodiscard]] serve::l7::FlowPolicy find(const serve::l7::Flow& flow) const override;

  private:
    using Rules = std::vector<std::shared_ptr<const model::policy::L7Rules>>;
    [[nodiscard]] std::shared_ptr<const serve::l7::HttpPolicy> compiled(const Rules& rules) const;

    const L7Policy& policy_;
    std::uint32_t proxy_mark_;
    Logger log_;
    mutable std::mutex mutex_;  // guards compiled_
    /// Rules that cannot be compiled have none, and let nothing pass.
    mutable std::map<Rules, std::shared_ptr<const serve::l7::HttpPolicy>> compiled_;
};

}  // namespace mesh::engine
