#include "soak.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace mesh::soak {

namespace {

const std::string kAll(1, '\0');  // as a key the first one, as an end none

Range prefix(const std::string& text) {
    const etcd::KeyRange range = etcd::prefix_range(text);
    return {range.key, range.end};
}

constexpr std::array kRemotePrefixes = {"cilium/state/",
                                        "cilium/state/nodes/v1/",
                                        "cilium/state/services/v1/",
                                        "cilium/state/ip/v1/default/",
                                        "cilium/state/identities/v1/id/",
                                        "cilium/synced/cluster1/"};
constexpr std::array kLocalPrefixes = {"cilium/",     "cilium/state/",           "cilium/cache/",
                                       "mesh/local/", "mesh/local/services/v1/", "cilium/synced/"};

}  // namespace

Soak::Soak(asio::io_context& loop, const Clock& clock, SoakOptions options)
    : loop_(loop),
      clock_(clock),
      options_(std::move(options)),
      rng_(options_.seed),
      world_(loop, clock, options_.mesh_proxy),
      history_("etcd", report_),
      embedded_history_("embedded", report_),
      readers_tasks_(loop.get_executor()),
      writers_tasks_(loop.get_executor()),
      steps_(loop.get_executor()) {
    add_reference();
    add_mirror_readers();
    add_product_readers();
    add_embedded_readers();
    add_etcdctl();
    const auto make = [&](Caller caller, Duration pause) {
        return std::make_shared<Writer>(loop_.get_executor(), Rng(rng_.next()), std::move(caller),
                                        pause, report_);
    };
    writer_ = make(world_.admin_of_etcd(), 12ms);
    second_writer_ = make(world_.admin_of_etcd(), 25ms);
    embedded_writer_ = make(world_.admin_of_embedded(), 25ms);
}

Checker& Soak::checker(std::string name, Selection selection, History* learns) {
    ++watches_;
    return checkers_.emplace_back(std::move(name), std::move(selection), report_, learns);
}

void Soak::add_reader(ReaderOptions options) {
    readers_.push_back(std::make_shared<Reader>(loop_.get_executor(), clock_, Rng(rng_.next()),
                                                std::move(options), report_));
}

// --- Who reads
// ----------------------------------------------------------------------------------------

void Soak::add_reference() {
    ReaderOptions options;
    options.name = "reference";
    options.ports = {world_.etcd_port()};
    options.tls = world_.credentials("etcd-root");
    options.asks_progress = false;  // before 3.4.25 etcd may promise too much
    Checker& all = checker("reference", {.range = {kAll, kAll}, .shown = {}}, &history_);
    options.watches = {{.checker = &all, .prev_kv = true, .without_list = true}};
    reference_ = std::make_shared<Reader>(loop_.get_executor(), clock_, Rng(rng_.next()),
                                          std::move(options), report_);
}

Selection Soak::selection(bool remote) {
    Selection out;
    out.shown = {"cilium/", "mesh/local/"};
    const std::uint64_t dice = rng_.below(10);
    if (dice < 3) {
        out.range = {fmt::format("cilium/state/nodes/v1/cluster1/{}", rng_.below(40)), ""};
    } else if (dice < 4) {
        out.range = {"cilium/.heartbeat", ""};
    } else if (dice < 5 && !remote) {
        out.range = {kAll, kAll};
    } else if (remote) {
        out.range = prefix(kRemotePrefixes[rng_.below(kRemotePrefixes.size())]);
    } else {
        out.range = prefix(kLocalPrefixes[rng_.below(kLocalPrefixes.size())]);
    }
    const std::uint64_t filter = rng_.below(12);
    out.no_put = filter == 0;
    out.no_delete = filter == 1;
    return out;
}

void Soak::add_mirror_readers() {
    constexpr std::array kNames = {"remote", "remote-cluster2", "remote-cluster3", "local-cluster1",
                                   "admin-cluster1"};
    for (int i = 0; i < 20; ++i) {
        const std::string certificate = kNames[static_cast<std::size_t>(i) % kNames.size()];
        const bool remote = certificate.starts_with("remote");
        ReaderOptions options;
        options.name = fmt::format("reader{} ({})", i, certificate);
        options.tls = world_.credentials(certificate);
        for (ProxyProcess& mirror : world_.mirrors) {
            if (i % 4 == 3 && options.ports.size() == 1) break;  // stays with one
            options.ports.push_back((remote ? mirror.remote : mirror.local)->port());
        }
        options.stream_each = i % 3 == 0;
        options.own_ids = i % 2 == 0;
        options.slow = i % 5 < 2;
        for (int k = 0; k < 8; ++k) {
            WatchSpec spec;
            spec.checker =
                &checker(fmt::format("{}, watch {}", options.name, k), selection(remote));
            spec.prev_kv = rng_.below(2) == 0;
            spec.progress_notify = rng_.below(2) == 0;
            spec.fragment = rng_.below(2) == 0;
            spec.list_limit = rng_.below(3) == 0 ? 30 : 0;
            options.watches.push_back(spec);
        }
        add_reader(std::move(options));
    }
}

void Soak::add_product_readers() {
    for (int i = 0; i < 4; ++i) {
        const bool remote = i % 2 == 0;
        const std::string certificate = remote ? "remote-cluster2" : "local-cluster1";
        etcd::ClientOptions options;
        for (ProxyProcess& mirror : world_.mirrors)
            options.endpoints.push_back(fmt::format(
                "https://127.0.0.1:{}", (remote ? mirror.remote : mirror.local)->port()));
        options.ca_file = world_.folder.file("ca.crt");
        options.cert_file = world_.folder.file(certificate + ".crt");
        options.key_file = world_.folder.file(certificate + ".key");
        options.backoff_limit = 500ms;
        std::vector<Checker*> checkers;
        for (const std::string text : remote ? kRemotePrefixes : kLocalPrefixes) {
            if (checkers.size() == 5) break;
            Selection wanted;
            wanted.range = prefix(text);
            checkers.push_back(&checker(fmt::format("client{}, {}", i, text), std::move(wanted)));
        }
        product_readers_.push_back(std::make_unique<ProductReader>(
            loop_.get_executor(), clock_, Rng(rng_.next()), std::move(options), checkers, report_));
    }
}

void Soak::add_embedded_readers() {
    for (int i = 0; i < 4; ++i) {
        const bool remote = i % 2 == 0;
        ReaderOptions options;
        options.name = fmt::format("embedded reader{}", i);
        options.tls = world_.credentials(remote ? "remote" : "local-cluster9");
        options.ports = {(remote ? world_.embedded.remote : world_.embedded.local)->port()};
        options.stream_each = i % 2 == 0;
        options.own_ids = i < 2;
        options.slow = i == 3;
        for (int k = 0; k < 5; ++k) {
            Selection wanted = selection(remote);
            wanted.shown.clear();
            // Of another cluster's proxy, remotes may not read this.
            if (wanted.range.key.starts_with("cilium/synced/cluster1"))
                wanted.range = prefix("cilium/state/");
            WatchSpec spec;
            spec.checker = &checker(fmt::format("{}, watch {}", options.name, k), std::move(wanted),
                                    &embedded_history_);
            spec.prev_kv = rng_.below(2) == 0;
            spec.fragment = rng_.below(2) == 0;
            options.watches.push_back(spec);
        }
        add_reader(std::move(options));
    }
}

void Soak::add_etcdctl() {
    for (int i = 0; i < 3; ++i) {
        const std::string text = i == 0 ? "cilium/state/" : "cilium/state/zz-fence/";
        std::vector<std::string> command = {"etcdctl", "watch", "--prefix",
                                            "-w",      "json",  i == 2 ? "cilium/state/" : text};
        if (i != 1) command.push_back("--prev-kv");
        std::string endpoints;
        for (ProxyProcess& mirror : world_.mirrors)
            endpoints +=
                fmt::format("{}127.0.0.1:{}", endpoints.empty() ? "" : ",", mirror.remote->port());
        command.push_back("--endpoints=" + endpoints);
        const auto more = world_.etcdctl_arguments("remote-cluster3");
        command.insert(command.end(), more.begin(), more.end());
        Selection wanted;
        wanted.range = prefix(i == 1 ? text : "cilium/state/");
        etcdctl_.push_back(std::make_unique<EtcdctlWatch>(
            checker(fmt::format("etcdctl{}", i), std::move(wanted)), std::move(command),
            world_.folder.file(fmt::format("etcdctl{}.out", i)), report_));
    }
}

// --- The end
// ------------------------------------------------------------------------------------------

asio::awaitable<bool> Soak::run() {
    readers_tasks_.spawn(Reader::run(reference_));
    for (auto& reader : readers_) readers_tasks_.spawn(Reader::run(reader));
    for (auto& writer : {writer_, second_writer_, embedded_writer_})
        writers_tasks_.spawn(Writer::run(writer));
    readers_tasks_.spawn(look_after());
    co_await break_things();
    for (auto& writer : {writer_, second_writer_, embedded_writer_}) writer->stop();
    co_await writers_tasks_.join();
    const std::int64_t fence = co_await Writer::finish(writer_);
    const std::int64_t embedded_fence = co_await Writer::finish(embedded_writer_);
    co_await settle(fence, embedded_fence);
    ending_ = true;
    for (auto& watch : etcdctl_) watch->stop();
    reference_->stop();
    for (auto& reader : readers_) reader->stop();
    co_await readers_tasks_.join();
    co_await compare(fence, embedded_fence);
    for (auto& reader : product_readers_) co_await reader->async_stop();
    product_readers_.clear();
    print();
    co_return report_.failed() == 0;
}

std::vector<std::string> Soak::behind(std::int64_t fence, std::int64_t embedded_fence) const {
    std::vector<std::string> out;
    if (reference_->position() < fence) out.push_back(reference_->state());
    for (const auto& reader : readers_) {
        const bool embedded = reader->options().name.starts_with("embedded");
        if (reader->position() < (embedded ? embedded_fence : fence))
            out.push_back(reader->state());
    }
    for (const auto& reader : product_readers_)
        if (reader->position() < fence) out.push_back(reader->state());
    for (const auto& watch : etcdctl_)
        if (watch->checker().position() < fence)
            out.push_back(
                fmt::format("{} at {}", watch->checker().name(), watch->checker().position()));
    return out;
}

asio::awaitable<void> Soak::settle(std::int64_t fence, std::int64_t embedded_fence) {
    const TimePoint end = clock_.now() + options_.patience;
    while (clock_.now() < end) {
        for (const auto& reader : readers_) reader->ask_progress();
        for (const auto& reader : product_readers_) reader->ask_progress();
        if (behind(fence, embedded_fence).empty()) co_return;
        co_await sleep_for(loop_.get_executor(), 200ms);
    }
    for (const std::string& reader : behind(fence, embedded_fence))
        report_.fail(fmt::format("not in step with revision {} (embedded {}): {}", fence,
                                 embedded_fence, reader));
}

asio::awaitable<void> Soak::compare(std::int64_t fence, std::int64_t embedded_fence) {
    const auto by_key = [](const std::vector<Change>& all) {
        std::map<std::string, Change> out;
        for (const Change& change : all) out[change.key] = change;
        return out;
    };
    const auto keys = by_key(co_await Writer::all(writer_, fence));
    const auto embedded_keys = by_key(co_await Writer::all(embedded_writer_, embedded_fence));
    if (!keys.contains(std::string(Writer::kFence) + "end") ||
        !embedded_keys.contains(std::string(Writer::kFence) + "end"))
        report_.fail("the last list of an etcd does not have the last key");
    for (const Checker& checker : checkers_) {
        const bool embedded = checker.name().starts_with("embedded");
        std::map<std::string, Change> shown;
        for (const auto& [key, change] : embedded ? embedded_keys : keys)
            if (checker.selection().shows(key)) shown.emplace(key, change);
        checker.compare(embedded ? embedded_history_ : history_);
        checker.compare(shown);
    }
    for (ProxyProcess* proxy : world_.proxies()) {
        report_.count(fmt::format("peak RSS of {} (MiB)", proxy->name), proxy->peak_rss_kib / 1024);
        if (proxy->peak_rss_kib / 1024 > options_.most_rss_mib)
            report_.fail(fmt::format("{} took {} MiB", proxy->name, proxy->peak_rss_kib / 1024));
    }
}

void Soak::print() const {
    fmt::print("{} watches, {} changes of etcd, {} of the embedded\n", watches_, history_.size(),
               embedded_history_.size());
    for (const auto& [what, count] : report_.counts()) fmt::print("  {:<32} {}\n", what, count);
    for (const std::string& failure : report_.failures()) fmt::print("FAIL {}\n", failure);
    if (report_.failed() == 0) return;
    fmt::print("{} failures\n", report_.failed());
    for (const ProxyProcess& proxy : world_.mirrors)
        fmt::print("--- {}\n{}\n", proxy.name, test::read_text(proxy.log));
    fmt::print("--- embedded\n{}\n", test::read_text(world_.embedded.log));
}

}  // namespace mesh::soak
