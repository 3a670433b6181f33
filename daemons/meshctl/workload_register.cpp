#include "meshctl/workload_register.hpp"

#include <fmt/format.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <cstdio>
#include <utility>

#include "common/daemon.hpp"
#include "model/codec.hpp"
#include "model/keys.hpp"
#include "publish/workload_registration.hpp"
#include "runtime/task_group.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::ctl {

namespace asio = boost::asio;
using State = publish::RegistrationStatus::State;

namespace {

/// How long the end waits for etcd.
constexpr Duration kLeaveBound = std::chrono::seconds(3);

class Registrar {
  public:
    Registrar(daemon::Daemon& daemon, const Clock& clock, const EtcdStore& store,
              const RegisterOptions& options)
        : daemon_(daemon),
          clock_(clock),
          store_(store),
          options_(options),
          timeout_(daemon.executor()),
          tasks_(daemon.executor()) {}

    asio::awaitable<Result<void>> run() {
        auto client_options = sources::config::client_options(store_.config);
        // What proves a connection elsewhere may be forbidden to a workload's user.
        client_options.probe_key.clear();
        MESH_CO_TRY(client_, etcd::Client::make(daemon_.executor(), std::move(client_options),
                                                clock_, Rng(), daemon_.log().named("etcd")));
        client_->start();
        tasks_.spawn(follow());
        if (options_.timeout.count() > 0) tasks_.spawn(give_up());
        co_await daemon_.stop_requested();
        timeout_.cancel();
        if (registration_) {
            const Result<void> left = co_await registration_->async_close(kLeaveBound);
            if (!left && result_) result_ = left.error();
        }
        tasks_.cancel();
        co_await client_->async_stop();
        if (registration_) co_await registration_->async_stop();
        co_await tasks_.join();
        if (result_) say("left");
        co_return result_;
    }
    [[nodiscard]] bool late() const noexcept { return late_; }

  private:
    asio::awaitable<void> follow() {
        const Result<void> good = co_await check_cluster();
        if (!good) {
            result_ = good.error();
            daemon_.request_stop();
            co_return;
        }
        registration_.emplace(daemon_.executor(), *client_, options_.workload, options_.lease_ttl,
                              clock_, Rng(), daemon_.log().named("workload"),
                              [this](const auto& status) { tell(status); });
        registration_->start();
    }

    /// The etcd of another cluster takes the record, too; nobody would look for it there.
    asio::awaitable<Result<void>> check_cluster() {
        if (options_.cluster_name.empty()) co_return Result<void>{};
        const std::string key = model::cluster_config_key(options_.cluster_name);
        for (;;) {
            etcd::RangeRequest request;
            request.range.key = key;
            const auto answer = co_await client_->async_range(std::move(request));
            if (answer) co_return check_config(key, answer->kvs);
            const Errc code = answer.error().code();
            if (code == Errc::kPermission) {
                daemon_.log().warn("{}: {}; whose etcd it is has not been checked", key,
                                   answer.error().detail());
                co_return Result<void>{};
            }
            if (code != Errc::kUnavailable && code != Errc::kTimeout) co_return answer.error();
            daemon_.log().warn("{}", answer.error().message());
        }
    }

    Result<void> check_config(const std::string& key,
                              const std::vector<etcd::KeyValue>& kvs) const {
        if (kvs.empty()) {
            return invalid_argument(
                fmt::format("--etcd-config: expected the etcd of cluster {}, but there is no {}",
                            options_.cluster_name, key));
        }
        MESH_TRY(const auto config, model::parse_cluster_config(key, kvs.front().value));
        const std::uint32_t id = number(config.id);
        if (config.cached || (options_.cluster_id != 0 && id != options_.cluster_id)) {
            return invalid_argument(fmt::format(
                "--etcd-config: expected the etcd of cluster {} with id {}, got {}{}",
                options_.cluster_name, options_.cluster_id, id, config.cached ? " (a copy)" : ""));
        }
        return {};
    }

    asio::awaitable<void> give_up() {
        timeout_.expires_after(options_.timeout);
        boost::system::error_code ignored;
        co_await timeout_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        if (published_ || ignored) co_return;
        late_ = true;
        daemon_.request_stop();
    }

    void tell(const publish::RegistrationStatus& status) {
        const char* const state = status.state == State::kPublished ? "published"
                                  : status.state == State::kRefused ? "refused"
                                                                    : "pending";
        say(status.reason.empty() ? state : fmt::format("{}: {}", state, status.reason));
        if (status.state != State::kPublished) return;
        published_ = true;
        daemon_.set_ready();
    }
    void say(std::string_view what) const {
        fmt::print("workload {}: {}\n", options_.workload.name, what);
        std::fflush(stdout);
    }

    daemon::Daemon& daemon_;
    const Clock& clock_;
    const EtcdStore& store_;
    const RegisterOptions& options_;
    std::unique_ptr<etcd::Client> client_;
    std::optional<publish::WorkloadRegistration> registration_;
    asio::steady_timer timeout_;
    TaskGroup tasks_;
    Result<void> result_{};
    bool published_ = false;
    bool late_ = false;
};

}  // namespace

Result<model::WorkloadBackend> parse_backend(const std::string& text) {
    const auto wrong = [&] {
        return invalid_argument(
            "--backend: expected namespace/name:[port name:]port[/protocol], "
            "as in shop/web:http:8080/TCP, got \"" +
            text + "\"");
    };
    model::WorkloadBackend backend;
    const auto first = text.find(':');
    const auto last = text.rfind(':');
    if (first == std::string::npos) return wrong();
    backend.service = text.substr(0, first);
    if (first != last) backend.port_name = text.substr(first + 1, last - first - 1);
    std::string_view port = std::string_view(text).substr(last + 1);
    if (const auto slash = port.find('/'); slash != std::string_view::npos) {
        backend.protocol = port.substr(slash + 1);
        port = port.substr(0, slash);
    }
    const auto [at, error] = std::from_chars(port.data(), port.data() + port.size(), backend.port);
    if (error != std::errc{} || at != port.data() + port.size()) return wrong();
    return backend;
}

int register_workload(Context& context, const RegisterOptions& options) {
    const auto store = find_etcd(context, options.etcd);
    if (!store) return fail(store.error());
    daemon::CommonFlags flags;
    flags.log_level = LogLevel::kWarn;
    daemon::Daemon daemon("meshctl", flags);
    // It must outlive the loop's last turn.
    Registrar registrar(daemon, context.clock, *store, options);
    const int code = daemon.run([&] { return registrar.run(); });
    return code == daemon::kExitOk && registrar.late() ? kExitNotReady : code;
}

}  // namespace mesh::ctl
