#include "engine/encryption.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "datapath/netlink/netns.hpp"
#include "engine/pod_network.hpp"
#include "pki/files.hpp"

namespace mesh::engine {

namespace asio = boost::asio;

namespace {

using datapath::WireguardBackend;
using model::IpAddress;
using model::IpPrefix;

/// How often it is looked whether the device is still there, and up.
constexpr std::chrono::seconds kLinkCheck{5};

std::optional<IpAddress> internal_ip(const model::Node& node, bool v4) {
    if (!node.addresses) return std::nullopt;
    for (const auto& candidate : *node.addresses) {
        if (candidate.type != "InternalIP") continue;
        const auto address = IpAddress::parse(candidate.ip);
        if (address && address->is_v4() == v4) return *address;
    }
    return std::nullopt;
}

std::string device_name(const EncryptionContext& context) {
    return !context.options.device.empty()
               ? context.options.device
               : datapath::wireguard_device_name(context.own.name, context.node);
}

Result<WireguardBackend> backend_of(const std::string& name) {
    for (const auto backend :
         {WireguardBackend::kAuto, WireguardBackend::kKernel, WireguardBackend::kUserspace}) {
        if (to_string(backend) == name) return backend;
    }
    return invalid_argument(
        fmt::format("encryption.backend \"{}\": expected auto, kernel or userspace", name));
}

Result<std::unique_ptr<datapath::WireguardDevice>> make_device(const EncryptionContext& context,
                                                               std::uint32_t mtu) {
    MESH_TRY(auto netns, datapath::Netns::current());
    MESH_TRY(const WireguardBackend backend, backend_of(context.options.backend));
    return datapath::make_wireguard_device(
        {.netns = std::move(netns), .name = device_name(context), .backend = backend, .mtu = mtu});
}

// Packets come out of the device from addresses whose other packets come by the underlay's. Even
// the loose check fails, as the device has no address of its own.
Result<void> allow_other_way(const datapath::Netns& netns, const std::string& device) {
    auto all = datapath::get_sysctl(netns, "ipv4/conf/all/rp_filter");
    if (all && *all != "0") {
        return Error(Errc::kConflict,
                     fmt::format("net.ipv4.conf.all.rp_filter is {}: expected 0, as it drops what "
                                 "comes out of WireGuard device {}",
                                 *all, device));
    }
    return datapath::set_sysctl(netns, fmt::format("ipv4/conf/{}/rp_filter", device), "0");
}

datapath::WireguardPeer to_peer(const compile::EncryptionPeer& from, std::uint16_t port) {
    return {.public_key = from.public_key,
            .endpoint = {from.endpoint, port},
            .allowed_ips = from.allowed_ips};
}

}  // namespace

EncryptionContext encryption_context(const MeshOptions& options, const state::ClusterKey& own) {
    const bool tunnel = options.datapath.routing == DatapathOptions::Routing::kTunnel;
    return {.options = options.datapath.encryption,
            .tunnel = tunnel,
            .tunnel_port = tunnel ? overlay_port(options.datapath) : std::uint16_t{0},
            .own = own,
            .node = options.node_name};
}

Result<void> Encryption::check(const DatapathOptions& options) {
    const std::string& kind = options.encryption.kind;
    if (kind == "none") {
        if (options.encryption.strict) {
            return invalid_argument("encryption.strict: expected encryption of kind wireguard");
        }
        return {};
    }
    if (kind == "ipsec") {
        return invalid_argument(
            "encryption \"ipsec\": there is no IPsec here: expected wireguard or none");
    }
    if (kind != "wireguard") {
        return invalid_argument(fmt::format("encryption \"{}\": expected wireguard or none", kind));
    }
    if (options.kind != DatapathOptions::Kind::kBpf ||
        options.routing == DatapathOptions::Routing::kNone) {
        return invalid_argument(
            "encryption \"wireguard\": expected the kernel's datapath, and routing mode tunnel or "
            "native: what others forward is not encrypted");
    }
    if (options.encryption.port == 0)
        return invalid_argument("encryption.port: expected 1 to 65535");
    if (auto backend = backend_of(options.encryption.backend); !backend) return backend.error();
    return {};
}

Result<void> Encryption::prepare(const EncryptionContext& context) {
    if (context.options.kind == "none") return {};
    const std::string& file = context.options.key_file;
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(file).parent_path(), ignored);
    if (const auto key = datapath::load_or_make_private_key(file); !key) return key.error();
    // Whether there can be a device is told now, not when the first peer comes.
    const auto device = make_device(context, 0);
    return device ? Result<void>() : device.error();
}

Result<std::unique_ptr<Encryption>> Encryption::make(const asio::any_io_executor& executor,
                                                     EncryptionContext context,
                                                     datapath::PodDatapath& pods, Logger log,
                                                     std::function<void()> on_due) {
    MESH_CHECK(prepare(context));
    MESH_TRY(auto key, datapath::load_private_key(context.options.key_file));
    MESH_TRY(const PublicKey public_key, key.public_key());
    MESH_TRY(auto netns, datapath::Netns::current());
    MESH_TRY(auto netlink, datapath::Rtnetlink::open(netns));
    MESH_TRY(const auto device, make_device(context, 0));
    log.info("WireGuard device {} ({}), public key {}{}", device->name(),
             to_string(device->backend()), public_key.to_string(),
             context.options.strict ? ", strict" : "");
    std::unique_ptr<Encryption> made(new Encryption(executor, std::move(context), key, public_key,
                                                    std::move(netns), std::move(netlink), pods,
                                                    std::move(log), std::move(on_due)));
    MESH_CHECK(made->write_public_key());
    return made;
}

Encryption::Encryption(const asio::any_io_executor& executor, EncryptionContext context,
                       datapath::WireguardPrivateKey key, PublicKey public_key,
                       datapath::Netns netns, datapath::Rtnetlink netlink,
                       datapath::PodDatapath& pods, Logger log, std::function<void()> on_due)
    : context_(std::move(context)),
      key_(std::move(key)),
      public_key_(public_key),
      netns_(std::move(netns)),
      netlink_(std::move(netlink)),
      pods_(pods),
      log_(std::move(log)),
      on_due_(std::move(on_due)),
      compiler_({.own_cluster = context_.own.name, .own_node = context_.node}),
      ended_(executor),
      check_(executor) {}

Result<void> Encryption::disable(const EncryptionContext& context, datapath::PodDatapath& pods) {
    MESH_TRY(const auto netns, datapath::Netns::current());
    MESH_TRY(auto netlink, datapath::Rtnetlink::open(netns));
    MESH_CHECK(pods.configure_encryption({}));
    for (const IpAddress& node : pods.encrypted()) MESH_CHECK(pods.set_encrypted(node, false));
    MESH_CHECK(EncryptionRoutes::clear(netlink));
    const auto link = netlink.link(device_name(context));
    if (!link) return link.error().code() == Errc::kNotFound ? Result<void>() : link.error();
    MESH_TRY(const auto device, make_device(context, 0));
    return device->remove();
}

void Encryption::stop() {
    stopped_ = true;
    boost::system::error_code ignored;
    ended_.close(ignored);
    check_.cancel();
}

void Encryption::finish_adoption() {
    if (!std::exchange(adopting_, false)) return;
    up_ = false;
}

std::string Encryption::unpublished() const {
    const std::string own = public_key_.to_string();
    if (published_ == own) return {};
    return fmt::format(
        "this node's WireGuard key {} is not published: expected it in annotation "
        "network.cilium.io/wg-pub-key of node {}, found {}",
        own, context_.node, published_.empty() ? "none" : "\"" + published_ + "\"");
}

// ---- what there should be

void Encryption::forget(const PublicKey& key) {
    const auto at = peers_.find(key);
    if (at == peers_.end()) return;
    for (const IpPrefix& prefix : at->second.allowed_ips) {
        wanted_.erase(prefix);
        touched_.insert(prefix);
    }
    peers_.erase(at);
}

void Encryption::take(compile::EncryptionChanges changes) {
    for (const PublicKey& key : changes.removed) {
        forget(key);
        pending_.emplace_back(key);
    }
    for (const auto& peer : changes.upserts) forget(peer.public_key);
    for (auto& peer : changes.upserts) {
        wanted_.insert(peer.allowed_ips.begin(), peer.allowed_ips.end());
        touched_.insert(peer.allowed_ips.begin(), peer.allowed_ips.end());
        pending_.emplace_back(to_peer(peer, context_.options.port));
        const PublicKey key = peer.public_key;
        peers_.insert_or_assign(key, std::move(peer));
    }
}

// The addresses of this node; false while its record is not known.
bool Encryption::find_self(const state::ClusterTables& tables) {
    const auto node = tables.find_node(context_.own.name, context_.node);
    if (node) {
        const auto node4 = internal_ip(*node, true), node6 = internal_ip(*node, false);
        if (node4 != node4_ || node6 != node6_) up_ = false;
        node4_ = node4;
        node6_ = node6;
        note_published(std::string(node->wireguard_public_key));
    }
    return node4_ || node6_;
}

void Encryption::note_published(std::string key) {
    if (told_unpublished_ && key == published_) return;
    published_ = std::move(key);
    told_unpublished_ = !unpublished().empty();
    if (told_unpublished_) log_.warn("{}", unpublished());
}

// With tunnel routing nodes' addresses, with native routing the pods'.
bool Encryption::is_routed(const IpPrefix& prefix) const {
    if (prefix.is_host() != context_.tunnel) return false;
    return (prefix.is_v4() ? node4_ : node6_).has_value();
}

// ---- making it so

Result<void> Encryption::flush(const state::ClusterTables& tables) {
    take(compiler_.flush());
    if (!find_self(tables)) return {};
    auto done = up_ ? apply_changes() : bring_up();
    up_ = done.has_value();
    error_ = done ? std::string() : done.error().message();
    return done ? done : done.error().with_prefix("encryption");
}

Result<void> Encryption::mark(const IpPrefix& prefix, bool encrypted) {
    if (!prefix.is_host()) return {};
    return pods_.set_encrypted(prefix.address(), encrypted);
}

Result<void> Encryption::make_table() {
    MESH_TRY(const datapath::Link underlay, netlink_.device_of(node4_ ? *node4_ : *node6_));
    const std::uint32_t mtu =
        underlay.mtu > kWireguardOverhead ? underlay.mtu - kWireguardOverhead : underlay.mtu;
    MESH_TRY(auto device, make_device(context_, mtu));
    table_.emplace(std::move(device),
                   datapath::WireguardSettings{key_, context_.options.port, std::uint32_t{0}});
    return {};
}

Result<void> Encryption::bring_up() {
    if (!table_) MESH_CHECK(make_table());
    // In strict mode nothing may leave before there is a way to encrypt it.
    for (const IpPrefix& prefix : wanted_) MESH_CHECK(mark(prefix, true));
    touched_.clear();
    // What cannot be done now is noted, and done by what follows.
    (void)table_->apply(std::exchange(pending_, {}));
    MESH_TRY(const auto outcome, table_->reconcile(adopting_ ? datapath::UnknownPeers::kKeep
                                                             : datapath::UnknownPeers::kRemove));
    if (outcome.device_made) {
        ++device_starts_;
        log_.info("WireGuard device {} made", table_->device().name());
    }
    watch_end();
    watch_link();
    MESH_CHECK(tell_programs());
    MESH_TRY(auto netlink, datapath::Rtnetlink::open(netns_));
    routes_.emplace(std::move(netlink),
                    EncryptionRoutes::Settings{.device = table_->device().name(),
                                               .tunnel_port = context_.tunnel_port,
                                               .strict = context_.options.strict,
                                               .source4 = node4_,
                                               .source6 = node6_});
    MESH_CHECK(routes_->sync(routed(), !adopting_));
    if (adopting_) return {};
    for (const IpAddress& node : pods_.encrypted()) {
        const IpPrefix prefix(node, node.is_v4() ? 32 : 128);
        if (!wanted_.contains(prefix)) MESH_CHECK(mark(prefix, false));
    }
    return {};
}

std::set<IpPrefix> Encryption::routed() const {
    std::set<IpPrefix> routed;
    std::ranges::copy_if(wanted_, std::inserter(routed, routed.end()),
                         [this](const IpPrefix& prefix) { return is_routed(prefix); });
    return routed;
}

Result<void> Encryption::tell_programs() {
    const std::string& name = table_->device().name();
    MESH_TRY(const datapath::Link link, netlink_.link(name));
    ifindex_ = link.index;
    MESH_CHECK(allow_other_way(netns_, name));
    MESH_CHECK(pods_.attach(ifindex_, datapath::DeviceRole::kWireguard));
    return pods_.configure_encryption({.strict = context_.options.strict,
                                       .wireguard_ifindex = ifindex_,
                                       .tunnel_port = context_.tunnel_port});
}

Result<void> Encryption::apply_changes() {
    if (pending_.empty() && touched_.empty()) return {};
    const std::set<IpPrefix> touched = std::exchange(touched_, {});
    for (const IpPrefix& prefix : touched) {
        if (wanted_.contains(prefix)) MESH_CHECK(mark(prefix, true));
    }
    MESH_CHECK(table_->apply(std::exchange(pending_, {})));
    for (const IpPrefix& prefix : touched) {
        if (!is_routed(prefix)) continue;
        if (wanted_.contains(prefix)) {
            MESH_CHECK(routes_->add(prefix));
        } else {
            MESH_CHECK(routes_->remove(prefix));
        }
    }
    for (const IpPrefix& prefix : touched) {
        if (!wanted_.contains(prefix)) MESH_CHECK(mark(prefix, false));
    }
    return {};
}

// ---- the key

Result<void> Encryption::write_public_key() const {
    return pki::write_file(context_.options.key_file + ".pub", public_key_.to_string() + "\n",
                           pki::FileMode::kPublic);
}

Result<void> Encryption::reload_key() {
    MESH_TRY(const auto key, datapath::load_private_key(context_.options.key_file));
    if (key == key_) return {};
    MESH_TRY(const PublicKey public_key, key.public_key());
    if (table_) MESH_CHECK(table_->set_private_key(key));
    key_ = key;
    public_key_ = public_key;
    log_.info("WireGuard key changed, public key {}", public_key_.to_string());
    return write_public_key();
}

// ---- the device may go

void Encryption::lost(std::string_view why) {
    if (!up_) return;
    up_ = false;
    log_.warn("WireGuard device {}: {}; making it again", table_->device().name(), why);
    on_due_();
}

void Encryption::watch_end() {
    const int fd = table_->device().ended_fd();
    boost::system::error_code ec;
    ended_.close(ec);
    if (fd < 0 || stopped_) return;
    const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return;
    ended_.assign(own, ec);
    if (ec) {
        ::close(own);
        return;
    }
    ended_.async_wait(asio::posix::stream_descriptor::wait_read,
                      [this](boost::system::error_code error) {
                          if (!error && !stopped_) lost("its process ended");
                      });
}

void Encryption::watch_link() {
    if (stopped_) return;
    check_.expires_after(kLinkCheck);
    check_.async_wait([this](boost::system::error_code error) {
        if (error || stopped_) return;
        check_link();
        watch_link();
    });
}

void Encryption::check_link() {
    if (!up_) return;
    const auto link = netlink_.link(table_->device().name());
    if (!link) return lost(link.error().message());
    if (!link->up) return lost("it is down");
    if (link->index != ifindex_) return lost("it is another one");
    // One that was down for a moment is up again without its routes.
    const auto mended = routes_->sync(routed(), false);
    if (!mended) return lost(mended.error().message());
    if (*mended != 0) log_.warn("{} routes or rules were missing", *mended);
}

}  // namespace mesh::engine
