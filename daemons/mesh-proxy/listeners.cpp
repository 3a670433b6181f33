#include "listeners.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string_view>
#include <utility>

#include "common/daemon.hpp"

namespace mesh::proxy_daemon {

namespace {

/// Descriptors that are none of a listener's connections: the store, logs, the connection to the
/// upstream etcd, status.
constexpr std::size_t kOtherDescriptors = 100;

/// What remote clusters may use up: they only send Range and Watch requests, which are small, and
/// never the descriptors that the cluster's own programs need.
rpc::ServerOptions remote_limits(std::size_t descriptors) {
    rpc::ServerOptions o;
    o.max_connections = std::min<std::size_t>(10'000, descriptors / 4 * 3);
    o.max_connections_per_name = std::max<std::size_t>(o.max_connections / 2, 1);
    o.max_handshakes = std::min<std::size_t>(256, o.max_connections / 2);
    o.max_handshakes_per_address = std::max<std::size_t>(o.max_handshakes / 4, 1);
    o.max_concurrent_streams = 200;
    o.max_message_bytes = 64U << 10;
    o.max_buffered_bytes = 1U << 20;
    o.max_connection_queue_bytes = 16U << 20;
    return o;
}

/// The cluster's own programs also put: as much as etcd takes by default, and its overhead.
rpc::ServerOptions local_limits(std::size_t descriptors) {
    rpc::ServerOptions o;
    o.max_connections = std::min<std::size_t>(10'000, descriptors / 4);
    o.max_handshakes = std::min<std::size_t>(256, o.max_connections / 2);
    o.max_message_bytes = 2U << 20;
    return o;
}

struct HostPort {
    std::string host;
    std::uint16_t port = 0;
};

Result<HostPort> parse_listen(std::string_view flag, std::string_view text) {
    const auto colon = text.rfind(':');
    const auto bad = [&] {
        return invalid_argument(fmt::format(
            "{} \"{}\": expected ADDRESS:PORT, e.g. 0.0.0.0:2379 or [::]:2379", flag, text));
    };
    if (colon == std::string_view::npos) return bad();
    HostPort out;
    std::string_view host = text.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    out.host = host;
    const auto digits = text.substr(colon + 1);
    const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), out.port);
    if (out.host.empty() || ec != std::errc{} || end != digits.data() + digits.size()) return bad();
    return out;
}

Result<ListenerPlan> plan(std::string_view name, std::string_view flag, std::string_view where,
                          const Flags& flags, rpc::ServerOptions options) {
    MESH_TRY(auto to, parse_listen(flag, where));
    options.tls = rpc::TlsOptions{.ca_file = flags.tls_ca,
                                  .cert_file = flags.tls_cert,
                                  .key_file = flags.tls_key,
                                  .crl_file = flags.tls_crl};
    options.tls->client_certificate = rpc::ClientCertificate::kRequired;
    options.max_connection_age = std::chrono::seconds(flags.max_connection_age);
    options.max_connection_age_grace = std::chrono::minutes(5);
    return ListenerPlan{.name = std::string(name),
                        .flag = std::string(flag),
                        .address = std::move(to.host),
                        .port = to.port,
                        .options = std::move(options)};
}

}  // namespace

Result<std::vector<ListenerPlan>> plan_listeners(const Flags& flags) {
    const std::size_t all = daemon::most_descriptors();
    const std::size_t descriptors =
        std::max<std::size_t>(all, 2 * kOtherDescriptors) - kOtherDescriptors;
    std::vector<ListenerPlan> out;
    MESH_TRY(auto remote, plan("remote", "--listen-remote", flags.listen_remote, flags,
                               remote_limits(descriptors)));
    remote.init_locks = flags.legacy_readers;
    out.push_back(std::move(remote));
    if (flags.listen_local.empty()) return out;
    MESH_TRY(auto local,
             plan("local", "--listen-local", flags.listen_local, flags, local_limits(descriptors)));
    local.writable = flags.embedded;
    out.push_back(std::move(local));
    return out;
}

}  // namespace mesh::proxy_daemon
