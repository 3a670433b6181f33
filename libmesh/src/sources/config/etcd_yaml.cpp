#include "sources/config/etcd_yaml.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <limits>
#include <new>

#include "sources/config/read_file.hpp"

namespace mesh::sources::config {
namespace {

/// A place in a YAML file, to fail with its name.
class Field {
  public:
    Field(std::string_view file, std::string path, YAML::Node node)
        : file_(file), path_(std::move(path)), node_(std::move(node)) {}

    [[nodiscard]] bool present() const { return node_.IsDefined() && !node_.IsNull(); }
    [[nodiscard]] const YAML::Node& node() const { return node_; }
    [[nodiscard]] Field child(const char* name) const {
        // operator[] on a const node: an absent key must not be created.
        const YAML::Node& constant = node_;
        return {file_, path_.empty() ? name : path_ + "." + name,
                constant.IsDefined() && constant.IsMap() ? constant[name]
                                                         : YAML::Node(YAML::NodeType::Undefined)};
    }
    [[nodiscard]] Field item(std::size_t index) const {
        const YAML::Node& constant = node_;
        return {file_, fmt::format("{}[{}]", path_, index), constant[index]};
    }
    [[nodiscard]] Field named(const std::string& name, const YAML::Node& at) const {
        return {file_, path_ + "." + name, at};
    }
    [[nodiscard]] Error fail(std::string_view expected) const {
        const YAML::Mark mark = node_.IsDefined() ? node_.Mark() : YAML::Mark::null_mark();
        if (mark.is_null())
            return invalid_argument(fmt::format("{}: {}: {}", file_, path_, expected));
        return invalid_argument(
            fmt::format("{}:{}: {}: {}", file_, mark.line + 1, path_, expected));
    }

    [[nodiscard]] Result<void> read(std::string& out) const {
        if (!present()) return {};
        if (!node_.IsScalar()) return fail("expected a text");
        out = node_.Scalar();
        if (out.find('\0') != std::string::npos) return fail("expected a text without NUL");
        return {};
    }
    [[nodiscard]] Result<void> read(bool& out) const {
        if (!present()) return {};
        if (!node_.IsScalar() || !YAML::convert<bool>::decode(node_, out)) {
            return fail("expected true or false");
        }
        return {};
    }
    [[nodiscard]] Result<void> read(std::uint64_t& out) const {
        if (!present()) return {};
        if (!node_.IsScalar() || !parse_number(node_.Scalar(), out)) {
            return fail("expected a whole number, 0 or more");
        }
        return {};
    }
    /// "90s", "1h30m", "250ms", or a bare number of nanoseconds, as Go writes durations.
    [[nodiscard]] Result<void> read(std::optional<Duration>& out) const {
        if (!present()) return {};
        const auto parsed = node_.IsScalar() ? parse_duration(node_.Scalar()) : std::nullopt;
        if (!parsed) return fail("expected a duration such as 90s, 10m or 1h30m");
        out = *parsed;
        return {};
    }

    static bool parse_number(std::string_view text, std::uint64_t& out) {
        const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), out);
        return ec == std::errc{} && end == text.data() + text.size() && !text.empty();
    }

  private:
    static std::optional<Duration> parse_duration(std::string_view text) {
        struct Unit {
            std::string_view name;
            std::uint64_t nanoseconds;
        };
        // Longer names first, so that "ms" is not read as "m".
        static constexpr std::array<Unit, 6> kUnits{{{"ns", 1},
                                                     {"us", 1'000},
                                                     {"ms", 1'000'000},
                                                     {"s", 1'000'000'000},
                                                     {"m", 60'000'000'000},
                                                     {"h", 3'600'000'000'000}}};
        constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<Duration::rep>::max());
        std::uint64_t total = 0;
        if (parse_number(text, total)) {
            return total <= kMax ? std::optional(Duration(static_cast<Duration::rep>(total)))
                                 : std::nullopt;
        }
        if (text.empty()) return std::nullopt;
        total = 0;
        while (!text.empty()) {
            std::uint64_t count = 0;
            const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), count);
            if (ec != std::errc{} || end == text.data()) return std::nullopt;
            text.remove_prefix(static_cast<std::size_t>(end - text.data()));
            const auto* unit = std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& u) {
                return text.starts_with(u.name);
            });
            if (unit == kUnits.end()) return std::nullopt;
            if (count > (kMax - total) / unit->nanoseconds) return std::nullopt;
            total += count * unit->nanoseconds;
            text.remove_prefix(unit->name.size());
        }
        return Duration(static_cast<Duration::rep>(total));
    }

    std::string_view file_;
    std::string path_;
    YAML::Node node_;
};

bool has_scheme(std::string_view endpoint, std::string_view scheme) {
    return endpoint.size() > scheme.size() + 3 && endpoint.starts_with(scheme) &&
           endpoint.substr(scheme.size(), 3) == "://";
}

/// host:port, [v6]:port; the scheme is off already.
bool is_host_and_port(std::string_view text) {
    const auto colon = text.rfind(':');
    if (colon == std::string_view::npos || colon == 0) return false;
    std::uint64_t port = 0;
    if (!Field::parse_number(text.substr(colon + 1), port) || port == 0 || port > 65535)
        return false;
    const auto host = text.substr(0, colon);
    if (host.front() == '[') return host.size() > 2 && host.back() == ']';
    return host.find_first_of("/ \t@?#:[]") == std::string_view::npos;
}

/// https:// and bare endpoints of a client that is not insecure speak TLS.
bool endpoint_is_tls(std::string_view endpoint, bool insecure) {
    return has_scheme(endpoint, "https") || (!has_scheme(endpoint, "http") && !insecure);
}

Result<void> read_endpoint(const Field& field, EtcdClientConfig& config) {
    if (!field.node().IsScalar()) return field.fail("expected a text such as https://host:2379");
    std::string endpoint = field.node().Scalar();
    while (!endpoint.empty() && endpoint.back() == '/') endpoint.pop_back();
    const std::string_view text = endpoint;
    const bool https = has_scheme(text, "https");
    const bool scheme = https || has_scheme(text, "http");
    const auto address = scheme ? text.substr(text.find("://") + 3) : text;
    if (!is_host_and_port(address)) {
        return field.fail(fmt::format(
            "expected https://host:port, http://host:port or host:port, found \"{}\"", text));
    }
    if (https && config.insecure_transport) {
        return field.fail("an https endpoint contradicts insecure-transport: true");
    }
    if (!config.endpoints.empty() &&
        endpoint_is_tls(text, config.insecure_transport) != config.tls()) {
        return field.fail("expected all endpoints with TLS or all without");
    }
    config.endpoints.push_back(std::move(endpoint));
    return {};
}

Result<void> read_endpoints(const Field& field, EtcdClientConfig& config) {
    if (!field.present()) return field.fail("expected at least one endpoint");
    if (!field.node().IsSequence()) return field.fail("expected a list of endpoints");
    if (field.node().size() == 0) return field.fail("expected at least one endpoint");
    if (field.node().size() > 64) return field.fail("expected at most 64 endpoints");
    for (std::size_t i = 0; i < field.node().size(); ++i) {
        MESH_CHECK(read_endpoint(field.item(i), config));
    }
    return {};
}

/// A path in the file is relative to the file's folder, so that a folder can be moved as a whole.
Result<void> read_path(const Field& field, std::string_view file, std::string& out) {
    MESH_CHECK(field.read(out));
    if (out.empty()) return {};
    const std::filesystem::path path(out);
    if (path.is_relative()) out = (std::filesystem::path(file).parent_path() / path).string();
    return {};
}

Result<void> read_client(const Field& root, std::string_view file, EtcdClientConfig& config) {
    MESH_CHECK(root.child("insecure-transport").read(config.insecure_transport));
    MESH_CHECK(root.child("insecure-skip-tls-verify").read(config.insecure_skip_tls_verify));
    MESH_CHECK(read_endpoints(root.child("endpoints"), config));
    MESH_CHECK(read_path(root.child("trusted-ca-file"), file, config.trusted_ca_file));
    MESH_CHECK(read_path(root.child("cert-file"), file, config.cert_file));
    MESH_CHECK(read_path(root.child("key-file"), file, config.key_file));
    if (config.cert_file.empty() != config.key_file.empty()) {
        const char* missing = config.cert_file.empty() ? "cert-file" : "key-file";
        return root.child(missing).fail("expected together with the other half of the pair");
    }
    for (const char* name : {"username", "password"}) {
        std::string text;
        MESH_CHECK(root.child(name).read(text));
        // To leave it out in silence would look like a login that etcd refuses.
        if (!text.empty()) {
            return root.child(name).fail(
                "etcd's users with a password are not supported, only client certificates "
                "(cert-file, key-file): remove it");
        }
    }
    MESH_CHECK(root.child("dial-timeout").read(config.dial_timeout));
    MESH_CHECK(root.child("dial-keep-alive-time").read(config.keepalive_time));
    MESH_CHECK(root.child("dial-keep-alive-timeout").read(config.keepalive_timeout));
    return {};
}

struct LimitField {
    const char* name;
    std::uint64_t RemoteLimits::*member;
};
constexpr std::array<LimitField, 14> kLimitFields{{
    {"services", &RemoteLimits::services},
    {"backends-per-service", &RemoteLimits::backends_per_service},
    {"backends", &RemoteLimits::backends},
    {"ips", &RemoteLimits::ips},
    {"identities", &RemoteLimits::identities},
    {"nodes", &RemoteLimits::nodes},
    {"cidrs-per-node", &RemoteLimits::cidrs_per_node},
    {"cidrs", &RemoteLimits::cidrs},
    {"service-exports", &RemoteLimits::service_exports},
    {"value-bytes", &RemoteLimits::value_bytes},
    {"key-bytes", &RemoteLimits::key_bytes},
    {"total-bytes", &RemoteLimits::total_bytes},
    {"answer-bytes", &RemoteLimits::answer_bytes},
    {"events-per-second", &RemoteLimits::events_per_second},
}};
constexpr std::array<const char*, 6> kPolicyFields{
    "id", "pod-cidrs", "max-stale-age", "stale-scope", "refuse-foreign-ips", "limits"};
constexpr std::uint64_t kMostClusterId = 511;
constexpr std::size_t kMostPodCidrs = 1'000;

/// In our own section an unknown name is a mistyped bound, which must not pass in silence.
template <class Known>
Result<void> check_names(const Field& field, Known known) {
    if (!field.present()) return {};
    if (!field.node().IsMap()) return field.fail("expected a section of fields");
    for (const auto& entry : field.node()) {
        if (!entry.first.IsScalar() || !known(entry.first.Scalar())) {
            const auto name = entry.first.IsScalar() ? entry.first.Scalar() : std::string("?");
            return field.named(name, entry.first).fail("is no field of this section");
        }
    }
    return {};
}

/// Who the remote is, as told by whoever wrote the file.
Result<void> read_owner(const Field& mesh, RemotePolicy& policy) {
    const Field id = mesh.child("id");
    if (id.present()) {
        std::uint64_t number = 0;
        MESH_CHECK(id.read(number));
        if (number == 0 || number > kMostClusterId) {
            return id.fail(fmt::format("expected a cluster id from 1 to {}", kMostClusterId));
        }
        policy.id = model::ClusterId{static_cast<std::uint32_t>(number)};
    }
    const Field cidrs = mesh.child("pod-cidrs");
    if (!cidrs.present()) return {};
    if (!cidrs.node().IsSequence() || cidrs.node().size() > kMostPodCidrs) {
        return cidrs.fail(fmt::format("expected a list of at most {} CIDRs", kMostPodCidrs));
    }
    for (std::size_t i = 0; i < cidrs.node().size(); ++i) {
        const Field item = cidrs.item(i);
        std::string text;
        MESH_CHECK(item.read(text));
        const auto prefix = model::IpPrefix::parse(text);
        if (!prefix) return item.fail("expected a CIDR such as 10.1.0.0/16");
        policy.pod_cidrs.push_back(*prefix);
    }
    return {};
}

Result<void> read_policy(const Field& mesh, RemotePolicy& policy) {
    MESH_CHECK(check_names(mesh, [](const std::string& name) {
        return std::find(kPolicyFields.begin(), kPolicyFields.end(), name) != kPolicyFields.end();
    }));
    MESH_CHECK(read_owner(mesh, policy));
    MESH_CHECK(mesh.child("max-stale-age").read(policy.max_stale_age));
    policy.stale_age_given = policy.max_stale_age.has_value();
    // As in Cilium's clustermesh-cache-ttl, 0 means never.
    if (policy.max_stale_age == Duration::zero()) policy.max_stale_age.reset();
    std::string scope = "services";
    MESH_CHECK(mesh.child("stale-scope").read(scope));
    if (scope != "services" && scope != "all") {
        return mesh.child("stale-scope").fail("expected services or all");
    }
    policy.stale_scope = scope == "all" ? StaleScope::kAll : StaleScope::kServices;
    MESH_CHECK(mesh.child("refuse-foreign-ips").read(policy.refuse_foreign_ips));
    const Field limits = mesh.child("limits");
    MESH_CHECK(check_names(limits, [](const std::string& name) {
        return std::any_of(kLimitFields.begin(), kLimitFields.end(),
                           [&](const LimitField& f) { return name == f.name; });
    }));
    for (const LimitField& f : kLimitFields) {
        MESH_CHECK(limits.child(f.name).read(policy.limits.*f.member));
    }
    return {};
}

/// By an out parameter, since a YAML::Node can be made from anything, also from an Error.
Result<void> load(std::string_view text, std::string_view file, YAML::Node& root) {
    try {
        root = YAML::Load(std::string(text));
    } catch (const YAML::Exception& e) {
        return invalid_argument(fmt::format("{}:{}: not YAML: {}", file, e.mark.line + 1, e.msg));
    }
    if (!root.IsMap()) {
        return invalid_argument(
            fmt::format("{}:1: expected YAML fields, such as endpoints:", file));
    }
    return {};
}

}  // namespace

bool EtcdClientConfig::tls() const {
    return !endpoints.empty() && endpoint_is_tls(endpoints.front(), insecure_transport);
}

Result<EtcdClientConfig> parse_etcd_yaml(std::string_view text, std::string_view file) {
    YAML::Node root;
    MESH_CHECK(load(text, file, root));
    EtcdClientConfig config;
    MESH_CHECK(read_client(Field(file, "", root), file, config));
    return config;
}

Result<RemoteConfig> parse_remote_yaml(std::string_view text, std::string_view file,
                                       std::string_view cluster) {
    YAML::Node root;
    MESH_CHECK(load(text, file, root));
    const Field top(file, "", root);
    RemoteConfig config;
    config.cluster = cluster;
    config.content_hash = sha256_hex(text);
    MESH_CHECK(read_client(top, file, config.etcd));
    MESH_CHECK(read_policy(top.child("mesh"), config.policy));
    return config;
}

Result<EtcdClientConfig> read_etcd_yaml(const std::string& path) {
    MESH_TRY(const std::string text, read_file(path, kMaxConfigBytes));
    return parse_etcd_yaml(text, path);
}

std::string sha256_hex(std::string_view bytes) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int length = 0;
    if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr) !=
        1) {
        throw std::bad_alloc();  // the only way that hashing bytes in memory can fail
    }
    std::string hex;
    for (unsigned int i = 0; i < length; ++i)
        fmt::format_to(std::back_inserter(hex), "{:02x}", digest[i]);
    return hex;
}

Result<void> check_cluster_name(std::string_view name) {
    const auto lower = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
    const bool shape =
        !name.empty() && name.size() <= 32 && lower(name.front()) && lower(name.back()) &&
        std::all_of(name.begin(), name.end(), [&](char c) { return lower(c) || c == '-'; });
    if (!shape) {
        return invalid_argument(fmt::format(
            "cluster name \"{}\": expected 1 to 32 of a-z, 0-9 and '-', first and last no '-'",
            name));
    }
    if (name == "default") {
        return invalid_argument(
            "cluster name \"default\": expected another name, this one means none");
    }
    return {};
}

etcd::ClientOptions client_options(const EtcdClientConfig& config) {
    etcd::ClientOptions options;
    options.endpoints = config.endpoints;
    for (std::string& endpoint : options.endpoints) {
        if (endpoint.find("://") == std::string::npos) {
            endpoint.insert(0, config.tls() ? "https://" : "http://");
        }
    }
    options.ca_file = config.trusted_ca_file;
    options.cert_file = config.cert_file;
    options.key_file = config.key_file;
    options.insecure_skip_verify = config.insecure_skip_tls_verify;
    if (config.dial_timeout) options.connect_timeout = *config.dial_timeout;
    if (config.keepalive_time) options.keepalive_interval = *config.keepalive_time;
    if (config.keepalive_timeout) options.keepalive_timeout = *config.keepalive_timeout;
    return options;
}

}  // namespace mesh::sources::config
