#include <boost/asio/co_spawn.hpp>
#include <boost/json/serialize.hpp>
#include <condition_variable>
#include <future>
#include <mesh/mesh.hpp>
#include <mutex>
#include <utility>

#include "engine/agent.hpp"
#include "engine/documents.hpp"
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
    mutable std::mutex mutex;              // guards ready
    mutable std::condition_variable changed;
    bool ready = false;
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
    return impl_->changed.wait_for(lock, timeout, [&] { return impl_->ready; });
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
