#include "meshctl/proxy_rates.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "meshctl/agents.hpp"

namespace mesh::ctl {

namespace json = boost::json;

namespace {

using Client = std::tuple<std::string, std::string, std::string>;

Client client_of(const json::object& row) {
    return {text_of(row, "name"), text_of(row, "address"), text_of(row, "listener")};
}

double rate(const json::object* before, const json::object& after, std::string_view key,
            double seconds) {
    const std::int64_t now = integer_of(after, key);
    const std::int64_t then = before == nullptr ? 0 : integer_of(*before, key);
    const double more = static_cast<double>(now >= then ? now - then : now);
    return seconds > 0 ? more / seconds : 0;
}

}  // namespace

json::array client_rates(const json::object& before, const json::object& after, double seconds,
                         std::size_t limit) {
    std::map<Client, const json::object*> known;
    for (const json::value& item : list_of(before, "clients"))
        if (item.is_object()) known[client_of(item.get_object())] = &item.get_object();
    struct Row {
        double events = 0, bytes = 0;
        const json::object* client = nullptr;
    };
    std::vector<Row> rows;
    for (const json::value& item : list_of(after, "clients")) {
        if (!item.is_object()) continue;
        const json::object& client = item.get_object();
        const auto found = known.find(client_of(client));
        const json::object* had = found == known.end() ? nullptr : found->second;
        rows.push_back({rate(had, client, "sent_events", seconds),
                        rate(had, client, "sent_bytes", seconds), &client});
    }
    std::ranges::stable_sort(rows, [](const Row& a, const Row& b) {
        return std::tie(a.events, a.bytes) > std::tie(b.events, b.bytes);
    });
    if (limit != 0 && rows.size() > limit) rows.resize(limit);
    json::array out;
    for (const Row& row : rows) {
        json::object client = *row.client;
        client["events_per_second"] = row.events;
        client["bytes_per_second"] = row.bytes;
        out.push_back(std::move(client));
    }
    return out;
}

}  // namespace mesh::ctl
