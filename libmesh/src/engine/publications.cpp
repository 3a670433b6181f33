#include "engine/publications.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>
#include <vector>

namespace mesh {

namespace asio = boost::asio;

namespace engine {

namespace {

/// How long an end waits for etcd to revoke a lease.
constexpr Duration kLeaveBound = std::chrono::seconds(3);
constexpr std::chrono::seconds kLeastTtl{2};
constexpr std::chrono::seconds kLongestTtl{86400};

void note_closed(Publication::Impl& impl, Result<void> how) {
    {
        const std::lock_guard lock(impl.mutex);
        if (!impl.closed) impl.closed = std::move(how);
        impl.closing = true;
    }
    impl.changed.notify_all();
}

}  // namespace

bool LoopLink::post(std::function<void()> call) {
    const std::lock_guard lock(mutex_);
    if (severed_) return false;
    asio::post(loop_, std::move(call));
    return true;
}

void LoopLink::sever() {
    const std::lock_guard lock(mutex_);
    severed_ = true;
    loop_ = {};
}

Result<model::Workload> to_workload(const WorkloadOptions& options) {
    model::Workload workload;
    workload.name = options.name;
    workload.namespace_ = options.namespace_;
    workload.zone = options.zone;
    workload.node = options.node;
    for (const std::string& text : options.ips) {
        auto address = model::IpAddress::parse(text);
        if (!address) return address.error().with_prefix("ips");
        workload.ips.push_back(*address);
    }
    std::vector<model::StringMap::value_type> labels;
    for (const auto& [key, value] : options.labels) labels.emplace_back(key, value);
    workload.labels = model::StringMap::from_pairs(std::move(labels));
    for (const WorkloadBackend& backend : options.backends) {
        workload.backends.push_back(
            {backend.service, backend.port_name, backend.port, backend.protocol});
    }
    model::normalise(workload);
    MESH_CHECK(model::check_workload(workload));
    return workload;
}

class Publications::State : public std::enable_shared_from_this<State> {
  public:
    State(asio::any_io_executor loop, const Clock& clock, Rng rng, Logger log,
          MakeClient make_client)
        : loop_(std::move(loop)),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          make_client_(std::move(make_client)),
          tasks_(loop_) {}

    Result<Publication> publish(const WorkloadOptions& options, const LoopSeat& seat) {
        MESH_TRY(model::Workload workload, to_workload(options));
        if (options.lease_ttl < kLeastTtl || options.lease_ttl > kLongestTtl) {
            return invalid_argument("lease_ttl: expected 2 to 86400 s, got " +
                                    std::to_string(options.lease_ttl.count()));
        }
        forget_ended();
        const bool known = std::ranges::any_of(registered_, [&](const auto& entry) {
            return !entry.second.leaving && entry.second.shared->name == workload.name;
        });
        if (known) {
            return Error(Errc::kConflict,
                         "name: this mesh publishes \"" + workload.name + "\" already");
        }
        MESH_CHECK(start_client());
        if (!link_) link_ = std::make_shared<LoopLink>(loop_, seat);
        auto shared = std::make_shared<Publication::Impl>();
        const std::uint64_t id = ++last_id_;
        shared->name = workload.name;
        shared->link = link_;
        shared->update = [weak = weak_from_this(), id](model::Workload next) {
            if (const auto self = weak.lock()) self->update(id, std::move(next));
        };
        shared->close = [weak = weak_from_this(), id] {
            if (const auto self = weak.lock()) self->close(id);
        };
        auto registration = std::make_unique<publish::WorkloadRegistration>(
            loop_, *client_, std::move(workload), options.lease_ttl, clock_, Rng(rng_.next()), log_,
            [shared](const publish::RegistrationStatus& status) {
                {
                    const std::lock_guard lock(shared->mutex);
                    shared->status = status;
                }
                shared->changed.notify_all();
            });
        shared->status = registration->status();
        registration->start();
        registered_.emplace(id, Entry{std::move(registration), shared});
        return Publication(std::move(shared));
    }

    asio::awaitable<void> stop() {
        const auto self = shared_from_this();
        if (link_) link_->sever();
        std::vector<std::uint64_t> ids;
        for (const auto& [id, entry] : registered_) ids.push_back(id);
        for (const std::uint64_t id : ids) close(id);
        // Each is bounded; what etcd has not answered by then ends with the client.
        co_await tasks_.join();
        for (auto& [id, entry] : registered_) {
            note_closed(*entry.shared, Error(Errc::kTimeout, "the mesh has ended"));
        }
        if (client_) co_await client_->async_stop();
        for (auto& [id, entry] : registered_) co_await entry.registration->async_stop();
        registered_.clear();
        client_.reset();
    }

  private:
    struct Entry {
        std::unique_ptr<publish::WorkloadRegistration> registration;
        std::shared_ptr<Publication::Impl> shared;
        bool leaving = false;
    };

    Result<void> start_client() {
        if (client_) return {};
        MESH_TRY(client_, make_client_());
        client_->start();
        return {};
    }

    void update(std::uint64_t id, model::Workload workload) {
        const auto found = registered_.find(id);
        if (found == registered_.end() || found->second.leaving) return;
        auto& [registration, shared, leaving] = found->second;
        registration->update(std::move(workload));
        {
            const std::lock_guard lock(shared->mutex);
            shared->status = registration->status();
            --shared->updates;
        }
        shared->changed.notify_all();
    }

    void close(std::uint64_t id) {
        const auto entry = registered_.find(id);
        if (entry == registered_.end() || std::exchange(entry->second.leaving, true)) return;
        tasks_.spawn(leave(shared_from_this(), id));
    }

    static asio::awaitable<void> leave(std::shared_ptr<State> self, std::uint64_t id) {
        Entry& entry = self->registered_.at(id);
        Result<void> left = co_await entry.registration->async_close(kLeaveBound);
        note_closed(*entry.shared, std::move(left));
    }

    /// One that etcd has not answered has a request under way, which ends with its time, or with
    /// the client.
    void forget_ended() {
        std::erase_if(registered_, [](const auto& entry) {
            return entry.second.leaving && entry.second.registration->ended() &&
                   entry.second.shared->closed;
        });
    }

    asio::any_io_executor loop_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    MakeClient make_client_;
    std::unique_ptr<etcd::Client> client_;
    std::shared_ptr<LoopLink> link_;
    std::map<std::uint64_t, Entry> registered_;
    std::uint64_t last_id_ = 0;
    TaskGroup tasks_;
};

Publications::Publications(asio::any_io_executor loop, const Clock& clock, Rng rng, Logger log,
                           MakeClient make_client)
    : state_(std::make_shared<State>(std::move(loop), clock, rng, std::move(log),
                                     std::move(make_client))) {}
Publications::~Publications() = default;

Result<Publication> Publications::publish(const WorkloadOptions& options, const LoopSeat& seat) {
    return state_->publish(options, seat);
}

asio::awaitable<void> Publications::async_stop() {
    return state_->stop();
}

}  // namespace engine

namespace {

PublicationStatus to_status(const publish::RegistrationStatus& status) {
    using State = publish::RegistrationStatus::State;
    switch (status.state) {
        case State::kPublished:
            return {PublicationState::kPublished, status.reason};
        case State::kRefused:
            return {PublicationState::kRefused, status.reason};
        case State::kPending:
            break;
    }
    return {PublicationState::kPending, status.reason};
}

Error closed_error() {
    return {Errc::kCancelled, "the publication or its mesh is closed"};
}

}  // namespace

Publication::Publication(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Publication::Publication(Publication&&) noexcept = default;

Publication& Publication::operator=(Publication&& other) noexcept {
    if (this != &other) {
        if (impl_) (void)close();
        impl_ = std::move(other.impl_);
    }
    return *this;
}

Publication::~Publication() {
    if (impl_) (void)close();
}

PublicationStatus Publication::state() const {
    if (!impl_) return {PublicationState::kClosed, {}};
    const std::lock_guard lock(impl_->mutex);
    if (impl_->closing) {
        const bool ended = impl_->closed && !*impl_->closed;
        return {PublicationState::kClosed, ended ? impl_->closed->error().detail() : std::string()};
    }
    return to_status(impl_->status);
}

Result<void> Publication::wait(std::chrono::milliseconds timeout) const {
    using State = publish::RegistrationStatus::State;
    const auto impl = impl_;
    if (!impl) return closed_error();
    if (on_mesh_thread()) return invalid_argument("publication: wait: not from the log callback");
    std::unique_lock lock(impl->mutex);
    const auto settled = [&] {
        return impl->closing || (impl->updates == 0 && impl->status.state != State::kPending);
    };
    if (timeout < std::chrono::milliseconds::zero()) {
        impl->changed.wait(lock, settled);
    } else {
        impl->changed.wait_for(lock, timeout, settled);
    }
    if (impl->closing) return closed_error();
    if (!settled()) return Error(Errc::kTimeout, impl->status.reason);
    if (impl->status.state == State::kPublished) return {};
    return Error(impl->status.code, impl->status.reason);
}

Result<void> Publication::update(const WorkloadOptions& options) {
    const auto impl = impl_;
    if (!impl) return closed_error();
    MESH_TRY(model::Workload workload, engine::to_workload(options));
    if (workload.name != impl->name) {
        return invalid_argument("name: expected \"" + impl->name + "\" as before, got \"" +
                                workload.name + "\"");
    }
    {
        const std::lock_guard lock(impl->mutex);
        if (impl->closing) return closed_error();
        // Not what was decided of the former: wait() waits for what comes of this one.
        ++impl->updates;
        impl->status = {publish::RegistrationStatus::State::kPending, Errc::kTimeout,
                        "the change has not been written yet"};
    }
    const bool posted = impl->link->post(
        [impl, workload = std::move(workload)]() mutable { impl->update(std::move(workload)); });
    if (!posted) return closed_error();
    return {};
}

Result<void> Publication::close() {
    const auto impl = impl_;
    if (!impl) return {};
    {
        const std::lock_guard lock(impl->mutex);
        impl->closing = true;
    }
    impl->changed.notify_all();
    // Who finds the mesh gone has been told by it.
    (void)impl->link->post([impl] { impl->close(); });
    if (!impl->link->may_wait()) return {};
    std::unique_lock lock(impl->mutex);
    // The loop answers within its bound; this one is for a loop that does not run.
    impl->changed.wait_for(lock, engine::kLeaveBound + std::chrono::seconds(1),
                           [&] { return impl->closed.has_value(); });
    return impl->closed.value_or(
        Result<void>(Error(Errc::kTimeout, "the mesh's loop did not answer")));
}

bool Publication::on_mesh_thread() const noexcept {
    return impl_ && impl_->link->on_loop();
}

}  // namespace mesh
