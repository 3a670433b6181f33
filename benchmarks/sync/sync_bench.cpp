// The first sync of a large remote, measured one way per process, so that each has a peak memory of
// its own. One JSON line to stdout; scripts/bench starts the etcd and puts the lines side by side.
//
//   sync_bench fill  --etcd URL          writes the dataset (dataset.hpp) into an empty etcd; with
//                                        --own what the own cluster has for it, with --change N
//                                        other identities for N of its ips
//   sync_bench range --etcd URL --page N the peer: the same bytes by Range in pages of N keys (0 =
//                                        all at once) at one revision, parsed by Protobuf, dropped,
//                                        or with --keep kept as one piece of bytes
//   sync_bench watch --etcd URL --events N   the peer of a callback: a bare watch of the ips, from
//                                        when it says "ready" until so many events were parsed
//   sync_bench sync  --remotes DIRECTORY the product: the remote configured there, through its
//                                        session with all validation, into the tables, until ready
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dataset.hpp"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"
#include "sources/etcd/endpoint.hpp"
#include "state/clusters/clusters.hpp"
#include "state/tables/cluster_tables.hpp"

namespace asio = boost::asio;

namespace {

using namespace mesh;

struct Options {
    std::string etcd, remotes;
    std::string ca, cert, key;
    std::int64_t page = 10'000;
    std::string prefix = "cilium/";
    bool keep = false, own = false;
    std::uint32_t change = 0, round = 0;
    std::uint64_t events = 0;
    double seconds = 120;
    bench::DatasetSize size;
};

double cpu_seconds() {
    rusage own{};
    getrusage(RUSAGE_SELF, &own);
    return static_cast<double>(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
           static_cast<double>(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
}

/// A line of /proc/self/status in MiB, e.g. "VmHWM:".
double memory_mib(std::string_view field) {
    std::ifstream in("/proc/self/status");
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with(field)) return std::stod(line.substr(field.size())) / 1024;
    }
    return 0;
}

/// Wall and CPU time from here on.
class Stopwatch {
  public:
    [[nodiscard]] std::string json() const {
        const double wall =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
        return fmt::format(
            R"("seconds":{:.4f},"cpu_seconds":{:.4f},"peak_rss_mib":{:.2f},"rss_mib":{:.2f})", wall,
            cpu_seconds() - cpu_, memory_mib("VmHWM:"), memory_mib("VmRSS:"));
    }

  private:
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
    double cpu_ = cpu_seconds();
};

/// Where a prefix that ends with '/' ends.
std::string end_of(std::string prefix) {
    prefix.back() = '0';
    return prefix;
}

int fail(asio::io_context& io, const std::string& text) {
    std::cerr << "sync_bench: " << text << "\n";
    io.stop();
    return 1;
}

// --- fill and range: over one bare channel ----------------------------------------------------

class Bare {
  public:
    Bare(asio::io_context& io, const Options& options) : io_(io), o_(options) {}

    int run(const std::function<void()>& connected) {
        const auto endpoint = etcd::parse_endpoint(o_.etcd, !o_.ca.empty());
        if (!endpoint) return fail(io_, endpoint.error().message());
        rpc::ChannelOptions options;
        options.host = endpoint->host;
        options.port = endpoint->port;
        if (endpoint->tls) {
            auto tls = rpc::TlsCredentials::load(
                rpc::TlsRole::kClient, {.ca_file = o_.ca, .cert_file = o_.cert, .key_file = o_.key},
                {});
            if (!tls) return fail(io_, tls.error().message());
            options.tls = *tls;
        }
        options.max_message_bytes = 512U << 20;
        channel_ = std::make_unique<rpc::Channel>(io_.get_executor(), std::move(options), clock_,
                                                  Logger());
        channel_->connect([this, connected](Result<void> result) {
            if (!result) {
                code_ = fail(io_, result.error().message());
                return;
            }
            connected();
        });
        io_.run();
        channel_.reset();
        return code_;
    }

  protected:
    asio::io_context& io_;
    const Options& o_;
    SystemClock clock_;
    std::unique_ptr<rpc::Channel> channel_;
    int code_ = 0;
};

class Fill : public Bare {
  public:
    using Bare::Bare;

    int run() {
        const auto now =
            std::chrono::duration_cast<std::chrono::seconds>(clock_.wall_now().time_since_epoch())
                .count();
        const auto put = [this](std::string key, std::string value) {
            if (batches_.empty() || batches_.back().success_size() == kBatch) {
                batches_.emplace_back();
            }
            auto& request = *batches_.back().add_success()->mutable_request_put();
            bytes_ += key.size() + value.size();
            ++keys_;
            request.set_key(std::move(key));
            request.set_value(std::move(value));
        };
        if (o_.own) {
            bench::make_own_dataset(o_.size, put);
        } else if (o_.change > 0) {
            for (std::uint32_t i = 0; i < o_.change; ++i) {
                bench::make_ip_change(o_.size, i, o_.round + i / o_.size.ips, put);
            }
        } else {
            bench::make_dataset(o_.size, now, put);
        }
        return Bare::run([this] {
            // The last batches open the door to readers: canaries after the objects.
            for (int i = 0; i < kWindow && sent_ < batches_.size(); ++i) send();
        });
    }

  private:
    static constexpr int kBatch = 100;  // etcd takes 128
    static constexpr int kWindow = 4;

    void send() {
        channel_->unary(etcdpb::kTxn, rpc::encode_frame(batches_[sent_++]), {},
                        [this](const rpc::UnaryResult& result) {
                            if (!result.status.ok()) {
                                code_ = fail(io_, "txn: " + result.status.message);
                                return;
                            }
                            if (sent_ < batches_.size()) send();
                            if (++done_ < batches_.size()) return;
                            fmt::print("{{\"keys\":{},\"bytes\":{},{}}}\n", keys_, bytes_,
                                       watch_.json());
                            io_.stop();
                        });
    }

    std::vector<etcdpb::TxnRequest> batches_;
    Stopwatch watch_;
    std::size_t bytes_ = 0, keys_ = 0, sent_ = 0, done_ = 0;
};

class Range : public Bare {
  public:
    using Bare::Bare;

    int run() {
        request_.set_key(o_.prefix);
        request_.set_range_end(end_of(o_.prefix));
        request_.set_limit(o_.page);
        return Bare::run([this] { next(); });
    }

  private:
    void next() {
        channel_->unary(etcdpb::kRange, rpc::encode_frame(request_), {},
                        [this](const rpc::UnaryResult& result) {
                            auto answer = result.parse<etcdpb::RangeResponse>();
                            if (!answer) {
                                code_ = fail(io_, "range: " + answer.error().message());
                                return;
                            }
                            ++pages_;
                            keys_ += static_cast<std::size_t>(answer->kvs_size());
                            for (const auto& kv : answer->kvs()) {
                                bytes_ += kv.key().size() + kv.value().size();
                                if (o_.keep) kept_.append(kv.key()).append(kv.value());
                            }
                            if (answer->more()) {
                                request_.set_revision(answer->header().revision());
                                request_.set_key(answer->kvs(answer->kvs_size() - 1).key() + '\0');
                                next();
                                return;
                            }
                            fmt::print("{{\"keys\":{},\"bytes\":{},\"pages\":{},{}}}\n", keys_,
                                       bytes_, pages_, watch_.json());
                            io_.stop();
                        });
    }

    etcdpb::RangeRequest request_;
    Stopwatch watch_;
    std::size_t bytes_ = 0, keys_ = 0, pages_ = 0;
    std::string kept_;
};

class Watch : public Bare {
  public:
    using Bare::Bare;

    int run() {
        return Bare::run([this] {
            etcdpb::WatchRequest request;
            request.mutable_create_request()->set_key(o_.prefix);
            request.mutable_create_request()->set_range_end(end_of(o_.prefix));
            rpc::CallEvents events;
            events.on_message = [this](std::string_view bytes) { take(bytes); };
            events.on_end = [this](const rpc::Status& status, const rpc::Metadata&) {
                if (!done_) code_ = fail(io_, "watch: " + status.message);
            };
            call_ = channel_->call(etcdpb::kWatch, {}, std::move(events));
            if (call_->write(rpc::encode_frame(request)) != rpc::Write::kQueued) {
                code_ = fail(io_, "cannot start a watch");
            }
        });
    }

  private:
    void take(std::string_view bytes) {
        etcdpb::WatchResponse response;
        if (!response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
            code_ = fail(io_, "a watch answer makes no sense");
            return;
        }
        if (response.created()) {
            fmt::print("ready\n");
            std::fflush(stdout);
            watch_.emplace();
        }
        seen_ += static_cast<std::uint64_t>(response.events_size());
        for (const auto& event : response.events()) bytes_ += event.kv().value().size();
        if (seen_ < o_.events || done_) return;
        done_ = true;
        fmt::print("{{\"events\":{},\"bytes\":{},{}}}\n", seen_, bytes_, watch_->json());
        io_.stop();
    }

    rpc::ClientCallPtr call_;
    std::optional<Stopwatch> watch_;
    std::uint64_t seen_ = 0;
    std::size_t bytes_ = 0;
    bool done_ = false;
};

// --- sync: the product's path -----------------------------------------------------------------

class Sync {
  public:
    Sync(asio::io_context& io, const Options& options)
        : io_(io), o_(options), tables_("cluster1", Rng().next()), limit_(io) {}

    int run() {
        state::ClustersOptions options;
        options.local_name = "cluster1";
        options.local_id = model::ClusterId{1};
        options.remotes_directory = o_.remotes;
        options.on_refused = [this](const std::string&, std::string_view key, state::Refusal,
                                    std::string_view why) {
            if (++refused_ == 1) std::cerr << "refused: " << key << ": " << why << "\n";
        };
        state::ClusterEvents events;
        events.on_batch = [this](state::ClusterBatch&& batch) {
            tables_.apply(batch, [](const state::Effect&) {});
        };
        events.on_state = [this](const std::string&, state::SessionState state) {
            if (state == state::SessionState::kReady) ready();
        };
        Logger log(
            "sync_bench",
            [](LogLevel, std::string_view subsystem, std::string_view text) {
                std::cerr << subsystem << ": " << text << "\n";
            },
            LogLevel::kWarn);
        watch_.emplace();
        clusters_ =
            std::make_unique<state::Clusters>(io_.get_executor(), std::move(options), clock_, Rng(),
                                              std::move(log), std::move(events));
        clusters_->start();
        limit_.expires_after(std::chrono::duration_cast<asio::steady_timer::duration>(
            std::chrono::duration<double>(o_.seconds)));
        limit_.async_wait([this](boost::system::error_code ec) {
            if (!ec) code_ = fail(io_, fmt::format("not ready after {} s", o_.seconds));
        });
        io_.run();
        return code_;
    }

  private:
    void ready() {
        if (done_) return;
        done_ = true;
        const std::string measured = watch_->json();
        const auto stats = tables_.stats(bench::kCluster);
        const auto count = [&](state::Kind kind) {
            return stats[static_cast<std::size_t>(kind)].count;
        };
        std::size_t bytes = tables_.shared_bytes();
        for (const auto& kind : stats) bytes += kind.bytes;
        const bool complete = count(state::Kind::kIp) == o_.size.ips &&
                              count(state::Kind::kService) == o_.size.services &&
                              count(state::Kind::kIdentity) == o_.size.identities &&
                              count(state::Kind::kNode) == o_.size.nodes && refused_ == 0;
        fmt::print(
            "{{\"ips\":{},\"services\":{},\"identities\":{},\"nodes\":{},\"refused\":{},"
            "\"complete\":{},\"tables_mib\":{:.2f},{}}}\n",
            count(state::Kind::kIp), count(state::Kind::kService), count(state::Kind::kIdentity),
            count(state::Kind::kNode), refused_, complete, static_cast<double>(bytes) / (1 << 20),
            measured);
        if (!complete) code_ = 1;
        limit_.cancel();
        asio::co_spawn(io_, clusters_->stop(), [this](std::exception_ptr) { io_.stop(); });
    }

    asio::io_context& io_;
    const Options& o_;
    SystemClock clock_;
    state::ClusterTables tables_;
    asio::steady_timer limit_;
    std::unique_ptr<state::Clusters> clusters_;
    std::optional<Stopwatch> watch_;
    std::size_t refused_ = 0;
    int code_ = 0;
    bool done_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("the first sync of a large remote and what it is measured against");
    app.require_subcommand(1);
    const auto sizes = [&](CLI::App* to) {
        to->add_option("--ips", options.size.ips);
        to->add_option("--services", options.size.services);
        to->add_option("--backends", options.size.backends, "of each service");
        to->add_option("--identities", options.size.identities);
        to->add_option("--nodes", options.size.nodes);
    };
    const auto connection = [&](CLI::App* to) {
        to->add_option("--etcd", options.etcd, "URL")->required();
        to->add_option("--tls-ca", options.ca);
        to->add_option("--tls-cert", options.cert);
        to->add_option("--tls-key", options.key);
    };
    auto* fill = app.add_subcommand("fill", "write the dataset");
    connection(fill);
    fill->add_flag("--own", options.own, "instead, what the own cluster has for it");
    fill->add_option("--change", options.change, "instead, other identities for so many ips");
    fill->add_option("--round", options.round, "of --change: another number, other identities");
    sizes(fill);
    auto* range = app.add_subcommand("range", "read all of it by bare Ranges");
    connection(range);
    range->add_option("--page", options.page, "keys per page; 0 = all");
    range->add_option("--prefix", options.prefix, "ends with a slash");
    range->add_flag("--keep", options.keep, "keep the bytes");
    auto* watch = app.add_subcommand("watch", "watch the ips");
    connection(watch);
    watch->add_option("--events", options.events, "how many to wait for")->required();
    auto* sync = app.add_subcommand("sync", "sync it as an agent does");
    sync->add_option("--remotes", options.remotes,
                     std::string("directory with the file ") + bench::kCluster)
        ->required();
    sync->add_option("--seconds", options.seconds, "give up after this long");
    sizes(sync);
    CLI11_PARSE(app, argc, argv);
    asio::io_context io(1);
    if (*fill) return Fill(io, options).run();
    if (*range) return Range(io, options).run();
    if (*watch) {
        options.prefix = "cilium/state/ip/v1/";
        return Watch(io, options).run();
    }
    return Sync(io, options).run();
}
