#include "kvstore_mesh_report.hpp"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <chrono>
#include <functional>
#include <string_view>

namespace mesh::proxy_daemon {

namespace {

std::string_view state_of(const reflect::ReflectedStatus& remote) {
    if (remote.draining) return "draining";
    if (!remote.reader.connected) return "connecting";
    if (!remote.reader.configured) return "configuring";
    return remote.synced && remote.reader.listed ? "synced" : "syncing";
}

boost::json::object to_json(const reflect::ReflectedStatus& remote) {
    boost::json::object out{{"name", remote.cluster}, {"state", state_of(remote)}};
    if (remote.draining) return out;
    const auto& reader = remote.reader;
    out["id"] = model::number(reader.id);
    out["connected"] = reader.connected;
    out["synced"] = remote.synced;
    out["endpoint"] = reader.endpoint;
    out["revision"] = reader.revision;
    if (reader.last_heard) {
        out["last_heard_seconds"] = std::chrono::duration<double>(*reader.last_heard).count();
    }
    out["keys"] = remote.keys;
    out["pending"] = remote.pending;
    out["refused"] = remote.refused;
    out["beyond_limits"] = reader.too_many;
    out["puts"] = remote.puts;
    out["deletes"] = remote.deletes;
    out["transactions"] = remote.transactions;
    out["failures"] = reader.failures;
    out["last_failure"] = reader.last_failure;
    return out;
}

}  // namespace

boost::json::object to_json(const reflect::KvstoreMeshStatus& status) {
    boost::json::array remotes;
    for (const auto& remote : status.remotes) remotes.push_back(to_json(remote));
    boost::json::object errors;
    for (const auto& [file, what] : status.config_errors) errors[file] = what;
    return {{"leader", status.leader},           {"lease", fmt::format("{:x}", status.lease)},
            {"leases_lost", status.leases_lost}, {"last_failure", status.last_failure},
            {"remotes", std::move(remotes)},     {"config_errors", std::move(errors)}};
}

std::string to_metrics(const reflect::KvstoreMeshStatus& status) {
    std::string text = fmt::format(
        "# HELP mesh_kvstoremesh_leader 1 while this instance writes the cache.\n"
        "# TYPE mesh_kvstoremesh_leader gauge\nmesh_kvstoremesh_leader {}\n",
        status.leader ? 1 : 0);
    using Remote = reflect::ReflectedStatus;
    const auto family = [&](std::string_view name, std::string_view type, std::string_view help,
                            const std::function<std::uint64_t(const Remote&)>& value) {
        text += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
        for (const Remote& remote : status.remotes) {
            if (remote.draining) continue;
            text += fmt::format("{}{{cluster=\"{}\"}} {}\n", name, remote.cluster, value(remote));
        }
    };
    family("mesh_kvstoremesh_connected", "gauge", "1 while the remote's etcd answers.",
           [](const Remote& r) { return r.reader.connected ? 1 : 0; });
    family("mesh_kvstoremesh_synced", "gauge", "1 once all of the remote is in the cache.",
           [](const Remote& r) { return r.synced ? 1 : 0; });
    family("mesh_kvstoremesh_keys", "gauge", "Keys of the remote that the cache is to have.",
           [](const Remote& r) { return r.keys; });
    family("mesh_kvstoremesh_pending_writes", "gauge", "Writes to the own etcd that wait.",
           [](const Remote& r) { return r.pending; });
    family("mesh_kvstoremesh_beyond_limits_total", "counter",
           "Keys and values left out, as they are beyond the remote's limits.",
           [](const Remote& r) { return r.reader.too_many; });
    family("mesh_kvstoremesh_puts_total", "counter", "Keys written to the own etcd.",
           [](const Remote& r) { return r.puts; });
    family("mesh_kvstoremesh_deletes_total", "counter", "Keys deleted from the own etcd.",
           [](const Remote& r) { return r.deletes; });
    family("mesh_kvstoremesh_failures_total", "counter", "Failures to reach or read the remote.",
           [](const Remote& r) { return r.reader.failures; });
    return text;
}

}  // namespace mesh::proxy_daemon
