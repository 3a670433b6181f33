// The inside of Session. Its parts: session.cpp (connections, epochs, the cluster-config),
// session_entries.cpp (watches, what they bring, the sync fence), session_status.cpp (time, age,
// what is shown). Internal to state/clusters/.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "state/clusters/freshness.hpp"
#include "state/clusters/intake.hpp"
#include "state/clusters/rate.hpp"
#include "state/clusters/session.hpp"

namespace mesh::state {

/// The own cluster's: all is believed.
[[nodiscard]] sources::config::RemotePolicy unbounded();

inline constexpr SlotSet kAllSlots{Slot::kServices,      Slot::kServiceExports,
                                   Slot::kLocalServices, Slot::kLocalPolicies,
                                   Slot::kLocalIps,      Slot::kIps,
                                   Slot::kIdentities,    Slot::kNodes};
/// Traffic goes away first, then what tells where it came from.
inline constexpr std::array<Slot, kObjectSlots> kDrainOrder{
    Slot::kServices,      Slot::kServiceExports, Slot::kLocalServices,
    Slot::kLocalPolicies, Slot::kLocalIps,       Slot::kIps,
    Slot::kIdentities,    Slot::kNodes};

class Session::Impl {
  public:
    Impl(SessionOptions options, IdRegistry& ids, std::uint64_t seed, Logger log)
        : options_(std::move(options)),
          ids_(ids),
          log_(log),
          refusals_(options_.cluster, log, options_.on_refused),
          intake_(seed, refusals_),
          key_{options_.cluster, options_.own ? options_.local_id : model::ClusterId{}} {}

    void configure(TimePoint now, sources::config::RemoteConfig config);
    void remove(TimePoint now);
    void stop();
    void client_refused(TimePoint now, const Error& reason);
    void connected(TimePoint now, const etcd::Header& header);
    void connect_failed(TimePoint now, const Error& reason);
    void lost(TimePoint now, const Error& reason);
    void config_answer(TimePoint now, const Result<ConfigAnswer>& answer);
    void changes(TimePoint now, Slot slot, bool from_list, std::span<const Incoming> incoming);
    void list_done(TimePoint now, Slot slot);
    void history_changed(TimePoint now, std::string_view what);
    void watch_refused(TimePoint now, Slot slot, const Error& reason);
    void keys_refused(TimePoint now, Slot slot, const etcd::RefusedKeys& refused) {
        if (index(slot) < kObjectSlots) intake_.refuse_keys(now, slot, refused);
    }
    void reached(TimePoint now, Slot slot, const etcd::Header& header) {
        freshness_.reached(now, slot, header.revision);
    }
    void probed(TimePoint now, const etcd::Header& header) {
        freshness_.probed(now, header.revision);
    }
    void tick(TimePoint now);

    /// True if the answer is from the etcd of this epoch; ends the epoch if it is from another.
    bool accept(TimePoint now, const etcd::Header& header, bool applied);
    [[nodiscard]] bool current(std::uint64_t epoch) const { return running_ && epoch == epoch_; }
    [[nodiscard]] std::optional<TimePoint> deadline() const;
    [[nodiscard]] SessionState state() const;
    [[nodiscard]] SessionStatus status(TimePoint now) const;
    [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
    /// Tells of a changed state; the last thing every event does.
    void settle(TimePoint now);
    std::vector<Action> take() { return std::exchange(actions_, {}); }

  private:
    void begin_epoch(TimePoint now);
    void end_epoch();
    /// Ends the epoch for a reason that counts as a failure; the next begins later and later.
    void fail_epoch(TimePoint now, const std::string& reason);
    void note_failure(TimePoint now, const std::string& reason);
    void request_config();
    void config_failed(TimePoint now, const std::string& reason);
    void accept_config(TimePoint now, const model::ClusterConfig& config, bool legacy);
    [[nodiscard]] model::Connection connection(const model::ClusterConfig& config,
                                               bool legacy) const;
    /// Drains all, so that another cluster can have the id.
    void give_up_id();
    /// Gives up an id that another remote's file claims.
    void check_claim(TimePoint now);
    void start_watches();
    void open(Slot slot);
    void open_what_may();
    void watch(Slot slot);
    [[nodiscard]] KeyBounds key_bounds(Slot slot, std::size_t prefix_bytes) const;
    void take_objects(TimePoint now, Slot slot, bool from_list, std::span<const Incoming> incoming);
    void take_canaries(std::span<const Incoming> incoming);
    /// Lists again, in a while, what has been given room.
    void plan_lists(TimePoint now);
    void sweep();
    void drain(SlotSet slots);
    void emit(Changes& changes);
    void drain_as_stale(TimePoint now);
    void check_heartbeat(TimePoint now);
    [[nodiscard]] bool ready() const {
        return running_ && connected_ && config_ok_ && listed_.contains_all(wanted_);
    }
    [[nodiscard]] const sources::config::RemotePolicy& policy() const {
        return options_.own ? unbounded_ : config_->policy;
    }
    /// All that is held is what the remote says now.
    [[nodiscard]] bool fresh() const { return running_ && connected_ && config_ok_ && !holds_old_; }
    [[nodiscard]] bool holds(SlotSet slots) const;
    [[nodiscard]] SlotSet stale_slots() const;
    [[nodiscard]] std::optional<TimePoint> stale_at() const;
    [[nodiscard]] std::optional<Duration> max_stale_age() const;

    SessionOptions options_;
    IdRegistry& ids_;
    Logger log_;
    Refusals refusals_;
    Intake intake_;
    ClusterKey key_;
    const sources::config::RemotePolicy unbounded_ = unbounded();
    std::optional<sources::config::RemoteConfig> config_;
    std::vector<Action> actions_;

    // The epoch.
    std::uint64_t epoch_ = 0;
    bool running_ = false;
    bool connected_ = false;
    bool config_ok_ = false;  ///< since the connection was made
    bool watches_started_ = false;
    TimePoint epoch_began_{};
    etcd::Header pinned_;
    std::int64_t newest_revision_ = 0;
    bool holds_old_ = false;  ///< entries of an earlier epoch that are not listed again yet
    SlotSet wanted_, watching_, listed_, done_, to_sweep_, canaries_seen_;
    int check_errors_ = 0;

    // What outlives it.
    etcd::Header reached_;  ///< the newest position of what is held; cluster_id 0 = of no use
    std::optional<model::ClusterConfig> remote_;
    bool config_retrieved_ = false, config_required_ = false;
    bool canaries_ = false;
    model::Layout layout_ = model::Layout::kState;
    bool ever_ready_ = false;
    bool drained_as_stale_ = false;
    Rate rate_;
    Freshness freshness_;
    std::uint64_t failures_ = 0, failures_in_a_row_ = 0, attempts_in_a_row_ = 0;
    std::string last_failure_;
    std::optional<TimePoint> failed_at_, logged_at_;
    std::string logged_failure_;
    std::optional<TimePoint> last_life_, last_heartbeat_, not_fresh_since_;
    SessionState shown_ = SessionState::kDisabled;
    SlotSet shown_listed_;

    // Timers.
    std::optional<TimePoint> retry_at_, connect_by_, config_at_, config_by_, check_at_, probe_at_;
    Duration config_backoff_{};
    TimePoint heartbeat_base_{};
    std::array<std::optional<TimePoint>, kObjectSlots> rewatch_at_;
};

}  // namespace mesh::state
