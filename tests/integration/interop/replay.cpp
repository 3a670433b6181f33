#include "replay.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>

#include "child_process.hpp"
#include "model/keys.hpp"
#include "relay.hpp"
#include "runtime/clock.hpp"
#include "sources/etcd/client.hpp"
#include "state/clusters/clusters.hpp"

namespace mesh::interop {

namespace asio = boost::asio;
using namespace state;
using std::chrono::milliseconds;

namespace {

/// Only ends a case that would otherwise hang.
constexpr auto kPatience = std::chrono::seconds(25);
/// Where nothing is expected to happen, it is given this long not to.
constexpr auto kSilence = milliseconds(500);

class Replay {
  public:
    Replay(const json::object& recorded, model::Generation generation, const Edit& edit,
           const std::string& endpoint)
        : case_(recorded),
          generation_(generation),
          edit_(edit),
          endpoint_(endpoint),
          relay_(io_.get_executor(),
                 static_cast<std::uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1)))),
          recorder_(generation == model::Generation::k119),
          leases_(text(recorded.at("name")).find("lease") != std::string::npos) {
        etcd::ClientOptions options;
        options.endpoints = {endpoint};
        auto made = etcd::Client::make(io_.get_executor(), options, clock_, Rng(1), Logger());
        if (!made) throw std::runtime_error(made.error().message());
        writer_ = *std::move(made);
        writer_->start();
    }

    std::vector<std::string> run() {
        must(await(writer_->async_delete({std::string(1, '\0'), std::string(1, '\0')})));
        for (const auto& op : case_.at("puts").as_array()) perform(op.as_object());
        if (const auto* several = case_.if_contains("clusters")) {
            for (const auto& name : several->as_array()) write_config(text(name));
        } else {
            write_config(text(case_.at("cluster")));
        }
        start();
        settle();
        for (const auto& phase : case_.at("then").as_array()) {
            ++phase_;
            for (const auto& op : phase.as_array()) perform(op.as_object());
            settle();
        }
        await(clusters_->stop());
        relay_.stop();
        await(writer_->async_stop());
        return std::move(differences_);
    }

  private:
    template <class T>
    T await(asio::awaitable<T> what) {
        std::optional<T> out;
        std::exception_ptr failure;
        asio::co_spawn(io_, std::move(what), [&](std::exception_ptr e, T value) {
            failure = e;
            out.emplace(std::move(value));
        });
        wait_until([&] { return out.has_value(); });
        if (failure) std::rethrow_exception(failure);
        if (!out) throw std::runtime_error("timeout");
        return *std::move(out);
    }
    void await(asio::awaitable<void> what) {
        bool done = false;
        asio::co_spawn(io_, std::move(what), [&](std::exception_ptr) { done = true; });
        wait_until([&] { return done; });
    }
    template <class T>
    static T must(Result<T> result) {
        if (!result) throw std::runtime_error(result.error().message());
        return *std::move(result);
    }
    template <class Predicate>
    bool wait_until(Predicate&& is) {
        const auto until = clock_.now() + kPatience;
        io_.restart();
        while (!is()) {
            if (clock_.now() > until) return false;
            io_.run_one_for(milliseconds(10));
        }
        return true;
    }
    void wait_for(Duration span) {
        const auto until = clock_.now() + span;
        while (clock_.now() < until) io_.run_one_for(milliseconds(10));
    }

    void write_config(const std::string& cluster) {
        const auto path = folder_.path() / cluster;
        std::ofstream(path.string() + ".new")
            << "endpoints: [http://127.0.0.1:" << relay_.port() << "]\n# " << ++writes_ << "\n";
        std::filesystem::rename(path.string() + ".new", path);
    }

    void start() {
        const auto& local = case_.at("local").as_object();
        ClustersOptions options;
        options.local_name = text(local.at("name"));
        options.local_id = model::ClusterId{local.at("id").to_number<std::uint32_t>()};
        options.max_clusters = local.at("max").to_number<std::uint32_t>();
        options.generation = generation_;
        options.remotes_directory = folder_.path();
        options.times.config_retry_limit = std::chrono::seconds(1);
        options.on_refused = [this](const std::string& cluster, std::string_view key, Refusal,
                                    std::string_view) {
            if (key.find("~fence~") != std::string_view::npos) {
                fences_.insert(cluster + " " + std::string(key));
            } else {
                refused_.insert(std::string(key));
            }
        };
        ClusterEvents events;
        events.on_batch = [this](ClusterBatch&& batch) {
            for (auto& event : recorder_.take(batch)) told_.push_back(std::move(event));
        };
        events.on_state = [this](const std::string& cluster, SessionState state) {
            if (state != SessionState::kReady) ++left_ready_[cluster];
        };
        clusters_.emplace(io_.get_executor(), std::move(options), clock_, Rng(2), Logger(),
                          std::move(events));
        clusters_->start();
    }

    // --- operations ---
    void perform(const json::object& op) {
        const std::string what = text(op.at("op"));
        if (what == "put") {
            etcd::PutOptions options;
            if (const auto* ttl = op.if_contains("lease_s")) {
                options.lease = must(await(writer_->async_lease_grant(ttl->as_int64()))).id;
            }
            must(await(writer_->async_put(text(op.at("key")), put_value(op), options)));
        } else if (what == "delete") {
            must(await(writer_->async_delete({text(op.at("key")), {}})));
        } else if (what == "delete-prefix") {
            must(await(writer_->async_delete(etcd::prefix_range(text(op.at("key"))))));
        } else if (what == "compact") {
            const auto at = must(await(writer_->async_range({.range = {"x", {}}}))).header.revision;
            const auto [code, output] =
                test::run_command({"etcdctl", "--endpoints=" + endpoint_, "compact", "--physical",
                                   std::to_string(at)},
                                  folder_, {{"ETCDCTL_API", "3"}});
            if (code != 0) throw std::runtime_error("etcdctl compact: " + output);
        } else if (what == "disconnect") {
            relay_.cut();
            // Else the phase's changes might slip through before the cut is seen.
            wait_until([&] {
                for (const auto& s : clusters_->status()) {
                    if (s.connected) return false;
                }
                return true;
            });
        } else if (what == "connect") {
            relay_.heal();
        } else if (what == "rewrite-config") {
            const std::string cluster = text(op.at("cluster"));
            const int before = left_ready_[cluster];
            write_config(cluster);
            // The file has been seen when the session has left its state.
            if (!wait_until([&] { return left_ready_[cluster] > before; })) {
                differ("the rewritten configuration of {} was not noticed", cluster);
            }
        } else if (what == "remove-config") {
            const std::string cluster = text(op.at("cluster"));
            std::filesystem::remove(folder_.path() / cluster);
            wait_until([&] { return !find_status(cluster); });
        } else if (what == "wait") {
            // Events end our waits; only an expiry has to be waited out.
            if (leases_) wait_for(std::chrono::seconds(op.at("wait_s").as_int64()));
        } else {
            throw std::runtime_error("unknown operation " + what);
        }
    }

    // --- comparing ---
    template <class... Args>
    void differ(fmt::format_string<Args...> format, Args&&... args) {
        differences_.push_back(fmt::format("phase {}: ", phase_) +
                               fmt::format(format, std::forward<Args>(args)...));
    }
    [[nodiscard]] std::optional<SessionStatus> find_status(const std::string& cluster) const {
        for (auto& status : clusters_->status()) {
            if (status.cluster == cluster) return status;
        }
        return std::nullopt;
    }
    [[nodiscard]] const json::array& recorded_status() const {
        return case_.at("status").at(phase_).at("clusters").as_array();
    }
    /// The first way in which a cluster's status is not the recorded one.
    [[nodiscard]] std::string status_difference(const json::object& recorded) const {
        const auto status = find_status(text(recorded.at("cluster")));
        if (!status) return "no such cluster";
        const auto compare = [](std::string_view what, auto ours, auto theirs) {
            return ours == theirs ? std::string()
                                  : fmt::format("{} is {}, recorded is {}", what, ours, theirs);
        };
        if (edit_.config_refused) {
            return status->ready || status->last_failure.empty() ? "ready, or nothing refused" : "";
        }
        std::vector<std::string> all{
            compare("ready", status->ready, recorded.at("ready").as_bool())};
        if (const auto* config = recorded.if_contains("config")) {
            const auto& c = config->as_object();
            all.push_back(
                compare("retrieved", status->config_retrieved, c.at("retrieved").as_bool()));
            all.push_back(compare("id", model::number(status->config.id),
                                  c.at("id").to_number<std::uint32_t>()));
            all.push_back(
                compare("kvstoremesh", status->config.cached, c.at("kvstoremesh").as_bool()));
            all.push_back(compare("syncCanaries", status->config.synced_canaries,
                                  c.at("syncCanaries").as_bool()));
            if (generation_ == model::Generation::k115) {
                all.push_back(
                    compare("required", status->config_required, c.at("required").as_bool()));
            }
        }
        const std::pair<const char*, Slot> kinds[] = {{"nodes", Slot::kNodes},
                                                      {"services", Slot::kServices},
                                                      {"endpoints", Slot::kIps},
                                                      {"identities", Slot::kIdentities}};
        for (const auto& [name, slot] : kinds) {
            const auto& shown = status->slots[index(slot)];
            all.push_back(compare(std::string("synced ") + name, shown.synced,
                                  recorded.at("synced").at(name).as_bool()));
            if (!edit_.other_counts) {
                all.push_back(compare(std::string("number of ") + name, shown.count,
                                      recorded.at(name).to_number<std::size_t>()));
            }
        }
        for (auto& each : all) {
            if (!each.empty()) return std::move(each);
        }
        return {};
    }
    [[nodiscard]] std::string status_difference() const {
        if (clusters_->status().size() != recorded_status().size()) return "other clusters";
        for (const auto& cluster : recorded_status()) {
            auto difference = status_difference(cluster.as_object());
            if (!difference.empty()) {
                return text(cluster.at("cluster")) + ": " + difference;
            }
        }
        return {};
    }

    /// Puts an entry that is refused below each prefix that is watched: when the refusals have
    /// come, everything before them has.
    void fence() {
        std::set<std::string> wanted;
        ++fence_;
        for (const auto& status : clusters_->status()) {
            const auto layout =
                status.config.cached ? model::Layout::kCache : model::Layout::kState;
            for (std::size_t i = 0; i < kObjectSlots; ++i) {
                if (!status.slots[i].wanted || !status.slots[i].synced) continue;
                const std::string key = slot_prefix(object_slot(i), status.cluster, layout) +
                                        fmt::format("~fence~{}", fence_);
                must(await(writer_->async_put(key, "~")));
                wanted.insert(status.cluster + " " + key);
            }
        }
        if (!wait_until([&] {
                return std::includes(fences_.begin(), fences_.end(), wanted.begin(), wanted.end());
            })) {
            differ("a watch does not go on");
        }
    }

    void settle() {
        if (!wait_until([&] { return status_difference().empty(); })) {
            std::string failure;
            for (const auto& s : clusters_->status()) failure += " [" + s.last_failure + "]";
            differ("status: {}{}", status_difference(), failure);
        }
        bool all_ready = !edit_.config_refused;
        for (const auto& cluster : recorded_status()) {
            all_ready = all_ready && cluster.at("ready").as_bool();
        }
        if (!all_ready) wait_for(kSilence);
        fence();
        const std::string late = status_difference();
        if (!late.empty() && differences_.empty()) differ("status after the fence: {}", late);
        compare_events();
        compare_refused();
    }

    void compare_events() {
        std::vector<Event> recorded;
        for (const auto& e : case_.at("expect").as_array()) {
            if (e.at("phase").to_number<std::size_t>() != phase_) continue;
            Event event{text(e.at("kind")), text(e.at("key")), text(e.at("op")) == "delete", {}};
            if (!event.deleted) event.object = e.at("obj");
            if (edit_.zones && event.kind == "service") {
                event.object.as_object()["zones"] = put_zones();
            }
            if (!edit_.keep || edit_.keep(phase_, event)) recorded.push_back(std::move(event));
        }
        for (const auto& [phase, event] : edit_.also) {
            if (phase == phase_) recorded.push_back(event);
        }
        auto theirs = recorded_effects_.effective(recorded);
        const auto ours = our_effects_.effective(std::exchange(told_, {}));
        const auto same_event = [](const Event& a, const Event& b) {
            return a.kind == b.kind && a.key == b.key && a.deleted == b.deleted &&
                   (a.deleted || matches(a.object, b.object));
        };
        if (case_.contains("unstable")) {
            // Two clusters report one key here, in an order that was not the same in each
            // recording.
            for (std::size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i) {
                const auto found =
                    std::find_if(theirs.begin() + static_cast<std::ptrdiff_t>(i), theirs.end(),
                                 [&](const Event& event) { return same_event(ours[i], event); });
                if (found != theirs.end()) std::swap(theirs[i], *found);
            }
        }
        for (std::size_t i = 0; i < std::max(theirs.size(), ours.size()); ++i) {
            const bool same =
                i < theirs.size() && i < ours.size() && same_event(ours[i], theirs[i]);
            if (same) continue;
            return differ("event {} of {} and {}: ours {}, recorded {}", i, ours.size(),
                          theirs.size(), i < ours.size() ? text_of(ours[i]) : "none",
                          i < theirs.size() ? text_of(theirs[i]) : "none");
        }
    }

    [[nodiscard]] json::value put_zones() const {
        for (const auto& op : case_.at("puts").as_array()) {
            if (text(op.at("key")).starts_with("cilium/state/services/")) {
                return json::parse(put_value(op.as_object())).at("zones");
            }
        }
        return nullptr;
    }

    void compare_refused() {
        std::set<std::string> recorded;
        for (const auto& r : case_.at("rejected").as_array()) {
            if (r.at("phase").to_number<std::size_t>() != phase_) continue;
            const std::string key = text(r.at("key"));
            if (!key.starts_with(model::kClusterConfigPrefix)) {
                recorded.insert(key);
                continue;
            }
            const auto status = find_status(key.substr(model::kClusterConfigPrefix.size()));
            if (!status || status->last_failure.find(key) == std::string::npos) {
                differ("no failure that names {}", key);
            }
        }
        const auto ours = std::exchange(refused_, {});
        for (const auto& key : recorded) {
            if (!ours.contains(key)) differ("{} was not refused", key);
        }
        for (const auto& key : ours) {
            if (!recorded.contains(key) && !edit_.more_refused) {
                differ("{} was refused, which is not recorded", key);
            }
        }
    }

    const json::object& case_;
    model::Generation generation_;
    const Edit& edit_;
    std::string endpoint_;
    asio::io_context io_{1};
    SystemClock clock_;
    test::TemporaryFolder folder_;
    Relay relay_;
    std::unique_ptr<etcd::Client> writer_;
    std::optional<Clusters> clusters_;
    Recorder recorder_;
    bool leases_;
    Effects recorded_effects_, our_effects_;
    std::vector<Event> told_;
    std::set<std::string> refused_, fences_;
    std::map<std::string, int> left_ready_;
    std::vector<std::string> differences_;
    std::size_t phase_ = 0;
    int writes_ = 0, fence_ = 0;
};

}  // namespace

std::vector<std::string> replay(const json::object& recorded, model::Generation generation,
                                const Edit& edit, const std::string& endpoint) {
    try {
        return Replay(recorded, generation, edit, endpoint).run();
    } catch (const std::exception& e) {
        return {std::string("the replay failed: ") + e.what()};
    }
}

}  // namespace mesh::interop
