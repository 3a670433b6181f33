// One of many watchers stops reading, as a process that hangs does, while events come at a fixed
// rate; later it goes on. What that costs the server in memory and the others in latency, and how
// long the one takes to catch up. The watcher that stalls is a process of its own, which is stopped
// by SIGSTOP; a server may close its connection, and it then resumes its watch at the revision it
// has, as etcd's clients do, or lists anew where that was compacted. One JSON line to stdout.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "load.hpp"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"

namespace {

namespace asio = boost::asio;
namespace rpc = mesh::rpc;
namespace etcdpb = mesh::etcdpb;
using namespace std::chrono_literals;
using std::chrono::steady_clock;

struct Options {
    std::string read, put;
    mesh::bench::Files files, put_files;
    int pid = 0;
    int watchers = 20;
    int rate = 1000;
    std::size_t value_bytes = 300;
    double stall = 10;
    double before = 2;
};

/// What the stalled process tells.
struct Told {
    std::atomic<std::int64_t> seen{-1};  // number of the last event; -1 = its watch is not there
    std::atomic<int> reconnects{0};
    std::atomic<int> lists{0};
};

steady_clock::duration seconds(double value) {
    return std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(value));
}

[[noreturn]] void die(const std::string& text) {
    std::cerr << "stall_client: " << text << "\n";
    std::_Exit(1);
}

/// A watch that is begun again, behind what it has, when its connection ends.
class Watcher {
  public:
    using OnEvent = std::function<void(std::int64_t number)>;

    Watcher(asio::io_context& io, const Options& options, std::shared_ptr<rpc::TlsCredentials> tls,
            const mesh::Clock& clock, OnEvent on_event)
        : io_(io),
          o_(options),
          tls_(std::move(tls)),
          clock_(clock),
          on_event_(std::move(on_event)),
          pause_(io) {}

    std::function<void()> on_created;
    int connects = 0;
    int lists = 0;

    void connect() {
        ++connects;
        channel_ = std::make_unique<rpc::Channel>(io_.get_executor(),
                                                  mesh::bench::channel_options(o_.read, tls_),
                                                  clock_, mesh::Logger());
        channel_->connect([this](mesh::Result<void> connected) {
            if (!connected) return again();
            watch();
        });
    }

  private:
    void watch() {
        etcdpb::WatchRequest request;
        auto& create = *request.mutable_create_request();
        create.set_key("cilium/state/");
        create.set_range_end("cilium/state0");
        if (revision_ > 0) create.set_start_revision(revision_ + 1);
        rpc::CallEvents events;
        events.on_message = [this](std::string_view message) { take(message); };
        events.on_end = [this](const rpc::Status&, const rpc::Metadata&) { again(); };
        call_ = channel_->call(etcdpb::kWatch, {}, std::move(events));
        if (call_->write(rpc::encode_frame(request)) != rpc::Write::kQueued) again();
    }

    void again() {
        pause_.expires_after(20ms);
        pause_.async_wait([this](boost::system::error_code ec) {
            if (!ec) connect();
        });
    }

    void take(std::string_view message) {
        etcdpb::WatchResponse response;
        if (!response.ParseFromArray(message.data(), static_cast<int>(message.size())))
            die("a watch answer makes no sense");
        if (response.canceled() && response.compact_revision() > 0) return list();
        if (response.canceled()) die("a watch was cancelled: " + response.cancel_reason());
        if (response.created() && on_created) on_created();
        for (const auto& event : response.events()) {
            revision_ = event.kv().mod_revision();
            on_event_(number_of(event.kv()));
        }
    }

    static std::int64_t number_of(const etcdpb::KeyValue& kv) {
        std::int64_t number = 0;
        std::from_chars(kv.value().data(), kv.value().data() + kv.value().size(), number);
        return number;
    }

    /// What was missed is history: the newest values instead.
    void list() {
        ++lists;
        etcdpb::RangeRequest request;
        request.set_key("cilium/state/");
        request.set_range_end("cilium/state0");
        channel_->unary(etcdpb::kRange, rpc::encode_frame(request), {},
                        [this](const rpc::UnaryResult& result) {
                            const auto answer = result.parse<etcdpb::RangeResponse>();
                            if (!answer) return again();
                            std::int64_t newest = 0;
                            for (const auto& kv : answer->kvs())
                                newest = std::max(newest, number_of(kv));
                            revision_ = answer->header().revision();
                            on_event_(newest);
                            call_->abandon();
                            watch();
                        });
    }

    asio::io_context& io_;
    const Options& o_;
    std::shared_ptr<rpc::TlsCredentials> tls_;
    const mesh::Clock& clock_;
    OnEvent on_event_;
    asio::steady_timer pause_;
    std::unique_ptr<rpc::Channel> channel_;
    rpc::ClientCallPtr call_;
    std::int64_t revision_ = 0;
};

[[noreturn]] void run_stalled(const Options& options, Told& told) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const mesh::SystemClock clock;
    asio::io_context io(1);
    Watcher watcher(io, options, mesh::bench::credentials(options.files), clock,
                    [&told](std::int64_t number) { told.seen = number; });
    watcher.on_created = [&] {
        std::int64_t none = -1;
        told.seen.compare_exchange_strong(none, 0);
        told.reconnects = watcher.connects - 1;
        told.lists = watcher.lists;
    };
    watcher.connect();
    io.run();
    std::_Exit(0);
}

class Load {
  public:
    Load(const Options& options, Told& told, pid_t stalled)
        : o_(options), told_(told), stalled_(stalled) {}

    void run() {
        const auto tls = mesh::bench::credentials(o_.files);
        for (int i = 0; i < o_.watchers; ++i) {
            watchers_.push_back(std::make_unique<Watcher>(
                io_, o_, tls, clock_, [this](std::int64_t number) { delivered(number); }));
            watchers_.back()->on_created = [this] { ++created_; };
            watchers_.back()->connect();
        }
        putter_ = std::make_unique<rpc::Channel>(
            io_.get_executor(),
            mesh::bench::channel_options(o_.put, mesh::bench::credentials(o_.put_files)), clock_,
            mesh::Logger());
        putter_->connect([this](mesh::Result<void> connected) {
            if (!connected) die(connected.error().message());
            wait_ready();
        });
        io_.run();
    }

  private:
    enum class Phase : std::uint8_t { kBefore, kStall, kCatchUp };

    template <class Next>
    void after(asio::steady_timer& timer, steady_clock::duration time, Next next) {
        timer.expires_after(time);
        timer.async_wait([next](boost::system::error_code ec) {
            if (!ec) next();
        });
    }

    void wait_ready() {
        if (created_ < o_.watchers || told_.seen < 0) {
            if (++waited_ > 2000) die("not all watches were created");
            return after(phase_timer_, 10ms, [this] { wait_ready(); });
        }
        begin_ = steady_clock::now();
        keep_pace();
        after(phase_timer_, seconds(o_.before), [this] { stall(); });
    }

    void keep_pace() {
        const std::chrono::duration<double> gone = steady_clock::now() - begin_;
        while (static_cast<double>(begun_.size()) <= gone.count() * o_.rate) put();
        after(pace_, 1ms, [this] { keep_pace(); });
    }

    void put() {
        etcdpb::PutRequest request;
        const std::size_t number = begun_.size();
        request.set_key("cilium/state/ip/v1/default/10.0.0." + std::to_string(number % 100));
        std::string value = std::to_string(number) + " ";
        value.resize(o_.value_bytes, 'x');
        request.set_value(std::move(value));
        begun_.push_back(steady_clock::now());
        putter_->unary(etcdpb::kPut, rpc::encode_frame(request), {},
                       [this](const rpc::UnaryResult& result) {
                           if (!result.status.ok() && !over_) die("put: " + result.status.message);
                       });
    }

    void delivered(std::int64_t number) {
        if (phase_ == Phase::kCatchUp) return;
        const std::chrono::duration<float, std::milli> took =
            steady_clock::now() - begun_.at(static_cast<std::size_t>(number));
        (phase_ == Phase::kBefore ? before_ms_ : during_ms_).push_back(took.count());
    }

    void stall() {
        phase_ = Phase::kStall;
        mesh::bench::reset_peak_of(o_.pid);
        rss_before_ = mesh::bench::memory_kib_of(o_.pid, "VmRSS:");
        kill(stalled_, SIGSTOP);
        after(phase_timer_, seconds(o_.stall), [this] { resume(); });
    }

    void resume() {
        phase_ = Phase::kCatchUp;
        rss_peak_ = mesh::bench::memory_kib_of(o_.pid, "VmHWM:");
        missing_ = static_cast<std::int64_t>(begun_.size()) - told_.seen;
        resumed_ = steady_clock::now();
        kill(stalled_, SIGCONT);
        look();
    }

    void look() {
        // Within 50 ms of the newest counts as caught up.
        const std::int64_t behind = static_cast<std::int64_t>(begun_.size()) - told_.seen;
        const double took = std::chrono::duration<double>(steady_clock::now() - resumed_).count();
        if (behind > o_.rate / 20 && took < 60) return after(phase_timer_, 1ms, [this] { look(); });
        fmt::print(
            "{{\"watchers\":{},\"rate\":{},\"stall_s\":{},\"missing\":{},\"caught_up\":{},"
            "\"catch_up_s\":{:.3f},\"reconnects\":{},\"lists\":{},\"rss_before_mib\":{:.1f},"
            "\"rss_growth_mib\":{:.2f},\"before_p50_ms\":{:.3f},\"before_p99_ms\":{:.3f},"
            "\"during_p50_ms\":{:.3f},\"during_p99_ms\":{:.3f},\"delivered\":{}}}\n",
            o_.watchers, o_.rate, o_.stall, missing_, behind <= o_.rate / 20, took,
            told_.reconnects.load(), told_.lists.load(), rss_before_ / 1024,
            (rss_peak_ - rss_before_) / 1024, mesh::bench::quantile(before_ms_, 0.5),
            mesh::bench::quantile(before_ms_, 0.99), mesh::bench::quantile(during_ms_, 0.5),
            mesh::bench::quantile(during_ms_, 0.99), before_ms_.size() + during_ms_.size());
        over_ = true;
        io_.stop();
    }

    const Options& o_;
    Told& told_;
    pid_t stalled_;
    mesh::SystemClock clock_;
    asio::io_context io_{1};
    asio::steady_timer phase_timer_{io_}, pace_{io_};
    std::vector<std::unique_ptr<Watcher>> watchers_;
    std::unique_ptr<rpc::Channel> putter_;
    std::vector<steady_clock::time_point> begun_;
    std::vector<float> before_ms_, during_ms_;
    steady_clock::time_point begin_, resumed_;
    std::int64_t missing_ = 0;
    int created_ = 0;
    int waited_ = 0;
    double rss_before_ = 0;
    double rss_peak_ = 0;
    Phase phase_ = Phase::kBefore;
    bool over_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app("one watcher of many stops reading for a while; prints one JSON line");
    app.add_option("--read", o.read, "HOST:PORT of the server that is watched")->required();
    app.add_option("--put", o.put, "HOST:PORT of the etcd that is written to")->required();
    app.add_option("--pid", o.pid, "process id of the server that is watched")->required();
    app.add_option("--watchers", o.watchers, "that go on, each with a connection of its own");
    app.add_option("--rate", o.rate, "puts per second");
    app.add_option("--value-bytes", o.value_bytes, "size of each value");
    app.add_option("--stall", o.stall, "seconds");
    app.add_option("--before", o.before, "seconds measured before the stall");
    app.add_option("--tls-ca", o.files.ca);
    app.add_option("--tls-cert", o.files.cert);
    app.add_option("--tls-key", o.files.key);
    app.add_option("--put-cert", o.put_files.cert, "certificate of the writer");
    app.add_option("--put-key", o.put_files.key);
    CLI11_PARSE(app, argc, argv);
    o.put_files.ca = o.files.ca;
    mesh::bench::raise_open_files();
    Told& told = *new (mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Told;
    const pid_t stalled = fork();
    if (stalled < 0) die("fork failed");
    if (stalled == 0) run_stalled(o, told);
    Load(o, told, stalled).run();
    kill(stalled, SIGKILL);
    waitpid(stalled, nullptr, 0);
}
