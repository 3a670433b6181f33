// The part of ServiceTables that keeps the Maglev tables of frontends that clients outside of the
// cluster use. A service whose table finds no room goes by its slots, which are not the same on all
// nodes; with externalTrafficPolicy Local, where slots will not do, a smaller table serves.
#include <algorithm>

#include "datapath/service_tables.hpp"

namespace mesh::datapath {
namespace {

constexpr std::uint32_t kSmallestMaglevSize = 251;

std::uint64_t window_of(std::uint32_t base, std::uint32_t count) {
    return MESH_WINDOW(base, count);
}

}  // namespace

bool ServiceTables::same_balance(const Service& held, const Service& next) const {
    const Balance& was = held.balance;
    const Balance& wanted = next.balance;
    if (was.outside != wanted.outside || was.outside_local != wanted.outside_local) return false;
    if (!wanted.outside) return true;
    if (was.size != maglev_size_ || !same_choice(held, next)) return false;
    if (!wanted.outside_local) return true;
    const auto is_here = [](const Held& h) { return h.selectable && h.backend.here; };
    const auto here = [&](const Service& service) {
        std::vector<std::uint32_t> ids;
        for (const Held& h : service.backends) {
            if (is_here(h)) ids.push_back(h.id);
        }
        return ids;
    };
    return here(held) == here(next);
}

Result<ServiceTables::Range> ServiceTables::take_maglev(std::uint32_t size) {
    const std::uint32_t pairs = (size + 1) / 2;
    auto base = maglev_.take(pairs);
    if (!base && maglev_.has_waiting()) {
        MESH_CHECK(pass_grace());
        base = maglev_.take(pairs);
    }
    if (!base) return Range{};
    return Range{2 * *base, size};
}

Result<void> ServiceTables::take_balance(Service& next) {
    Balance& balance = next.balance;
    balance.size = balance.outside ? maglev_size_ : 0;
    if (!balance.outside) return {};
    const auto any = [&](const auto& what) { return std::ranges::any_of(next.backends, what); };
    if (any([](const Held& h) { return h.selectable; }) && !balance.outside_local) {
        MESH_TRY(balance.all, take_maglev(maglev_size_));
    }
    if (balance.outside_local &&
        any([](const Held& h) { return h.selectable && h.backend.here; })) {
        MESH_TRY(balance.here, take_maglev(maglev_size_));
        if (balance.here.count == 0) {
            MESH_TRY(balance.here, take_maglev(kSmallestMaglevSize));
        }
        if (balance.here.count == 0) {
            return Error(Errc::kCapacity, "the table of Maglev entries is full");
        }
    }
    return {};
}

/// @param unseen no reader could see them: they are free at once
void ServiceTables::release_maglev(const Balance& balance, bool unseen) {
    for (const Range& range : {balance.all, balance.here}) {
        if (range.count == 0) continue;
        const std::uint32_t pairs = (range.count + 1) / 2;
        if (unseen) {
            maglev_.untake(range.base / 2, pairs);
        } else {
            maglev_.release(range.base / 2, pairs);
        }
    }
}

void ServiceTables::write_maglev(const Service& next, ApplyStats& stats) {
    const auto write = [&](const Range& range, bool here_only) {
        if (range.count == 0) return;
        std::vector<Backend> backends;
        std::vector<std::uint32_t> ids;
        for (const Held& h : next.backends) {
            if (!h.selectable || (here_only && !h.backend.here)) continue;
            backends.push_back(h.backend);
            ids.push_back(h.id);
        }
        std::vector<std::uint32_t> table = make_maglev_table(backends, range.count);
        for (std::uint32_t& entry : table) entry = ids[entry];
        storage_.write_maglev(range.base, table);
        stats.entries_written += table.size();
    };
    write(next.balance.all, false);
    write(next.balance.here, true);
}

/// Of the backends that the tables are made of, and in which parts.
std::uint32_t ServiceTables::balance_digest(const Service& service) {
    std::uint32_t digest = 2166136261U;
    const auto add = [&](std::uint32_t value) { digest = (digest ^ value) * 16777619U; };
    for (const Held& h : service.backends) {
        if (!h.selectable) continue;
        add(h.id);
        add(h.backend.weight);
        add(h.backend.here ? 1 : 0);
    }
    return digest;
}

void ServiceTables::publish_balance(const Service& next, ApplyStats& stats) {
    const Balance& from = next.balance;
    mesh_balance to{};
    to.window = window_of(from.all.base, from.all.count);
    to.local_window = window_of(from.here.base, from.here.count);
    to.flags =
        (from.outside_local ? MESH_BALANCE_LOCAL : 0U) | (from.outside ? MESH_BALANCE_OUTSIDE : 0U);
    to.digest = balance_digest(next);
    storage_.publish_balance(next.id, to);
    ++stats.entries_written;
}

/// The earlier process may have died between a service's slots and its Maglev tables: these are
/// then made again by the next row.
void ServiceTables::check_adopted_balance(Service& service) const {
    if (storage_.read_balance(service.id).digest != balance_digest(service)) {
        service.balance.size = 0;
    }
}

/// @return false: it makes no sense
bool ServiceTables::adopt_balance(Service& service) {
    const mesh_balance record = storage_.read_balance(service.id);
    Balance balance;
    balance.all = {MESH_WINDOW_BASE(record.window), MESH_WINDOW_COUNT(record.window)};
    balance.here = {MESH_WINDOW_BASE(record.local_window), MESH_WINDOW_COUNT(record.local_window)};
    balance.outside_local = (record.flags & MESH_BALANCE_LOCAL) != 0;
    balance.outside = (record.flags & MESH_BALANCE_OUTSIDE) != 0;
    const Range& used = balance.outside_local ? balance.here : balance.all;
    // Without one there was nothing to choose from, most likely.
    balance.size = used.count != 0 ? used.count : maglev_size_;
    const std::uint32_t limit = 2 * maglev_.capacity();
    for (const Range& range : {balance.all, balance.here}) {
        if (range.base % 2 != 0 || range.count > limit || range.base > limit - range.count) {
            return false;
        }
    }
    const auto adopt = [this](const Range& range) {
        return range.count == 0 || maglev_.adopt(range.base / 2, (range.count + 1) / 2);
    };
    if (!adopt(balance.all)) return false;
    if (!adopt(balance.here)) {
        release_maglev(
            {.outside = false, .outside_local = false, .size = 0, .all = balance.all, .here = {}},
            true);
        return false;
    }
    service.balance = balance;
    return true;
}

}  // namespace mesh::datapath
