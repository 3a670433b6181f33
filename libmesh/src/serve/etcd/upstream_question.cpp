#include "serve/etcd/upstream_question.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace mesh::serve {

namespace asio = boost::asio;

namespace {
using namespace std::chrono_literals;

/// Events that are under way come within this; only then a watch is made.
constexpr Duration kPatience = 10ms;
/// Between progress requests that the upstream answered too early.
constexpr Duration kAskAgain = 20ms;
/// Who asks does not wait for so long; the question is given up.
constexpr Duration kLimit = 10s;
/// One key, which need not be there: the header is what is asked for.
constexpr const char* kProbe = "cilium/.heartbeat";
/// What etcd puts into one answer of a watch that catches up (mvcc/watchable_store.go:
/// watchBatchMaxRevs).
constexpr std::ptrdiff_t kMostRevisions = 1000;
constexpr int kProgressRounds = 3;

std::ptrdiff_t revisions_of(std::span<const etcd::WatchEvent> changes) {
    std::ptrdiff_t count = 0;
    std::int64_t last = 0;
    for (const etcd::WatchEvent& change : changes)
        if (std::exchange(last, change.kv.mod_revision) != change.kv.mod_revision) ++count;
    return count;
}

}  // namespace

UpstreamQuestion::UpstreamQuestion(asio::any_io_executor loop, etcd::Client& client,
                                   TaskGroup& tasks, QuestionHost& host, etcd::KeyRange span)
    : client_(client),
      tasks_(tasks),
      host_(host),
      span_(std::move(span)),
      next_step_(loop),
      limit_(loop) {}

void UpstreamQuestion::ask(OnReadMark then) {
    then_ = std::move(then);
    ++question_;
    limit_.expires_after(kLimit);
    limit_.async_wait(
        [weak = weak_from_this(), question = question_](const boost::system::error_code& failed) {
            auto self = weak.lock();
            if (self && !failed && question == self->question_) self->lost();
        });
    tasks_.spawn(read(shared_from_this(), question_));
}

asio::awaitable<void> UpstreamQuestion::read(std::shared_ptr<UpstreamQuestion> self,
                                             std::uint64_t question) {
    etcd::RangeRequest request;
    request.range.key = kProbe;
    request.keys_only = true;
    const auto answer = co_await self->client_.async_range(std::move(request));
    if (self->then_ && question == self->question_) self->on_revision(answer);
}

void UpstreamQuestion::on_revision(const Result<etcd::RangeResult>& answer) {
    // An empty etcd after one with data, or another one: the watch finds out, and the host lists.
    if (!answer || answer->header.cluster_id != host_.position().cluster_id) return finish({});
    wanted_ = answer->header.revision;
    look();
    if (then_) after(kPatience, &UpstreamQuestion::prove);
}

void UpstreamQuestion::look() {
    if (!then_ || wanted_ == 0) return;
    const store::Revision reached = host_.position().revision;
    if (reached >= wanted_) return finish({.known = true, .revision = wanted_});
    // reach() comes back here.
    if (told_ > reached && reached >= told_after_) host_.reach(std::exchange(told_, 0));
}

void UpstreamQuestion::moved(bool by_events) {
    if (by_events) rounds_ = 0;
    look();
}

void UpstreamQuestion::prove() {
    if (host_.last_change() == 0) return ask_progress();
    etcd::WatchOptions options;
    options.range = span_;
    options.start_revision = host_.last_change();
    options.cluster_id = host_.position().cluster_id;
    options.progress_notify = false;
    etcd::WatchEvents events;
    events.on_events = [this](const etcd::Header& header,
                              std::span<const etcd::WatchEvent> changes) {
        on_proof(header, changes);
    };
    events.on_lost = [this](const Error&) { lost(); };
    events.on_end = [this](const etcd::WatchEnd& end) {
        if (end.reason != etcd::WatchEnd::Reason::kCompacted) return lost();
        ask_progress();
    };
    watch_ = client_.watch(std::move(options), std::move(events));
}

void UpstreamQuestion::on_proof(const etcd::Header& header,
                                std::span<const etcd::WatchEvent> changes) {
    const bool all = revisions_of(changes) < kMostRevisions;
    told_after_ = changes.back().kv.mod_revision;
    told_ = all ? header.revision : 0;
    const auto over = std::exchange(watch_, nullptr);
    look();
}

void UpstreamQuestion::ask_progress() {
    by_progress_ = true;
    client_.request_progress();
}

void UpstreamQuestion::on_in_step(const etcd::Header& header) {
    if (!then_ || !by_progress_) return;
    if (header.revision < wanted_ || !host_.settled()) {
        rounds_ = 0;
        return after(kAskAgain, &UpstreamQuestion::ask_progress);
    }
    if (++rounds_ < kProgressRounds) return ask_progress();
    host_.reach(wanted_);
}

void UpstreamQuestion::lost() {
    if (then_) finish({});
}

void UpstreamQuestion::stop() {
    then_ = {};
    watch_.reset();
    next_step_.cancel();
    limit_.cancel();
}

void UpstreamQuestion::finish(const ReadMark& mark) {
    const OnReadMark then = std::exchange(then_, {});
    const auto over = std::exchange(watch_, nullptr);
    next_step_.cancel();
    limit_.cancel();
    wanted_ = told_ = told_after_ = 0;
    by_progress_ = false;
    rounds_ = 0;
    then(mark);
}

void UpstreamQuestion::after(Duration time, void (UpstreamQuestion::*what)()) {
    next_step_.expires_after(std::chrono::ceil<std::chrono::microseconds>(time));
    next_step_.async_wait([weak = weak_from_this(), question = question_,
                           what](const boost::system::error_code& failed) {
        auto self = weak.lock();
        if (self && !failed && self->then_ && question == self->question_) ((*self).*what)();
    });
}

}  // namespace mesh::serve
