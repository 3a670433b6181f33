// How long it takes from a put into a remote cluster's etcd until the backend can be chosen by the
// kernel: remote's etcd -> mesh-proxy -> mesh-agent -> BPF map. In the same run and by the same
// thread: a bare watch of the same key at the etcd itself, which is the least that could work, and
// one at the proxy. One loop polls sockets and map in turn, so that all three have the same
// resolution. One JSON line to stdout; scripts/bench starts etcds, proxy and agent.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bpf/layout.h"
#include "model/codec.hpp"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "model/keys.hpp"
#include "rpc/client.hpp"

namespace asio = boost::asio;

namespace {

using namespace mesh;
using Clock = std::chrono::steady_clock;

struct Options {
    std::string own, remote, proxy, maps;
    std::string ca, cert, key;
    int events = 1000;
    int poll_us = 20;
    int gap_us = 2000;
    double patience = 30;
};

constexpr const char* kRemote = "cluster2";
constexpr const char* kNamespace = "default";
constexpr const char* kName = "bench";

model::IpAddress cluster_ip() {
    return model::IpAddress::v4((10U << 24) + (11U << 16) + 7);
}
/// A backend of its own for each event.
model::IpAddress backend(int event) {
    return model::IpAddress::v4((10U << 24) + (20U << 16) + 256 +
                                static_cast<std::uint32_t>(event));
}

/// The service of the own cluster: global, without backends of its own.
model::LocalService local_service() {
    model::LocalService service;
    service.namespace_ = kNamespace;
    service.name = kName;
    service.type = "ClusterIP";
    service.cluster_ips = {cluster_ip()};
    service.ports = {{"http", "TCP", 80}};
    service.global = true;
    service.shared = true;
    return service;
}

model::Service remote_service(int event) {
    model::Service service;
    service.cluster = kRemote;
    service.cluster_id = model::ClusterId{2};
    service.namespace_ = kNamespace;
    service.name = kName;
    service.include_external = true;
    service.shared = true;
    service.backends.push_back(
        {backend(event), model::SharedList<model::ServicePort>({{"http", "TCP", 8080}}), {}});
    return service;
}

/// The agent's maps as any program may read them: by lookups.
class Maps {
  public:
    std::string open(const std::string& folder) {
        for (auto [fd, name] : {std::pair{&frontends_, "frontends"},
                                {&services_, "services"},
                                {&slots_, "slots"},
                                {&backends_, "backends"}}) {
            if (*fd >= 0) continue;
            *fd = bpf_obj_get((folder + "/" + name).c_str());
            if (*fd < 0) return folder + "/" + name + ": " + std::strerror(errno);
        }
        return {};
    }
    Maps() = default;
    Maps(const Maps&) = delete;
    Maps& operator=(const Maps&) = delete;
    ~Maps() {
        for (const int fd : {frontends_, services_, slots_, backends_}) {
            if (fd >= 0) close(fd);
        }
    }

    /// Whether a connect to the service would choose `wanted` now: frontend, window, slot, backend.
    [[nodiscard]] bool chooses(const model::IpAddress& wanted) {
        if (service_ == 0) {
            mesh_frontend_key key{};
            std::memcpy(key.address, cluster_ip().bytes().data(), sizeof(key.address));
            key.port = htons(80);
            key.proto = IPPROTO_TCP;
            if (bpf_map_lookup_elem(frontends_, &key, &service_) != 0) {
                service_ = 0;
                return false;
            }
        }
        mesh_service service{};
        mesh_slot slot{};
        mesh_backend held{};
        if (bpf_map_lookup_elem(services_, &service_, &service) != 0) return false;
        if (MESH_WINDOW_COUNT(service.window) == 0) return false;
        const std::uint32_t first = MESH_WINDOW_BASE(service.window);
        if (bpf_map_lookup_elem(slots_, &first, &slot) != 0) return false;
        if (bpf_map_lookup_elem(backends_, &slot.backend, &held) != 0) return false;
        return std::memcmp(held.address, wanted.bytes().data(), sizeof(held.address)) == 0 &&
               (held.flags & MESH_BACKEND_SELECTABLE) != 0;
    }

  private:
    int frontends_ = -1, services_ = -1, slots_ = -1, backends_ = -1;
    std::uint32_t service_ = 0;
};

class Latency {
  public:
    Latency(asio::io_context& io, Options options) : io_(io), o_(std::move(options)) {}

    int setup() {
        if (!connect(own_, o_.own, false) || !connect(remote_, o_.remote, false)) return 1;
        const auto now =
            std::chrono::duration_cast<std::chrono::seconds>(clock_.wall_now().time_since_epoch())
                .count();
        model::ClusterConfig config;
        config.id = model::ClusterId{2};
        config.synced_canaries = true;
        config.max_connected_clusters = 255;
        bool ok = put(own_, model::local_service_key(kNamespace, kName), encode(local_service())) &&
                  put(remote_, service_key(), encode(remote_service(0))) &&
                  put(remote_, model::cluster_config_key(kRemote), encode(config)) &&
                  put(remote_, std::string(model::kHeartbeatKey), model::encode_timestamp(now));
        for (const auto resource : model::kResources) {
            ok = ok &&
                 put(remote_, model::synced_key(kRemote, resource), model::encode_timestamp(now));
        }
        return ok ? 0 : 1;
    }

    int measure() {
        prctl(PR_SET_TIMERSLACK, 1UL);  // of this process; else sleeps are 50 us longer
        const auto end = Clock::now() + seconds(o_.patience);
        std::string why = maps_.open(o_.maps);
        while (!why.empty() || !maps_.chooses(backend(0))) {
            if (Clock::now() > end) {
                fail(why.empty() ? "the agent does not show the first backend in its maps" : why);
                return 1;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            if (!why.empty()) why = maps_.open(o_.maps);
        }
        if (!connect(remote_, o_.remote, false) || !connect(direct_.channel, o_.remote, false) ||
            !connect(proxied_.channel, o_.proxy, true) || !watch(direct_) || !watch(proxied_)) {
            return 1;
        }
        for (int event = 1; event <= o_.events; ++event) {
            if (!one(event)) return 1;
            const auto next = Clock::now() + std::chrono::microseconds(o_.gap_us);
            while (Clock::now() < next) turn();
        }
        std::string out = fmt::format(R"({{"events":{},"poll_us":{:.1f})", o_.events, turn_us());
        out += percentiles("put_answered", put_us_) + percentiles("watch_etcd", direct_.us) +
               percentiles("watch_proxy", proxied_.us) + percentiles("map", map_us_) + "}";
        std::puts(out.c_str());
        for (auto* w : {&direct_, &proxied_}) w->call->abandon();
        return 0;
    }

  private:
    struct Watcher {
        std::unique_ptr<rpc::Channel> channel;
        rpc::ClientCallPtr call;
        bool created = false;
        bool seen = false;
        std::vector<double> us;
    };

    static Clock::duration seconds(double s) {
        return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
    }
    static std::string service_key() { return model::service_key(kRemote, kNamespace, kName); }
    /// @return false, for the caller's return
    bool fail(const std::string& text) {
        std::cerr << "latency_client: " << text << "\n";
        failed_ = true;
        return false;
    }

    /// Runs the loop until `done`, or complains.
    bool wait(const char* what, const std::function<bool()>& done) {
        const auto end = Clock::now() + seconds(o_.patience);
        while (!done() && !failed_) {
            if (Clock::now() > end) fail(std::string("no end of ") + what);
            turn();
        }
        return !failed_;
    }

    /// One poll of the sockets, and a pause.
    void turn() {
        io_.restart();
        io_.poll();
        std::this_thread::sleep_for(std::chrono::microseconds(o_.poll_us));
    }

    bool connect(std::unique_ptr<rpc::Channel>& channel, const std::string& to, bool tls) {
        rpc::ChannelOptions options;
        const auto colon = to.rfind(':');
        options.host = to.substr(0, colon);
        std::from_chars(to.data() + colon + 1, to.data() + to.size(), options.port);
        if (tls) {
            auto loaded = rpc::TlsCredentials::load(
                rpc::TlsRole::kClient, {.ca_file = o_.ca, .cert_file = o_.cert, .key_file = o_.key},
                {});
            if (!loaded) return fail(loaded.error().message());
            options.tls = *loaded;
        }
        channel = std::make_unique<rpc::Channel>(io_.get_executor(), std::move(options), clock_,
                                                 Logger());
        bool done = false;
        channel->connect([&](const Result<void>& result) {
            done = true;
            if (!result) fail(result.error().message());
        });
        return wait("connect", [&] { return done; });
    }

    bool put(std::unique_ptr<rpc::Channel>& channel, const std::string& key, std::string value) {
        bool done = false;
        send(channel, key, std::move(value), [&] { done = true; });
        return wait("put", [&] { return done; });
    }

    void send(std::unique_ptr<rpc::Channel>& channel, const std::string& key, std::string value,
              std::function<void()> answered) {
        etcdpb::PutRequest request;
        request.set_key(key);
        request.set_value(std::move(value));
        channel->unary(etcdpb::kPut, rpc::encode_frame(request), {},
                       [this, answered = std::move(answered)](const rpc::UnaryResult& result) {
                           if (!result.status.ok()) fail("put: " + result.status.message);
                           answered();
                       });
    }

    bool watch(Watcher& watcher) {
        etcdpb::WatchRequest request;
        request.mutable_create_request()->set_key(service_key());
        rpc::CallEvents events;
        events.on_message = [this, &watcher](std::string_view bytes) {
            etcdpb::WatchResponse response;
            if (!response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
                fail("a watch answer makes no sense");
                return;
            }
            watcher.created = watcher.created || response.created();
            for (const auto& event : response.events()) {
                if (event.kv().value() != expected_) continue;
                watcher.seen = true;
                watcher.us.push_back(elapsed_us());
            }
        };
        events.on_end = [this](const rpc::Status& status, const rpc::Metadata&) {
            fail("a watch ended: " + status.message);
        };
        watcher.call = watcher.channel->call(etcdpb::kWatch, {}, std::move(events));
        if (watcher.call->write(rpc::encode_frame(request)) != rpc::Write::kQueued) {
            return fail("cannot start a watch");
        }
        return wait("watch creation", [&] { return watcher.created; });
    }

    [[nodiscard]] double elapsed_us() const {
        return std::chrono::duration<double, std::micro>(Clock::now() - begin_).count();
    }

    bool one(int event) {
        expected_ = encode(remote_service(event));
        bool answered = false;
        bool mapped = false;
        direct_.seen = proxied_.seen = false;
        begin_ = Clock::now();
        send(remote_, service_key(), expected_, [&] {
            answered = true;
            put_us_.push_back(elapsed_us());
        });
        return wait("one event's way to the map", [&] {
            ++turns_;
            if (!mapped && maps_.chooses(backend(event))) {
                mapped = true;
                map_us_.push_back(elapsed_us());
            }
            const bool all = answered && mapped && direct_.seen && proxied_.seen;
            if (all) waited_us_ += elapsed_us();
            return all;
        });
    }

    /// How far apart two looks were in truth: pause, system calls and other processes included.
    [[nodiscard]] double turn_us() const {
        return turns_ == 0 ? 0 : waited_us_ / static_cast<double>(turns_);
    }

    static std::string percentiles(const char* name, std::vector<double>& us) {
        std::ranges::sort(us);
        const auto at = [&](double q) {
            return us[static_cast<std::size_t>(q * static_cast<double>(us.size() - 1))];
        };
        return fmt::format(R"(,"{}":{{"p50_us":{:.0f},"p99_us":{:.0f},"max_us":{:.0f}}})", name,
                           at(0.5), at(0.99), at(1));
    }

    asio::io_context& io_;
    Options o_;
    SystemClock clock_;
    Maps maps_;
    std::unique_ptr<rpc::Channel> own_, remote_;
    Watcher direct_, proxied_;
    std::vector<double> put_us_, map_us_;
    std::string expected_;
    Clock::time_point begin_;
    std::uint64_t turns_ = 0;
    double waited_us_ = 0;
    bool failed_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("from a put into a remote's etcd to the kernel's map");
    app.require_subcommand(1);
    auto* setup = app.add_subcommand("setup", "write one global service into both clusters' etcds");
    setup->add_option("--own", options.own, "HOST:PORT of the own cluster's etcd")->required();
    setup->add_option("--remote", options.remote, "HOST:PORT of the remote's etcd")->required();
    auto* measure = app.add_subcommand("measure", "change the remote's backend again and again");
    measure->add_option("--remote", options.remote, "HOST:PORT of the remote's etcd")->required();
    measure->add_option("--proxy", options.proxy, "HOST:PORT of the proxy before it")->required();
    measure->add_option("--maps", options.maps, "folder of the agent's pinned maps")->required();
    measure->add_option("--tls-ca", options.ca)->required();
    measure->add_option("--tls-cert", options.cert)->required();
    measure->add_option("--tls-key", options.key)->required();
    measure->add_option("--events", options.events, "puts")->check(CLI::PositiveNumber);
    measure->add_option("--poll-us", options.poll_us, "pause between two looks");
    measure->add_option("--gap-us", options.gap_us, "pause between two events");
    CLI11_PARSE(app, argc, argv);
    asio::io_context io(1);
    Latency latency(io, std::move(options));
    return *setup ? latency.setup() : latency.measure();
}
