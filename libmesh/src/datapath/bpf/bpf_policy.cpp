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
/// Maps that are exchanged by one call.
constexpr std::size_t kTogether = 256;
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

Result<void> write_header(const Fd& map, EndpointId endpoint, const BpfPolicyTable& table) {
    mesh_policy_entry entry{};
    entry.key = policy_header_key();
    std::ranges::copy(table.lengths, entry.header.lengths);
    entry.header.enforcement = static_cast<std::uint32_t>(table.enforcement);
    entry.header.version = table.version;
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
            table.version = entry.header.version;
            std::ranges::copy(entry.header.lengths, table.lengths.begin());
            return;
        }
        ++table.rows;
        if (entry.row.proxy_port != 0) ++table.redirects;
    }));
    count_in(tables_.emplace(endpoint, table).first->second);
    return {};
}

void BpfPolicy::count_in(Table& table) {
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
    MESH_TRY(Made made, make(endpoint, enforcement, rows));
    std::vector<Made> one;
    one.push_back(std::move(made));
    return install(one);
}

std::vector<PolicyRefusal> BpfPolicy::replace_all(std::span<const PolicyReplacement> all) {
    std::vector<PolicyRefusal> refused;
    // So many at a time, that few files are open.
    for (std::size_t begin = 0; begin < all.size(); begin += kTogether) {
        const std::size_t end = std::min(all.size(), begin + kTogether);
        std::vector<Made> made;
        std::vector<std::size_t> indexes;
        for (std::size_t i = begin; i < end; ++i) {
            auto one = make(all[i].endpoint, all[i].enforcement, all[i].rows);
            if (!one) {
                refused.push_back({i, one.error()});
                continue;
            }
            made.push_back(*std::move(one));
            indexes.push_back(i);
        }
        const auto installed = install(made);
        if (installed) continue;
        for (const std::size_t i : indexes) refused.push_back({i, installed.error()});
    }
    std::ranges::sort(refused, {}, &PolicyRefusal::index);
    return refused;
}

/// A map of these rows, not in use yet.
Result<BpfPolicy::Made> BpfPolicy::make(EndpointId endpoint, EndpointEnforcement enforcement,
                                        std::span<const PolicyRow> rows) const {
    if (endpoint == 0) return invalid_argument("endpoint 0: expected a number from 1");
    if (rows.size() > max_rows_) return no_room_error(endpoint, rows.size(), max_rows_);
    Table table;
    table.enforcement = enforcement;
    table.rows = rows.size();
    Keys keys;
    Entries entries;
    keys.reserve(rows.size());
    entries.reserve(rows.size());
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
    return make_map(endpoint, table, keys, entries);
}

Result<BpfPolicy::Made> BpfPolicy::make_map(EndpointId endpoint, Table table, const Keys& keys,
                                            const Entries& entries) const {
    const std::uint64_t wanted = std::bit_ceil(std::max(2 * keys.size(), std::size_t{kFewest}));
    table.max_entries = static_cast<std::uint32_t>(std::min(wanted, std::uint64_t{max_rows_} + 1));
    auto how = sized<bpf_map_create_opts>();
    how.map_flags = BPF_F_NO_PREALLOC;
    Fd map(bpf_map_create(BPF_MAP_TYPE_HASH, "policy_rows", sizeof(mesh_policy_key),
                          sizeof(mesh_policy_entry), table.max_entries, &how));
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
    MESH_CHECK(write_header(map, endpoint, table));
    MESH_TRY(const bpf_map_info info, info_of(map.get(), endpoint));
    table.map_id = info.id;
    return Made{endpoint, table, std::move(map)};
}

/// Puts maps in the place of the endpoints'. By one call where the kernel has it: it waits each
/// time until no program uses an old map any more, which takes milliseconds.
Result<void> BpfPolicy::install(const std::vector<Made>& made) {
    Table more;
    std::vector<std::uint32_t> indexes;
    std::vector<int> maps;
    for (const Made& one : made) {
        if (is_enforced(one.table.enforcement)) more.enforcement = one.table.enforcement;
        more.redirects += one.table.redirects;
        indexes.push_back(one.endpoint);
        maps.push_back(one.map.get());
    }
    MESH_CHECK(write_flags(&more));
    const auto options = sized<bpf_map_batch_opts>();
    auto count = static_cast<std::uint32_t>(made.size());
    const bool together =
        made.size() > 1 &&
        bpf_map_update_batch(policies_, indexes.data(), maps.data(), &count, &options) == 0;
    for (std::size_t i = 0; i < made.size(); ++i) {
        if (!together && bpf_map_update_elem(policies_, &indexes[i], &maps[i], BPF_ANY) != 0) {
            return system_error(name_of(made[i].endpoint), errno);
        }
        Table& held = tables_[made[i].endpoint];
        const std::uint32_t counted = held.counted;
        held = made[i].table;
        held.counted = counted;
        count_in(held);
    }
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
    std::vector<Made> made(1);
    MESH_TRY(made.front(), make_map(endpoint, table, keys, entries));
    MESH_CHECK(install(made));
    map = std::move(made.front().map);
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
        MESH_CHECK(write_header(map, endpoint, table));
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
    const auto made = change_in_steps(endpoint, *table, map, changes);
    count_in(*table);
    const auto flags = write_flags(nullptr);
    return made ? flags : made;
}

/// What denies comes first and goes last. Before each step the version is raised: a program that
/// has read rows of before and of after it reads again.
Result<void> BpfPolicy::change_in_steps(EndpointId endpoint, Table& table, Fd& map,
                                        std::span<const PolicyRowChange> changes) {
    std::vector<PolicyKey> passing, denying;  // that go; which they are only the map knows
    for (const PolicyRowChange& change : changes) {
        MESH_TRY(const mesh_policy_key key, to_kernel(change.key));
        mesh_policy_entry old{};
        if (change.verdict || bpf_map_lookup_elem(map.get(), &key, &old) != 0) continue;
        const bool denies = (old.row.flags & MESH_POLICY_DENY) != 0;
        (denies ? denying : passing).push_back(change.key);
    }
    const auto begin_step = [&]() -> Result<void> {
        ++table.version;
        return write_header(map, endpoint, table);
    };
    const auto upsert_all = [&](bool deny) -> Result<void> {
        bool begun = false;
        for (const PolicyRowChange& change : changes) {
            if (!change.verdict || change.verdict->deny != deny) continue;
            if (!std::exchange(begun, true)) MESH_CHECK(begin_step());
            MESH_CHECK(upsert(endpoint, table, map, {change.key, *change.verdict}));
        }
        return {};
    };
    const auto erase_all = [&](const std::vector<PolicyKey>& keys) -> Result<void> {
        if (!keys.empty()) MESH_CHECK(begin_step());
        for (const PolicyKey& key : keys) MESH_CHECK(erase(table, map, key));
        return {};
    };
    MESH_CHECK(upsert_all(/*deny=*/true));
    MESH_CHECK(erase_all(passing));
    MESH_CHECK(upsert_all(/*deny=*/false));
    return erase_all(denying);
}

Result<void> BpfPolicy::enforce(EndpointId endpoint, EndpointEnforcement enforcement) {
    MESH_TRY(Table* const table, find(endpoint));
    if (table->enforcement == enforcement) return {};
    MESH_TRY(const Fd map, open_map(table->map_id, endpoint));
    Table wanted = *table;
    wanted.enforcement = enforcement;
    ++wanted.version;
    MESH_CHECK(write_flags(&wanted));
    MESH_CHECK(write_header(map, endpoint, wanted));
    *table = wanted;
    count_in(*table);
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
    count_in(found->second);
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
