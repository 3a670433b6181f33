#include "state/store/background_backend.hpp"

#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

#include "runtime/paced_thread.hpp"

namespace mesh::store {
namespace {

template <class T>
void append(std::vector<T>& to, const std::vector<T>& more) {
    to.insert(to.end(), more.begin(), more.end());
}

/// What both do, in that order. No position is used again after it was erased, but by a
/// replacement.
void add(WriteBatch& to, const WriteBatch& more) {
    if (more.replace) to.clear();
    to.replace = to.replace || more.replace;
    append(to.records, more.records);
    append(to.erased, more.erased);
    append(to.leases, more.leases);
    append(to.erased_leases, more.erased_leases);
    if (more.revision) to.revision = more.revision;
    if (more.compact_revision) to.compact_revision = more.compact_revision;
    if (more.identity) to.identity = more.identity;
    if (more.raft_term) to.raft_term = more.raft_term;
}

std::size_t bytes_of(const WriteBatch& batch) {
    std::size_t bytes = batch.erased.size() * sizeof(RecordPosition);
    for (const KeyValue& kv : batch.records) bytes += kv.memory();
    return bytes;
}

class BackgroundBackend final : public Backend {
  public:
    BackgroundBackend(std::unique_ptr<Backend> inner, const BackgroundOptions& options)
        : options_(options), inner_(std::move(inner)) {}

    Outcome<BackendState> load(const std::function<Outcome<void>(KeyValue)>& on_record) override {
        MESH_TRY(BackendState state, inner_->load(on_record));
        if (state.identity) durable_ = state.revision;
        measure();
        return state;
    }
    Outcome<void> initialise(const Identity& identity) override {
        return inner_->initialise(identity);
    }
    Outcome<void> commit(const WriteBatch& batch) override;
    [[nodiscard]] bool durable() const noexcept override { return true; }
    [[nodiscard]] bool keeps_mirror() const noexcept override { return true; }
    [[nodiscard]] Revision durable_revision() const noexcept override { return durable_; }
    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return size_; }
    [[nodiscard]] std::uint64_t size_in_use_bytes() const noexcept override { return in_use_; }

  private:
    void write();
    void measure() {
        size_ = inner_->size_bytes();
        in_use_ = inner_->size_in_use_bytes();
    }

    const BackgroundOptions options_;
    const std::unique_ptr<Backend> inner_;  // the thread's, once there is one
    std::atomic<Revision> durable_ = 0;
    std::atomic<std::uint64_t> size_ = 0, in_use_ = 0;
    std::mutex mutex_;  // guards waiting_, waiting_bytes_, failure_
    WriteBatch waiting_;
    std::size_t waiting_bytes_ = 0;
    std::optional<StoreError> failure_;
    std::optional<PacedThread> thread_;  // last: it ends first
};

Outcome<void> BackgroundBackend::commit(const WriteBatch& batch) {
    {
        const std::lock_guard lock(mutex_);
        if (batch.replace) {
            failure_.reset();
            waiting_bytes_ = 0;
        }
        if (failure_) return *failure_;
        waiting_bytes_ += bytes_of(batch);
        if (!batch.replace && waiting_bytes_ > options_.max_waiting_bytes) {
            waiting_.clear();
            waiting_bytes_ = 0;
            failure_ = StoreError(Fault::kNoSpace, "the disk is too slow for what comes");
            return *failure_;
        }
        add(waiting_, batch);
    }
    if (!thread_) thread_.emplace(options_.gather, [this] { write(); });
    thread_->ask();
    return {};
}

void BackgroundBackend::write() {
    WriteBatch batch;
    {
        const std::lock_guard lock(mutex_);
        std::swap(batch, waiting_);
        waiting_bytes_ = 0;
        if (failure_ || batch.empty()) return;
    }
    const Outcome<void> done = inner_->commit(batch);
    measure();
    if (done) {
        if (batch.revision) durable_ = *batch.revision;
        return;
    }
    const std::lock_guard lock(mutex_);
    if (waiting_.replace) return;  // it does not build on what failed
    failure_ = done.error();
    waiting_.clear();
    waiting_bytes_ = 0;
}

}  // namespace

std::unique_ptr<Backend> in_background(std::unique_ptr<Backend> inner,
                                       const BackgroundOptions& options) {
    return std::make_unique<BackgroundBackend>(std::move(inner), options);
}

}  // namespace mesh::store
