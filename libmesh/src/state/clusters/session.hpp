// The life of one remote cluster (or of the own one) as a state machine without I/O: events and the
// time go in, actions come out; the driver (remote_cluster.hpp) does them. The same code runs under
// virtual time in tests.
//
//   configure -> connect -> heartbeat list -> cluster-config -> validate, reserve the id
//     -> watches, each opened by its canary -> all listed: sweep, ready -> steady
//
// An epoch is one life of a client: it ends when the configuration changes, another etcd answers,
// heartbeats fail, or the cluster-config is refused. What is known outlives it. Entries that the
// lists of a new epoch do not name are deleted when every prefix has been listed, not before (the
// sync fence). Events that carry the number of an earlier epoch are ignored.
//
// @source spec protocol.md §3-§8
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/log.hpp"
#include "model/types.hpp"
#include "model/validate.hpp"
#include "runtime/clock.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "sources/etcd/prefix_watcher.hpp"
#include "sources/etcd/types.hpp"
#include "state/clusters/id_registry.hpp"
#include "state/clusters/refusals.hpp"
#include "state/clusters/slots.hpp"
#include "state/tables/changes.hpp"

namespace mesh::state {

/// As shown to people. Stale: was ready once, and what is known may be old now.
enum class SessionState : std::uint8_t { kDisabled, kConnecting, kSyncing, kReady, kStale };
[[nodiscard]] std::string_view to_string(SessionState state) noexcept;

/// Times of the life; the defaults are Cilium's. @source protocol.md §3-§5
struct SessionTimes {
    Duration retry_step = std::chrono::seconds(1);   ///< times the failures so far
    Duration retry_limit = std::chrono::minutes(1);  ///< however many there were
    Duration connect_limit = std::chrono::minutes(15);
    Duration config_retry_first = std::chrono::milliseconds(250);
    Duration config_retry_limit = std::chrono::seconds(30);
    Duration config_limit = std::chrono::minutes(3);
    Duration client_retry = std::chrono::seconds(5);  ///< TLS files that are not there yet
    Duration heartbeat_limit = std::chrono::minutes(2);
    Duration check_fine = std::chrono::seconds(30);
    Duration check_failing = std::chrono::seconds(5);
    int check_errors = 2;                        ///< more than these in a row end the epoch
    Duration probe = std::chrono::seconds(5);    ///< asks for the newest revision
    Duration calm = std::chrono::seconds(1);     ///< without events over the rate: list again
    Duration relist = std::chrono::seconds(10);  ///< when refused entries may have room now
};

struct SessionOptions {
    std::string cluster;
    /// The own cluster: no cluster-config, canaries or heartbeats are asked for, nothing is
    /// bounded.
    bool own = false;
    model::ClusterId local_id{};
    std::uint32_t max_clusters = 255;  ///< 255 or 511
    model::Generation generation = model::Generation::k119;
    SlotSet slots = kAgentSlots;
    SessionTimes times;
    OnRefused on_refused;  ///< sees each refused entry; may be empty
    /// The age of what is known after which a remote is drained, if its file says none; nullopt =
    /// it is kept.
    std::optional<Duration> max_stale_age = std::nullopt;
};

/// One change below a slot's prefix, as the watcher tells it.
struct Incoming {
    std::string_view key;
    std::string_view value;  ///< of a put
    bool deleted = false;
};

/// The answer to GetConfig.
struct ConfigAnswer {
    std::optional<std::string> value;  ///< nullopt = no such key
    bool required = false;             ///< cilium/.has-cluster-config is there
};

// What the driver is to do, in order.
struct Connect {
    std::uint64_t epoch = 0;
    sources::config::EtcdClientConfig etcd;
    /// Where what is held comes from: the client shall not use a server of that cluster that is
    /// only behind it. cluster_id 0 = nothing is held, or not of that history.
    etcd::Header reached{};
    std::optional<std::uint64_t> answer_bytes =
        {};  ///< most of one answer; nullopt = no bound told
};
/// Ends the client of an epoch and all of its watches.
struct Close {
    std::uint64_t epoch = 0;
};
struct GetConfig {
    std::uint64_t epoch = 0;
    std::string key;
};
/// What the watcher of a slot may read and remember.
struct KeyBounds {
    std::uint64_t keys = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t key_bytes = std::numeric_limits<std::uint64_t>::max();   ///< of one key
    std::uint64_t list_bytes = std::numeric_limits<std::uint64_t>::max();  ///< of one list
};
/// Lists a prefix and watches it from there; restarts it if it runs.
struct Watch {
    std::uint64_t epoch = 0;
    Slot slot{};
    std::string prefix;
    KeyBounds bounds = {};
};
struct Unwatch {
    std::uint64_t epoch = 0;
    Slot slot{};
};
/// Lists again within the running watch, which tells exact deletes itself.
struct Relist {
    std::uint64_t epoch = 0;
    Slot slot{};
};
/// Asks the etcd for its newest revision: a proof of life; and then, by progress, how far its
/// watches are told.
struct Probe {
    std::uint64_t epoch = 0;
};
struct Emit {
    ClusterBatch batch;
};
/// The state shown, or what is synced, has changed.
struct StateChanged {
    SessionState state{};
};
/// After remove(): all is drained and the id is free; the session has ended.
struct Finished {};
using Action = std::variant<Connect, Close, GetConfig, Watch, Unwatch, Relist, Probe, Emit,
                            StateChanged, Finished>;

/// One resource as status shows it.
struct SlotStatus {
    bool wanted = false;
    bool synced = false;  ///< listed in full since the connection began
    std::size_t count = 0;
};

/// A remote as API, status and metrics show it. @source spec services.md §10
struct SessionStatus {
    std::string cluster;
    SessionState state = SessionState::kDisabled;
    bool connected = false;
    bool ready = false;
    std::array<SlotStatus, kSlots> slots{};
    std::size_t backends = 0;
    bool config_retrieved = false, config_required = false;
    model::ClusterConfig config;
    etcd::Header position;             ///< etcd cluster id, member, revision up to which all slots
                                       ///< are known
    std::int64_t newest_revision = 0;  ///< as the etcd last told
    std::int64_t lag_revisions = 0;    ///< of the last probe's, those not told yet by every watch
    Duration lag{};                    ///< since when behind, or without proof of life
    std::optional<Duration> last_proof_of_life;  ///< ago
    std::optional<Duration> last_heartbeat;      ///< ago
    std::uint64_t failures = 0;                  ///< since the start
    std::uint64_t failures_in_a_row = 0;  ///< lives of a client that ended; delays the next one
    std::uint64_t attempts_in_a_row = 0;  ///< of the client itself to connect, that failed
    std::string last_failure;
    std::optional<Duration> last_failure_age;
    bool drained_as_stale = false;
    std::array<Refusals::Count, kRefusals> refused{};
};

/// @thread one thread; sessions of one IdRegistry on the same
class Session {
  public:
    Session(SessionOptions options, IdRegistry& ids, std::uint64_t seed, Logger log);
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    // Events. Each may append actions; take them with take_actions().

    /// The remote's file appeared or changed: connects (anew), keeping what is known.
    void configure(TimePoint now, sources::config::RemoteConfig config);
    /// The file is gone: drains all, releases the id; Finished follows.
    void remove(TimePoint now);
    /// The process stops: closes, drains nothing.
    void stop(TimePoint now);

    /// The client could not even be made (a bad file); retried.
    void client_refused(TimePoint now, std::uint64_t epoch, const Error& reason);
    /// To a server that is not merely behind (Connect::reached, and all that was applied since):
    /// the client has seen to it, so that a lower revision means that the etcd lost its data.
    void connected(TimePoint now, std::uint64_t epoch, const etcd::Header& header);
    /// An attempt failed, or its server is behind; the client itself tries on.
    void connect_failed(TimePoint now, std::uint64_t epoch, const Error& reason);
    /// The connection is lost; the client itself tries on.
    void lost(TimePoint now, std::uint64_t epoch, const Error& reason);
    void config_answer(TimePoint now, std::uint64_t epoch, const Result<ConfigAnswer>& answer);
    void changes(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header,
                 bool from_list, std::span<const Incoming> changes);
    void list_done(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header);
    void progress(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header);
    /// The server says that the slot's watch has told all up to here: counts for freshness only.
    void in_step(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header);
    /// Keys that the watcher did not let through.
    void keys_refused(TimePoint now, std::uint64_t epoch, Slot slot,
                      const etcd::RefusedKeys& refused);
    /// Another etcd answers a watch, or its revision went back.
    void history_changed(TimePoint now, std::uint64_t epoch, std::string_view what);
    /// The server refuses a watch; the watcher tries on.
    void watch_refused(TimePoint now, std::uint64_t epoch, Slot slot, const Error& reason);
    void probe_answer(TimePoint now, std::uint64_t epoch, const etcd::Header& header);
    void tick(TimePoint now);

    /// When tick() is wanted next.
    [[nodiscard]] std::optional<TimePoint> deadline() const;
    [[nodiscard]] std::vector<Action> take_actions();
    [[nodiscard]] SessionState state() const noexcept;
    [[nodiscard]] SessionStatus status(TimePoint now) const;
    [[nodiscard]] std::uint64_t epoch() const noexcept;

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::state
