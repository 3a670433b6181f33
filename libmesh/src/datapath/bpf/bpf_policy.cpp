#include "datapath/bpf/bpf_policy.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>
#include <utility>

#include "datapath/bpf/libbpf_call.hpp"
#include "datapath/bpf/pin_directory.hpp"
#include "datapath/bpf/policy_codec.hpp"

namespace mesh::datapath {
namespace {

constexpr std::uint32_t kBatch = 1024;
/// A map is made for twice its rows, and not for fewer than so many.
constexpr std::uint64_t kFewest = 64;
/// Of PolicyFields::flags, what configure() decides.
constexpr std::uint32_t kConfigured = MESH_POLICY_REQUIRED | MESH_POLICY_EVENTS;

std::string name_of(EndpointId endpoint) {
    return fmt::format("policy of endpoint {}", endpoint);
}

bool is_enforced(EndpointEnforcement enforcement) {
    return enforcement != EndpointEnforcement::kNone;
}

bool no_room(int error) {
    return error == E2BIG || error == ENOSPC || error == ENOMEM;
}

Result<bpf_map_info> info_of(int map, EndpointId endpoint) {
    bpf_map_info info{};
    __u32 length = sizeof info;
    if (bpf_obj_get_info_by_fd(map, &info, &length) != 0) {
        return system_error(name_of(endpoint), errno);
    }
    return info;
}

Result<Fd> open_map(std::uint32_t id, EndpointId endpoint) {
    Fd map(bpf_map_get_fd_by_id(id));
    if (!map) return system_error(name_of(endpoint), errno);
    return map;
}

/// Calls on(key, entry) for all of a map, the header too.
template <class On>
Result<void> read_map(const Fd& map, EndpointId endpoint, On&& on) {
    std::uint32_t batch = kBatch;
    std::vector<mesh_policy_key> keys(batch);
    std::vector<mesh_policy_entry> entries(batch);
    std::uint32_t position = 0, next = 0;
    const auto options = sized<bpf_map_batch_opts>();
    for (bool first = true, last = false; !last;) {
        std::uint32_t count = batch;
        const int error = bpf_map_lookup_batch(map.get(), first ? nullptr : &position, &next,
                                               keys.data(), entries.data(), &count, &options);
        if (error != 0 && errno == ENOSPC) {  // a bucket with more entries than that
            batch *= 2;
            keys.resize(batch);
            entries.resize(batch);
            continue;
        }
        last = error != 0;
        if (last && errno != ENOENT) return system_error(name_of(endpoint), errno);
        for (std::uint32_t i = 0; i < count; ++i) on(keys[i], entries[i]);
        first = false;
        position = next;
    }
    return {};
}

mesh_policy_entry header_entry(const std::array<std::uint32_t, 4>& lengths,
                               EndpointEnforcement enforcement) {
    mesh_policy_entry entry{};
    entry.key = policy_header_key();
    std::ranges::copy(lengths, entry.header.lengths);
    entry.header.enforcement = static_cast<std::uint32_t>(enforcement);
    return entry;
}

Result<void> write_header(const Fd& map, EndpointId endpoint,
                          const std::array<std::uint32_t, 4>& lengths,
                          EndpointEnforcement enforcement) {
    const mesh_policy_entry entry = header_entry(lengths, enforcement);
    if (bpf_map_update_elem(map.get(), &entry.key, &entry, BPF_ANY) != 0) {
        return system_error(name_of(endpoint), errno);
    }
    return {};
}

Error no_room_error(EndpointId endpoint, std::uint64_t rows, std::uint64_t max_rows) {
    return {Errc::kCapacity,
            fmt::format("endpoint {}: {} rows of policy, room for {}", endpoint, rows, max_rows)};
}

}  // namespace

BpfPolicy::BpfPolicy(int policies, std::uint32_t max_rows, const PolicyFields& fields,
                     std::function<Result<void>(const PolicyFields&)> write)
    : policies_(policies), max_rows_(max_rows), fields_(fields), write_(std::move(write)) {}

Result<void> BpfPolicy::adopt() {
    const auto options = sized<bpf_map_batch_opts>();
    std::vector<std::uint32_t> keys(kBatch), ids(kBatch);
    std::vector<std::pair<EndpointId, std::uint32_t>> found;
    const auto add = [&](std::uint32_t key, std::uint32_t id) {
        if (id != 0) found.emplace_back(static_cast<EndpointId>(key), id);
    };
    std::uint32_t position = 0;
    bool one_by_one = false;
    for (bool first = true, last = false; !last; first = false) {
        std::uint32_t count = kBatch, next = 0;
        last = bpf_map_lookup_batch(policies_, first ? nullptr : &position, &next, keys.data(),
                                    ids.data(), &count, &options) != 0;
        // Older kernels stop at an index without a map.
        if (last && errno != ENOENT) one_by_one = true;
        if (one_by_one) break;
        for (std::uint32_t i = 0; i < count; ++i) add(keys[i], ids[i]);
        position = next;
    }
    if (one_by_one) {
        found.clear();
        for (std::uint32_t key = 0; key < MESH_MAX_ENDPOINT_IDS; ++key) {
            std::uint32_t id = 0;
            if (bpf_map_lookup_elem(policies_, &key, &id) == 0) add(key, id);
        }
    }
    for (const auto& [endpoint, id] : found) MESH_CHECK(adopt_table(endpoint, id));
    return write_flags(nullptr);
}

Result<void> BpfPolicy::adopt_table(EndpointId endpoint, std::uint32_t map_id) {
    MESH_TRY(const Fd map, open_map(map_id, endpoint));
    MESH_TRY(const bpf_map_info info, info_of(map.get(), endpoint));
    Table table;
    table.map_id = map_id;
    table.max_entries = info.max_entries;
    table.enforcement = EndpointEnforcement::kLocked;  // as the programs take one without a header
    MESH_CHECK(read_map(map, endpoint, [&](const auto& key, const auto& entry) {
        if (is_policy_header(key)) {
            table.enforcement = static_cast<EndpointEnforcement>(entry.header.enforcement);
            std::ranges::copy(entry.header.lengths, table.lengths.begin());
            return;
        }
        ++table.rows;
        if (entry.row.proxy_port != 0) ++table.redirects;
    }));
    count(tables_.emplace(endpoint, table).first->second);
    return {};
}

void BpfPolicy::count(Table& table) {
    const std::uint32_t flags = flags_of(table);
    const auto step = [&](std::uint32_t flag, std::uint64_t& counter) {
        if ((flags & flag) != 0 && (table.counted & flag) == 0) ++counter;
        if ((flags & flag) == 0 && (table.counted & flag) != 0) --counter;
    };
    step(MESH_POLICY_ACTIVE, enforced_);
    step(MESH_POLICY_REDIRECTS, redirecting_);
    table.counted = flags;
}

std::uint32_t BpfPolicy::flags_of(const Table& table) {
    return (is_enforced(table.enforcement) ? MESH_POLICY_ACTIVE : 0U) |
           (table.redirects != 0 ? MESH_POLICY_REDIRECTS : 0U);
}

Result<void> BpfPolicy::write_flags(const Table* more) {
    PolicyFields wanted = fields_;
    wanted.flags &= kConfigured;
    if (enforced_ != 0) wanted.flags |= MESH_POLICY_ACTIVE;
    if (redirecting_ != 0) wanted.flags |= MESH_POLICY_REDIRECTS;
    if (more != nullptr) wanted.flags |= flags_of(*more);
    if (wanted == fields_) return {};
    MESH_CHECK(write_(wanted));
    fields_ = wanted;
    return {};
}

Result<void> BpfPolicy::configure(const PolicySettings& settings) {
    PolicyFields wanted = fields_;
    wanted.flags &= ~kConfigured;
    wanted.flags |= (settings.enabled ? MESH_POLICY_REQUIRED : 0U) |
                    (settings.verdict_events ? MESH_POLICY_EVENTS : 0U);
    wanted.proxy_mark = settings.proxy_mark;
    if (wanted == fields_) return {};
    MESH_CHECK(write_(wanted));
    fields_ = wanted;
    return {};
}

Result<BpfPolicy::Table*> BpfPolicy::find(EndpointId endpoint) {
    const auto found = tables_.find(endpoint);
    if (found == tables_.end()) {
        return Error(Errc::kNotFound, fmt::format("endpoint {} has no policy", endpoint));
    }
    return &found->second;
}

Result<void> BpfPolicy::replace(EndpointId endpoint, EndpointEnforcement enforcement,
                                std::span<const PolicyRow> rows) {
    if (endpoint == 0) return invalid_argument("endpoint 0: expected a number from 1");
    if (rows.size() > max_rows_) return no_room_error(endpoint, rows.size(), max_rows_);
    Table table;
    table.enforcement = enforcement;
    table.rows = rows.size();
    Keys keys;
    Entries entries;
    keys.reserve(rows.size() + 1);
    entries.reserve(rows.size() + 1);
    for (const PolicyRow& row : rows) {
        MESH_TRY(const mesh_policy_key key, to_kernel(row.key));
        mesh_policy_entry entry{};
        entry.key = key;
        entry.row = to_kernel(row.verdict);
        table.lengths[lengths_index(key)] |= length_bit(key);
        if (row.verdict.proxy_port != 0) ++table.redirects;
        keys.push_back(key);
        entries.push_back(entry);
    }
    return install(endpoint, table, keys, entries);
}

/// Makes a map of these entries and puts it in the place of the endpoint's.
Result<void> BpfPolicy::install(EndpointId endpoint, Table table, const Keys& keys,
                                const Entries& entries) {
    const std::uint64_t wanted = std::bit_ceil(std::max(2 * keys.size(), std::size_t{kFewest}));
    table.max_entries = static_cast<std::uint32_t>(std::min(wanted, std::uint64_t{max_rows_} + 1));
    auto make = sized<bpf_map_create_opts>();
    make.map_flags = BPF_F_NO_PREALLOC;
    const Fd map(bpf_map_create(BPF_MAP_TYPE_HASH, "policy_rows", sizeof(mesh_policy_key),
                                sizeof(mesh_policy_entry), table.max_entries, &make));
    if (!map) return system_error(name_of(endpoint), errno);
    const auto options = sized<bpf_map_batch_opts>();
    for (std::size_t next = 0; next < keys.size();) {
        auto some = static_cast<std::uint32_t>(std::min<std::size_t>(keys.size() - next, kBatch));
        const std::uint32_t asked = some;
        if (bpf_map_update_batch(map.get(), keys.data() + next, entries.data() + next, &some,
                                 &options) != 0) {
            return system_error(name_of(endpoint), errno);
        }
        next += asked;
    }
    MESH_CHECK(write_header(map, endpoint, table.lengths, table.enforcement));
    MESH_TRY(const bpf_map_info info, info_of(map.get(), endpoint));
    table.map_id = info.id;
    MESH_CHECK(write_flags(&table));
    const std::uint32_t index = endpoint;
    const int fd = map.get();
    if (bpf_map_update_elem(policies_, &index, &fd, BPF_ANY) != 0) {
        return system_error(name_of(endpoint), errno);
    }
    Table& held = tables_[endpoint];
    table.counted = held.counted;
    held = table;
    count(held);
    return write_flags(nullptr);
}

/// A map of more room with the same entries, in the place of `map`.
Result<void> BpfPolicy::grow(EndpointId endpoint, Table& table, Fd& map) {
    Keys keys;
    Entries entries;
    MESH_CHECK(read_map(map, endpoint, [&](const auto& key, const auto& entry) {
        if (is_policy_header(key)) return;
        keys.push_back(key);
        entries.push_back(entry);
    }));
    MESH_CHECK(install(endpoint, table, keys, entries));
    MESH_TRY(map, open_map(table.map_id, endpoint));
    return {};
}

Result<void> BpfPolicy::upsert(EndpointId endpoint, Table& table, Fd& map, const PolicyRow& row) {
    MESH_TRY(const mesh_policy_key key, to_kernel(row.key));
    mesh_policy_entry entry{};
    entry.key = key;
    entry.row = to_kernel(row.verdict);
    const bool redirects = row.verdict.proxy_port != 0;
    mesh_policy_entry old{};
    if (bpf_map_lookup_elem(map.get(), &key, &old) == 0) {
        if (bpf_map_update_elem(map.get(), &key, &entry, BPF_ANY) != 0) {
            return system_error(name_of(endpoint), errno);
        }
        table.redirects += redirects ? 1U : 0U;
        table.redirects -= old.row.proxy_port != 0 ? 1U : 0U;
        return {};
    }
    if (table.rows >= max_rows_) return no_room_error(endpoint, table.rows + 1, max_rows_);
    // The header's place counts.
    if (table.rows + 1 >= table.max_entries) MESH_CHECK(grow(endpoint, table, map));
    std::uint32_t& lengths = table.lengths[lengths_index(key)];
    if ((lengths & length_bit(key)) == 0) {
        lengths |= length_bit(key);
        MESH_CHECK(write_header(map, endpoint, table.lengths, table.enforcement));
    }
    if (bpf_map_update_elem(map.get(), &key, &entry, BPF_NOEXIST) != 0) {
        if (no_room(errno)) return no_room_error(endpoint, table.rows + 1, max_rows_);
        return system_error(name_of(endpoint), errno);
    }
    ++table.rows;
    table.redirects += redirects ? 1U : 0U;
    return {};
}

// Lengths stay where they were used: what is probed in vain only costs time, until replace().
Result<void> BpfPolicy::erase(Table& table, const Fd& map, const PolicyKey& row) {
    MESH_TRY(const mesh_policy_key key, to_kernel(row));
    mesh_policy_entry old{};
    if (bpf_map_lookup_and_delete_elem(map.get(), &key, &old) != 0) {
        if (errno == ENOENT) return {};
        return system_error("cannot delete a row of policy", errno);
    }
    --table.rows;
    table.redirects -= old.row.proxy_port != 0 ? 1U : 0U;
    return {};
}

Result<void> BpfPolicy::change(EndpointId endpoint, std::span<const PolicyRowChange> changes) {
    MESH_TRY(Table* const table, find(endpoint));
    MESH_TRY(Fd map, open_map(table->map_id, endpoint));
    Table more = *table;
    for (const PolicyRowChange& change : changes) {
        if (change.verdict && change.verdict->proxy_port != 0) ++more.redirects;
    }
    MESH_CHECK(write_flags(&more));
    const auto make = [&]() -> Result<void> {
        const auto upsert_all = [&](bool deny) -> Result<void> {
            for (const PolicyRowChange& change : changes) {
                if (!change.verdict || change.verdict->deny != deny) continue;
                MESH_CHECK(upsert(endpoint, *table, map, {change.key, *change.verdict}));
            }
            return {};
        };
        // Which of the rows that go deny, only the map knows.
        std::vector<PolicyKey> denying;
        MESH_CHECK(upsert_all(true));
        for (const PolicyRowChange& change : changes) {
            if (change.verdict) continue;
            MESH_TRY(const mesh_policy_key key, to_kernel(change.key));
            mesh_policy_entry old{};
            if (bpf_map_lookup_elem(map.get(), &key, &old) != 0) continue;
            if ((old.row.flags & MESH_POLICY_DENY) != 0) {
                denying.push_back(change.key);
            } else {
                MESH_CHECK(erase(*table, map, change.key));
            }
        }
        MESH_CHECK(upsert_all(false));
        for (const PolicyKey& key : denying) MESH_CHECK(erase(*table, map, key));
        return {};
    };
    const auto made = make();
    count(*table);
    const auto flags = write_flags(nullptr);
    return made ? flags : made;
}

Result<void> BpfPolicy::enforce(EndpointId endpoint, EndpointEnforcement enforcement) {
    MESH_TRY(Table* const table, find(endpoint));
    if (table->enforcement == enforcement) return {};
    MESH_TRY(const Fd map, open_map(table->map_id, endpoint));
    Table more = *table;
    more.enforcement = enforcement;
    MESH_CHECK(write_flags(&more));
    MESH_CHECK(write_header(map, endpoint, table->lengths, enforcement));
    table->enforcement = enforcement;
    count(*table);
    return write_flags(nullptr);
}

Result<void> BpfPolicy::remove(EndpointId endpoint) {
    const auto found = tables_.find(endpoint);
    if (found == tables_.end()) return {};
    const std::uint32_t index = endpoint;
    if (bpf_map_delete_elem(policies_, &index) != 0 && errno != ENOENT) {
        return system_error(name_of(endpoint), errno);
    }
    found->second.enforcement = EndpointEnforcement::kNone;
    found->second.redirects = 0;
    count(found->second);
    tables_.erase(found);
    return write_flags(nullptr);
}

std::vector<PolicyOccupancy> BpfPolicy::endpoints() const {
    std::vector<PolicyOccupancy> all;
    all.reserve(tables_.size());
    for (const auto& [endpoint, table] : tables_) {
        all.push_back({endpoint, table.enforcement, table.rows});
    }
    return all;
}

Result<std::vector<PolicyRow>> BpfPolicy::rows(EndpointId endpoint) const {
    const auto found = tables_.find(endpoint);
    if (found == tables_.end()) {
        return Error(Errc::kNotFound, fmt::format("endpoint {} has no policy", endpoint));
    }
    MESH_TRY(const Fd map, open_map(found->second.map_id, endpoint));
    std::vector<PolicyRow> all;
    all.reserve(found->second.rows);
    MESH_CHECK(read_map(map, endpoint, [&](const auto& key, const auto& entry) {
        if (!is_policy_header(key)) all.push_back({from_kernel(key), from_kernel(entry.row)});
    }));
    std::ranges::sort(all);
    return all;
}

}  // namespace mesh::datapath
