// The planner and the owner of the tables' contents: turns rows into the fewest entries that have
// to be written, and writes them in the order that bpf/layout.h promises. Knows nothing of the
// kernel.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "datapath/cluster_shares.hpp"
#include "datapath/datapath.hpp"
#include "datapath/maglev_table.hpp"
#include "datapath/pools.hpp"
#include "datapath/table_storage.hpp"

namespace mesh::datapath {

/// @thread same object not concurrently
class ServiceTables {
  public:
    /// @param storage outlives this
    /// @param maglev_size entries of a frontend's Maglev table, is_maglev_size()
    explicit ServiceTables(TableStorage& storage, std::uint32_t maglev_size = kDefaultMaglevSize);

    /// Reads what the tables hold; call once, first. Removes frontends whose record makes no sense.
    /// @errors kInternal
    [[nodiscard]] Result<AdoptStats> adopt();
    /// @see Datapath::set_own_cluster
    void set_own_cluster(std::uint32_t cluster_id) { shares_.set_own(cluster_id); }
    [[nodiscard]] Result<ApplyStats> apply(std::span<const ServiceChange> changes);
    /// @param cluster_id only this cluster's backends; nullopt = everything unconfirmed
    [[nodiscard]] Result<ApplyStats> finish_adopt(std::optional<std::uint32_t> cluster_id);

    [[nodiscard]] std::vector<ServiceStatus> dump() const;
    [[nodiscard]] std::optional<ServiceStatus> find(const ServiceFrontend& frontend) const;
    [[nodiscard]] Occupancy occupancy() const;
    /// True if the choice that a socket remembers is still a backend of some service.
    [[nodiscard]] bool is_live(std::uint32_t backend_id, std::uint32_t tag) const;

  private:
    struct Held {
        Backend backend;
        std::uint32_t id = 0;
        bool confirmed = true;
        bool selectable = false;
    };
    struct Range {
        std::uint32_t base = 0;
        std::uint32_t count = 0;
    };
    /// The Maglev tables of a service; empty ranges: none.
    struct Balance {
        bool outside = false;
        bool outside_local = false;
        std::uint32_t size = 0;  ///< of the table that was asked for, whether there was room or not
        Range all;
        Range here;
    };
    struct Service {
        std::string name;
        std::uint32_t id = 0;
        std::uint32_t affinity_seconds = 0;
        bool confirmed = true;
        std::vector<Held> backends;  // by backend key
        Range range;
        Balance balance;
    };
    /// One frontend's way from what the tables hold to what they shall hold.
    struct Plan {
        ServiceFrontend frontend;
        bool is_new = false;
        Service next;
        bool new_range = false;            // next.range was taken for this plan
        Range old_range;                   // to be released, if new_range
        bool new_balance = false;          // next.balance was taken for this plan
        Balance old_balance;               // to be released, if new_balance
        std::vector<std::uint32_t> fresh;  // backend ids taken for this plan
        std::vector<std::uint32_t> gone;   // backend ids to be released
    };
    /// A row that found no room.
    struct Refused {
        const ServiceChange* change;
        Error error;
    };
    /// What becomes of a row that does not fit.
    enum class Fit : std::uint8_t { kWhole, kTruncated };
    using Services = std::map<ServiceFrontend, Service>;
    using Wanted = std::map<ServiceFrontend, const ServiceChange*>;

    /// The same slots serve both.
    [[nodiscard]] static bool same_choice(const Service& a, const Service& b);
    /// The tables hold the same for both, slots apart.
    [[nodiscard]] static bool same_entries(const Service& a, const Service& b);

    // Planning (service_tables.cpp): takes ids and ranges, writes nothing.
    [[nodiscard]] Result<std::vector<Refused>> run(std::span<const ServiceChange* const> changes,
                                                   Fit fit, ApplyStats& stats);
    [[nodiscard]] Wanted last_changes(std::span<const ServiceChange> changes) const;
    [[nodiscard]] Result<Service> next_of(const ServiceRow& row) const;
    [[nodiscard]] Result<std::optional<Plan>> plan_upsert(const ServiceRow& row);
    [[nodiscard]] Result<std::optional<Plan>> plan_service(const ServiceFrontend& frontend,
                                                           const Service* held, Service next);
    [[nodiscard]] Result<void> take_ids(Plan& plan);
    [[nodiscard]] Result<std::uint32_t> take_id(IdPool& pool, std::string_view what);
    [[nodiscard]] Result<Range> take_range(std::uint32_t count);
    [[nodiscard]] Result<void> pass_grace();
    void abandon(const Plan& plan);

    // Maglev tables (service_tables_balance.cpp).
    [[nodiscard]] bool same_balance(const Service& held, const Service& next) const;
    [[nodiscard]] Result<void> take_balance(Service& next);
    [[nodiscard]] Result<Range> take_maglev(std::uint32_t size);
    void release_maglev(const Balance& balance, bool unseen);
    void write_maglev(const Service& next, ApplyStats& stats);
    void publish_balance(const Service& next, ApplyStats& stats);
    [[nodiscard]] static std::uint32_t balance_digest(const Service& service);
    [[nodiscard]] bool adopt_balance(Service& service);
    void check_adopted_balance(Service& service) const;

    [[nodiscard]] const Service* held_by(const ServiceFrontend& frontend) const;

    // Planning with shares (service_tables_fit.cpp).
    [[nodiscard]] Result<std::optional<Plan>> plan_what_fits(const ServiceRow& row,
                                                             std::uint64_t& left_out);
    [[nodiscard]] std::uint64_t trim_to_shares(Service& next, const Service* held);
    [[nodiscard]] std::uint64_t trim_remotes(Service& next, std::size_t fresh, std::size_t held);
    void account(const Plan& plan, bool back);

    // Writing (service_tables_write.cpp), in the order of bpf/layout.h.
    [[nodiscard]] Result<void> write(std::vector<Plan>& plans,
                                     const std::vector<ServiceFrontend>& removals,
                                     ApplyStats& stats);
    void write_invisible(const Plan& plan, ApplyStats& stats);
    [[nodiscard]] Result<void> insert_new(const std::vector<Plan>& plans);
    void publish(const Plan& plan, ApplyStats& stats);
    void retire(const Plan& plan, ApplyStats& stats);
    void retire_service(const Service& service, ApplyStats& stats);
    void retire_backend(std::uint32_t id);
    void remember(Plan& plan);

    // Adoption (service_tables_adopt.cpp).
    [[nodiscard]] bool adopt_service(const FrontendEntry& entry, const ServiceFrontend& frontend);
    void adopt_backends(const std::unordered_map<std::uint32_t, ServiceFrontend>& by_id);
    void sort_adopted(Service& service);

    [[nodiscard]] ServiceStatus status_of(const ServiceFrontend& frontend,
                                          const Service& service) const;

    TableStorage& storage_;
    IdPool service_ids_;
    IdPool backend_ids_;
    RangePool slots_;
    std::uint32_t maglev_size_;
    RangePool maglev_;      // in pairs of entries
    ClusterShares shares_;  // of what is planned, written or not
    Services services_;
    std::set<ServiceFrontend> unconfirmed_;  // services with anything unconfirmed
    AdoptStats adopted_;
};

}  // namespace mesh::datapath
