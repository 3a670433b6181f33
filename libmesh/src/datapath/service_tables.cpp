#include "datapath/service_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <unordered_set>

namespace mesh::datapath {
namespace {

// Bounds what one apply holds twice (old and new entries) before it gives the old ones back.
constexpr std::size_t kChunk = 512;
constexpr std::size_t kMaxBackendsPerService = 1U << 20;

auto key_of(const Backend& backend) {
    return std::tie(backend.address, backend.port);
}

std::string text_of(const model::IpAddress& address, std::uint16_t port, Protocol proto) {
    return fmt::format(fmt::runtime(address.is_v4() ? "{}:{}/{}" : "[{}]:{}/{}"),
                       address.to_string(), port, to_string(proto));
}

Result<void> check_backend(const ServiceRow& row, const Backend& backend) {
    const auto bad = [&](std::string_view expected) {
        return invalid_argument(
            fmt::format("service {}, backend {}: {}",
                        text_of(row.frontend.address, row.frontend.port, row.frontend.proto),
                        text_of(backend.address, backend.port, backend.proto), expected));
    };
    if (backend.port == 0) return bad("expected a port of 1 to 65535");
    if (backend.proto != row.frontend.proto) return bad("expected the frontend's protocol");
    if (backend.address.is_v4() != row.frontend.address.is_v4()) {
        return bad("expected an address of the frontend's family");
    }
    if (backend.cluster_id >= MESH_MAX_CLUSTERS) {
        return bad(fmt::format("cluster id {}: expected 0 to {}", backend.cluster_id,
                               MESH_MAX_CLUSTERS - 1));
    }
    return {};
}

/// The row's backends by key, or why the row is refused.
Result<std::vector<Backend>> checked_backends(const ServiceRow& row) {
    const ServiceFrontend& front = row.frontend;
    const std::string where = text_of(front.address, front.port, front.proto);
    if (front.port == 0 || to_string(front.proto) == "?") {
        return invalid_argument(
            fmt::format("service {}: expected a port of 1 to 65535 and TCP, UDP or SCTP", where));
    }
    if (row.backends.size() > kMaxBackendsPerService) {
        return Error(Errc::kCapacity,
                     fmt::format("service {}: {} backends, expected at most {}", where,
                                 row.backends.size(), kMaxBackendsPerService));
    }
    std::vector<Backend> sorted = row.backends;
    std::ranges::sort(sorted, {}, [](const Backend& b) { return key_of(b); });
    for (std::size_t i = 0; i < sorted.size(); ++i) {
        MESH_CHECK(check_backend(row, sorted[i]));
        if (i > 0 && key_of(sorted[i - 1]) == key_of(sorted[i])) {
            return invalid_argument(
                fmt::format("service {}, backend {}: expected each backend once", where,
                            text_of(sorted[i].address, sorted[i].port, sorted[i].proto)));
        }
    }
    return sorted;
}

/// Between host and network order, either way.
std::uint16_t network_port(std::uint16_t port) noexcept {
    return std::endian::native == std::endian::big ? port : __builtin_bswap16(port);
}

}  // namespace

mesh_frontend_key table_key(const ServiceFrontend& frontend) noexcept {
    mesh_frontend_key key{};
    std::memcpy(key.address, frontend.address.bytes().data(), sizeof key.address);
    key.port = network_port(frontend.port);
    key.proto = static_cast<std::uint8_t>(frontend.proto);
    return key;
}

std::optional<ServiceFrontend> frontend_of(const mesh_frontend_key& key) noexcept {
    const auto proto = static_cast<Protocol>(key.proto);
    if (key.port == 0 || to_string(proto) == "?") return std::nullopt;
    model::IpAddress::Bytes bytes{};
    std::memcpy(bytes.data(), key.address, bytes.size());
    return ServiceFrontend{model::IpAddress(bytes), network_port(key.port), proto};
}

std::uint16_t host_port(std::uint16_t port) noexcept {
    return network_port(port);
}

bool same_key(const mesh_frontend_key& a, const mesh_frontend_key& b) noexcept {
    return std::memcmp(a.address, b.address, sizeof a.address) == 0 && a.port == b.port &&
           a.proto == b.proto;
}

ServiceTables::ServiceTables(TableStorage& storage, std::uint32_t maglev_size)
    : storage_(storage),
      service_ids_(storage.sizes().services),
      backend_ids_(storage.sizes().backends),
      slots_(storage.sizes().slots),
      maglev_size_(maglev_size),
      maglev_(storage.sizes().maglev / 2),
      shares_(MESH_MAX_CLUSTERS, backend_ids_.capacity()) {}

Result<ApplyStats> ServiceTables::apply(std::span<const ServiceChange> changes) {
    ApplyStats stats;
    std::vector<const ServiceChange*> todo;
    for (const auto& [frontend, change] : last_changes(changes)) todo.push_back(change);
    MESH_TRY(auto no_room, run(todo, Fit::kWhole, stats));
    if (no_room.empty()) return stats;
    // The rows after it may have given back what a row did not find.
    todo.clear();
    for (const Refused& refused : no_room) todo.push_back(refused.change);
    MESH_TRY(no_room, run(todo, Fit::kTruncated, stats));
    for (Refused& refused : no_room) {
        const ServiceRow& row = refused.change->row;
        stats.rejected.push_back({row.frontend, row.name, std::move(refused.error)});
    }
    return stats;
}

Result<std::vector<ServiceTables::Refused>> ServiceTables::run(
    std::span<const ServiceChange* const> changes, Fit fit, ApplyStats& stats) {
    std::vector<Refused> no_room;
    for (std::size_t from = 0; from < changes.size(); from += kChunk) {
        std::vector<Plan> plans;
        std::vector<ServiceFrontend> removals;
        for (const ServiceChange* change :
             changes.subspan(from, std::min(kChunk, changes.size() - from))) {
            const ServiceRow& row = change->row;
            if (change->kind == ServiceChange::Kind::kRemove) {
                if (services_.contains(row.frontend)) removals.push_back(row.frontend);
                continue;
            }
            auto plan = plan_upsert(row);
            std::uint64_t left_out = 0;
            if (!plan && plan.error().code() == Errc::kCapacity && fit == Fit::kTruncated) {
                plan = plan_what_fits(row, left_out);
            }
            if (plan && left_out > 0) {
                stats.truncated.push_back({row.frontend, row.name, left_out});
            }
            if (!plan && plan.error().code() == Errc::kCapacity) {
                no_room.push_back({change, plan.error()});
            } else if (!plan) {
                stats.rejected.push_back({row.frontend, row.name, plan.error()});
            } else if (!plan->has_value()) {
                ++stats.services_unchanged;
            } else {
                plans.push_back(std::move(**plan));
            }
        }
        MESH_CHECK(write(plans, removals, stats));
    }
    return no_room;
}

ServiceTables::Wanted ServiceTables::last_changes(std::span<const ServiceChange> changes) const {
    Wanted wanted;
    for (const ServiceChange& change : changes) {
        if (change.kind == ServiceChange::Kind::kRemove && !change.row.name.empty()) {
            const auto planned = wanted.find(change.row.frontend);
            const auto held = services_.find(change.row.frontend);
            std::string_view owner;
            if (planned != wanted.end()) {
                owner = planned->second->row.name;
            } else if (held != services_.end()) {
                owner = held->second.name;
            }
            if (!owner.empty() && owner != change.row.name) continue;
        }
        wanted[change.row.frontend] = &change;
    }
    return wanted;
}

const ServiceTables::Service* ServiceTables::held_by(const ServiceFrontend& frontend) const {
    const auto at = services_.find(frontend);
    return at == services_.end() ? nullptr : &at->second;
}

Result<std::optional<ServiceTables::Plan>> ServiceTables::plan_upsert(const ServiceRow& row) {
    MESH_TRY(Service next, next_of(row));
    const Service* held = held_by(row.frontend);
    if (trim_to_shares(next, held) > 0) {
        return Error(Errc::kCapacity, "the share of remote clusters of the table of backends");
    }
    return plan_service(row.frontend, held, std::move(next));
}

Result<ServiceTables::Service> ServiceTables::next_of(const ServiceRow& row) const {
    MESH_TRY(const std::vector<Backend> wanted, checked_backends(row));
    const Service* held = held_by(row.frontend);
    Service next;
    next.name = row.name;
    next.affinity_seconds = row.affinity_seconds;
    next.balance.outside = row.outside || row.outside_local;
    next.balance.outside_local = row.outside_local;
    if (held != nullptr) next.id = held->id;
    static const std::vector<Held> kNone;
    const std::vector<Held>& old = held != nullptr ? held->backends : kNone;
    auto from_old = old.begin();
    const auto keep_unconfirmed_before = [&](const Backend* limit) {
        for (; from_old != old.end() && (!limit || key_of(from_old->backend) < key_of(*limit));
             ++from_old) {
            if (!from_old->confirmed) next.backends.push_back(*from_old);
        }
    };
    for (const Backend& backend : wanted) {
        keep_unconfirmed_before(&backend);
        std::uint32_t id = 0;
        if (from_old != old.end() && key_of(from_old->backend) == key_of(backend)) {
            id = (from_old++)->id;
        }
        next.backends.push_back({backend, id, true, false});
    }
    keep_unconfirmed_before(nullptr);
    return next;
}

Result<std::optional<ServiceTables::Plan>> ServiceTables::plan_service(
    const ServiceFrontend& frontend, const Service* held, Service next) {
    const bool any_active = std::ranges::any_of(next.backends, [](const Held& h) {
        return h.backend.weight > 0 && !h.backend.terminating;
    });
    for (Held& h : next.backends) {
        h.selectable = h.backend.weight > 0 && (!any_active || !h.backend.terminating);
    }
    Plan plan{.frontend = frontend,
              .is_new = held == nullptr,
              .next = std::move(next),
              .new_range = true,
              .old_range = {},
              .new_balance = true,
              .old_balance = {},
              .fresh = {},
              .gone = {}};
    if (held != nullptr) {
        plan.new_balance = !same_balance(*held, plan.next);
        plan.old_balance = held->balance;
        if (!plan.new_balance) plan.next.balance = held->balance;
        plan.new_range = !same_choice(*held, plan.next);
        plan.old_range = held->range;
        if (!plan.new_range) plan.next.range = held->range;
        std::unordered_set<std::uint32_t> stay;
        for (const Held& h : plan.next.backends) stay.insert(h.id);
        for (const Held& h : held->backends) {
            if (!stay.contains(h.id)) plan.gone.push_back(h.id);
        }
        if (!plan.new_range && !plan.new_balance && same_entries(*held, plan.next)) {
            remember(plan);  // a confirmation or a name: nothing of it is in the tables
            return std::optional<Plan>();
        }
    }
    // Those of what it was are old_balance's.
    if (plan.new_balance) plan.next.balance.all = plan.next.balance.here = {};
    if (auto taken = take_ids(plan); !taken) {
        abandon(plan);
        return std::move(taken).error();
    }
    account(plan, false);
    return std::optional<Plan>(std::move(plan));
}

bool ServiceTables::same_choice(const Service& a, const Service& b) {
    auto left = a.backends.begin();
    auto right = b.backends.begin();
    for (;; ++left, ++right) {
        left = std::find_if(left, a.backends.end(), [](const Held& h) { return h.selectable; });
        right = std::find_if(right, b.backends.end(), [](const Held& h) { return h.selectable; });
        if (left == a.backends.end() || right == b.backends.end()) break;
        if (left->id != right->id || left->backend.weight != right->backend.weight) return false;
    }
    return left == a.backends.end() && right == b.backends.end();
}

bool ServiceTables::same_entries(const Service& a, const Service& b) {
    return a.affinity_seconds == b.affinity_seconds &&
           std::ranges::equal(a.backends, b.backends, [](const Held& x, const Held& y) {
               return x.id == y.id && x.backend == y.backend && x.selectable == y.selectable;
           });
}

Result<void> ServiceTables::take_ids(Plan& plan) {
    if (plan.is_new) {
        MESH_TRY(plan.next.id, take_id(service_ids_, "services"));
    }
    for (Held& h : plan.next.backends) {
        if (h.id != 0) continue;
        MESH_TRY(h.id, take_id(backend_ids_, "backends"));
        plan.fresh.push_back(h.id);
    }
    if (plan.new_balance) MESH_CHECK(take_balance(plan.next));
    if (!plan.new_range) return {};
    const auto count = static_cast<std::uint32_t>(
        std::ranges::count_if(plan.next.backends, [](const Held& h) { return h.selectable; }));
    MESH_TRY(plan.next.range, take_range(count));
    return {};
}

Result<std::uint32_t> ServiceTables::take_id(IdPool& pool, std::string_view what) {
    auto id = pool.take();
    if (!id && pool.has_waiting()) {
        MESH_CHECK(pass_grace());
        id = pool.take();
    }
    if (id) return *id;
    return Error(Errc::kCapacity,
                 fmt::format("the table of {} is full ({})", what, pool.capacity()));
}

Result<ServiceTables::Range> ServiceTables::take_range(std::uint32_t count) {
    if (count == 0) return Range{};
    auto base = slots_.take(count);
    if (!base && slots_.has_waiting()) {
        MESH_CHECK(pass_grace());
        base = slots_.take(count);
    }
    if (base) return Range{*base, count};
    return Error(Errc::kCapacity,
                 fmt::format("the table of slots has no {} in a row ({} of {} used)", count,
                             slots_.in_use(), slots_.capacity()));
}

Result<void> ServiceTables::pass_grace() {
    MESH_CHECK(storage_.wait_for_readers());
    service_ids_.pass_grace();
    backend_ids_.pass_grace();
    slots_.pass_grace();
    maglev_.pass_grace();
    return {};
}

void ServiceTables::abandon(const Plan& plan) {
    if (plan.is_new && plan.next.id != 0) service_ids_.untake(plan.next.id);
    for (const std::uint32_t id : plan.fresh) backend_ids_.untake(id);
    if (plan.new_range && plan.next.range.count > 0) {
        slots_.untake(plan.next.range.base, plan.next.range.count);
    }
    if (plan.new_balance) release_maglev(plan.next.balance, true);
}

Result<ApplyStats> ServiceTables::finish_adopt(std::optional<std::uint32_t> cluster_id) {
    ApplyStats stats;
    const std::vector<ServiceFrontend> todo(unconfirmed_.begin(), unconfirmed_.end());
    for (std::size_t from = 0; from < todo.size(); from += kChunk) {
        std::vector<Plan> plans;
        std::vector<ServiceFrontend> removals;
        for (const ServiceFrontend& frontend :
             std::span(todo).subspan(from, std::min(kChunk, todo.size() - from))) {
            const Service& held = services_.at(frontend);
            if (!cluster_id && !held.confirmed) {
                removals.push_back(frontend);
                continue;
            }
            Service next = held;
            std::erase_if(next.backends, [&](const Held& h) {
                return !h.confirmed && (!cluster_id || h.backend.cluster_id == *cluster_id);
            });
            auto plan = plan_service(frontend, &held, std::move(next));
            if (!plan) {
                stats.rejected.push_back({frontend, held.name, plan.error()});
            } else if (plan->has_value()) {
                plans.push_back(std::move(**plan));
            }
        }
        MESH_CHECK(write(plans, removals, stats));
    }
    return stats;
}

std::vector<ServiceStatus> ServiceTables::dump() const {
    std::vector<ServiceStatus> all;
    all.reserve(services_.size());
    for (const auto& [frontend, service] : services_) all.push_back(status_of(frontend, service));
    return all;
}

std::optional<ServiceStatus> ServiceTables::find(const ServiceFrontend& frontend) const {
    const auto at = services_.find(frontend);
    if (at == services_.end()) return std::nullopt;
    return status_of(frontend, at->second);
}

ServiceStatus ServiceTables::status_of(const ServiceFrontend& frontend,
                                       const Service& service) const {
    ServiceStatus status{
        frontend, service.name, service.id, service.affinity_seconds, service.confirmed, {}};
    status.backends.reserve(service.backends.size());
    for (const Held& h : service.backends) {
        status.backends.push_back(
            {h.backend, h.id, h.confirmed, h.selectable, storage_.connects(h.id)});
    }
    return status;
}

Occupancy ServiceTables::occupancy() const {
    return {service_ids_.in_use(),   service_ids_.capacity(),  backend_ids_.in_use(),
            backend_ids_.capacity(), slots_.in_use(),          slots_.capacity(),
            2ULL * maglev_.in_use(), 2ULL * maglev_.capacity()};
}

bool ServiceTables::is_live(std::uint32_t backend_id, std::uint32_t tag) const {
    if (backend_id == 0 || backend_id >= storage_.sizes().backends) return false;
    const mesh_backend backend = storage_.read_backend(backend_id);
    return backend.tag == tag && (backend.flags & MESH_BACKEND_IN_USE) != 0;
}

}  // namespace mesh::datapath
