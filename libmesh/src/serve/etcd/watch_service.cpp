#include "serve/etcd/watch_service.hpp"

#include <boost/asio/post.hpp>

#include "serve/etcd/watch_stream.hpp"

namespace mesh::serve {

WatchService::WatchService(std::shared_ptr<ServiceCore> core)
    : core_(std::move(core)), progress_timer_(core_->loop) {}
WatchService::~WatchService() = default;

void WatchService::start() {
    arm_progress_timer();
}

void WatchService::stop() {
    progress_timer_.cancel();
}

void WatchService::open(const rpc::ServerCallPtr& call, ListenerPtr listener) {
    if (auto begun = core_->begin_stream(call, listener); !begun.ok())
        return call->finish(std::move(begun));
    auto stream = std::make_shared<WatchStream>(shared_from_this(), call, std::move(listener));
    streams_.insert(stream.get());
    stream->start();
    core_->stats.watch_streams = streams_.size();
}

void WatchService::closed(WatchStream* stream) {
    streams_.erase(stream);
    progress_waiting_.erase(stream);
    core_->stats.watch_streams = streams_.size();
}

void WatchService::recheck() {
    const std::vector<WatchStream*> streams(streams_.begin(), streams_.end());
    for (WatchStream* stream : streams)
        if (streams_.contains(stream)) stream->recheck();
}

void WatchService::schedule_catch_up() {
    if (catch_up_scheduled_ || core_->stopped) return;
    catch_up_scheduled_ = true;
    boost::asio::post(core_->loop, [weak = weak_from_this()] {
        if (auto self = weak.lock()) self->catch_up();
    });
}

void WatchService::catch_up() {
    catch_up_scheduled_ = false;
    if (core_->stopped) return;
    // Small portions: what else the loop has to do comes in between.
    constexpr std::size_t kDeliveriesPerTurn = 64;
    const bool more = core_->store.catch_up(kDeliveriesPerTurn);
    for (auto stream = progress_waiting_.begin(); stream != progress_waiting_.end();) {
        if ((*stream)->try_answer_progress())
            stream = progress_waiting_.erase(stream);
        else
            ++stream;
    }
    if (more) schedule_catch_up();
}

void WatchService::arm_progress_timer() {
    progress_timer_.expires_after(core_->options.progress_notify_interval);
    progress_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        auto self = weak.lock();
        if (error || !self || self->core_->stopped) return;
        for (WatchStream* stream : self->streams_) stream->notify_progress();
        self->arm_progress_timer();
    });
}

}  // namespace mesh::serve
