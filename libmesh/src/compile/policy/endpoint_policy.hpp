// The policy of all endpoints with the same labels: which entries their maps hold. Identities that
// the same selectors select have the same entries and are one class, so that a policy of thousands
// of entries is a few shapes and a list of identities.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compile/policy/entries.hpp"
#include "compile/policy/selector_cache.hpp"

namespace mesh::compile {

/// What an L7 proxy has to know of one redirected port.
struct PolicyRedirect {
    model::policy::Direction direction = model::policy::Direction::kIngress;
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;
    std::uint16_t end_port = 0;  ///< 0: no range
    std::string parser;          ///< "http", "dns", "tls", "kafka", "crd" or an l7proto
    std::string listener;
    struct Rules {
        SelectorId peer = kAnyPeer;
        /// nullptr: everything passes.
        std::shared_ptr<const model::policy::L7Rules> rules;
    };
    /// Of peers that several of them select, one must let a request pass.
    std::vector<Rules> rules;
};

/// What a rule adds for a peer.
struct PeerShape {
    SelectorId peer = kAnyPeer;
    EntryShape shape;
    friend auto operator<=>(const PeerShape&, const PeerShape&) = default;
};

using PolicyEntry = std::pair<PolicyMapKey, PolicyMapValue>;

/// One direction. @thread one thread
class DirectionPolicy {
  public:
    struct Class {
        std::vector<SelectorId> selectors;  ///< ascending
        std::vector<EntryShape> entries;
        std::vector<IdentitySlot> slots;  ///< ascending; empty if there are no entries
    };
    /// Reused from one call to the next.
    struct Scratch {
        std::vector<std::uint32_t> node_of;  ///< by slot; 0 = none
        std::vector<IdentitySlot> touched;
    };

    /// @param host the host's selector if it goes past L7 rules that do not name it; else kAnyPeer
    void build(std::vector<PeerShape> shapes, bool enforced, SelectorId host,
               const SelectorCache& cache, Scratch& scratch);

    [[nodiscard]] bool enforced() const noexcept { return enforced_; }
    [[nodiscard]] const std::vector<EntryShape>& wildcard() const noexcept { return wildcard_; }
    [[nodiscard]] const std::vector<Class>& classes() const noexcept { return classes_; }
    [[nodiscard]] const std::vector<SelectorId>& selectors() const noexcept { return selectors_; }
    /// The entries of an identity beside the wildcard's, or nullptr. @complexity O(classes)
    [[nodiscard]] const std::vector<EntryShape>* find(IdentitySlot slot) const;
    [[nodiscard]] std::size_t entry_count() const;
    [[nodiscard]] std::size_t bytes() const;

    /// An identity has come. @param matched all selectors that select it, ascending
    /// @return its entries
    const std::vector<EntryShape>& add(IdentitySlot slot, const std::vector<SelectorId>& matched);
    /// An identity has gone. @return the entries that it had
    const std::vector<EntryShape>& remove(IdentitySlot slot,
                                          const std::vector<SelectorId>& matched);

  private:
    void partition(const SelectorCache& cache, Scratch& scratch);
    [[nodiscard]] std::vector<EntryShape> entries_of(
        const std::vector<SelectorId>& selectors) const;
    [[nodiscard]] Class& class_of(const std::vector<SelectorId>& matched);

    bool enforced_ = false;
    SelectorId host_ = kAnyPeer;
    std::vector<PeerShape> shapes_;  ///< ascending
    std::vector<SelectorId> selectors_;
    std::vector<EntryShape> wildcard_;
    std::vector<Class> classes_;
    std::map<std::vector<SelectorId>, std::uint32_t> by_selectors_;  ///< filled when first needed
};

/// @thread one thread; read between changes
class EndpointPolicy {
  public:
    [[nodiscard]] const DirectionPolicy& direction(model::policy::Direction direction) const {
        return directions_[model::policy::index_of(direction)];
    }
    [[nodiscard]] const std::vector<PolicyRedirect>& redirects() const noexcept {
        return redirects_;
    }
    /// Set if the rules contradict each other (two parsers on one port): then nothing is let
    /// through, and whoever installs the policy may rather keep the one before.
    [[nodiscard]] const std::optional<Error>& conflict() const noexcept { return conflict_; }
    [[nodiscard]] std::size_t entry_count() const {
        return directions_[0].entry_count() + directions_[1].entry_count();
    }
    /// Calls f(key, value) for each entry, in no order that means something.
    template <class F>
    void each_entry(const SelectorCache& cache, F&& f) const;
    /// All entries, ascending. @complexity O(n log n)
    [[nodiscard]] std::vector<PolicyEntry> entries(const SelectorCache& cache) const;
    [[nodiscard]] std::size_t bytes() const {
        return directions_[0].bytes() + directions_[1].bytes();
    }

  private:
    friend class PolicyCompiler;
    friend class PolicyBuilder;
    std::array<DirectionPolicy, 2> directions_;
    std::vector<PolicyRedirect> redirects_;
    std::optional<Error> conflict_;
};

template <class F>
void EndpointPolicy::each_entry(const SelectorCache& cache, F&& f) const {
    for (const auto direction : model::policy::kDirections) {
        const DirectionPolicy& part = directions_[model::policy::index_of(direction)];
        const auto emit = [&](std::uint32_t identity, const EntryShape& shape) {
            f(PolicyMapKey{identity, direction, shape.protocol, shape.length, shape.port},
              shape.value);
        };
        for (const EntryShape& shape : part.wildcard()) emit(0, shape);
        for (const DirectionPolicy::Class& one : part.classes()) {
            for (const IdentitySlot slot : one.slots) {
                const std::uint32_t identity = cache.identity(slot).id;
                for (const EntryShape& shape : one.entries) emit(identity, shape);
            }
        }
    }
}

}  // namespace mesh::compile
