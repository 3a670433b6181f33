// Tells subscribers what changes of a node's view of the mesh, and reads it for whoever asks once.
// Costs nothing while nobody subscribes: an effect is looked at, and forgotten.
//
// Changes collect in a block while the tables change; publish() gives it to all subscribers'
// queues. A new subscriber's snapshot is made after what has collected went to the others, so that
// each sees every change once: in its snapshot or after it.
//
// Services follow from much more than one object: the merger says which it compiled, and those that
// show something else than before (by fingerprint) are told.
//
// Used by engine, on the mesh's thread; the queues are read by the subscribers' threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/views.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "observe/block.hpp"
#include "observe/queue.hpp"
#include "state/clusters/session.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::observe {

/// What is observed; outlives the observer.
struct Sources {
    const state::ClusterTables& tables;
    const compile::ServiceMerger& merger;
    state::ClusterKey own;
    std::function<std::vector<state::SessionStatus>()> clusters;
};

/// @thread same object not concurrently
class Observer {
  public:
    explicit Observer(Sources sources);
    /// Closes all queues; what waits in them may still be taken.
    ~Observer();
    /// The same before its end: nobody is told anything any more.
    void close();
    Observer(const Observer&) = delete;
    Observer& operator=(const Observer&) = delete;

    /// Give it every effect of the tables, in order.
    void note(const state::Effect& effect);
    /// Give it all that the merger flushes.
    void note(const compile::FrontendChanges& changes);
    /// Tells subscribers what was noted, and which clusters' states changed. Call it when a group
    /// of changes is over.
    /// @complexity what was noted; clusters, if somebody subscribes to them
    void publish();

    /// From now on the queue is told of changes, once it has a snapshot. It leaves by being
    /// destroyed or closed.
    void subscribe(const std::shared_ptr<Queue>& queue);
    /// Makes the snapshot that is due to a queue. @complexity O(objects of its kinds)
    void resync(Queue& queue);

    /// All objects of some kinds as upserts, in blocks of a bounded size.
    /// @param objects MESH_OBJECT_* bits
    [[nodiscard]] std::vector<BlockPtr> list(std::uint32_t objects) const;
    /// One upsert, or null.
    [[nodiscard]] BlockPtr lookup(const model::IpAddress& address) const;
    [[nodiscard]] BlockPtr service(const state::ObjectName& name) const;
    /// Fixed-size records of all ips, in no order; see sort_records().
    /// @param reserve told the count, gives that many records to fill, or null to leave it at that
    /// @return the count
    std::size_t read_ips(const std::function<IpRecord*(std::size_t count)>& reserve) const;

  private:
    class Writer;
    [[nodiscard]] std::uint32_t wanted();
    void note_service(const state::ObjectName& name);
    void note_clusters();
    void seal();
    /// @param prints not null: takes the services' fingerprints
    void write_all(Writer& to, std::uint32_t objects,
                   std::map<state::ObjectName, std::uint64_t>* prints) const;

    Sources sources_;
    std::vector<std::weak_ptr<Queue>> queues_;
    std::uint32_t wanted_ = 0;  ///< kinds that somebody subscribes to
    std::shared_ptr<Block> open_;
    std::uint64_t sequence_ = 0;
    /// What was told last, as long as somebody listens.
    std::map<state::ObjectName, std::uint64_t> services_;
    struct Told {
        state::SessionState state{};
        model::ClusterId id{};
        bool ready = false, connected = false;
        friend bool operator==(const Told&, const Told&) = default;
    };
    std::map<std::string, Told> clusters_;
};

/// Puts records in the order of address, length and cluster id.
void sort_records(IpRecord* records, std::size_t count);

}  // namespace mesh::observe
