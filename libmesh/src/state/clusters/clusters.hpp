// All clusters that an agent knows: its own, by its own etcd, and the remotes, by the directory of
// their configurations. Typed changes come out in ordered batches per cluster; status says how
// fresh each is. A file that appears, changes or goes acts within a second.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "state/clusters/remote_cluster.hpp"

namespace mesh::state {

struct ClustersOptions {
    std::string local_name;
    model::ClusterId local_id{};
    std::uint32_t max_clusters = 255;  ///< 255 or 511
    model::Generation generation = model::Generation::k119;
    /// The own cluster's etcd; nullopt = remotes only.
    std::optional<sources::config::EtcdClientConfig> own;
    /// Where the remotes' files are; empty = no remotes but these.
    std::string remotes_directory;
    /// There from the start; a file of the directory takes the place of the one of its name.
    std::vector<sources::config::RemoteConfig> remotes = {};
    SlotSet remote_slots = kAgentSlots;
    SlotSet own_slots = kOwnSlots;
    SessionTimes times;
    /// As SessionOptions has it, for all remotes.
    std::optional<Duration> max_stale_age = std::nullopt;
    /// Sees each refused entry with its cluster's name; may be empty.
    std::function<void(const std::string& cluster, std::string_view key, Refusal reason,
                       std::string_view detail)>
        on_refused;
};

/// @thread the executor's thread
class Clusters {
  public:
    /// @param clock outlives it
    Clusters(boost::asio::any_io_executor executor, ClustersOptions options, const Clock& clock,
             Rng rng, Logger log, ClusterEvents events);
    /// After stop() completed.
    ~Clusters();
    Clusters(const Clusters&) = delete;
    Clusters& operator=(const Clusters&) = delete;

    /// Reads the directory and begins to connect. Batches come from the executor, later.
    void start();
    /// Ends everything; nothing is drained (the process stops, its traffic goes on).
    [[nodiscard]] boost::asio::awaitable<void> stop();

    /// These in place of ClustersOptions::remotes: those that are new, other than before or gone
    /// are made, configured or drained; the others notice nothing. After start().
    void set_remotes(std::vector<sources::config::RemoteConfig> remotes);

    /// The own cluster first (if there is one), then the remotes by name.
    [[nodiscard]] std::vector<SessionStatus> status() const;
    /// True when the own cluster and every remote configured now have been listed in full: what
    /// nobody named since the start may be pruned. Not while there are unread_files().
    /// @source spec protocol.md §7
    [[nodiscard]] bool synced() const;
    /// Files that may be a remote's and could not be used since the start, so that their clusters
    /// are not known; "" if the directory itself cannot be read. Others may have been used before:
    /// config_errors().
    [[nodiscard]] std::vector<std::string> unread_files() const;
    /// Files of the directory that are not used as they are: name → why; the directory's own under
    /// "".
    [[nodiscard]] std::map<std::string, std::string> config_errors() const;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::state
