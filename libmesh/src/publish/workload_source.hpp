// The workloads that registered themselves in the cluster's etcd, followed by list and watch →
// WorkloadTable → changes of objects, and answers. EtcdPublisher runs it.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>

#include "base/log.hpp"
#include "publish/workload_table.hpp"
#include "runtime/clock.hpp"
#include "sources/etcd/prefix_watcher.hpp"

namespace mesh::publish {

/// @thread the client's loop only
class WorkloadSource {
  public:
    /// @param on_changes called with what each change of records comes to, after open()
    WorkloadSource(boost::asio::any_io_executor loop, etcd::Client& client, const Clock& clock,
                   Rng rng, Logger log, std::function<void(WorkloadChanges)> on_changes);

    /// Begins to follow.
    void start();
    /// Until all that there is has been listed once.
    /// @errors kPermission and others: the server refuses the list; kTimeout: it did not end
    ///         within half a minute; kCancelled: stopped
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_listed();
    /// Manifests and earlier answers are known: the records of the list, and from now on all.
    [[nodiscard]] WorkloadChanges open();
    void stop();

    [[nodiscard]] WorkloadTable& table() noexcept { return table_; }
    [[nodiscard]] const WorkloadTable& table() const noexcept { return table_; }

  private:
    void take(const etcd::Batch& batch);
    void flush();

    etcd::Client& client_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    std::function<void(WorkloadChanges)> on_changes_;
    WorkloadTable table_;
    /// Changes that the table has not seen, the newest of each name.
    std::map<std::string, std::optional<WorkloadRecord>> pending_;
    boost::asio::steady_timer listed_changed_;
    std::optional<Error> refused_;
    std::unique_ptr<etcd::PrefixWatcher> watcher_;
    bool listed_ = false;
    bool open_ = false;
    bool stopped_ = false;
};

}  // namespace mesh::publish
