#include "sources/health/prober.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <string>
#include <utility>

#include "sources/health/asio_address.hpp"

namespace mesh::sources::health {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

/// Probes that are due within this time of each other start together.
constexpr Duration kBatch = std::chrono::milliseconds(5);
/// For an answer that is there and not read yet, as this process was held up.
constexpr Duration kGranted = std::chrono::milliseconds(50);
/// Of an answer; the status line is all that is read of it.
constexpr std::size_t kMostAnswer = 512;

std::string request_of(const Target& target) {
    const std::string host = target.address.to_string();
    return fmt::format(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: libmesh-health/1\r\nConnection: close\r\n\r\n",
        target.check.path, target.address.is_v4() ? host : "[" + host + "]");
}

/// Empty if the status line says 2xx or 3xx; nullopt if it is not there yet.
std::optional<std::string> judge_answer(std::string_view answer) {
    const auto end = answer.find('\n');
    if (end == std::string_view::npos && answer.size() < kMostAnswer) return std::nullopt;
    const auto space = answer.find(' ');
    if (!answer.starts_with("HTTP/1.") || space + 4 > answer.size()) return "not an HTTP answer";
    const std::string_view code = answer.substr(space + 1, 3);
    if (code.front() == '2' || code.front() == '3') return std::string();
    return fmt::format("HTTP status {}", code);
}

/// One probe.
struct Attempt {
    Attempt(const asio::any_io_executor& executor, Start its_start, TimePoint its_deadline)
        : start(std::move(its_start)), deadline(its_deadline), socket(executor) {}
    Start start;
    TimePoint deadline;
    tcp::socket socket;
    std::string request, answer;
    std::array<char, kMostAnswer> buffer{};

    bool granted = false;  ///< more time, once

    /// Answered, although nobody has told yet: this process was held up.
    [[nodiscard]] bool answered() {
        pollfd poll{socket.native_handle(), static_cast<short>(request.empty() ? POLLOUT : POLLIN),
                    0};
        return socket.is_open() && ::poll(&poll, 1, 0) > 0;
    }
    void close() {
        error_code ignored;
        socket.set_option(asio::socket_base::linger(true, 0), ignored);
        socket.close(ignored);
    }
};

}  // namespace

class Prober::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor executor, const Clock& clock, Rng rng, ScheduleLimits limits,
         std::function<void(const Verdict&)> on_verdict)
        : executor_(std::move(executor)),
          clock_(clock),
          schedule_(limits, rng),
          on_verdict_(std::move(on_verdict)),
          timer_(executor_) {}

    void add(const Target& target) {
        if (stopped_) return;
        schedule_.add(target, clock_.now());
        wait();
    }
    void remove(const Target& target) {
        schedule_.remove(target);
        wait();
    }
    void stop() {
        stopped_ = true;
        timer_.cancel();
        for (auto& [id, attempt] : attempts_) attempt->close();
        attempts_.clear();
    }
    [[nodiscard]] const ProbeSchedule& schedule() const noexcept { return schedule_; }

  private:
    /// One timer: for the next probe to start, and the next one to give up.
    void wait() {
        if (stopped_) return;
        std::optional<TimePoint> at = schedule_.next_due();
        for (const auto& [id, attempt] : attempts_) {
            at = std::min(at.value_or(attempt->deadline), attempt->deadline);
        }
        if (at == waiting_for_) return;
        waiting_for_ = at;
        if (!at) {
            timer_.cancel();
            return;
        }
        timer_.expires_after(std::max(*at - clock_.now(), Duration::zero()));
        timer_.async_wait([weak = weak_from_this()](error_code ec) {
            const auto self = weak.lock();
            if (!self || ec || self->stopped_) return;
            self->waiting_for_.reset();
            self->tick();
        });
    }

    void tick() {
        const TimePoint now = clock_.now();
        std::vector<std::shared_ptr<Attempt>> late;
        for (const auto& [id, attempt] : attempts_) {
            if (attempt->deadline <= now) late.push_back(attempt);
        }
        for (const auto& attempt : late) give_up(*attempt, now);
        for (Start& start : schedule_.take_due(now + kBatch)) begin(std::move(start), now);
        wait();
    }

    void give_up(Attempt& attempt, TimePoint now) {
        if (!attempt.granted && attempt.answered()) {
            attempt.granted = true;
            attempt.deadline = now + kGranted;
            return;
        }
        finish(attempt.start.id, "no answer in time");
    }

    void begin(Start start, TimePoint now) {
        const ProbeId id = start.id;
        const tcp::endpoint endpoint(to_asio(start.target.address), start.target.port);
        const TimePoint deadline = now + start.timeout;
        const auto attempt = std::make_shared<Attempt>(executor_, std::move(start), deadline);
        attempts_.emplace(id, attempt);
        attempt->socket.async_connect(endpoint, [weak = weak_from_this(), attempt](error_code ec) {
            if (auto self = weak.lock()) self->connected(*attempt, ec);
        });
    }

    void connected(Attempt& attempt, error_code ec) {
        const Target& target = attempt.start.target;
        if (!attempts_.contains(attempt.start.id)) return;
        const bool answered = !ec || (target.is_host() && ec == asio::error::connection_refused);
        if (!answered) return finish(attempt.start.id, ec.message());
        if (ec || target.check.kind == model::HealthCheck::Kind::kTcp) {
            return finish(attempt.start.id, {});
        }
        attempt.request = request_of(target);
        asio::async_write(attempt.socket, asio::buffer(attempt.request),
                          [weak = weak_from_this(), held = attempts_.at(attempt.start.id)](
                              error_code failed, std::size_t) {
                              auto self = weak.lock();
                              if (!self) return;
                              if (failed) return self->finish(held->start.id, failed.message());
                              self->read(held);
                          });
    }

    void read(const std::shared_ptr<Attempt>& attempt) {
        attempt->socket.async_read_some(
            asio::buffer(attempt->buffer),
            [weak = weak_from_this(), attempt](error_code ec, std::size_t size) {
                auto self = weak.lock();
                if (!self || !self->attempts_.contains(attempt->start.id)) return;
                if (ec) return self->finish(attempt->start.id, ec.message());
                attempt->answer.append(attempt->buffer.data(), size);
                if (auto verdict = judge_answer(attempt->answer)) {
                    return self->finish(attempt->start.id, *std::move(verdict));
                }
                self->read(attempt);
            });
    }

    void finish(ProbeId id, std::string error) {
        const auto at = attempts_.find(id);
        if (at == attempts_.end()) return;
        at->second->close();
        attempts_.erase(at);
        const auto verdict = schedule_.done(id, std::move(error), clock_.now());
        wait();
        if (verdict && !stopped_) on_verdict_(*verdict);
    }

    asio::any_io_executor executor_;
    const Clock& clock_;
    ProbeSchedule schedule_;
    std::function<void(const Verdict&)> on_verdict_;
    asio::steady_timer timer_;
    std::optional<TimePoint> waiting_for_;
    std::map<ProbeId, std::shared_ptr<Attempt>> attempts_;
    bool stopped_ = false;
};

Prober::Prober(asio::any_io_executor executor, const Clock& clock, Rng rng, ScheduleLimits limits,
               std::function<void(const Verdict&)> on_verdict)
    : impl_(
          std::make_shared<Impl>(std::move(executor), clock, rng, limits, std::move(on_verdict))) {}
Prober::~Prober() {
    impl_->stop();
}
void Prober::add(const Target& target) {
    impl_->add(target);
}
void Prober::remove(const Target& target) {
    impl_->remove(target);
}
void Prober::stop() {
    impl_->stop();
}
const ProbeSchedule& Prober::schedule() const noexcept {
    return impl_->schedule();
}

}  // namespace mesh::sources::health
