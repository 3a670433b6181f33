#include "client_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <map>
#include <tuple>
#include <utility>

#include "serve/etcd/denial_log.hpp"
#include "state/store/ops.hpp"

namespace mesh::proxy_daemon {

namespace json = boost::json;

namespace {

constexpr std::size_t kLongestText = 256;

std::string shown(std::string_view text) {
    return serve::printable(text, kLongestText);
}

std::string without_port(std::string_view address) {
    std::string_view host = address.substr(0, address.rfind(':'));
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    return std::string(host);
}

/// Connections that stand together in one row.
struct Client {
    ConnectionReport sum;
    std::size_t connections = 0;

    void add(const ConnectionReport& one) {
        ++connections;
        sum.seconds = std::max(sum.seconds, one.seconds);
        sum.calls += one.calls;
        sum.streams += one.streams;
        sum.watchers += one.watchers;
        sum.slow += one.slow;
        sum.queued_bytes += one.queued_bytes;
        sum.sent_bytes += one.sent_bytes;
        sum.received_bytes += one.received_bytes;
        sum.sent_events += one.sent_events;
    }
};

json::object to_json(const ConnectionReport& one) {
    return {{"name", shown(one.name)},
            {"address", one.address},
            {"listener", one.listener},
            {"seconds", one.seconds},
            {"calls", one.calls},
            {"streams", one.streams},
            {"watchers", one.watchers},
            {"slow", one.slow},
            {"queued_bytes", one.queued_bytes},
            {"sent_bytes", one.sent_bytes},
            {"received_bytes", one.received_bytes},
            {"sent_events", one.sent_events}};
}

using Column = std::pair<std::string_view, std::uint64_t (*)(const ConnectionReport&)>;
constexpr std::array<Column, 6> kColumns{{
    {"sent_events", [](const ConnectionReport& c) { return c.sent_events; }},
    {"sent_bytes", [](const ConnectionReport& c) { return c.sent_bytes; }},
    {"queued_bytes", [](const ConnectionReport& c) -> std::uint64_t { return c.queued_bytes; }},
    {"watchers", [](const ConnectionReport& c) -> std::uint64_t { return c.watchers; }},
    {"streams", [](const ConnectionReport& c) -> std::uint64_t { return c.streams; }},
    {"slow", [](const ConnectionReport& c) -> std::uint64_t { return c.slow; }},
}};

/// By the column asked for, then by name and address.
bool before(const ConnectionReport& a, const ConnectionReport& b, std::string_view column) {
    for (const auto& [name, value] : kColumns)
        if (name == column && value(a) != value(b)) return value(a) > value(b);
    return std::tie(a.name, a.address, a.listener) < std::tie(b.name, b.address, b.listener);
}

/// Cuts rows to the limit. @return how many were left out
template <class Row>
std::size_t cut(std::vector<Row>& rows, std::size_t limit) {
    if (limit == 0 || rows.size() <= limit) return 0;
    const std::size_t left_out = rows.size() - limit;
    rows.resize(limit);
    return left_out;
}

}  // namespace

std::string range_text(std::string_view key, std::string_view range_end) {
    static constexpr std::string_view kZero("\0", 1);
    if (range_end.empty()) return shown(key);
    if (range_end == kZero)
        return key.empty() || key == kZero ? "all keys" : shown(key) + " and on";
    if (store::prefix_end(key) == range_end) return shown(key) + "*";
    return fmt::format("[{}, {})", shown(key), shown(range_end));
}

bool is_sort_column(std::string_view name) {
    return std::ranges::any_of(kColumns, [&](const Column& one) { return one.first == name; });
}

json::object clients_document(std::vector<ConnectionReport> connections,
                              const std::vector<serve::ClientStatus>& known,
                              const ReportQuery& query) {
    json::array rows;
    if (!query.client.empty()) {
        std::erase_if(connections, [&](const auto& one) { return one.name != query.client; });
        std::ranges::sort(connections,
                          [&](const auto& a, const auto& b) { return before(a, b, query.sort); });
        const std::size_t all = connections.size();
        const std::size_t left_out = cut(connections, query.limit);
        for (const ConnectionReport& one : connections) rows.push_back(to_json(one));
        return {{"connections", std::move(rows)}, {"total", all}, {"left_out", left_out}};
    }
    std::map<std::tuple<std::string, std::string, std::string>, Client> by_client;
    for (const ConnectionReport& one : connections) {
        std::string host = without_port(one.address);
        Client& client = by_client[{one.name, host, one.listener}];
        if (client.connections == 0) {
            client.sum.name = one.name;
            client.sum.address = std::move(host);
            client.sum.listener = one.listener;
        }
        client.add(one);
    }
    std::map<std::pair<std::string_view, std::string_view>, const serve::ClientStatus*> counted;
    for (const serve::ClientStatus& one : known) counted[{one.name, one.address}] = &one;
    std::vector<const Client*> clients;
    for (const auto& [key, client] : by_client) clients.push_back(&client);
    std::ranges::stable_sort(clients, [&](const Client* a, const Client* b) {
        return before(a->sum, b->sum, query.sort);
    });
    const std::size_t left_out = cut(clients, query.limit);
    for (const Client* client : clients) {
        json::object row = to_json(client->sum);
        row["connections"] = client->connections;
        if (const auto found = counted.find({client->sum.name, client->sum.address});
            found != counted.end()) {
            row["role"] = found->second->role;
            row["requests"] = found->second->requests;
            row["throttled"] = found->second->throttled;
            row["denied"] = found->second->denied;
        }
        rows.push_back(std::move(row));
    }
    return {{"clients", std::move(rows)},
            {"total", by_client.size()},
            {"left_out", left_out},
            {"connections", connections.size()}};
}

json::object ranges_document(std::vector<RangeReport> ranges, const ReportQuery& query) {
    // Each loop tells of the ranges that are watched on it.
    std::map<std::pair<std::string, std::string>, RangeReport> by_range;
    std::size_t watchers = 0;
    for (RangeReport& one : ranges) {
        RangeReport& sum = by_range[{one.key, one.range_end}];
        sum.watchers += one.watchers;
        sum.behind += one.behind;
        sum.slow += one.slow;
        watchers += one.watchers;
        sum.key = std::move(one.key);
        sum.range_end = std::move(one.range_end);
    }
    std::vector<const RangeReport*> sorted;
    for (const auto& [key, range] : by_range) sorted.push_back(&range);
    std::ranges::stable_sort(sorted, [](const RangeReport* a, const RangeReport* b) {
        return a->watchers > b->watchers;
    });
    const std::size_t left_out = cut(sorted, query.limit);
    json::array rows;
    for (const RangeReport* range : sorted) {
        rows.push_back(json::object{{"range", range_text(range->key, range->range_end)},
                                    {"watchers", range->watchers},
                                    {"behind", range->behind},
                                    {"slow", range->slow}});
    }
    return {{"ranges", std::move(rows)},
            {"total", by_range.size()},
            {"left_out", left_out},
            {"watchers", watchers}};
}

json::object watches_document(std::vector<WatchReport> watches, std::size_t all) {
    std::ranges::sort(watches, [](const WatchReport& a, const WatchReport& b) {
        return std::tie(a.name, a.address, a.id, a.key) < std::tie(b.name, b.address, b.id, b.key);
    });
    json::array rows;
    for (const WatchReport& one : watches) {
        rows.push_back(json::object{{"name", shown(one.name)},
                                    {"address", one.address},
                                    {"listener", one.listener},
                                    {"id", one.id},
                                    {"range", range_text(one.key, one.range_end)},
                                    {"no_put", one.no_put},
                                    {"no_delete", one.no_delete},
                                    {"behind", one.behind},
                                    {"slow", one.slow},
                                    {"sent_events", one.sent_events}});
    }
    return {{"watches", std::move(rows)}, {"total", all}, {"left_out", all - watches.size()}};
}

}  // namespace mesh::proxy_daemon
