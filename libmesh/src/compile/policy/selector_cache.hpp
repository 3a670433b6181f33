// Selectors of peers and the identities that each of them selects, kept up to date as identities
// come and go. Equal selectors of all policies are one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "compile/policy/label_index.hpp"
#include "compile/policy/options.hpp"
#include "model/policy.hpp"

namespace mesh::compile {

/// An identity that may be a peer.
struct PolicyIdentity {
    std::uint32_t id = 0;
    std::vector<model::Label> labels;     ///< any order
    std::optional<model::IpPrefix> cidr;  ///< of an identity of a block of addresses
};

/// A Kubernetes Service, for toServices.
struct PolicyService {
    std::string name, namespace_;
    std::vector<model::Label> labels;        ///< of no source, sorted
    std::vector<model::Label> selector;      ///< likewise; empty: none
    std::vector<model::IpAddress> backends;  ///< of one without a selector
    friend bool operator==(const PolicyService&, const PolicyService&) = default;
};

/// One way to name peers, with all that the policy around it adds.
struct SelectorSpec {
    enum class Kind : std::uint8_t { kLabels, kCidr, kService };
    Kind kind = Kind::kLabels;
    std::vector<model::policy::LabelRequirement> requirements{};  ///< sorted
    model::policy::CidrRule cidr{};
    model::policy::ServiceSelector service{};
    friend auto operator<=>(const SelectorSpec&, const SelectorSpec&) = default;
};

using SelectorId = std::uint32_t;
/// Selects everybody, identities that are not known included; never acquired.
inline constexpr SelectorId kAnyPeer = 0;
/// The place of an identity; reused after it has gone.
using IdentitySlot = std::uint32_t;

/// @thread one thread
class SelectorCache {
  public:
    explicit SelectorCache(const PolicyOptions& options);

    /// The selector's number, with one more user. @complexity O(identities of its rarest label)
    [[nodiscard]] SelectorId acquire(const SelectorSpec& spec);
    void release(SelectorId id);

    /// Whom it selects, ascending.
    [[nodiscard]] std::span<const IdentitySlot> members(SelectorId id) const {
        return selectors_[id].members;
    }
    [[nodiscard]] bool selects(SelectorId id, IdentitySlot slot) const;

    /// Adds an identity. @param matched set to the selectors that select it, ascending
    /// @return its slot, or nothing if it is there already with the same labels
    /// Precondition: not there with others (remove it first).
    std::optional<IdentitySlot> add(const PolicyIdentity& identity,
                                    std::vector<SelectorId>& matched);
    /// Removes it. @param matched set to the selectors that selected it, ascending
    /// @return the slot that it had
    std::optional<IdentitySlot> remove(std::uint32_t id, std::vector<SelectorId>& matched);

    /// Sets or (nullptr) removes a service. @return the selectors whose identities changed
    [[nodiscard]] std::vector<SelectorId> set_service(const std::string& namespace_,
                                                      const std::string& name,
                                                      const PolicyService* service);

    [[nodiscard]] const PolicyIdentity& identity(IdentitySlot slot) const { return slots_[slot]; }
    [[nodiscard]] std::optional<IdentitySlot> find(std::uint32_t id) const;
    [[nodiscard]] std::size_t slots() const noexcept { return slots_.size(); }
    [[nodiscard]] std::size_t identities() const noexcept { return by_id_.size(); }
    [[nodiscard]] std::size_t selectors() const noexcept { return by_spec_.size(); }
    using Services = std::map<std::pair<std::string, std::string>, PolicyService>;
    /// By namespace and name.
    [[nodiscard]] const Services& services() const noexcept { return services_; }
    /// Of the heap, about.
    [[nodiscard]] std::size_t bytes() const;

  private:
    struct Selector {
        std::map<SelectorSpec, SelectorId>::iterator spec;
        std::uint32_t users = 0;
        std::vector<IdentitySlot> members;
    };
    [[nodiscard]] bool matches(const SelectorSpec& spec, const PolicyIdentity& identity) const;
    [[nodiscard]] bool service_matches(const model::policy::ServiceSelector& selector,
                                       const PolicyIdentity& identity) const;
    void evaluate(Selector& selector) const;
    void candidates(const PolicyIdentity& identity, std::vector<SelectorId>& out) const;

    const PolicyOptions& options_;
    std::map<SelectorSpec, SelectorId> by_spec_;
    std::vector<Selector> selectors_;
    std::vector<SelectorId> free_selectors_;
    LabelIndex by_label_;                     ///< of selectors by labels
    std::vector<SelectorId> cidr_selectors_;  ///< ascending
    std::vector<SelectorId> service_selectors_;

    std::unordered_map<std::uint32_t, IdentitySlot> by_id_;
    std::vector<PolicyIdentity> slots_;
    std::vector<IdentitySlot> free_slots_;
    LabelPostings postings_;
    std::vector<IdentitySlot> outside_;  ///< of blocks of addresses and of the world, ascending
    Services services_;
};

}  // namespace mesh::compile
