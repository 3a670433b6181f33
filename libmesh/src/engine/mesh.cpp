#include <fmt/format.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/execution.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/prefer.hpp>
#include <boost/asio/query.hpp>
#include <boost/json/serialize.hpp>
#include <boost/version.hpp>
#include <condition_variable>
#include <mesh/mesh.hpp>
#include <mutex>
#include <set>
#include <utility>

#include "engine/agent.hpp"
#include "engine/documents.hpp"
#include "observe/subscription.hpp"
#include "runtime/loop_thread.hpp"
#include "runtime/serial_loop.hpp"

namespace mesh {

namespace asio = boost::asio;

namespace {

/// What lets lines through to the embedder's callback, until it is shut.
class LogGate : public std::enable_shared_from_this<LogGate> {
  public:
    explicit LogGate(LogCallback callback) : callback_(std::move(callback)) {}
    [[nodiscard]] Logger logger() {
        if (!callback_) return {};
        return Logger(
            "mesh",
            [self = shared_from_this()](LogLevel level, std::string_view subsystem,
                                        std::string_view text) {
                if (self->shut_) return;
                self->callback_(static_cast<LogSeverity>(level), subsystem, text);
            },
            LogLevel::kDebug);
    }
    void shut() noexcept { shut_ = true; }

  private:
    const LogCallback callback_;
    std::atomic<bool> shut_{false};
};

template <class Pick>
auto views(const EventBatch& batch, Pick pick) {
    std::vector<decltype(observe::to_view(*pick(*batch.raw()[0])))> all;
    all.reserve(batch.size());
    for (const mesh_event* event : batch.raw()) all.push_back(observe::to_view(*pick(*event)));
    return all;
}

}  // namespace

struct Mesh::Impl : std::enable_shared_from_this<Mesh::Impl> {
    explicit Impl(MeshOptions& options)
        : has_embedder(static_cast<bool>(options.executor)),
          gate(std::make_shared<LogGate>(std::move(options.log))),
          log(gate->logger()),
          thread(on_failure(log)),
          embedder(options.executor
                       ? asio::prefer(options.executor, asio::execution::outstanding_work.tracked)
                       : asio::any_io_executor()),
          loop(embedder ? embedder : thread.executor(),
               asio::query(thread.executor(), asio::execution::context), on_failure(log)) {}
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    /// On the loop, while the mesh is open. @return whether it is
    template <class Call>
    bool with_agent(Call&& call) const {
        bool open = false;
        loop.run([&] {
            open = phase == Phase::kOpen;
            if (open) call(*agent);
        });
        return open;
    }

    /// The same as a result.
    template <class Call>
    [[nodiscard]] Result<void> ask(Call&& call) const {
        if (with_agent(std::forward<Call>(call))) return {};
        return Error(Errc::kCancelled, "the mesh is closed");
    }

    [[nodiscard]] Result<void> start(MeshOptions&& options) {
        Result<void> outcome;
        loop.run([&] {
            options.executor = {};
            auto made = engine::Agent::make(loop.executor(), std::move(options), clock, log);
            if (!made) {
                outcome = made.error();
                return;
            }
            agent = *std::move(made);
            phase = Phase::kOpen;
            agent->on_change([this] { update_ready(); });
            agent->start();
        });
        return outcome;
    }

    /// @param done may be empty; called at once if it has ended before
    void close(std::function<void()> done) {
        loop.run([&] {
            if (phase == Phase::kClosed) return;
            if (done) on_closed.push_back(std::exchange(done, {}));
            if (phase == Phase::kClosing) return;
            phase = Phase::kClosing;
            agent->on_change({});
            agent->observer().close();
            // Whoever runs the embedder's executor may be who waits for the end.
            loop.move_to(thread.executor());
            // What is to end has a share of this, which may have no other owner by then.
            asio::co_spawn(loop.executor(), agent->stop(),
                           [self = shared_from_this()](std::exception_ptr) { self->finish(); });
        });
        interrupt();
        if (done) done();
    }

    void interrupt() noexcept {
        {
            const std::lock_guard lock(mutex);
            interrupted = true;
        }
        changed.notify_all();
    }

    void update_ready() {
        const bool now = agent->ready();
        {
            const std::lock_guard lock(mutex);
            ready = now;
        }
        changed.notify_all();
    }

    void wait_closed() {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return closed; });
    }

    enum class Phase : std::uint8_t { kClosed, kOpen, kClosing };

    SystemClock clock;
    const bool has_embedder;
    const std::shared_ptr<LogGate> gate;
    const Logger log;
    LoopThread thread;               ///< of sockets and timers, and of all else without `embedder`
    asio::any_io_executor embedder;  ///< kept busy until the end; empty = none
    SerialLoop loop;
    // On the loop only:
    std::unique_ptr<engine::Agent> agent;
    Phase phase = Phase::kClosed;
    std::vector<std::function<void()>> on_closed;

    mutable std::mutex mutex;  // guards all below
    mutable std::condition_variable changed;
    bool ready = false;
    bool interrupted = false;
    bool closed = false;

  private:
    static LoopThread::OnFailure on_failure(const Logger& log) {
        return [log](std::string_view what) {
            log.error("an exception left a handler, a defect of ours: {}", what);
        };
    }

    void finish() {
        agent.reset();
        phase = Phase::kClosed;
        const auto told = std::exchange(on_closed, {});
        const auto where = std::exchange(embedder, {});
        if (where) {
            for (const auto& done : told) asio::post(where, done);
        }
        {
            const std::lock_guard lock(mutex);
            closed = true;
        }
        changed.notify_all();
        if (where) return;
        for (const auto& done : told) {
            try {
                done();
            } catch (...) {
                // The embedder's: there is nobody to tell.
            }
        }
    }
};

Result<std::unique_ptr<Mesh>> Mesh::open(MeshOptions options) {
    if (options.executor && options.boost_version != BOOST_VERSION) {
        return invalid_argument(fmt::format(
            "executor: expected one of Boost {}, with which libmesh was built, got Boost {}",
            BOOST_VERSION, options.boost_version));
    }
    auto impl = std::make_shared<Impl>(options);
    MESH_CHECK(impl->start(std::move(options)));
    return std::unique_ptr<Mesh>(new Mesh(std::move(impl)));
}

Mesh::Mesh(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Mesh::~Mesh() {
    const bool here = impl_->loop.on_loop();
    impl_->close({});
    if (here) {
        // The rest comes later, and what the callback uses may be gone by then.
        impl_->gate->shut();
        return;
    }
    impl_->wait_closed();
    impl_->thread.stop();
}

void Mesh::close(std::function<void()> done) {
    // `done` may destroy this before it returns here.
    const auto impl = impl_;
    impl->close(std::move(done));
}

bool Mesh::ready() const {
    bool result = false;
    impl_->with_agent([&](const engine::Agent& agent) { result = agent.ready(); });
    return result;
}

bool Mesh::wait_ready(std::chrono::milliseconds timeout) const {
    // What it would wait for cannot come before it returns.
    if (impl_->loop.on_loop()) timeout = std::chrono::milliseconds::zero();
    std::unique_lock lock(impl_->mutex);
    impl_->changed.wait_for(lock, timeout, [&] { return impl_->ready || impl_->interrupted; });
    return impl_->ready && !impl_->interrupted;
}

void Mesh::interrupt() noexcept {
    impl_->interrupt();
}

bool Mesh::interrupted() const noexcept {
    const std::lock_guard lock(impl_->mutex);
    return impl_->interrupted;
}

bool Mesh::on_own_thread() const noexcept {
    return impl_->loop.on_loop();
}

std::vector<ServiceView> Mesh::services() const {
    std::vector<ServiceView> views;
    impl_->with_agent([&](engine::Agent& agent) { views = agent.node().services(); });
    return views;
}

std::optional<ServiceView> Mesh::service(std::string_view namespace_, std::string_view name) const {
    std::optional<ServiceView> view;
    impl_->with_agent([&](engine::Agent& agent) {
        view = agent.node().service({std::string(namespace_), std::string(name)});
    });
    return view;
}

Result<EventBatch> Mesh::list_service(std::string_view name) const {
    const auto slash = name.find('/');
    if (slash == std::string_view::npos || slash == 0 || slash + 1 == name.size()) {
        return invalid_argument("service \"" + std::string(name) + "\": expected namespace/name");
    }
    const state::ObjectName key{std::string(name.substr(0, slash)),
                                std::string(name.substr(slash + 1))};
    observe::BlockPtr block;
    MESH_CHECK(impl_->ask([&](engine::Agent& agent) { block = agent.observer().service(key); }));
    if (!block) return not_found("service " + std::string(name) + ": the own cluster has none");
    return observe::to_batch({std::move(block)});
}

Result<std::vector<BackendView>> Mesh::backends(std::string_view name) const {
    MESH_TRY(const auto batch, list_service(name));
    const ServiceView view = observe::to_view(*batch.raw().front()->service);
    std::vector<BackendView> backends;
    std::set<std::pair<std::string, std::uint16_t>> seen;
    for (const auto& frontend : view.frontends) {
        for (const auto& backend : frontend.backends) {
            if (seen.emplace(backend.address, backend.port).second) backends.push_back(backend);
        }
    }
    return backends;
}

Result<EventBatch> Mesh::list_ip(std::string_view text) const {
    MESH_TRY(const auto address, model::IpAddress::parse(text));
    observe::BlockPtr block;
    MESH_CHECK(impl_->ask([&](engine::Agent& agent) { block = agent.observer().lookup(address); }));
    if (!block) return not_found("ip " + address.to_string() + ": no cluster has it");
    return observe::to_batch({std::move(block)});
}

Result<IpView> Mesh::lookup(std::string_view text) const {
    MESH_TRY(const auto batch, list_ip(text));
    return observe::to_view(*batch.raw().front()->ip);
}

EventBatch Mesh::list(Objects objects) const {
    std::vector<observe::BlockPtr> blocks;
    impl_->with_agent([&](engine::Agent& agent) {
        blocks = agent.observer().list(static_cast<std::uint32_t>(objects));
    });
    return observe::to_batch(std::move(blocks));
}

std::vector<NodeView> Mesh::nodes() const {
    return views(list(Objects::kNodes), [](const mesh_event& e) { return e.node; });
}
std::vector<IpView> Mesh::ips() const {
    return views(list(Objects::kIps), [](const mesh_event& e) { return e.ip; });
}
std::vector<IdentityView> Mesh::identities() const {
    return views(list(Objects::kIdentities), [](const mesh_event& e) { return e.identity; });
}
std::vector<ClusterView> Mesh::clusters() const {
    return views(list(Objects::kClusters), [](const mesh_event& e) { return e.cluster; });
}

std::vector<IpRecord> Mesh::ip_records() const {
    std::vector<IpRecord> records;
    impl_->with_agent([&](engine::Agent& agent) {
        agent.observer().read_ips([&](std::size_t count) {
            records.resize(count);
            return records.data();
        });
    });
    observe::sort_records(records.data(), records.size());
    return records;
}

bool Mesh::read_ip_records(std::span<IpRecord> records, std::size_t& count) const {
    count = 0;
    impl_->with_agent([&](engine::Agent& agent) {
        count = agent.observer().read_ips([&](std::size_t wanted) -> IpRecord* {
            return wanted <= records.size() ? records.data() : nullptr;
        });
    });
    if (count > records.size()) return false;
    observe::sort_records(records.data(), count);
    return true;
}

Result<Subscription> Mesh::subscribe(SubscribeOptions options) {
    return subscribe(options, {});
}

Result<Subscription> Mesh::subscribe(SubscribeOptions options, EventsCallback callback) {
    const auto objects = static_cast<std::uint32_t>(options.objects);
    if (objects == 0 || (objects & ~std::uint32_t{MESH_OBJECT_ALL}) != 0) {
        return invalid_argument("subscribe: objects: expected one or more of the kinds there are");
    }
    MESH_TRY(auto queue, observe::Queue::make(objects, options.max_queued_bytes));
    MESH_CHECK(impl_->ask([&](engine::Agent& agent) { agent.observer().subscribe(queue); }));
    // It may outlive the mesh, of which it keeps no more than whose turn it is.
    const auto turns = impl_->loop.turns();
    return observe::make_subscription(
        std::move(queue),
        [weak = std::weak_ptr(impl_), turns](observe::Queue& due) {
            bool done = false;
            turns.run([&] {
                const auto impl = weak.lock();
                done = impl && impl->with_agent([&](auto& agent) { agent.observer().resync(due); });
            });
            return done;
        },
        [turns] { return turns.on_loop(); }, std::move(callback));
}

Result<Publication> Mesh::publish(const WorkloadOptions& options) {
    const engine::LoopSeat seat{impl_->loop.turns(), !impl_->has_embedder};
    std::optional<Result<Publication>> publication;
    MESH_CHECK(impl_->ask([&](engine::Agent& agent) {
        publication.emplace(agent.publications().publish(options, seat));
    }));
    return *std::move(publication);
}

std::string Mesh::status_json() const {
    std::string text;
    impl_->with_agent([&](engine::Agent& agent) { text = agent.status_json(); });
    return text;
}

std::string Mesh::services_json() const {
    return boost::json::serialize(engine::to_json(services()));
}

std::optional<std::string> Mesh::service_json(std::string_view namespace_,
                                              std::string_view name) const {
    const auto view = service(namespace_, name);
    if (!view) return std::nullopt;
    return boost::json::serialize(engine::to_json(*view));
}

Result<void> Mesh::set_remote_files(const std::map<std::string, std::string>& files) {
    Result<void> outcome;
    MESH_CHECK(impl_->ask([&](engine::Agent& agent) { outcome = agent.set_remote_files(files); }));
    return outcome;
}

Result<Explanation> Mesh::explain(const PolicyTraceQuery& query) const {
    std::optional<Result<Explanation>> explanation;
    MESH_CHECK(
        impl_->ask([&](engine::Agent& agent) { explanation.emplace(agent.explain(query)); }));
    return *std::move(explanation);
}

Result<std::string> Mesh::policy_trace_json(const PolicyTraceQuery& query) const {
    std::optional<Result<std::string>> document;
    MESH_CHECK(impl_->ask(
        [&](engine::Agent& agent) { document.emplace(agent.policy_trace_json(query)); }));
    return *std::move(document);
}

Result<std::string> Mesh::policy_diff_json(std::string_view documents, bool prune) const {
    std::optional<Result<std::string>> document;
    MESH_CHECK(impl_->ask(
        [&](engine::Agent& agent) { document.emplace(agent.policy_diff_json(documents, prune)); }));
    return *std::move(document);
}

std::string Mesh::metrics_text() const {
    std::string text;
    impl_->with_agent([&](engine::Agent& agent) { text = agent.metrics_text(); });
    return text;
}

}  // namespace mesh
