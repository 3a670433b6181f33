// A large mesh, announced into the etcds of its clusters, and when a node's kernel has all of it:
// every address with its identity in the ipcache, every service with all its backends. One JSON
// line to stdout; scripts/bench starts etcds, proxies and the agent.
//
//   scale_client open --etcd HOST:PORT ...               the clusters, without any objects yet
//   scale_client run  --etcd HOST:PORT ... --maps PIN    announces all objects and waits
//   scale_client wait --maps PIN                         waits only; says "ready" on stderr first
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "announcement.hpp"
#include "bpf/layout.h"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"

namespace asio = boost::asio;

namespace {

using namespace mesh;
using Clock = std::chrono::steady_clock;

struct Options {
    bench::MeshSize size;
    std::vector<std::string> etcds;  ///< of the clusters, in order
    std::string maps;                ///< the agent's pins; those of pod forwarding are beside them
    double patience = 120;
};

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Puts all that one cluster publishes, some batches at a time.
class Announcer {
  public:
    Announcer(asio::io_context& io, std::uint32_t cluster, const Options& o, bool objects)
        : io_(io), cluster_(cluster) {
        const bench::Put put = [this](std::string key, std::string value) {
            if (batches_.empty() || batches_.back().success_size() == kBatch) {
                batches_.emplace_back();
            }
            auto& one = *batches_.back().add_success()->mutable_request_put();
            bytes_ += key.size() + value.size();
            ++keys_;
            one.set_key(std::move(key));
            one.set_value(std::move(value));
        };
        const auto now =
            std::chrono::duration_cast<std::chrono::seconds>(clock_.wall_now().time_since_epoch())
                .count();
        if (objects) {
            bench::announce_objects(cluster, o.size, put);
        } else {
            bench::announce_cluster(cluster, now, put);
        }
    }
    void connect(const std::string& to) {
        rpc::ChannelOptions options;
        const auto colon = to.rfind(':');
        options.host = to.substr(0, colon);
        std::from_chars(to.data() + colon + 1, to.data() + to.size(), options.port);
        channel_ = std::make_unique<rpc::Channel>(io_.get_executor(), std::move(options), clock_,
                                                  Logger());
        channel_->connect([this](const Result<void>& result) {
            connected_ = result.has_value();
            if (!result) error_ = result.error().message();
        });
    }
    void start() {
        for (int i = 0; i < kWindow && sent_ < batches_.size(); ++i) send();
    }
    [[nodiscard]] bool connected() const { return connected_; }
    [[nodiscard]] bool done() const { return done_ == batches_.size(); }
    [[nodiscard]] const std::string& error() const { return error_; }
    [[nodiscard]] std::size_t keys() const { return keys_; }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }

  private:
    static constexpr int kBatch = 100;  // etcd takes 128
    static constexpr int kWindow = 4;

    void send() {
        channel_->unary(etcdpb::kTxn, rpc::encode_frame(batches_[sent_++]), {},
                        [this](const rpc::UnaryResult& result) {
                            if (!result.status.ok()) {
                                error_ =
                                    fmt::format("cluster {}: {}", cluster_, result.status.message);
                                return;
                            }
                            ++done_;
                            if (sent_ < batches_.size()) send();
                        });
    }

    asio::io_context& io_;
    std::uint32_t cluster_;
    SystemClock clock_;
    std::unique_ptr<rpc::Channel> channel_;
    std::vector<etcdpb::TxnRequest> batches_;
    std::size_t keys_ = 0, bytes_ = 0, sent_ = 0, done_ = 0;
    bool connected_ = false;
    std::string error_;
};

/// Looks at what the kernel has, row by row in order: a row that is there is not looked at again.
class Kernel {
  public:
    explicit Kernel(const Options& o) : o_(o) {
        for (std::uint32_t c = 1; c <= o.size.clusters; ++c) {
            for (std::uint32_t n = 0; n < o.size.nodes; ++n) {
                for (std::uint32_t p = 0; p < o.size.pods; ++p) {
                    addresses_.push_back(
                        {bench::pod_address(c, n, p), bench::pod_identity(c, n, p, o.size)});
                }
            }
        }
    }
    ~Kernel() {
        for (const int fd : {ipcache_, frontends_, services_}) {
            if (fd >= 0) close(fd);
        }
    }
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;

    /// Some rows further. @return true when all are there
    bool look() {
        if (!open()) return false;
        for (int i = 0; i < kAtOnce && next_address_ < addresses_.size(); ++i) {
            if (!has_address(addresses_[next_address_])) break;
            ++next_address_;
        }
        for (int i = 0; i < kAtOnce && next_service_ < o_.size.services; ++i) {
            if (!has_service(next_service_)) break;
            ++next_service_;
        }
        return next_address_ == addresses_.size() && next_service_ == o_.size.services;
    }
    [[nodiscard]] std::size_t rows() const { return addresses_.size() + o_.size.services; }
    [[nodiscard]] std::string progress() const {
        return fmt::format("{} of {} addresses, {} of {} services", next_address_,
                           addresses_.size(), next_service_, o_.size.services);
    }

  private:
    static constexpr int kAtOnce = 2'000;
    struct Address {
        model::IpAddress ip;
        std::uint32_t identity;
    };

    bool open() {
        for (auto [fd, folder, name] : {std::tuple{&ipcache_, "_pods/maps/", "ipcache"},
                                        {&frontends_, "/maps/", "frontends"},
                                        {&services_, "/maps/", "services"}}) {
            if (*fd < 0) *fd = bpf_obj_get((o_.maps + folder + name).c_str());
            if (*fd < 0) return false;
        }
        return true;
    }
    [[nodiscard]] bool has_address(const Address& wanted) const {
        mesh_ipcache_key key{};
        key.prefix_length = 128;
        std::memcpy(key.address.word, wanted.ip.bytes().data(), sizeof key.address.word);
        mesh_ipcache_entry entry{};
        return bpf_map_lookup_elem(ipcache_, &key, &entry) == 0 &&
               entry.identity == wanted.identity;
    }
    [[nodiscard]] bool has_service(std::uint32_t number) const {
        mesh_frontend_key key{};
        std::memcpy(key.address, bench::service_address(number).bytes().data(), sizeof key.address);
        key.port = htons(bench::kServicePort);
        key.proto = IPPROTO_TCP;
        std::uint32_t id = 0;
        mesh_service service{};
        return bpf_map_lookup_elem(frontends_, &key, &id) == 0 &&
               bpf_map_lookup_elem(services_, &id, &service) == 0 &&
               MESH_WINDOW_COUNT(service.window) == o_.size.clusters * o_.size.backends;
    }

    const Options& o_;
    std::vector<Address> addresses_;
    std::size_t next_address_ = 0;
    std::uint32_t next_service_ = 0;
    int ipcache_ = -1, frontends_ = -1, services_ = -1;
};

int fail(const std::string& text) {
    std::cerr << "scale_client: " << text << "\n";
    return 1;
}

int run(const Options& o, bool announce, bool wait) {
    asio::io_context io(1);
    std::vector<std::unique_ptr<Announcer>> announcers;
    const auto turn = [&io] {
        io.restart();
        io.poll();
        std::this_thread::sleep_for(std::chrono::microseconds(500));
    };
    const auto all = [&](auto what) {
        return std::ranges::all_of(announcers, [&](const auto& a) { return what(*a); });
    };
    std::size_t keys = 0, bytes = 0;
    if (announce) {
        if (o.etcds.size() != o.size.clusters) return fail("expected one --etcd for each cluster");
        for (std::uint32_t c = 1; c <= o.size.clusters; ++c) {
            auto& made = announcers.emplace_back(std::make_unique<Announcer>(io, c, o, wait));
            made->connect(o.etcds[c - 1]);
            keys += made->keys();
            bytes += made->bytes();
        }
    }
    Kernel kernel(o);
    while (!all([](const Announcer& a) { return a.connected() || !a.error().empty(); })) turn();
    if (!announce) std::cerr << "ready" << std::endl;
    const auto begin = Clock::now();
    for (auto& announcer : announcers) announcer->start();
    double announced = 0, programmed = 0;
    while ((announce && announced == 0) || (wait && programmed == 0)) {
        turn();
        for (const auto& announcer : announcers) {
            if (!announcer->error().empty()) return fail(announcer->error());
        }
        if (announced == 0 && all([](const Announcer& a) { return a.done(); })) {
            announced = seconds_since(begin);
        }
        if (wait && programmed == 0 && kernel.look()) programmed = seconds_since(begin);
        if (seconds_since(begin) > o.patience) return fail("not all there: " + kernel.progress());
    }
    fmt::print(R"({{"keys":{},"bytes":{},"rows":{},"announce_seconds":{:.4f},)"
               R"("program_seconds":{:.4f}}})"
               "\n",
               keys, bytes, kernel.rows(), announced, programmed);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app("a large mesh, announced, and when a node's kernel has all of it");
    app.require_subcommand(1);
    int code = 0;
    const auto add = [&](const char* name, bool announce, bool wait) {
        CLI::App* command = app.add_subcommand(name);
        const auto size = [&](const char* flag, std::uint32_t& value, std::uint32_t most,
                              const char* help) {
            command->add_option(flag, value, help)
                ->check(CLI::Range(1U, most))
                ->capture_default_str();
        };
        size("--clusters", o.size.clusters, 15, "clusters, the first is the agent's own");
        size("--nodes", o.size.nodes, 4'096, "nodes of each cluster");
        size("--pods", o.size.pods, 250, "pods of each node");
        size("--identities", o.size.identities, 60'000, "identities of each cluster");
        size("--services", o.size.services, 60'000, "global services, the same in each cluster");
        size("--backends", o.size.backends, 250, "backends of each service in each cluster");
        if (announce) {
            command->add_option("--etcd", o.etcds, "HOST:PORT of a cluster's etcd, in order")
                ->required();
        }
        if (wait) {
            command->add_option("--maps", o.maps, "the agent's folder of pins, absolute")
                ->required();
        }
        command->add_option("--patience", o.patience, "seconds")->capture_default_str();
        command->callback([&, announce, wait] { code = run(o, announce, wait); });
    };
    add("run", true, true);
    add("open", true, false);
    add("wait", false, true);
    CLI11_PARSE(app, argc, argv);
    return code;
}
