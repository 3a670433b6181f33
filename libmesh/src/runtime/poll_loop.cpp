#include "runtime/poll_loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace mesh {

namespace {
constexpr std::size_t kSlots = 512;
constexpr int kEventsPerTurn = 256;
}  // namespace

struct PollLoop::State {
    explicit State(OnFailure fail) : on_failure(std::move(fail)) {}
    ~State() {
        if (epoll >= 0) ::close(epoll);
        if (wake >= 0) ::close(wake);
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    OnFailure on_failure;
    int epoll = -1;
    int wake = -1;
    std::thread thread;
    std::atomic<bool> stopping{false};
    std::mutex mutex;  // guards posted
    std::vector<std::function<void()>> posted;
    std::vector<std::function<void()>> deferred;
    TimePoint now = std::chrono::steady_clock::now();
    WallTime wall = std::chrono::system_clock::now();
    std::array<Timer*, kSlots> slots{};
    std::uint64_t tick = tick_of(now);  // the last one that was looked at
    std::size_t timers = 0;
    bool idle = false;  // the last turn found nothing to do

    static std::uint64_t tick_of(TimePoint time) noexcept {
        return static_cast<std::uint64_t>(time.time_since_epoch() / kTick);
    }

    template <class Call>
    void guarded(Call&& call) noexcept {
        try {
            call();
        } catch (const std::exception& e) {
            on_failure(e.what());
        } catch (...) {
            on_failure("unknown exception");
        }
    }

    void link(Timer& timer) noexcept {
        // Rounded up: no timer is early. Beyond the horizon it is looked at again on the way.
        const std::uint64_t due =
            timer.due_ >= now + kTick * (kSlots - 2) ? tick + kSlots - 2 : tick_of(timer.due_) + 1;
        timer.tick_ = std::clamp(due, tick + 1, tick + kSlots - 1);
        Timer*& head = slots[timer.tick_ % kSlots];
        timer.previous_ = nullptr;
        timer.next_ = head;
        if (head != nullptr) head->previous_ = &timer;
        head = &timer;
        timer.linked_ = true;
        ++timers;
    }

    void unlink(Timer& timer) noexcept {
        if (!timer.linked_) return;
        if (timer.previous_ != nullptr) {
            timer.previous_->next_ = timer.next_;
        } else {
            slots[timer.tick_ % kSlots] = timer.next_;
        }
        if (timer.next_ != nullptr) timer.next_->previous_ = timer.previous_;
        timer.previous_ = timer.next_ = nullptr;
        timer.linked_ = false;
        --timers;
    }

    void run_timers() {
        const std::uint64_t until = tick_of(now);
        while (tick < until) {
            if (timers == 0 || until - tick > kSlots) {
                // Nothing to find, or the process was stopped for longer than the wheel turns.
                tick = timers == 0 ? until : until - kSlots;
                if (timers == 0) return;
            }
            ++tick;
            // A timer that is linked again goes to a later slot: the head never comes back.
            Timer*& head = slots[tick % kSlots];
            while (head != nullptr) {
                Timer& timer = *head;
                unlink(timer);
                if (timer.due_ > now) {
                    link(timer);
                } else {
                    guarded([&] { timer.on_timer(); });
                }
            }
        }
    }

    [[nodiscard]] int wait_ms() const noexcept {
        if (timers == 0) return -1;
        std::uint64_t ahead = 1;
        if (idle) {
            while (ahead < kSlots && slots[(tick + ahead) % kSlots] == nullptr) ++ahead;
        }
        const TimePoint at{kTick * static_cast<Duration::rep>(tick + ahead)};
        const auto ms = std::chrono::ceil<std::chrono::milliseconds>(at - now).count();
        return static_cast<int>(std::max<std::int64_t>(ms, 0));
    }

    void run_calls(std::vector<std::function<void()>>& calls) {
        std::vector<std::function<void()>> batch;
        batch.swap(calls);
        for (auto& call : batch) guarded(call);
    }

    void take_posted() {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto got = ::read(wake, &count, sizeof(count));
        std::vector<std::function<void()>> batch;
        {
            const std::lock_guard lock(mutex);
            batch.swap(posted);
        }
        for (auto& call : batch) guarded(call);
    }

    void loop() {
        std::array<epoll_event, kEventsPerTurn> events{};
        while (!stopping.load(std::memory_order_relaxed)) {
            const int n = ::epoll_wait(epoll, events.data(), kEventsPerTurn, wait_ms());
            now = std::chrono::steady_clock::now();
            wall = std::chrono::system_clock::now();
            idle = n <= 0;
            for (int i = 0; i < n; ++i) {
                const epoll_event& event = events[static_cast<std::size_t>(i)];
                if (event.data.ptr == nullptr) {
                    take_posted();
                    continue;
                }
                auto* handler = static_cast<Handler*>(event.data.ptr);
                guarded([&] { handler->on_ready(event.events); });
            }
            run_timers();
            while (!deferred.empty()) run_calls(deferred);
        }
    }
};

Result<std::unique_ptr<PollLoop>> PollLoop::make(OnFailure on_failure) {
    auto state = std::make_unique<State>(std::move(on_failure));
    const auto failed = [](std::string_view step) {
        return Error(Errc::kCapacity, std::string(step).append(": ").append(std::strerror(errno)));
    };
    state->epoll = ::epoll_create1(EPOLL_CLOEXEC);
    if (state->epoll < 0) return failed("epoll_create1");
    state->wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (state->wake < 0) return failed("eventfd");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;
    if (::epoll_ctl(state->epoll, EPOLL_CTL_ADD, state->wake, &event) != 0)
        return failed("epoll_ctl");
    try {
        state->thread = std::thread([raw = state.get()] { raw->loop(); });
    } catch (const std::system_error& e) {
        return Error(Errc::kCapacity, std::string("thread: ").append(e.what()));
    }
    return std::unique_ptr<PollLoop>(new PollLoop(std::move(state)));
}

PollLoop::PollLoop(std::unique_ptr<State> state) : state_(std::move(state)) {}

PollLoop::~PollLoop() {
    state_->stopping.store(true, std::memory_order_relaxed);
    post([] {});
    state_->thread.join();
    while (!state_->deferred.empty()) state_->run_calls(state_->deferred);
}

Result<void> PollLoop::add(int descriptor, std::uint32_t events, Handler& handler) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = &handler;
    if (::epoll_ctl(state_->epoll, EPOLL_CTL_ADD, descriptor, &event) == 0) return Result<void>{};
    return Error(errno == ENOSPC || errno == ENOMEM ? Errc::kCapacity : Errc::kInternal,
                 std::string("epoll_ctl: ").append(std::strerror(errno)));
}

void PollLoop::modify(int descriptor, std::uint32_t events, Handler& handler) noexcept {
    epoll_event event{};
    event.events = events;
    event.data.ptr = &handler;
    ::epoll_ctl(state_->epoll, EPOLL_CTL_MOD, descriptor, &event);
}

void PollLoop::remove(int descriptor) noexcept {
    epoll_event unused{};
    ::epoll_ctl(state_->epoll, EPOLL_CTL_DEL, descriptor, &unused);
}

void PollLoop::set_timer(Timer& timer, TimePoint due) noexcept {
    timer.due_ = due;
    // Looked at no later than due: nothing to do but remember it.
    if (timer.linked_ && State::tick_of(due) + 1 >= timer.tick_) return;
    state_->unlink(timer);
    state_->link(timer);
}

void PollLoop::cancel_timer(Timer& timer) noexcept {
    state_->unlink(timer);
    timer.due_ = TimePoint::max();
}

void PollLoop::defer(std::function<void()> call) {
    state_->deferred.push_back(std::move(call));
}

void PollLoop::post(std::function<void()> call) {
    {
        const std::lock_guard lock(state_->mutex);
        state_->posted.push_back(std::move(call));
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(state_->wake, &one, sizeof(one));
}

void PollLoop::run(const std::function<void()>& call) {
    if (on_loop()) {
        call();
        return;
    }
    std::promise<void> done;
    post([&] {
        call();
        done.set_value();
    });
    done.get_future().wait();
}

bool PollLoop::on_loop() const noexcept {
    return state_->thread.get_id() == std::this_thread::get_id();
}

TimePoint PollLoop::now() const noexcept {
    return state_->now;
}

WallTime PollLoop::wall_now() const noexcept {
    return state_->wall;
}

}  // namespace mesh
