#include "datapath/bpf/bpf_pods.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <pods.skel.h>

#include <algorithm>
#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <boost/unordered/unordered_flat_set.hpp>
#include <cerrno>
#include <cstring>
#include <limits>
#include <set>
#include <span>
#include <utility>

#include "bpf/layout.h"
#include "datapath/bpf/bpf_policy.hpp"
#include "datapath/bpf/fd.hpp"
#include "datapath/bpf/flow_walk.hpp"
#include "datapath/bpf/libbpf_call.hpp"
#include "datapath/bpf/migration.hpp"
#include "datapath/bpf/pin_directory.hpp"
#include "datapath/bpf/pods_codec.hpp"
#include "datapath/bpf/tc_filters.hpp"

namespace mesh::datapath {
namespace {

constexpr std::uint32_t kBatch = 512;
/// The top byte of an identity says who knows it; 0: all nodes.
constexpr unsigned kScopeShift = 24;

model::IpPrefix prefix_of(const mesh_ipcache_key& key) {
    const model::IpAddress address = from_kernel(key.address);
    return {address, static_cast<std::uint8_t>(key.prefix_length - (address.is_v4() ? 96U : 0U))};
}

bool no_room(int error) {
    return error == ENOSPC || error == E2BIG || error == ENOMEM;
}

/// A prefix in eight bytes: which of a million are written is kept without keeping them. Two of
/// them share a number once in 2^64 / n, and then only a count is wrong.
std::uint64_t fingerprint(const mesh_ipcache_key& key) {
    return std::hash<std::string_view>{}(
        std::string_view(reinterpret_cast<const char*>(&key), sizeof key));
}

/// Calls on(key, value) for all entries of a hash or LPM map.
template <class Key, class Value, class On>
Result<void> read_all(int fd, std::string_view name, On&& on) {
    constexpr std::uint32_t kReadBatch = 4096;
    std::vector<Key> keys(kReadBatch);
    std::vector<Value> values(kReadBatch);
    Key position{};
    auto options = sized<bpf_map_batch_opts>();
    for (bool first = true, last = false; !last; first = false) {
        std::uint32_t count = kReadBatch;
        const int error = bpf_map_lookup_batch(fd, first ? nullptr : &position, &position,
                                               keys.data(), values.data(), &count, &options);
        last = error != 0;
        if (last && errno != ENOENT)
            return system_error(fmt::format("cannot read {}", name), errno);
        for (std::uint32_t i = 0; i < count; ++i) on(keys[i], values[i]);
    }
    return {};
}

}  // namespace

struct BpfPods::State {
    State(PinDirectory directory, Logger log)
        : pins(std::move(directory)), logger(std::move(log)) {}
    ~State() {
        ring_buffer__free(ring);
        pods__destroy(skeleton);
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    [[nodiscard]] Result<void> load(const BpfPodsOptions& options);
    [[nodiscard]] Result<void> share_services(const BpfPodsOptions& options);
    [[nodiscard]] Result<void> load_and_fill();
    [[nodiscard]] Result<void> read_settings();
    [[nodiscard]] Result<void> replace_programs();
    [[nodiscard]] Result<void> adopt();
    [[nodiscard]] Result<void> write_settings(const mesh_pods_settings& wanted);
    [[nodiscard]] Result<void> write_entries(const std::vector<IpcacheEntry>& entries,
                                             PodsStats& stats);
    [[nodiscard]] bool replace_entry(const mesh_ipcache_key& key, const mesh_ipcache_entry& value);
    [[nodiscard]] Result<void> erase_entries(std::span<const mesh_ipcache_key> keys,
                                             PodsStats& stats);
    [[nodiscard]] Result<PodsStats> prune(std::optional<std::uint32_t> cluster_id);
    [[nodiscard]] int fd(const bpf_map* map) const { return bpf_map__fd(map); }

    PinDirectory pins;  // holds the lock
    Logger logger;
    std::optional<Migration> migration;
    pods* skeleton = nullptr;
    ring_buffer* ring = nullptr;
    std::function<void(const PodEvent&)> on_event;
    std::uint32_t max_ipcache = 0, max_nodes = 0, max_endpoints = 0;
    std::optional<FlowWalk> flow_walk;
    std::optional<BpfPolicy> policy;
    mesh_pods_settings settings{};
    std::map<model::IpAddress, Endpoint> endpoints;
    std::map<model::IpAddress, std::uint32_t> nodes;
    std::set<model::IpAddress> encrypted;
    boost::unordered_flat_set<std::uint64_t> written;
    /// Adopted and not confirmed yet.
    struct Unconfirmed {
        mesh_ipcache_key key;
        std::uint32_t cluster_id;
    };
    boost::unordered_flat_map<std::uint64_t, Unconfirmed> unconfirmed;
    std::vector<IpcacheEntry> adopted_local;
    std::map<model::IpAddress, std::uint32_t> unconfirmed_nodes;
};

Result<void> BpfPods::State::load(const BpfPodsOptions& options) {
    skeleton = pods__open();
    if (skeleton == nullptr) return system_error("cannot open the BPF object", errno);
    const auto& maps = skeleton->maps;
    const std::vector<WantedMap> all{
        {maps.ipcache, options.max_ipcache},
        {maps.nodes, options.max_nodes},
        {maps.endpoints, options.max_endpoints},
        {maps.nat, options.max_nat, Contents::kPrograms},
        {maps.datagrams, 0, Contents::kPrograms},
        {maps.flows, options.max_flows, Contents::kPrograms},
        {maps.answers, options.max_flows, Contents::kPrograms},
        {maps.flow_filter, 0, Contents::kPrograms},
        {maps.non_masquerade},
        {maps.settings},
        {maps.drops, 0, Contents::kPrograms},
        {maps.events, 0, Contents::kPassing},
        {maps.encryption},
        {maps.encrypted, options.max_nodes},
        {maps.policies, 0, Contents::kMaps},
        {maps.policy_flows, options.max_policy_flows, Contents::kPrograms},
    };
    MESH_TRY(migration, Migration::prepare(pins, all, pods_layout(), logger));
    auto loaded = share_services(options);
    if (loaded) loaded = load_and_fill();
    if (!loaded) migration->abandon(pins);
    if (loaded) {
        flow_walk.emplace(fd(maps.flows), fd(maps.answers), bpf_map__max_entries(maps.answers),
                          options.flow_timeouts);
        policy.emplace(fd(maps.policies), options.max_policy_rows,
                       PolicyFields{settings.policy_flags, settings.proxy_mark},
                       [this](const PolicyFields& fields) {
                           mesh_pods_settings wanted = settings;
                           wanted.policy_flags = fields.flags;
                           wanted.proxy_mark = fields.proxy_mark;
                           return write_settings(wanted);
                       });
    }
    return loaded;
}

Result<void> BpfPods::State::write_settings(const mesh_pods_settings& wanted) {
    const std::uint32_t zero = 0;
    if (bpf_map_update_elem(fd(skeleton->maps.settings), &zero, &wanted, BPF_ANY) != 0) {
        return system_error("cannot write settings", errno);
    }
    settings = wanted;
    return {};
}

Result<void> BpfPods::State::load_and_fill() {
    const LibbpfText text;
    if (const int error = pods__load(skeleton); error != 0) {
        Error failure = text.error("cannot load pod forwarding", error);
        // A kernel without a feature says "invalid argument" to the program that uses it.
        if (failure.code() == Errc::kInternal) return unavailable(failure.detail());
        return failure;
    }
    max_ipcache = bpf_map__max_entries(skeleton->maps.ipcache);
    max_nodes = bpf_map__max_entries(skeleton->maps.nodes);
    max_endpoints = bpf_map__max_entries(skeleton->maps.endpoints);
    MESH_CHECK(migration->fill(pins));
    return read_settings();
}

/// The programs read the tables that BpfDatapath writes, or none.
Result<void> BpfPods::State::share_services(const BpfPodsOptions& options) {
    const auto& maps = skeleton->maps;
    auto& constants = *skeleton->rodata;
    constants.services_at_tc = !options.services_pin_directory.empty();
    const auto count = [](std::chrono::nanoseconds time) {
        return static_cast<std::uint64_t>(time.count());
    };
    constants.flow_tcp_ns = count(options.flow_timeouts.tcp);
    constants.flow_tcp_syn_ns = count(options.flow_timeouts.tcp_syn);
    constants.flow_tcp_close_ns = count(options.flow_timeouts.tcp_close);
    constants.flow_udp_ns = count(options.flow_timeouts.udp);
    for (bpf_map* map : {maps.frontends, maps.services, maps.slots, maps.backends, maps.balances,
                         maps.maglev, maps.affinity, maps.counters, maps.connects}) {
        int error = 0;
        std::string path = bpf_map__name(map);
        if (options.services_pin_directory.empty()) {
            error = bpf_map__set_max_entries(map, 2);
        } else {
            path = fmt::format("{}/{}/maps/{}", options.bpffs, options.services_pin_directory,
                               bpf_map__name(map));
            const Fd pinned(bpf_obj_get(path.c_str()));
            error = pinned ? bpf_map__reuse_fd(map, pinned.get()) : -errno;
        }
        if (error != 0) return system_error(path, error);
    }
    return {};
}

Result<void> BpfPods::State::read_settings() {
    const std::uint32_t zero = 0;
    if (bpf_map_lookup_elem(fd(skeleton->maps.settings), &zero, &settings) != 0) {
        return system_error("cannot read settings", errno);
    }
    settings.layout_version = MESH_PODS_LAYOUT_VERSION;
    return {};
}

/// On all devices at once, so that none is left with maps that nobody writes any more; what the
/// devices are for is said later.
Result<void> BpfPods::State::replace_programs() {
    if (pins.was_empty()) return {};
    MESH_TRY(const std::uint32_t replaced, replace_filters(skeleton->obj, logger));
    MESH_CHECK(migration->finish(pins));
    logger.info("{}: {} programs on devices replaced", pins.path(), replaced);
    return {};
}

Result<void> BpfPods::State::adopt() {
    const auto& maps = skeleton->maps;
    MESH_CHECK((read_all<mesh_ipcache_key, mesh_ipcache_entry>(
        fd(maps.ipcache), "ipcache", [&](const auto& key, const auto& entry) {
            const auto number = fingerprint(key);
            written.insert(number);
            unconfirmed.emplace(number, Unconfirmed{key, entry.cluster_id});
            if (entry.identity >> kScopeShift != 0) {
                adopted_local.push_back(from_kernel(prefix_of(key), entry));
            }
        })));
    MESH_CHECK((read_all<mesh_address, mesh_node>(
        fd(maps.nodes), "nodes", [&](const auto& key, const auto& node) {
            nodes.emplace(from_kernel(key), node.cluster_id);
        })));
    unconfirmed_nodes = nodes;
    MESH_CHECK((read_all<mesh_address, std::uint8_t>(
        fd(maps.encrypted), "encrypted",
        [&](const auto& key, std::uint8_t) { encrypted.insert(from_kernel(key)); })));
    MESH_CHECK((read_all<mesh_address, mesh_endpoint>(
        fd(maps.endpoints), "endpoints", [&](const auto& key, const auto& endpoint) {
            const auto address = from_kernel(key);
            endpoints.emplace(address, from_kernel(address, endpoint));
        })));
    return policy->adopt();
}

Result<void> BpfPods::State::write_entries(const std::vector<IpcacheEntry>& entries,
                                           PodsStats& stats) {
    std::vector<mesh_ipcache_key> keys(std::min<std::size_t>(entries.size(), kBatch));
    std::vector<mesh_ipcache_entry> values(keys.size());
    const auto options = sized<bpf_map_batch_opts>();
    std::size_t next = 0;
    while (next < entries.size()) {
        const auto count = std::min<std::size_t>(entries.size() - next, kBatch);
        for (std::size_t i = 0; i < count; ++i) {
            keys[i] = to_kernel(entries[next + i].prefix);
            values[i] = to_kernel(entries[next + i]);
        }
        auto done = static_cast<std::uint32_t>(count);
        const int error = bpf_map_update_batch(fd(skeleton->maps.ipcache), keys.data(),
                                               values.data(), &done, &options)
                              ? errno
                              : 0;
        for (std::uint32_t i = 0; i < done; ++i) {
            const auto number = fingerprint(keys[i]);
            written.insert(number);
            if (!unconfirmed.empty()) unconfirmed.erase(number);
        }
        stats.written += done;
        next += done;
        if (error == 0) continue;
        if (!no_room(error)) return system_error("cannot write ipcache", error);
        if (replace_entry(keys[done], values[done])) {
            ++stats.written;
            ++next;
            continue;
        }
        stats.refused.push_back(next);
        if (stats.refusal.empty()) {
            stats.refusal =
                fmt::format("ipcache: no room for {} ({} of {} entries)",
                            entries[next].prefix.to_string(), written.size(), max_ipcache);
        }
        ++next;
    }
    return {};
}

// Before Linux 6.13 a full trie takes no change of an entry that it has either.
bool BpfPods::State::replace_entry(const mesh_ipcache_key& key, const mesh_ipcache_entry& value) {
    const auto number = fingerprint(key);
    if (!written.contains(number)) return false;
    const int map = fd(skeleton->maps.ipcache);
    if (bpf_map_delete_elem(map, &key) != 0) return false;
    if (bpf_map_update_elem(map, &key, &value, BPF_ANY) != 0) {
        written.erase(number);
        return false;
    }
    unconfirmed.erase(number);
    return true;
}

// One by one: the kernel has no batch for it that goes on after a key that is not there.
Result<void> BpfPods::State::erase_entries(std::span<const mesh_ipcache_key> keys,
                                           PodsStats& stats) {
    for (const mesh_ipcache_key& key : keys) {
        const auto number = fingerprint(key);
        if (written.erase(number) == 0) continue;
        unconfirmed.erase(number);
        if (bpf_map_delete_elem(fd(skeleton->maps.ipcache), &key) == 0) {
            ++stats.removed;
        } else if (errno != ENOENT) {
            const int error = errno;
            written.insert(number);
            return system_error("cannot delete from ipcache", error);
        }
    }
    return {};
}

Result<PodsStats> BpfPods::State::prune(std::optional<std::uint32_t> cluster_id) {
    PodsStats stats;
    std::vector<mesh_ipcache_key> keys;
    for (const auto& [number, entry] : unconfirmed) {
        if (!cluster_id || entry.cluster_id == *cluster_id) keys.push_back(entry.key);
    }
    MESH_CHECK(erase_entries(keys, stats));
    for (auto at = unconfirmed_nodes.begin(); at != unconfirmed_nodes.end();) {
        if (cluster_id && at->second != *cluster_id) {
            ++at;
            continue;
        }
        const mesh_address key = to_kernel(at->first);
        if (bpf_map_delete_elem(fd(skeleton->maps.nodes), &key) != 0 && errno != ENOENT) {
            return system_error("cannot delete from nodes", errno);
        }
        nodes.erase(at->first);
        ++stats.removed;
        at = unconfirmed_nodes.erase(at);
    }
    return stats;
}

BpfPods::BpfPods(std::unique_ptr<State> state) : state_(std::move(state)) {}
BpfPods::~BpfPods() = default;

Result<std::unique_ptr<BpfPods>> BpfPods::open(const BpfPodsOptions& options, Logger logger) {
    MESH_TRY(PinDirectory pins, PinDirectory::open(options.bpffs, options.pin_directory));
    const bool was_empty = pins.was_empty();
    auto opened = open_on(std::move(pins), options, logger);
    // What nobody will adopt must not stay in the kernel.
    if (!opened && was_empty) (void)teardown(options);
    return opened;
}

Result<std::unique_ptr<BpfPods>> BpfPods::open_on(PinDirectory pins, const BpfPodsOptions& options,
                                                  const Logger& logger) {
    auto state = std::make_unique<State>(std::move(pins), logger);
    MESH_CHECK(state->load(options));
    MESH_CHECK(state->adopt());
    MESH_CHECK(state->replace_programs());
    const auto on_sample = [](void* context, void* data, std::size_t size) {
        const auto& on = static_cast<State*>(context)->on_event;
        if (on && size >= sizeof(mesh_event)) {
            mesh_event event{};
            std::memcpy(&event, data, sizeof event);
            on(from_kernel(event));
        }
        return 0;
    };
    state->ring = ring_buffer__new(bpf_map__fd(state->skeleton->maps.events), on_sample,
                                   state.get(), nullptr);
    if (state->ring == nullptr) return system_error("cannot read events", errno);
    logger.info("{}: pod forwarding, adopted {} ipcache entries, {} nodes, {} endpoints",
                state->pins.path(), state->written.size(), state->nodes.size(),
                state->endpoints.size());
    return std::unique_ptr<BpfPods>(new BpfPods(std::move(state)));
}

bool BpfPods::made_tables() const {
    return state_->pins.was_empty();
}

Result<void> BpfPods::teardown(const BpfPodsOptions& options) {
    auto pins = PinDirectory::open_existing(options.bpffs, options.pin_directory);
    if (!pins && pins.error().code() == Errc::kNotFound) return {};
    if (!pins) return pins.error();
    MESH_CHECK(pins->remove_pins());
    return pins->remove();
}

Result<void> BpfPods::configure(const PodsSettings& settings) {
    mesh_pods_settings wanted = to_kernel(settings);
    wanted.policy_flags = state_->settings.policy_flags;
    wanted.proxy_mark = state_->settings.proxy_mark;
    return state_->write_settings(wanted);
}

PodsSettings BpfPods::settings() const {
    return from_kernel(state_->settings);
}

Result<PodsStats> BpfPods::apply(const PodsChanges& changes) {
    PodsStats stats;
    std::vector<mesh_ipcache_key> keys;
    keys.reserve(changes.removed.size());
    for (const auto& prefix : changes.removed) keys.push_back(to_kernel(prefix));
    MESH_CHECK(state_->erase_entries(keys, stats));
    MESH_CHECK(state_->write_entries(changes.upserts, stats));
    const int map = state_->fd(state_->skeleton->maps.nodes);
    for (const auto& address : changes.removed_nodes) {
        const mesh_address key = to_kernel(address);
        if (bpf_map_delete_elem(map, &key) != 0 && errno != ENOENT) {
            return system_error("cannot delete from nodes", errno);
        }
        stats.removed += state_->nodes.erase(address);
        state_->unconfirmed_nodes.erase(address);
    }
    for (std::size_t i = 0; i < changes.nodes.size(); ++i) {
        const PeerNode& node = changes.nodes[i];
        const mesh_address key = to_kernel(node.address);
        const mesh_node value{node.cluster_id};
        if (bpf_map_update_elem(map, &key, &value, BPF_ANY) == 0) {
            state_->nodes.insert_or_assign(node.address, node.cluster_id);
            state_->unconfirmed_nodes.erase(node.address);
            ++stats.written;
        } else if (no_room(errno)) {
            stats.refused.push_back(changes.upserts.size() + i);
            if (stats.refusal.empty()) {
                stats.refusal = fmt::format("nodes: no room for {} ({} entries)",
                                            node.address.to_string(), state_->max_nodes);
            }
        } else {
            return system_error("cannot write nodes", errno);
        }
    }
    return stats;
}

Result<void> BpfPods::upsert_endpoint(const Endpoint& endpoint) {
    const mesh_address key = to_kernel(endpoint.address);
    const mesh_endpoint value = to_kernel(endpoint);
    if (bpf_map_update_elem(state_->fd(state_->skeleton->maps.endpoints), &key, &value, BPF_ANY) !=
        0) {
        const int error = errno;
        const std::string address = endpoint.address.to_string();
        if (!no_room(error)) return system_error("endpoint " + address, error);
        return Error(Errc::kCapacity, fmt::format("endpoints: no room for {} ({} entries)", address,
                                                  state_->max_endpoints));
    }
    state_->endpoints.insert_or_assign(endpoint.address, endpoint);
    return {};
}

Result<void> BpfPods::remove_endpoint(const model::IpAddress& address) {
    const mesh_address key = to_kernel(address);
    if (bpf_map_delete_elem(state_->fd(state_->skeleton->maps.endpoints), &key) != 0 &&
        errno != ENOENT) {
        return system_error(fmt::format("endpoint {}", address.to_string()), errno);
    }
    state_->endpoints.erase(address);
    return {};
}

std::vector<Endpoint> BpfPods::endpoints() const {
    std::vector<Endpoint> all;
    all.reserve(state_->endpoints.size());
    for (const auto& [address, endpoint] : state_->endpoints) all.push_back(endpoint);
    return all;
}

Result<void> BpfPods::set_non_masquerade(const std::vector<model::IpPrefix>& cidrs) {
    const int map = state_->fd(state_->skeleton->maps.non_masquerade);
    std::vector<mesh_ipcache_key> gone;
    MESH_CHECK((read_all<mesh_ipcache_key, std::uint8_t>(
        map, "non_masquerade", [&](const auto& key, std::uint8_t) { gone.push_back(key); })));
    const std::uint8_t yes = 1;
    for (const model::IpPrefix& cidr : cidrs) {
        const mesh_ipcache_key key = to_kernel(cidr);
        if (bpf_map_update_elem(map, &key, &yes, BPF_ANY) != 0) {
            return system_error(fmt::format("non_masquerade {}", cidr.to_string()), errno);
        }
        std::erase_if(gone,
                      [&](const auto& held) { return fingerprint(held) == fingerprint(key); });
    }
    for (const mesh_ipcache_key& key : gone) (void)bpf_map_delete_elem(map, &key);
    return {};
}

Result<void> BpfPods::configure_encryption(const PodsEncryption& encryption) {
    const std::uint32_t zero = 0;
    const mesh_encryption wanted = to_kernel(encryption);
    if (bpf_map_update_elem(state_->fd(state_->skeleton->maps.encryption), &zero, &wanted,
                            BPF_ANY) != 0) {
        return system_error("cannot write encryption", errno);
    }
    return {};
}

Result<void> BpfPods::set_encrypted(const model::IpAddress& node, bool encrypted) {
    const int map = state_->fd(state_->skeleton->maps.encrypted);
    const mesh_address key = to_kernel(node);
    const std::uint8_t yes = 1;
    const int failed =
        encrypted ? bpf_map_update_elem(map, &key, &yes, BPF_ANY) : bpf_map_delete_elem(map, &key);
    if (failed != 0 && (encrypted || errno != ENOENT)) {
        return system_error(fmt::format("encrypted node {}", node.to_string()), errno);
    }
    if (encrypted) {
        state_->encrypted.insert(node);
    } else {
        state_->encrypted.erase(node);
    }
    return {};
}

std::vector<model::IpAddress> BpfPods::encrypted() const {
    return {state_->encrypted.begin(), state_->encrypted.end()};
}

Result<void> BpfPods::attach(std::uint32_t ifindex, DeviceRole role) {
    const auto& programs = state_->skeleton->progs;
    switch (role) {
        case DeviceRole::kPod:
            MESH_CHECK(set_filter(ifindex, BPF_TC_EGRESS, programs.mesh_to_pod));
            return set_filter(ifindex, BPF_TC_INGRESS, programs.mesh_from_pod);
        case DeviceRole::kOverlay:
            MESH_CHECK(set_filter(ifindex, BPF_TC_EGRESS, programs.mesh_to_overlay));
            return set_filter(ifindex, BPF_TC_INGRESS, programs.mesh_from_overlay);
        case DeviceRole::kDevice:
            MESH_CHECK(set_filter(ifindex, BPF_TC_INGRESS, programs.mesh_from_device));
            return set_filter(ifindex, BPF_TC_EGRESS, programs.mesh_to_device);
        case DeviceRole::kWireguard:
            return set_filter(ifindex, BPF_TC_INGRESS, programs.mesh_from_wireguard);
    }
    return {};
}

Result<PodsStats> BpfPods::finish_adopt_cluster(std::uint32_t cluster_id) {
    return state_->prune(cluster_id);
}

Result<PodsStats> BpfPods::finish_adopt() {
    return state_->prune({});
}

std::optional<IpcacheEntry> BpfPods::find(const model::IpPrefix& prefix) const {
    const mesh_ipcache_key key = to_kernel(prefix);
    mesh_ipcache_entry entry{};
    // A look-up of an LPM map finds the longest prefix, not this one.
    if (!state_->written.contains(fingerprint(key)) ||
        bpf_map_lookup_elem(state_->fd(state_->skeleton->maps.ipcache), &key, &entry) != 0) {
        return std::nullopt;
    }
    return from_kernel(prefix, entry);
}

std::optional<IpcacheEntry> BpfPods::lookup(const model::IpAddress& address) const {
    const model::IpPrefix host(address, std::numeric_limits<std::uint8_t>::max());
    const mesh_ipcache_key key = to_kernel(host);
    mesh_ipcache_entry entry{};
    if (bpf_map_lookup_elem(state_->fd(state_->skeleton->maps.ipcache), &key, &entry) != 0) {
        return std::nullopt;
    }
    return from_kernel(host, entry);
}

std::vector<IpcacheEntry> BpfPods::adopted_local() const {
    return state_->adopted_local;
}

PodsOccupancy BpfPods::occupancy() const {
    return {.ipcache = state_->written.size(),
            .max_ipcache = state_->max_ipcache,
            .nodes = state_->nodes.size(),
            .max_nodes = state_->max_nodes,
            .endpoints = state_->endpoints.size(),
            .max_endpoints = state_->max_endpoints};
}

Result<void> BpfPods::collect_flows(std::size_t most, TimePoint now) {
    return state_->flow_walk->step(most, now);
}

FlowStats BpfPods::flows() const {
    return state_->flow_walk->stats();
}

std::map<DropReason, DropCount> BpfPods::drops() const {
    std::map<DropReason, DropCount> all;
    const int cpus = libbpf_num_possible_cpus();
    if (cpus <= 0) return all;
    std::vector<mesh_drop_count> rows(static_cast<std::size_t>(cpus));
    for (const DropReason reason : kDropReasons) {
        const auto index = static_cast<std::uint32_t>(reason);
        if (bpf_map_lookup_elem(state_->fd(state_->skeleton->maps.drops), &index, rows.data()) !=
            0) {
            continue;
        }
        DropCount sum;
        for (const auto& row : rows) {
            sum.packets += row.packets;
            sum.bytes += row.bytes;
        }
        if (sum.packets != 0) all.emplace(reason, sum);
    }
    return all;
}

PolicyDatapath& BpfPods::policy() {
    return *state_->policy;
}

int BpfPods::event_fd() const noexcept {
    return ring_buffer__epoll_fd(state_->ring);
}

std::size_t BpfPods::read_events(std::size_t limit,
                                 const std::function<void(const PodEvent&)>& on) {
    std::size_t count = 0;
    state_->on_event = [&](const PodEvent& event) {
        // libbpf takes all that there is; what is over the limit is let go, not kept.
        if (count++ < limit) on(event);
    };
    (void)ring_buffer__consume(state_->ring);
    state_->on_event = {};
    return std::min(count, limit);
}

}  // namespace mesh::datapath
