// Events in one piece of memory: the structs of mesh/mesh.h with all texts and lists that they
// point to. Made by the mesh's thread, then never changed, so that any number of subscribers may
// read it on threads of their own, without a copy and without an allocation for each object.
#pragma once

#include <mesh/mesh.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "model/types.hpp"
#include "runtime/heap.hpp"
#include "state/clusters/session.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::observe {

/// Events and what they point to. Filled by add() on one thread; const, it may be read by any.
class Block {
  public:
    /// @param expected bytes that it will have
    explicit Block(std::size_t expected = 4096) : memory_(expected, &large_pieces()) {
        events_.reserve(expected / kBytesOfEvent);
    }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    /// @param sequence as mesh_event has it
    void add_marker(std::uint32_t kind, std::uint64_t sequence);
    void add(std::uint32_t kind, std::uint64_t sequence, const state::ClusterKey& cluster,
             const model::Node& node);
    void add(std::uint32_t kind, std::uint64_t sequence, const state::ClusterKey& cluster,
             const model::IpIdentityPair& pair);
    void add(std::uint32_t kind, std::uint64_t sequence, const state::ClusterKey& cluster,
             const model::Identity& identity);
    void add(std::uint32_t kind, std::uint64_t sequence,
             const compile::ServiceExplanation& service);
    /// @param own the own cluster, whose etcd does not say its id
    void add(std::uint32_t kind, std::uint64_t sequence, const state::SessionStatus& cluster,
             const state::ClusterKey& own);

    [[nodiscard]] std::span<const mesh_event* const> events() const noexcept { return events_; }
    [[nodiscard]] bool empty() const noexcept { return events_.empty(); }
    /// Kinds of objects in it, as MESH_OBJECT_* bits.
    [[nodiscard]] std::uint32_t objects() const noexcept { return objects_; }
    /// Bytes of events, texts and lists; what the heap takes is a little more.
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  private:
    /// Of an ip, about: with all it points to.
    static constexpr std::size_t kBytesOfEvent = 192;

    template <class T>
    T* make();
    template <class T>
    T* array(std::size_t count);
    const char* text(std::string_view text);
    const char* text(const model::IpAddress& address);
    const char* text(const model::IpPrefix& prefix);
    /// For what the events of a block repeat.
    const char* cluster_name(std::string_view name);
    const mesh_pair* pairs(const model::OptionalStringMap& map, std::size_t& count);
    mesh_event& event(std::uint32_t kind, std::uint64_t sequence, std::uint32_t object);
    const mesh_frontend* frontend(const compile::FrontendRow& row);

    std::pmr::monotonic_buffer_resource memory_;
    std::pmr::vector<const mesh_event*> events_{&memory_};
    std::string scratch_;
    std::string_view last_cluster_;
    std::uint32_t objects_ = 0;
    std::size_t bytes_ = 0;
};

using BlockPtr = std::shared_ptr<const Block>;

/// A number that differs, in all likelihood, between services that add() would show differently.
[[nodiscard]] std::uint64_t fingerprint(const compile::ServiceExplanation& service);

}  // namespace mesh::observe
