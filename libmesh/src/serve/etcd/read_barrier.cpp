#include "serve/etcd/read_barrier.hpp"

#include <utility>

namespace mesh::serve {

ReadBarrierQueue::ReadBarrierQueue(boost::asio::any_io_executor loop, ReadBarrier ask,
                                   Duration limit)
    : ask_(std::move(ask)), limit_(limit), timer_(std::move(loop)) {}

void ReadBarrierQueue::wait(OnReadMark then) {
    if (stopped_) return;
    ++stats_.reads;
    if (silent_) return tell({std::move(then)}, {});
    next_.push_back(std::move(then));
    if (!under_way_) ask_next();
}

void ReadBarrierQueue::stop() {
    stopped_ = true;
    timer_.cancel();
    asked_.clear();
    next_.clear();
}

void ReadBarrierQueue::ask_next() {
    asked_ = std::exchange(next_, {});
    under_way_ = true;
    ++stats_.questions;
    const std::uint64_t question = ++question_;
    timer_.expires_after(std::chrono::ceil<std::chrono::microseconds>(limit_));
    timer_.async_wait([weak = weak_from_this(), question](const boost::system::error_code& failed) {
        if (auto self = weak.lock(); self && !failed) self->on_limit(question);
    });
    ask_([weak = weak_from_this(), question](const ReadMark& mark) {
        if (auto self = weak.lock()) self->on_answer(question, mark);
    });
}

void ReadBarrierQueue::on_answer(std::uint64_t question, const ReadMark& mark) {
    if (stopped_ || !under_way_ || question != question_) return;
    under_way_ = silent_ = false;
    timer_.cancel();
    tell(std::exchange(asked_, {}), mark);
    if (!next_.empty() && !under_way_ && !stopped_) ask_next();
}

void ReadBarrierQueue::on_limit(std::uint64_t question) {
    if (stopped_ || !under_way_ || question != question_) return;
    silent_ = true;
    tell(std::exchange(asked_, {}), {});
    tell(std::exchange(next_, {}), {});
}

void ReadBarrierQueue::tell(std::vector<OnReadMark> whom, const ReadMark& mark) {
    if (!mark.known) stats_.unknown += whom.size();
    for (const OnReadMark& then : whom) then(mark);
}

}  // namespace mesh::serve
