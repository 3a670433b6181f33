// The reference evaluator: what policies say about one packet, found by looking at every rule.
// Slow, and written from the semantics (policy.md) alone, so that it shares no mistake with the
// compiler.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compile/policy/options.hpp"
#include "model/policy.hpp"

namespace mesh::test {

struct RefIdentity {
    std::uint32_t id = 0;
    std::vector<model::Label> labels;  ///< sorted
    std::optional<model::IpPrefix> cidr;
};

struct RefService {
    std::string name, namespace_;
    std::vector<model::Label> labels;    ///< without sources
    std::vector<model::Label> selector;  ///< likewise; empty: none
    std::vector<model::IpAddress> backends;
};

/// (name, protocol) → number
using RefPorts = std::map<std::pair<std::string, std::uint8_t>, std::uint16_t>;

struct RefWorld {
    compile::PolicyOptions options;
    std::vector<RefIdentity> identities;
    std::vector<model::policy::PolicyPtr> policies;
    RefPorts subject_ports;
    RefPorts peer_ports;  ///< of those names that all peers agree on
    std::vector<RefService> services;
};

struct RefPacket {
    model::policy::Direction direction = model::policy::Direction::kIngress;
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;  ///< of ICMP the type
    const RefIdentity* peer = nullptr;
};

/// As the recorded cases write them.
enum class RefVerdict : char { kAllow = 'A', kRedirect = 'R', kDeny = 'D', kDrop = '-' };

class Reference {
  public:
    explicit Reference(const RefWorld& world) : world_(world) {}
    [[nodiscard]] bool enforced(const RefIdentity& subject,
                                model::policy::Direction direction) const;
    [[nodiscard]] RefVerdict verdict(const RefIdentity& subject, const RefPacket& packet) const;
    /// The L7 rules for the packet's peer on exactly these ports (`end` 0: one port), of which one
    /// must hold for a request; nullptr in it: everything passes.
    [[nodiscard]] std::vector<const model::policy::L7Rules*> l7_rules(const RefIdentity& subject,
                                                                      const RefPacket& packet,
                                                                      std::uint16_t first,
                                                                      std::uint16_t end) const;

  private:
    struct Selecting {
        const model::policy::Policy* policy;
        const model::policy::Rule* rule;
    };
    struct Match;

    [[nodiscard]] std::vector<Selecting> selecting(const RefIdentity& subject) const;
    [[nodiscard]] bool exempt(const RefIdentity& subject) const;
    [[nodiscard]] bool default_deny(const std::vector<Selecting>& rules,
                                    model::policy::Direction direction) const;
    [[nodiscard]] bool element_selects_peer(const Selecting& from,
                                            const std::vector<Selecting>& all, bool deny,
                                            const model::policy::RuleElement& element,
                                            const RefPacket& packet) const;
    [[nodiscard]] bool covers(const model::policy::PortProtocol& port,
                              const RefPacket& packet) const;
    [[nodiscard]] bool selector_matches(const Selecting& from,
                                        const model::policy::EndpointSelector& selector,
                                        const RefIdentity& peer, bool default_cluster) const;
    [[nodiscard]] bool cidr_matches(const model::policy::CidrRule& rule,
                                    const RefIdentity& peer) const;
    [[nodiscard]] bool entity_matches(model::policy::Entity entity, const RefIdentity& peer) const;
    [[nodiscard]] bool service_matches(const model::policy::ServiceSelector& selector,
                                       const RefIdentity& peer) const;
    [[nodiscard]] std::vector<Match> matches(const RefIdentity& subject, const RefPacket& packet,
                                             bool deny) const;

    const RefWorld& world_;
};

}  // namespace mesh::test
