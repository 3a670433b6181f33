// Random policy sets, identities of several clusters and endpoints, from a seed; and how to print
// and shrink them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "support/policy/reference.hpp"

namespace mesh::test {

class RandomWorld {
  public:
    explicit RandomWorld(std::uint64_t seed) : random_(seed) {}

    [[nodiscard]] RefWorld make();
    [[nodiscard]] model::policy::PolicyPtr policy(std::size_t number);
    [[nodiscard]] RefIdentity pod(std::uint32_t cluster, std::uint32_t number);
    /// 0..n-1
    [[nodiscard]] std::size_t below(std::size_t n) { return random_() % n; }
    [[nodiscard]] bool one_in(std::size_t n) { return below(n) == 0; }

  private:
    template <class T>
    [[nodiscard]] T pick(std::initializer_list<T> from) {
        return *(from.begin() + static_cast<std::ptrdiff_t>(below(from.size())));
    }
    [[nodiscard]] model::policy::EndpointSelector selector(bool peer);
    [[nodiscard]] model::policy::LabelRequirement requirement(bool peer);
    void peers(model::policy::Direction direction, bool deny, model::policy::Peers& out);
    [[nodiscard]] model::policy::PortRule ports(bool deny, bool nodes);
    [[nodiscard]] model::policy::RuleElement element(model::policy::Direction direction, bool deny,
                                                     bool nodes);
    [[nodiscard]] model::policy::Rule rule(model::policy::PolicyKind kind,
                                           const std::string& own_namespace);

    std::mt19937_64 random_;
};

/// For failure texts.
[[nodiscard]] std::string describe(const RefWorld& world);

/// Takes away what it can while `fails` stays true: policies, rules, elements, ports, peers,
/// identities.
[[nodiscard]] RefWorld shrink(RefWorld world, const std::function<bool(const RefWorld&)>& fails);

}  // namespace mesh::test
