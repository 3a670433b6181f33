// From a remote's keys and values to typed changes: decodes and validates each entry, holds the
// remote to its bounds, and remembers which objects are in force, so that a re-list or a drain
// gives exact deletes. Nothing a remote publishes gets past here unchecked; an entry that is
// refused is counted and named, and the last good one under its key stays.
//
// A list marks what it sees; sweep() deletes what the newest list of a slot has not seen. Called by
// Session only.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/keys.hpp"
#include "model/validate.hpp"
#include "runtime/clock.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "sources/etcd/prefix_watcher.hpp"
#include "state/clusters/ip_rows.hpp"
#include "state/clusters/ledger.hpp"
#include "state/clusters/refusals.hpp"
#include "state/clusters/slots.hpp"
#include "state/tables/changes.hpp"

namespace mesh::state {

using Changes = std::vector<ClusterChange>;

/// All CIDRs that a node has for its pods.
[[nodiscard]] std::vector<model::IpPrefix> pod_cidrs(const model::Node& node);

/// @thread one thread
class Intake {
  public:
    /// @param seed of the hash tables, from an Rng; results do not depend on it
    Intake(std::uint64_t seed, Refusals& refusals);

    /// Who is on the other side, and how much of it is believed.
    void set_remote(model::Connection connection, const sources::config::RemotePolicy& policy);

    /// A list of the slot begins from nothing: all that it does not name is old.
    void begin_list(Slot slot);
    /// One put below the slot's prefix. @param out the change is appended, if there is one
    void put(TimePoint now, Slot slot, std::string_view key, std::string_view value, Changes& out);
    /// One delete below the slot's prefix.
    void erase(Slot slot, std::string_view key, Changes& out);
    /// Counts one entry that is not even looked at, since there were too many events.
    void refuse_rate(TimePoint now, Slot slot, std::string_view key);
    /// Counts keys that the watcher did not let through.
    void refuse_keys(TimePoint now, Slot slot, const etcd::RefusedKeys& refused);
    /// Deletes what the newest list of the slot has not seen.
    void sweep(Slot slot, Changes& out);
    /// Deletes all of the slot.
    void drain(Slot slot, Changes& out);

    /// Entries in force (services that are not shared included).
    [[nodiscard]] std::size_t count(Slot slot) const;
    [[nodiscard]] std::uint64_t backends() const noexcept { return services_.weight(); }
    /// True once if something was refused that could pass now (room was made, a CIDR announced):
    /// the slot is worth another list.
    [[nodiscard]] bool take_worth_a_list(Slot slot);

  private:
    template <class Kind>
    void put_as(TimePoint now, std::string_view key, std::string_view value, Changes& out);
    template <class Kind>
    void erase_as(std::string_view key, Changes& out);
    template <class Kind>
    void forget(const typename Kind::Key& key, Changes& out);
    template <class Visitor>
    decltype(auto) visit(Slot slot, Visitor&& visitor);
    void refuse(TimePoint now, Slot slot, std::string_view key, Refusal why, std::string_view text);
    [[nodiscard]] bool k115() const noexcept {
        return connection_.generation == model::Generation::k115;
    }
    void announce(const model::Node& node);
    void withdraw(const std::string& node);
    /// Whether the plain key of the name's row is another, and in force.
    [[nodiscard]] bool plain_held(const IpName& name) const;
    [[nodiscard]] bool announced(const model::IpPrefix& prefix) const;
    /// How one entry would change what is held.
    struct Step {
        Sums seen, all;  ///< of its kind, without the entry
        std::uint32_t weight = 0, bytes = 0;
        bool fresh = false;  ///< not held yet
        std::uint32_t held_weight = 0, held_bytes = 0;
        std::uint32_t seen_bytes = 0;  ///< held_bytes if it is among those seen
    };
    template <class Kind>
    [[nodiscard]] Step step(const typename Kind::Key& key, std::uint32_t weight,
                            std::uint32_t bytes);
    /// @return the bound that is passed, for people; "" = none
    [[nodiscard]] std::string over_limit(Slot slot, const Step& step) const;
    /// Keys and values of all kinds. @param seen of what the newest lists have named only
    [[nodiscard]] std::uint64_t bytes(bool seen) const;
    /// @return why an ip or node is not where the remote's pods may be; "" = it is
    [[nodiscard]] std::string foreign(const model::Node& node) const;
    [[nodiscard]] std::string foreign(const model::IpPrefix& ip, model::IdentityId id) const;
    [[nodiscard]] bool in_pod_cidrs(const model::IpPrefix& prefix) const;

    Refusals& refusals_;
    model::Connection connection_;
    sources::config::RemotePolicy policy_;

    friend struct NodeKind;
    friend struct ServiceKind;
    friend struct IpKind;
    friend struct IdentityKind;
    friend struct ExportKind;
    friend struct LocalServiceKind;
    friend struct LocalPolicyKind;
    friend struct LocalIpKind;
    Ledger<std::string> nodes_, services_, exports_, local_services_, policies_, local_ips_;
    Ledger<IpName> ips_;
    IpRows ip_rows_;
    Ledger<std::uint32_t> identities_;
    /// Refused for want of room or of an announced CIDR since the last list.
    std::array<bool, kObjectSlots> waiting_{};
    std::array<bool, kObjectSlots> worth_a_list_{};
    /// k115 only: an object's name is that of its value there, so each key's object is remembered.
    std::array<std::map<std::string, std::string, std::less<>>, kObjectSlots> names_;
    std::map<std::string, IpName, std::less<>> ip_names_;
    std::map<std::string, std::uint32_t, std::less<>> ids_;
    /// If ips are judged by nodes: what each node announces, and how often each prefix is.
    std::map<std::string, std::vector<model::IpPrefix>> announced_by_;
    std::map<model::IpPrefix, std::uint32_t> announced_;
    std::map<std::uint8_t, std::uint32_t> lengths_v4_, lengths_v6_;
};

}  // namespace mesh::state
