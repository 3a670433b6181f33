// What mesh-proxy tells of those who read from it: connections and watches of each loop as plain
// values, and the documents made of them. Nothing is kept for it: it is looked up when asked for.
#pragma once

#include <boost/json/object.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/etcd/clients.hpp"

namespace mesh::proxy_daemon {

/// A connection and what its Watch streams do.
struct ConnectionReport {
    std::string name;     ///< of the certificate
    std::string address;  ///< with its port
    std::string listener;
    double seconds = 0;        ///< since it was accepted
    std::size_t calls = 0;     ///< that run, streams included
    std::size_t streams = 0;   ///< Watch streams
    std::size_t watchers = 0;  ///< on them
    std::size_t slow = 0;      ///< of them, those that wait for the client to read
    std::size_t queued_bytes = 0;
    std::uint64_t sent_bytes = 0, received_bytes = 0;
    std::uint64_t sent_events = 0;  ///< by the streams that run
};

/// A watched range and how many watch it.
struct RangeReport {
    std::string key, range_end;
    std::size_t watchers = 0, behind = 0, slow = 0;
};

/// One watch.
struct WatchReport {
    std::string name, address, listener;
    std::int64_t id = 0;
    std::string key, range_end;
    bool no_put = false, no_delete = false, behind = false, slow = false;
    std::uint64_t sent_events = 0;
};

/// What is asked for by a query; bounds what is answered.
struct ReportQuery {
    std::string client;       ///< empty: all, added up
    std::size_t limit = 100;  ///< rows; 0 = all of them
    std::string sort;         ///< a column, the highest first; empty: as is usual
};

/// Whether clients can be sorted by it.
[[nodiscard]] bool is_sort_column(std::string_view name);

/// /v1/clients: by name, address without the port and listener; with a client's name its single
/// connections. @param known what limits and denials are counted of
[[nodiscard]] boost::json::object clients_document(std::vector<ConnectionReport> connections,
                                                   const std::vector<serve::ClientStatus>& known,
                                                   const ReportQuery& query);
/// /v1/watchers, of all clients: by range.
[[nodiscard]] boost::json::object ranges_document(std::vector<RangeReport> ranges,
                                                  const ReportQuery& query);
/// /v1/watchers of one client: its single watches. @param all how many it has
[[nodiscard]] boost::json::object watches_document(std::vector<WatchReport> watches,
                                                   std::size_t all);

/// A range for people: "cilium/state/*", "cilium/.heartbeat", "all keys", "[a, b)"; printable.
[[nodiscard]] std::string range_text(std::string_view key, std::string_view range_end);

}  // namespace mesh::proxy_daemon
