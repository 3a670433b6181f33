// A connect storm: very many clients connect at once, as after a restart of the server, and each
// lists everything, in pages at one revision as Cilium's agents do. What they get is counted and
// dropped, so that one process can be a thousand clients. One JSON line to stdout.
//
//   storm_client fill --put HOST:PORT --keys N   writes the keys
//   storm_client wait --read HOST:PORT --keys N  until the server answers, and counts N
//   storm_client run  --read HOST:PORT --keys N --connections C --page P
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
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

constexpr const char* kPrefix = "cilium/state/ip/v1/";
constexpr const char* kPrefixEnd = "cilium/state/ip/v10";

struct Options {
    std::string read, put;
    mesh::bench::Files files, put_files;
    int pid = 0;
    int connections = 1000;
    std::int64_t keys = 100'000;
    std::int64_t page = 256;
    std::size_t value_bytes = 200;
    double seconds = 120;
};

double since(steady_clock::time_point begin) {
    return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

/// What fill, wait and run have in common: a loop, and an end.
class Part {
  public:
    explicit Part(const Options& options) : o_(options), limit_(io_) {}
    virtual ~Part() = default;

    int run(const char* what) {
        limit_.expires_after(std::chrono::duration_cast<steady_clock::duration>(
            std::chrono::duration<double>(o_.seconds)));
        limit_.async_wait([this, what](boost::system::error_code ec) {
            if (!ec) fail(fmt::format("{} took more than {} s: {}", what, o_.seconds, progress()));
        });
        start();
        io_.run();
        return code_;
    }

  protected:
    virtual void start() = 0;
    virtual std::string progress() const { return last_failure_; }

    void fail(const std::string& text) {
        if (!over_) std::cerr << "storm_client: " << text << "\n";
        code_ = 1;
        end();
    }
    void end() {
        over_ = true;
        limit_.cancel();
        io_.stop();
    }

    const Options& o_;
    mesh::SystemClock clock_;
    asio::io_context io_{1};
    asio::steady_timer limit_;
    std::string last_failure_;
    bool over_ = false;
    int code_ = 0;
};

class Fill : public Part {
  public:
    using Part::Part;

  private:
    static constexpr int kBatch = 100;  // etcd takes 128
    static constexpr int kWindow = 4;

    void start() override {
        channel_ = std::make_unique<rpc::Channel>(
            io_.get_executor(),
            mesh::bench::channel_options(o_.put, mesh::bench::credentials(o_.put_files)), clock_,
            mesh::Logger());
        channel_->connect([this](mesh::Result<void> connected) {
            if (!connected) return fail(connected.error().message());
            for (int i = 0; i < kWindow; ++i) send();
        });
    }

    void send() {
        if (next_ >= o_.keys) {
            if (under_way_ == 0) end();
            return;
        }
        etcdpb::TxnRequest txn;
        for (int i = 0; i < kBatch && next_ < o_.keys; ++i, ++next_) {
            auto& put = *txn.add_success()->mutable_request_put();
            put.set_key(fmt::format("{}default/10.{}.{}.{}", kPrefix, next_ >> 16,
                                    next_ >> 8 & 0xFF, next_ & 0xFF));
            std::string value = std::to_string(next_) + " ";
            value.resize(o_.value_bytes, 'x');
            put.set_value(std::move(value));
        }
        ++under_way_;
        channel_->unary(etcdpb::kTxn, rpc::encode_frame(txn), {},
                        [this](const rpc::UnaryResult& result) {
                            --under_way_;
                            if (!result.status.ok()) return fail("txn: " + result.status.message);
                            send();
                        });
    }

    std::unique_ptr<rpc::Channel> channel_;
    std::int64_t next_ = 0;
    int under_way_ = 0;
};

class Wait : public Part {
  public:
    using Part::Part;

  private:
    void start() override {
        channel_ = std::make_unique<rpc::Channel>(
            io_.get_executor(),
            mesh::bench::channel_options(o_.read, mesh::bench::credentials(o_.files)), clock_,
            mesh::Logger());
        channel_->connect([this](mesh::Result<void> connected) {
            if (connected) return ask();
            last_failure_ = connected.error().message();
            again([this] { start(); });
        });
    }

    void ask() {
        etcdpb::RangeRequest request;
        request.set_key(kPrefix);
        request.set_range_end(kPrefixEnd);
        request.set_count_only(true);
        channel_->unary(
            etcdpb::kRange, rpc::encode_frame(request), {}, [this](const rpc::UnaryResult& result) {
                const auto answer = result.parse<etcdpb::RangeResponse>();
                if (answer && answer->count() >= o_.keys) return end();
                last_failure_ = answer ? fmt::format("{} of {} keys", answer->count(), o_.keys)
                                       : answer.error().message();
                again([this] { ask(); });
            });
    }

    template <class Next>
    void again(Next next) {
        pause_.expires_after(50ms);
        pause_.async_wait([next](boost::system::error_code ec) {
            if (!ec) next();
        });
    }

    std::unique_ptr<rpc::Channel> channel_;
    asio::steady_timer pause_{io_};
};

class Storm : public Part {
  public:
    using Part::Part;

  private:
    struct Reader {
        explicit Reader(asio::io_context& io) : pause(io) {}
        std::unique_ptr<rpc::Channel> channel;
        rpc::ClientCallPtr call;
        asio::steady_timer pause;
        etcdpb::RangeRequest request;
        std::int64_t keys = 0;
        bool done = false;
    };

    void start() override {
        tls_ = mesh::bench::credentials(o_.files);
        mesh::bench::reset_peak_of(o_.pid);
        rss_before_ = mesh::bench::memory_kib_of(o_.pid, "VmRSS:");
        cpu_before_ = mesh::bench::cpu_seconds_of(o_.pid);
        begin_ = steady_clock::now();
        for (int i = 0; i < o_.connections; ++i) {
            readers_.push_back(std::make_unique<Reader>(io_));
            connect(*readers_.back());
        }
    }

    std::string progress() const override {
        return fmt::format("{} of {} connected, {} synced, {} retries ({})", connected_.size(),
                           o_.connections, synced_.size(), retries_, last_failure_);
    }

    void connect(Reader& reader) {
        rpc::ChannelOptions options = mesh::bench::channel_options(o_.read, tls_);
        options.connect_timeout = 20s;  // grpc-go's
        options.max_message_bytes = 512U << 20;
        reader.request.Clear();
        reader.request.set_key(kPrefix);
        reader.request.set_range_end(kPrefixEnd);
        reader.request.set_limit(o_.page);
        if (o_.page > 0) reader.request.set_sort_target(etcdpb::RangeRequest::KEY);
        reader.request.set_serializable(true);
        reader.keys = 0;
        reader.channel = std::make_unique<rpc::Channel>(io_.get_executor(), std::move(options),
                                                        clock_, mesh::Logger());
        reader.channel->connect([this, &reader](mesh::Result<void> connected) {
            if (over_) return;
            if (!connected) return retry(reader, connected.error().message());
            connected_.push_back(static_cast<float>(since(begin_)));
            ask(reader);
        });
    }

    /// A reader begins anew, as an agent would.
    void retry(Reader& reader, const std::string& why) {
        ++retries_;
        last_failure_ = why;
        reader.pause.expires_after(1s);
        reader.pause.async_wait([this, &reader](boost::system::error_code ec) {
            if (!ec && !over_) connect(reader);
        });
    }

    void ask(Reader& reader) {
        rpc::CallEvents events;
        events.on_message = [this, &reader](std::string_view message) { take(reader, message); };
        events.on_end = [this, &reader](const rpc::Status& status, const rpc::Metadata&) {
            if (over_) return;
            if (!status.ok()) return retry(reader, status.message);
            if (!reader.done) return ask(reader);
            if (static_cast<int>(synced_.size()) == o_.connections) report();
        };
        reader.call = reader.channel->call(etcdpb::kRange, {}, std::move(events));
        if (reader.call->write(rpc::encode_frame(reader.request)) != rpc::Write::kQueued)
            return fail("cannot send a request");
        reader.call->half_close();
    }

    void take(Reader& reader, std::string_view message) {
        const auto page = mesh::bench::scan_range(message);
        if (!page) return fail("a range answer makes no sense");
        ++pages_;
        bytes_ += message.size();
        reader.keys += static_cast<std::int64_t>(page->keys);
        reader.request.set_revision(page->revision);
        if (page->more) return reader.request.set_key(std::string(page->last_key) + '\0');
        if (reader.keys != o_.keys)
            return fail(fmt::format("a client got {} keys of {}", reader.keys, o_.keys));
        reader.done = true;
        synced_.push_back(static_cast<float>(since(begin_)));
    }

    void report() {
        const double seconds = since(begin_);
        const auto& q = mesh::bench::quantile;
        fmt::print(
            "{{\"connections\":{},\"keys\":{},\"page\":{},\"seconds\":{:.3f},"
            "\"connect_p50_s\":{:.3f},\"connect_max_s\":{:.3f},\"sync_p50_s\":{:.3f},"
            "\"retries\":{},\"pages\":{},\"mib\":{:.1f},\"server_cpu_seconds\":{:.2f},"
            "\"rss_before_mib\":{:.1f},\"rss_peak_mib\":{:.1f},\"client_cpu_seconds\":{:.2f}}}\n",
            o_.connections, o_.keys, o_.page, seconds, q(connected_, 0.5), q(connected_, 1),
            q(synced_, 0.5), retries_, pages_, static_cast<double>(bytes_) / (1 << 20),
            mesh::bench::cpu_seconds_of(o_.pid) - cpu_before_, rss_before_ / 1024,
            mesh::bench::memory_kib_of(o_.pid, "VmHWM:") / 1024,
            mesh::bench::cpu_seconds_of(static_cast<int>(getpid())));
        end();
    }

    std::shared_ptr<rpc::TlsCredentials> tls_;
    std::vector<std::unique_ptr<Reader>> readers_;
    steady_clock::time_point begin_;
    std::vector<float> connected_, synced_;
    double rss_before_ = 0;
    double cpu_before_ = 0;
    std::uint64_t pages_ = 0, bytes_ = 0, retries_ = 0;
};

void add_options(CLI::App& app, Options& o) {
    app.add_option("--read", o.read, "HOST:PORT of the server that is read");
    app.add_option("--put", o.put, "HOST:PORT of the etcd that is written to");
    app.add_option("--pid", o.pid, "process id of the server that is read");
    app.add_option("--connections", o.connections, "clients");
    app.add_option("--keys", o.keys, "keys that are there");
    app.add_option("--page", o.page, "keys per request; 0 = all at once");
    app.add_option("--value-bytes", o.value_bytes, "size of each value");
    app.add_option("--seconds", o.seconds, "give up after this long");
    app.add_option("--tls-ca", o.files.ca);
    app.add_option("--tls-cert", o.files.cert);
    app.add_option("--tls-key", o.files.key);
    app.add_option("--put-cert", o.put_files.cert, "certificate of the writer");
    app.add_option("--put-key", o.put_files.key);
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("connect storm: many clients connect and list at once; prints one JSON line");
    app.require_subcommand(1);
    CLI::App& fill = *app.add_subcommand("fill", "write the keys");
    CLI::App& wait = *app.add_subcommand("wait", "until the server has the keys");
    CLI::App& run = *app.add_subcommand("run", "the storm");
    for (CLI::App* one : {&fill, &wait, &run}) add_options(*one, options);
    CLI11_PARSE(app, argc, argv);
    options.put_files.ca = options.files.ca;
    mesh::bench::raise_open_files();
    if (fill) return Fill(options).run("filling");
    if (wait) return Wait(options).run("waiting");
    return Storm(options).run("the storm");
}
