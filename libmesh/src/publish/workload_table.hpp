// What workloads say of themselves (model/workload.hpp) → objects, as manifests would have them,
// and the answer to each: who may have which name and address. Plain computation, incremental: a
// workload costs its addresses and backends. EtcdPublisher hands both to ObjectCompiler.
//
// Who has an address or a name: a manifest's pod, node or service before all workloads; of several
// workloads the one that has it, else that whose key is older. A refused one is in force as soon as
// what stood against it is gone. Nothing is taken from a workload in part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/kubernetes.hpp"
#include "model/workload.hpp"

namespace mesh::publish {

/// A workload's record in etcd.
struct WorkloadRecord {
    std::string name;  ///< the last part of its key
    std::string value;
    std::int64_t create_revision = 0;
    std::int64_t mod_revision = 0;
};

/// What a change of workloads or manifests comes to.
struct WorkloadChanges {
    /// Ends before beginnings, so that what moves from one to another is nobody's twice.
    std::vector<model::k8s::ObjectChange> objects;
    /// By name; nullopt: the workload is gone, and so is the answer.
    std::map<std::string, std::optional<model::WorkloadStatus>> answers;
    std::vector<std::string>
        warnings;  ///< one for each that is refused newly, naming key and field
};

/// For status.
struct WorkloadReport {
    std::string name;
    std::string namespace_;  ///< empty if its value cannot be read, as is what follows
    std::vector<model::IpAddress> ips;
    std::vector<model::WorkloadBackend> backends;
    bool node = false;
    bool accepted = false;
    std::string reason;
};

/// @thread one thread
class WorkloadTable {
  public:
    /// What an earlier run answered, before the first records: those it accepted have what they
    /// claim before others, as they had.
    void remember(std::string_view name, const model::WorkloadStatus& answer);

    /// Records that are new or other, and names of those that are gone.
    [[nodiscard]] WorkloadChanges apply(std::vector<WorkloadRecord> records,
                                        const std::vector<std::string>& gone);
    /// Manifests that are new, other or gone.
    [[nodiscard]] WorkloadChanges note(std::span<const model::k8s::ObjectChange> manifests);

    [[nodiscard]] std::vector<WorkloadReport> report() const;
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    [[nodiscard]] std::size_t accepted() const noexcept;

  private:
    using Objects = std::map<model::k8s::ObjectKey, std::shared_ptr<const model::k8s::Object>>;
    struct Entry {
        WorkloadRecord record;
        std::optional<model::Workload> workload;  ///< nullopt: its value cannot be read
        std::string error;                        ///< why
        std::vector<model::IpAddress> held;       ///< of an accepted one
        Objects objects;                          ///< in force
        std::optional<model::WorkloadStatus> answer;
        bool accepted = false;
    };
    using Names = std::set<std::string>;
    using ServiceName = std::pair<std::string, std::string>;

    void index(const Entry& entry, bool add);
    void touch_claimants(const std::vector<model::IpAddress>& ips, Names& touched) const;
    void touch_concerned(const model::k8s::ObjectKey& key, const std::vector<model::IpAddress>& ips,
                         Names& touched) const;
    void settle(Names touched, WorkloadChanges& changes);
    void release_unclaimed(Entry& entry, Names& touched);
    void release(Entry& entry, Names& touched);
    void hold(Entry& entry);
    void diff(Entry& entry, WorkloadChanges& changes) const;
    void answer(Entry& entry, WorkloadChanges& changes) const;
    [[nodiscard]] std::vector<Entry*> waiting(const Names& names);
    [[nodiscard]] std::string objection(const Entry& entry) const;
    [[nodiscard]] std::string missing(const model::Workload& workload) const;

    std::map<std::string, Entry> entries_;
    std::map<std::string, std::int64_t, std::less<>> remembered_;  ///< name → judged revision
    std::map<model::IpAddress, Names> claimants_;                  ///< workloads that can be read
    std::map<model::IpAddress, std::string> holders_;              ///< accepted ones
    std::map<ServiceName, Names> backends_of_;
    /// What manifests have: object → its addresses, and back.
    std::map<model::k8s::ObjectKey, std::vector<model::IpAddress>> manifests_;
    std::map<model::IpAddress, std::set<model::k8s::ObjectKey>> manifest_owners_;
};

}  // namespace mesh::publish
