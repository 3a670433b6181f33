// Several remotes under virtual time with seeded faults: cut, delay, compaction, another etcd
// behind the name, a revision that goes back, lease expiry, silence of the writer, files that
// change, go and come back, ids that change. Checked all the time: no delete of what still exists,
// nothing held of a remote beyond its age. Checked when all is quiet: tables equal what the remotes
// publish. The same seed gives the same trace.
//
// MESH_SIM_SEED=<n> runs one seed; MESH_SIM_SEEDS=<n> as many as told.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <queue>
#include <set>

#include "sim_etcd.hpp"
#include "state/clusters/session.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::sim {
namespace {

using namespace state;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

/// Virtual time: what is due runs in the order of (time, sequence).
class Scheduler {
  public:
    [[nodiscard]] TimePoint now() const { return clock_.now(); }
    void after(Duration delay, std::function<void()> what) {
        queue_.push({now() + delay, ++sequence_, std::move(what)});
    }
    void run_for(Duration span) {
        const TimePoint until = now() + span;
        while (!queue_.empty() && queue_.top().at <= until) {
            auto item = queue_.top();
            queue_.pop();
            clock_.advance(item.at - now());
            item.what();
        }
        clock_.advance(until - now());
    }

  private:
    struct Item {
        TimePoint at;
        std::uint64_t sequence;
        std::function<void()> what;
        bool operator<(const Item& o) const {
            return at != o.at ? at > o.at : sequence > o.sequence;
        }
    };
    ManualClock clock_;
    std::priority_queue<Item> queue_;
    std::uint64_t sequence_ = 0;
};

/// One remote: its writer, its etcd, the network to it, and the session that reads it with a driver
/// that behaves as the real one.
class SimRemote {
  public:
    SimRemote(Scheduler& sched, Rng& rng, IdRegistry& ids, ClusterTables& tables, std::string name,
              std::uint32_t id, std::string yaml, std::uint64_t& trace)
        : sched_(sched),
          rng_(rng),
          ids_(ids),
          tables_(tables),
          writer_(std::move(name), id),
          etcd_(rng.next() | 1),
          yaml_(std::move(yaml)),
          trace_(trace) {
        refill();
        beat();
        make_session();
    }

    void configure() {
        if (!session_) make_session();
        const auto config = sources::config::parse_remote_yaml(
            "endpoints: [http://127.0.0.1:1]\n" + yaml_ + "# " + std::to_string(++writes_) + "\n",
            writer_.name(), writer_.name());
        ASSERT_TRUE(config) << config.error().detail();
        session_->configure(sched_.now(), *config);
        pump();
    }
    void remove() {
        if (!session_) return;
        draining_ = true;
        session_->remove(sched_.now());
        pump();
        draining_ = false;
        for (const auto& kind : tables_.stats(writer_.name())) EXPECT_EQ(kind.count, 0U);
        session_.reset();
    }

    // What the cluster does.
    void write() {
        const std::string key = writer_.step(rng_);
        const auto object = writer_.objects().find(key);
        if (object == writer_.objects().end())
            etcd_.erase(key);
        else
            etcd_.put(key, object->second.value);
        notify();
    }
    void expire() {
        for (const auto& [key, object] : writer_.objects()) etcd_.erase(key);
        writer_.expire();
        for (const auto& [key, object] : writer_.objects()) etcd_.put(key, object.value);
        notify();
    }
    void compact() { etcd_.compact(); }
    /// The apiserver's pod was replaced: an empty etcd that fills up, the canaries last.
    void replace(bool same_id) {
        etcd_ = SimEtcd(same_id ? etcd_.cluster_id() : (rng_.next() | 1), etcd_.history_id() + 1);
        cut();
        const int generation = ++fills_;
        sched_.after(seconds(3), [this, generation] {
            if (generation == fills_) refill();
            notify();
        });
        sched_.after(seconds(1), [this] { heal(); });
    }
    void change_id(std::uint32_t id) {
        for (const auto& [key, object] : writer_.objects()) etcd_.erase(key);
        writer_.change_id(id);
        etcd_.put(model::cluster_config_key(writer_.name()), writer_.config());
        cut();
        sched_.after(seconds(1), [this] { heal(); });
    }
    void silence(bool on) { silent_ = on; }

    // What the network does.
    void cut() {
        reachable_ = false;
        ++connection_;
        if (!lost_at_) lost_at_ = sched_.now();
        if (connected_) event([this] { session_->lost(sched_.now(), epoch_, unavailable("cut")); });
        connected_ = false;
    }
    void heal() {
        reachable_ = true;
        try_connect();
    }
    void slow(Duration delay) { delay_ = delay; }

    // What must hold.
    void check_age() {
        const auto parsed =
            sources::config::parse_remote_yaml("endpoints: [a:1]\n" + yaml_, "f", "f");
        if (!session_ || !parsed->policy.max_stale_age || !lost_at_) return;
        if (sched_.now() - *lost_at_ <= *parsed->policy.max_stale_age) return;
        const auto stats = tables_.stats(name());
        const bool all = parsed->policy.stale_scope == sources::config::StaleScope::kAll;
        for (std::size_t i = 0; i < kKinds; ++i) {
            if (!all && static_cast<Kind>(i) != Kind::kService) continue;
            EXPECT_EQ(stats[i].count, 0U) << name() << " holds entries beyond its age";
        }
    }
    void check_quiet() {
        ASSERT_TRUE(session_);
        const auto status = session_->status(sched_.now());
        EXPECT_EQ(status.state, SessionState::kReady)
            << writer_.name() << ": " << status.last_failure;
        EXPECT_EQ(status.lag_revisions, 0);
        for (const auto& [key, object] : writer_.objects()) {
            // What was good before under the key of a bad value may still be in force.
            if (object.good) {
                EXPECT_EQ(held_serial(key), serial_of(object.value)) << name() << " " << key;
            }
        }
        const auto wanted = [this](const auto& held) {
            EXPECT_TRUE(writer_.objects().contains(key_of(held)))
                << name() << " holds what is gone: " << key_of(held);
        };
        tables_.for_each_node(name(), wanted);
        tables_.for_each_service(name(), wanted);
        tables_.for_each_ip(name(), wanted);
        tables_.for_each_identity(name(), wanted);
    }
    [[nodiscard]] bool running() const { return session_ != nullptr; }
    [[nodiscard]] const std::string& name() const { return writer_.name(); }

  private:
    struct Watcher {
        std::string prefix;
        std::map<std::string, std::int64_t> known;
        std::int64_t next = 0;  ///< 0 = not listed yet
        std::uint64_t history = 0;
        std::uint64_t serial = 0;
        bool busy = false;
    };

    void make_session() {
        SessionOptions options;
        options.cluster = writer_.name();
        options.local_id = model::ClusterId{200};
        session_ = std::make_unique<Session>(std::move(options), ids_, rng_.next(), Logger());
    }
    void refill() {
        etcd_.put(model::cluster_config_key(writer_.name()), writer_.config());
        etcd_.put(std::string(model::kHeartbeatKey), "t");
        for (const auto& [key, object] : writer_.objects()) etcd_.put(key, object.value);
        for (const auto resource : {model::Resource::kNodes, model::Resource::kServices,
                                    model::Resource::kIps, model::Resource::kIdentities}) {
            etcd_.put(model::synced_key(writer_.name(), resource), "t");
        }
    }
    void beat() {
        if (!silent_) etcd_.put(std::string(model::kHeartbeatKey), "t");
        notify();
        sched_.after(seconds(60), [this] { beat(); });
    }

    // --- the driver ---
    [[nodiscard]] Duration latency() {
        return delay_ + milliseconds(static_cast<Duration::rep>(rng_.below(20) + 1));
    }
    void event(const std::function<void()>& what) {
        if (!session_) return;
        what();
        pump();
    }
    void pump() {
        for (bool more = true; more && session_;) {
            auto actions = session_->take_actions();
            more = !actions.empty();
            for (auto& action : actions) perform(action);
        }
        arm();
    }
    void arm() {
        const auto at = session_ ? session_->deadline() : std::nullopt;
        const std::uint64_t serial = ++timer_;
        if (!at) return;
        sched_.after(std::max(Duration(0), *at - sched_.now()), [this, serial] {
            if (serial == timer_) event([this] { session_->tick(sched_.now()); });
        });
    }
    [[nodiscard]] etcd::Header header(std::int64_t revision) const {
        return {etcd_.cluster_id(), 1, revision, 1};
    }
    void try_connect() {
        if (!client_ || connected_) return;
        const auto connection = ++connection_;
        sched_.after(latency(), [this, connection, epoch = epoch_] {
            if (!client_ || connection != connection_ || epoch != epoch_ || connected_) return;
            if (!reachable_) {
                event([&] {
                    session_->connect_failed(sched_.now(), epoch, unavailable("unreachable"));
                });
                sched_.after(seconds(2), [this] { try_connect(); });
                return;
            }
            connected_ = true;
            lost_at_.reset();
            event([&] { session_->connected(sched_.now(), epoch, header(etcd_.revision())); });
            notify();
        });
    }
    void perform(Action& action) {
        if (auto* emit = std::get_if<Emit>(&action)) return apply(emit->batch);
        if (auto* connect = std::get_if<Connect>(&action)) {
            epoch_ = connect->epoch;
            client_ = true;
            connected_ = false;
            watchers_.clear();
            try_connect();
        } else if (std::holds_alternative<Close>(action)) {
            client_ = connected_ = false;
            if (!lost_at_) lost_at_ = sched_.now();
            ++connection_;
            watchers_.clear();
        } else if (auto* watch = std::get_if<Watch>(&action)) {
            watchers_[watch->slot] = {watch->prefix, {}, 0, 0, ++watcher_serials_, false};
            notify();
        } else if (auto* unwatch = std::get_if<Unwatch>(&action)) {
            watchers_.erase(unwatch->slot);
        } else if (auto* get = std::get_if<GetConfig>(&action)) {
            answer([this, epoch = epoch_, key = get->key] {
                const auto found = etcd_.below(key);
                ConfigAnswer reply;
                if (!found.empty()) reply.value = found.begin()->second.value;
                session_->config_answer(sched_.now(), epoch, Result<ConfigAnswer>(reply));
            });
        } else if (std::holds_alternative<Probe>(action)) {
            answer([this, epoch = epoch_] {
                const auto at = header(etcd_.revision());
                session_->probe_answer(sched_.now(), epoch, at);
                for (const auto& [slot, watcher] : watchers_) {
                    // etcd answers for watches that have been told all.
                    if (watcher.next == etcd_.revision() + 1)
                        session_->in_step(sched_.now(), epoch, slot, at);
                }
            });
        }
    }
    void answer(std::function<void()> reply) {
        sched_.after(latency(),
                     [this, connection = connection_, reply = std::move(reply), epoch = epoch_] {
                         if (connected_ && connection == connection_) return event(reply);
                         event([&] {
                             session_->config_answer(sched_.now(), epoch,
                                                     Result<ConfigAnswer>(unavailable("cut")));
                         });
                     });
    }
    /// Something may be there to tell for each watcher.
    void notify() {
        if (!connected_) return;
        std::vector<Slot> slots;
        for (auto& [slot, watcher] : watchers_) {
            if (!watcher.busy) slots.push_back(slot);
        }
        for (const Slot slot : slots) {
            Watcher& watcher = watchers_[slot];
            watcher.busy = true;
            sched_.after(latency(), [this, slot, serial = watcher.serial,
                                     connection = connection_] { turn(slot, serial, connection); });
        }
    }
    Watcher* find(Slot slot, std::uint64_t serial) {
        const auto at = watchers_.find(slot);
        return at != watchers_.end() && at->second.serial == serial ? &at->second : nullptr;
    }
    void turn(Slot slot, std::uint64_t serial, std::uint64_t connection) {
        Watcher* watcher = find(slot, serial);
        if (watcher == nullptr) return;
        watcher->busy = false;
        if (!connected_ || connection != connection_) return;
        // The client's own proof: the last change that it saw is still there.
        if (watcher->history != 0 && watcher->history != etcd_.history_id()) {
            return event([&] { session_->history_changed(sched_.now(), epoch_, "another etcd"); });
        }
        if (watcher->next == 0 || watcher->next <= etcd_.compacted()) return list(slot, *watcher);
        std::vector<Incoming> changes;
        const auto& history = etcd_.history();
        const auto from = watcher->next;
        for (const SimEvent& e : history) {
            if (e.revision < from || !e.key.starts_with(watcher->prefix)) continue;
            changes.push_back({e.key, e.value, e.deleted});
            if (e.deleted)
                watcher->known.erase(e.key);
            else
                watcher->known[e.key] = e.revision;
        }
        watcher->next = etcd_.revision() + 1;
        if (changes.empty()) return;
        event([&] {
            session_->changes(sched_.now(), epoch_, slot, header(etcd_.revision()), false, changes);
        });
    }
    void list(Slot slot, Watcher& watcher) {
        const auto found = etcd_.below(watcher.prefix);
        std::vector<Incoming> changes;
        for (const auto& [key, entry] : found) {
            const auto known = watcher.known.find(key);
            if (known != watcher.known.end() && known->second == entry.mod) continue;
            changes.push_back({key, entry.value, false});
        }
        std::vector<std::string> gone;
        for (const auto& [key, mod] : watcher.known) {
            if (!found.contains(key)) gone.push_back(key);
        }
        for (const auto& key : gone) changes.push_back({key, {}, true});
        watcher.known.clear();
        for (const auto& [key, entry] : found) watcher.known[key] = entry.mod;
        watcher.next = etcd_.revision() + 1;
        watcher.history = etcd_.history_id();
        const auto epoch = epoch_;
        const auto at = header(etcd_.revision());
        const std::span<const Incoming> all(changes);
        event([&] {
            session_->changes(sched_.now(), epoch, slot, at, true, all.first(all.size() / 2));
        });
        event([&] {
            session_->changes(sched_.now(), epoch, slot, at, true, all.subspan(all.size() / 2));
        });
        event([&] { session_->list_done(sched_.now(), epoch, slot, at); });
    }

    // --- what comes out ---
    static std::optional<std::uint64_t> number(std::string_view text) {
        return text.empty() ? std::nullopt
                            : std::optional<std::uint64_t>(std::stoull(std::string(text)));
    }
    static std::optional<std::uint64_t> serial_of(const model::Node& o) {
        return number(o.boot_id);
    }
    static std::optional<std::uint64_t> serial_of(const model::Service& o) {
        return o.labels ? number(o.labels->get("serial").value_or("")) : std::nullopt;
    }
    static std::optional<std::uint64_t> serial_of(const model::IpIdentityPair& o) {
        return number(o.metadata);
    }
    static std::optional<std::uint64_t> serial_of(const model::Identity& o) {
        for (const auto& label : o.labels) {
            if (label.key == "serial") return number(label.value);
        }
        return std::nullopt;
    }
    static std::optional<std::uint64_t> serial_of(const std::string& value) {
        for (const char* mark :
             {"\"BootID\":\"", "\"serial\":\"", "\"Metadata\":\"", "k8s:serial="}) {
            const auto at = value.find(mark);
            if (at != std::string::npos) return std::stoull(value.substr(at + std::strlen(mark)));
        }
        return std::nullopt;
    }
    [[nodiscard]] std::optional<std::uint64_t> held_serial(const std::string& key) const {
        const auto parsed = model::parse_key(key);
        const auto serial = [](const auto& held) -> std::optional<std::uint64_t> {
            return held ? serial_of(*held) : std::nullopt;
        };
        switch (parsed.kind) {
            case model::KeyKind::kNode:
                return serial(tables_.find_node(name(), parsed.name));
            case model::KeyKind::kService:
                return serial(tables_.find_service(
                    name(), {std::string(parsed.namespace_name), std::string(parsed.name)}));
            case model::KeyKind::kIp:
                return serial(tables_.find_ip(name(), *model::IpPrefix::parse(parsed.tail)));
            default:
                return serial(
                    tables_.find_identity(name(), *model::parse_identity_id(parsed.tail)));
        }
    }
    [[nodiscard]] std::string key_of(const model::Node& o) const {
        return model::node_key(name(), o.name);
    }
    [[nodiscard]] std::string key_of(const model::Service& o) const {
        return model::service_key(name(), o.namespace_, o.name);
    }
    [[nodiscard]] std::string key_of(const model::IpIdentityPair& o) const {
        return model::ip_key(o);
    }
    [[nodiscard]] std::string key_of(const model::Identity& o) const {
        return model::identity_key(o.id);
    }
    template <class T>
    void see(const Changed<T>& change) {
        if constexpr (!std::is_same_v<T, model::ServiceExport> &&
                      !std::is_same_v<T, model::LocalService> &&
                      !std::is_same_v<T, model::PolicyRecord> &&
                      !std::is_same_v<T, model::LocalIp>) {
            const T& object = change.after != nullptr ? *change.after : *change.before;
            const std::string key = key_of(object);
            const auto serial = serial_of(object);
            ASSERT_TRUE(serial) << "something bad got through: " << key;
            note(key, *serial, change.after == nullptr);
            if (change.after != nullptr || draining_) return;
            const auto now = writer_.objects().find(key);
            if (now == writer_.objects().end()) return;
            const bool drained = session_->status(sched_.now()).drained_as_stale;
            EXPECT_TRUE(now->second.life != writer_.life_of(*serial) || drained)
                << "deleted, and still there: " << key;
        }
    }
    void note(const std::string& key, std::uint64_t serial, bool deleted) {
        const auto mix = [this](std::uint64_t x) {
            trace_ = (trace_ ^ x) * 0x100000001b3ULL;
            trace_ ^= trace_ >> 29;
        };
        mix(static_cast<std::uint64_t>(sched_.now().time_since_epoch().count()));
        for (const char c : key) mix(static_cast<unsigned char>(c));
        mix(serial * 2 + (deleted ? 1 : 0));
    }
    void apply(const ClusterBatch& batch) {
        EXPECT_EQ(batch.cluster.name, name());
        tables_.apply(batch, [this](const Effect& effect) {
            std::visit([this](const auto& change) { see(change); }, effect.change);
        });
    }

    Scheduler& sched_;
    Rng& rng_;
    IdRegistry& ids_;
    ClusterTables& tables_;
    SimWriter writer_;
    SimEtcd etcd_;
    std::string yaml_;
    std::uint64_t& trace_;
    std::unique_ptr<Session> session_;
    std::uint64_t epoch_ = 0, timer_ = 0, connection_ = 0, watcher_serials_ = 0;
    int writes_ = 0, fills_ = 0;
    bool client_ = false, connected_ = false, reachable_ = true, silent_ = false, draining_ = false;
    Duration delay_{};
    std::map<Slot, Watcher> watchers_;
    std::optional<TimePoint> lost_at_ = sched_.now();  ///< nullopt while connected
};

std::uint64_t run(std::uint64_t seed, int steps) {
    Rng rng(seed);
    Scheduler sched;
    IdRegistry ids;
    ClusterTables tables("local", 1);
    std::uint64_t trace = 0xcbf29ce484222325ULL;
    std::vector<std::unique_ptr<SimRemote>> remotes;
    const char* const yamls[] = {"", "mesh: {max-stale-age: 90s}\n",
                                 "mesh: {max-stale-age: 5m, stale-scope: all}\n"};
    std::uint32_t next_id = 10;
    for (int i = 0; i < 3; ++i) {
        remotes.push_back(std::make_unique<SimRemote>(
            sched, rng, ids, tables, "c" + std::to_string(i), next_id++, yamls[i], trace));
        remotes.back()->configure();
    }
    const auto step = [&] {
        SimRemote& remote = *remotes[rng.below(remotes.size())];
        // Mostly short, at times beyond every age and limit.
        const Duration spell = seconds(1 << rng.below(11));
        switch (rng.below(50)) {
            case 0:
            case 1:
            case 2:
                remote.cut();
                sched.after(spell, [&remote] { remote.heal(); });
                break;
            case 3:
                remote.compact();
                break;
            case 4:
                remote.replace(false);
                break;
            case 5:
                remote.replace(true);
                break;
            case 6:
                remote.expire();
                break;
            case 7:
                remote.silence(true);
                sched.after(spell, [&remote] { remote.silence(false); });
                break;
            case 8:
                remote.slow(seconds(static_cast<Duration::rep>(rng.below(5))));
                sched.after(spell, [&remote] { remote.slow({}); });
                break;
            case 9:
                remote.configure();
                break;
            case 10:
                remote.remove();
                sched.after(spell, [&remote] {
                    if (!remote.running()) remote.configure();
                });
                break;
            case 11:
                if (next_id < 190) remote.change_id(next_id++);
                break;
            default:
                for (auto writes = rng.below(8) + 1; writes > 0; --writes) remote.write();
                break;
        }
        const bool pause = rng.below(20) == 0;
        sched.run_for(pause ? Duration(minutes(1 + static_cast<Duration::rep>(rng.below(8))))
                            : Duration(milliseconds(static_cast<Duration::rep>(rng.below(3000)))));
        for (auto& each : remotes) each->check_age();
    };
    for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
        for (auto& remote : remotes) {
            remote->slow({});
            remote->silence(false);
            remote->heal();
            if (!remote->running()) remote->configure();
        }
        sched.run_for(minutes(40));
        // A heartbeat may be under way just now.
        for (auto& remote : remotes) remote->silence(true);
        sched.run_for(seconds(1));
        for (auto& remote : remotes) {
            remote->check_quiet();
            remote->silence(false);
        }
        if (testing::Test::HasFailure()) break;
    }
    return trace;
}

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(ClustersSim, ManyFaults) {
    if (const auto seed = number_from("MESH_SIM_SEED", 0); seed != 0) {
        run(seed, 300);
        return;
    }
    const std::uint64_t seeds = number_from("MESH_SIM_SEEDS", 40);
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
        run(seed, 60);
        ASSERT_FALSE(HasFailure()) << "seed " << seed;
    }
}

TEST(ClustersSim, TheSameSeedGivesTheSameTrace) {
    const auto first = run(7, 200);
    EXPECT_EQ(run(7, 200), first);
    EXPECT_NE(run(8, 200), first);
}

}  // namespace
}  // namespace mesh::sim
