#include <boost/asio/co_spawn.hpp>
#include <boost/json/serialize.hpp>
#include <condition_variable>
#include <future>
#include <mesh/mesh.hpp>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "engine/agent.hpp"
#include "engine/documents.hpp"
#include "observe/subscription.hpp"
#include "runtime/loop_thread.hpp"

namespace mesh {

namespace asio = boost::asio;

namespace {

Logger make_logger(LogCallback callback) {
    if (!callback) return {};
    return Logger(
        "mesh",
        [callback = std::move(callback)](LogLevel level, std::string_view subsystem,
                                         std::string_view text) {
            callback(static_cast<LogSeverity>(level), subsystem, text);
        },
        LogLevel::kDebug);
}

template <class Pick>
auto views(const EventBatch& batch, Pick pick) {
    std::vector<decltype(observe::to_view(*pick(*batch.raw()[0])))> all;
    all.reserve(batch.size());
    for (const mesh_event* event : batch.raw()) all.push_back(observe::to_view(*pick(*event)));
    return all;
}

/// The way from subscriptions, which may outlive a mesh, to its thread.
class Link {
  public:
    Link(const LoopThread& thread, observe::Observer& observer)
        : thread_(thread), observer_(observer) {
        thread_.run([&] { loop_ = std::this_thread::get_id(); });
    }
    /// Not on the loop: it may be in the midst of anything, and the mutex held by one who waits for
    /// it.
    [[nodiscard]] bool resync(observe::Queue& queue) {
        const std::lock_guard lock(mutex_);
        if (severed_) return false;
        thread_.run([&] { observer_.resync(queue); });
        return true;
    }
    [[nodiscard]] std::thread::id loop() const noexcept { return loop_; }
    /// After this neither the thread nor the observer is used.
    void sever() {
        const std::lock_guard lock(mutex_);
        severed_ = true;
    }

  private:
    const LoopThread& thread_;
    observe::Observer& observer_;
    std::thread::id loop_;  ///< not changed later
    std::mutex mutex_;      // guards severed_, and what a severed one must not use
    bool severed_ = false;
};

}  // namespace

struct Mesh::Impl {
    explicit Impl(Logger logger)
        : log(std::move(logger)), thread([this](std::string_view what) {
              log.error("an exception left a handler, a defect of ours: {}", what);
          }) {}
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    ~Impl() {
        if (agent == nullptr) return;
        link->sever();
        std::promise<void> stopped;
        thread.run([&] {
            agent->on_change({});
            asio::co_spawn(thread.executor(), agent->stop(),
                           [&](std::exception_ptr) { stopped.set_value(); });
        });
        stopped.get_future().wait();
        thread.run([&] { agent.reset(); });
    }

    void update_ready() {
        const bool now = agent->ready();
        {
            const std::lock_guard lock(mutex);
            ready = now;
        }
        changed.notify_all();
    }

    Logger log;
    SystemClock clock;
    std::unique_ptr<engine::Agent> agent;  // on the thread only
    std::shared_ptr<Link> link;
    mutable std::mutex mutex;  // guards ready and interrupted
    mutable std::condition_variable changed;
    bool ready = false;
    bool interrupted = false;
    LoopThread thread;
};

Result<std::unique_ptr<Mesh>> Mesh::open(MeshOptions options) {
    auto impl = std::make_unique<Impl>(make_logger(options.log));
    std::optional<Error> failed;
    impl->thread.run([&] {
        auto agent = engine::Agent::make(impl->thread.executor(), std::move(options), impl->clock,
                                         impl->log);
        if (!agent) {
            failed = agent.error();
            return;
        }
        impl->agent = *std::move(agent);
        impl->agent->on_change([raw = impl.get()] { raw->update_ready(); });
        impl->agent->start();
    });
    if (failed) return *std::move(failed);
    impl->link = std::make_shared<Link>(impl->thread, impl->agent->observer());
    return std::unique_ptr<Mesh>(new Mesh(std::move(impl)));
}

Mesh::Mesh(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Mesh::~Mesh() = default;

bool Mesh::ready() const {
    bool result = false;
    impl_->thread.run([&] { result = impl_->agent->ready(); });
    return result;
}

bool Mesh::wait_ready(std::chrono::milliseconds timeout) const {
    std::unique_lock lock(impl_->mutex);
    impl_->changed.wait_for(lock, timeout, [&] { return impl_->ready || impl_->interrupted; });
    return impl_->ready && !impl_->interrupted;
}

void Mesh::interrupt() noexcept {
    {
        const std::lock_guard lock(impl_->mutex);
        impl_->interrupted = true;
    }
    impl_->changed.notify_all();
}

bool Mesh::interrupted() const noexcept {
    const std::lock_guard lock(impl_->mutex);
    return impl_->interrupted;
}

bool Mesh::on_own_thread() const noexcept {
    return impl_->thread.on_loop();
}

std::vector<ServiceView> Mesh::services() const {
    std::vector<ServiceView> views;
    impl_->thread.run([&] { views = impl_->agent->node().services(); });
    return views;
}

std::optional<ServiceView> Mesh::service(std::string_view namespace_, std::string_view name) const {
    std::optional<ServiceView> view;
    impl_->thread.run([&] {
        view = impl_->agent->node().service({std::string(namespace_), std::string(name)});
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
    impl_->thread.run([&] { block = impl_->agent->observer().service(key); });
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
    impl_->thread.run([&] { block = impl_->agent->observer().lookup(address); });
    if (!block) return not_found("ip " + address.to_string() + ": no cluster has it");
    return observe::to_batch({std::move(block)});
}

Result<IpView> Mesh::lookup(std::string_view text) const {
    MESH_TRY(const auto batch, list_ip(text));
    return observe::to_view(*batch.raw().front()->ip);
}

EventBatch Mesh::list(Objects objects) const {
    std::vector<observe::BlockPtr> blocks;
    impl_->thread.run(
        [&] { blocks = impl_->agent->observer().list(static_cast<std::uint32_t>(objects)); });
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
    impl_->thread.run([&] {
        impl_->agent->observer().read_ips([&](std::size_t count) {
            records.resize(count);
            return records.data();
        });
    });
    observe::sort_records(records.data(), records.size());
    return records;
}

bool Mesh::read_ip_records(std::span<IpRecord> records, std::size_t& count) const {
    impl_->thread.run([&] {
        count = impl_->agent->observer().read_ips([&](std::size_t wanted) -> IpRecord* {
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
    impl_->thread.run([&] { impl_->agent->observer().subscribe(queue); });
    return observe::make_subscription(
        std::move(queue), [link = impl_->link](observe::Queue& due) { return link->resync(due); },
        impl_->link->loop(), std::move(callback));
}

Result<Publication> Mesh::publish(const WorkloadOptions& options) {
    std::optional<Result<Publication>> publication;
    impl_->thread.run([&] { publication.emplace(impl_->agent->publications().publish(options)); });
    return *std::move(publication);
}

std::string Mesh::status_json() const {
    std::string text;
    impl_->thread.run([&] { text = impl_->agent->status_json(); });
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

Result<std::string> Mesh::policy_trace_json(const PolicyTraceQuery& query) const {
    std::optional<Result<std::string>> document;
    impl_->thread.run([&] { document.emplace(impl_->agent->policy_trace_json(query)); });
    return *std::move(document);
}

Result<std::string> Mesh::policy_diff_json(std::string_view documents, bool prune) const {
    std::optional<Result<std::string>> document;
    impl_->thread.run([&] { document.emplace(impl_->agent->policy_diff_json(documents, prune)); });
    return *std::move(document);
}

std::string Mesh::metrics_text() const {
    std::string text;
    impl_->thread.run([&] { text = impl_->agent->metrics_text(); });
    return text;
}

}  // namespace mesh
