// The agent on its loop: clusters' sessions → NodeState → datapath and routes, with retries. Mesh
// (mesh.cpp) puts it on a thread; tests run it on their own loop.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <mesh/mesh.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "datapath/datapath.hpp"
#include "engine/node_state.hpp"
#include "engine/pod_network.hpp"
#include "engine/policy_engine.hpp"
#include "engine/publications.hpp"
#include "observe/observer.hpp"
#include "runtime/clock.hpp"

namespace mesh::engine {

/// @thread the executor's thread
class Agent {
  public:
    /// Checks the options, reads the own etcd's configuration, opens the datapath. Starts nothing.
    /// @param clock outlives it
    /// @errors as Mesh::open
    [[nodiscard]] static Result<std::unique_ptr<Agent>> make(boost::asio::any_io_executor executor,
                                                             MeshOptions options,
                                                             const Clock& clock, Logger log);
    /// After stop() completed, or if start() was never called.
    ~Agent();
    Agent(const Agent&) = delete;
    Agent& operator=(const Agent&) = delete;

    void start();
    /// Ends all sessions; the datapath keeps what it has.
    [[nodiscard]] boost::asio::awaitable<void> stop();

    /// Called whenever serving() or ready() may have changed.
    void on_change(std::function<void()> callback);
    /// This node does its work: the own cluster's services are in the datapath, or it was waited
    /// for long enough, and the datapath takes what is written. Remotes and routes have no say.
    [[nodiscard]] bool serving() const;
    /// The whole mesh is as it should be: all of the above, each remote, its file, and the routes.
    [[nodiscard]] bool ready() const;
    [[nodiscard]] const NodeState& node() const noexcept;
    /// Told of every change.
    [[nodiscard]] observe::Observer& observer() noexcept;
    /// What an embedder publishes; they leave with stop().
    [[nodiscard]] Publications& publications() noexcept;
    /// Null if this node has none.
    [[nodiscard]] const PodNetwork* pod_network() const noexcept;
    /// Null if this node has none.
    [[nodiscard]] const PolicyEngine* policy() const noexcept;
    /// The documents of policy_document.hpp; nullopt: there is no such thing, or no policy here.
    [[nodiscard]] std::optional<std::string> policy_json() const;
    [[nodiscard]] std::optional<std::string> policy_json(std::string_view path) const;
    /// The documents of policy_trace.hpp, by GET /v1/policy/diff's body or by policies' text.
    /// A node that enforces no policies answers for those of its cluster, and tells of all pods of
    /// that instead of its own, but by the request's body.
    /// @errors as those, and kNotFound: no policy here; kUnavailable: the own cluster is not known
    ///         yet
    [[nodiscard]] Result<std::string> policy_trace_json(const PolicyTraceQuery& query);
    [[nodiscard]] Result<Explanation> explain(const PolicyTraceQuery& query);
    [[nodiscard]] Result<std::string> policy_diff_json(std::string_view request);
    [[nodiscard]] Result<std::string> policy_diff_json(std::string_view documents, bool prune);
    [[nodiscard]] std::optional<std::string> identities_json() const;
    /// {"lines": [...]}: the latest HTTP requests and DNS questions that went through a policy.
    [[nodiscard]] std::optional<std::string> access_log_json() const;
    [[nodiscard]] std::string endpoints_json() const;
    [[nodiscard]] std::optional<std::string> endpoint_json(std::string_view id) const;
    /// The document of GET /v1/events (event_log.hpp); nullopt if this node has no pod network in
    /// the kernel.
    [[nodiscard]] std::optional<std::string> events_json(std::uint64_t since, bool trace);
    /// The document of GET /v1/encryption; asks the WireGuard device.
    [[nodiscard]] std::string encryption_json();
    /// Takes up a new WireGuard key from its file; nothing else is read again.
    /// @errors as Encryption::reload_key(); what there was stays
    [[nodiscard]] Result<void> reload();
    /// As Mesh::set_remote_files().
    [[nodiscard]] Result<void> set_remote_files(const std::map<std::string, std::string>& files);
    [[nodiscard]] std::string status_json() const;
    [[nodiscard]] std::string metrics_text() const;

  private:
    class Impl;
    explicit Agent(std::shared_ptr<Impl> impl);
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::engine
