#include "model/workload.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "model/json_reader.hpp"
#include "model/json_writer.hpp"
#include "model/keys.hpp"
#include "model/names.hpp"
#include "model/usable.hpp"
#include "model/utf8.hpp"

namespace mesh::model {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::array<std::string_view, 7> kFields{"version",  "namespace", "ips", "labels",
                                                  "backends", "zone",      "node"};
constexpr std::array<std::string_view, 4> kBackendFields{"service", "portName", "port", "protocol"};
constexpr std::array<std::string_view, 4> kStatusFields{"version", "revision", "state", "reason"};
constexpr std::array<std::string_view, 3> kProtocols{"TCP", "UDP", "SCTP"};

Error wrong(std::string_view field, std::string_view expected, std::string_view got) {
    return invalid_argument(
        fmt::format("{}: expected {}, got \"{}\"", field, expected, printable(got, 256)));
}

Result<void> check_name(std::string_view field, std::string_view name) {
    if (is_dns_name(name, 63, false)) return {};
    return wrong(field, "a DNS label: 1 to 63 of a-z, 0-9 and -, alphanumeric at both ends", name);
}

Result<void> check_ips(const Workload& workload) {
    if (workload.ips.empty() || workload.ips.size() > kMaxWorkloadIps) {
        return wrong("ips", fmt::format("1 to {} addresses", kMaxWorkloadIps),
                     std::to_string(workload.ips.size()));
    }
    for (std::size_t i = 0; i < workload.ips.size(); ++i) {
        const std::string text = workload.ips[i].to_string();
        if (!is_usable(workload.ips[i])) {
            return wrong("ips",
                         "an address that a host can have (not unspecified, loopback, link-local, "
                         "multicast or reserved)",
                         text);
        }
        if (i > 0 && workload.ips[i] == workload.ips[i - 1]) {
            return wrong("ips", "each address once", text);
        }
    }
    return {};
}

Result<void> check_labels(const StringMap& labels) {
    if (labels.size() > kMaxWorkloadLabels) {
        return wrong("labels", fmt::format("at most {}", kMaxWorkloadLabels),
                     std::to_string(labels.size()));
    }
    for (const auto& [key, value] : labels) {
        if (!is_qualified_name(key)) return wrong("labels", "a key of form [prefix/]name", key);
        if (!is_label_text(value)) {
            return wrong(fmt::format("labels: {}", key.view()),
                         "at most 63 of letters, digits, -, _ and ., alphanumeric at both ends",
                         value);
        }
    }
    return {};
}

Result<void> check_backend(const WorkloadBackend& backend) {
    constexpr std::string_view kForm = "namespace/name of a Service, two DNS labels";
    const auto slash = backend.service.find('/');
    if (slash == std::string::npos || !is_dns_name(backend.service_namespace(), 63, false) ||
        !is_dns_name(backend.service_name(), 63, false)) {
        return wrong("backends: service", kForm, backend.service);
    }
    const std::string at = "backends: " + backend.service;
    if (!backend.port_name.empty() && !is_dns_name(backend.port_name, 63, false)) {
        return wrong(at + ": portName", "a DNS label, or nothing", backend.port_name);
    }
    if (backend.port == 0) return wrong(at + ": port", "1 to 65535", "0");
    if (std::ranges::find(kProtocols, backend.protocol) == kProtocols.end()) {
        return wrong(at + ": protocol", "TCP, UDP or SCTP", backend.protocol);
    }
    return {};
}

Result<void> check_backends(const std::vector<WorkloadBackend>& backends) {
    if (backends.size() > kMaxWorkloadBackends) {
        return wrong("backends", fmt::format("at most {}", kMaxWorkloadBackends),
                     std::to_string(backends.size()));
    }
    for (std::size_t i = 0; i < backends.size(); ++i) {
        MESH_CHECK(check_backend(backends[i]));
        if (i > 0 && backends[i].service == backends[i - 1].service &&
            backends[i].port_name == backends[i - 1].port_name) {
            return wrong("backends: " + backends[i].service + ": portName", "each name once",
                         backends[i].port_name);
        }
    }
    return {};
}

/// Reads an object of these fields, each at most once, and no others.
template <std::size_t N, class OnField>
bool strict_fields(JsonReader& in, const std::array<std::string_view, N>& names, OnField&& on) {
    std::array<bool, N> seen{};
    return in.entries([&](std::string_view name) {
        const auto found = std::ranges::find(names, name);
        if (found == names.end()) return in.refuse("no other fields", name);
        const auto index = static_cast<std::size_t>(found - names.begin());
        if (std::exchange(seen[index], true)) return in.refuse("each field once", name);
        return on(static_cast<int>(index));
    });
}

bool read_text(JsonReader& in, std::string& out) {
    std::string_view view;
    if (!in.read_view(view)) return false;
    out = view;
    return true;
}

bool read_version(JsonReader& in) {
    std::uint32_t version = 0;
    if (!in.read(version)) return false;
    return version == kVersion ||
           in.refuse("1, the format of this version", fmt::to_string(version));
}

class WorkloadReader {
  public:
    WorkloadReader(JsonReader& in, Workload& out) : in_(in), out_(out) {}
    [[nodiscard]] bool read() {
        if (!strict_fields(in_, kFields, [this](int field) { return read_field(field); })) {
            return false;
        }
        return versioned_ || in_.refuse("an object with field version", "none");
    }

  private:
    [[nodiscard]] bool read_field(int field) {
        switch (field) {
            case 0:
                versioned_ = true;
                return read_version(in_);
            case 1:
                return read_text(in_, out_.namespace_);
            case 2:
                return in_.elements([this] { return read_ip(); });
            case 3:
                return read_labels();
            case 4:
                return in_.elements([this] { return read_backend(); });
            case 5:
                return read_text(in_, out_.zone);
            default:
                return in_.read(out_.node);
        }
    }
    [[nodiscard]] bool read_ip() {
        std::string_view text;
        if (!in_.read_view(text)) return false;
        if (out_.ips.size() == kMaxWorkloadIps) return in_.refuse("at most 16", "more");
        IpAddress address;
        if (!IpAddress::parse_into(text, address)) {
            return in_.refuse("an IPv4 or IPv6 address", text);
        }
        out_.ips.push_back(address);
        return true;
    }
    [[nodiscard]] bool read_labels() {
        return in_.entries([this](std::string_view name) {
            const std::string key(name);
            std::string value;
            if (!read_text(in_, value)) return false;
            if (out_.labels.size() == kMaxWorkloadLabels) return in_.refuse("at most 64", "more");
            return out_.labels.emplace(key, Text(value)) || in_.refuse("each label once", key);
        });
    }
    [[nodiscard]] bool read_backend() {
        if (out_.backends.size() == kMaxWorkloadBackends) return in_.refuse("at most 64", "more");
        WorkloadBackend& backend = out_.backends.emplace_back();
        return strict_fields(in_, kBackendFields, [&](int field) {
            switch (field) {
                case 0:
                    return read_text(in_, backend.service);
                case 1:
                    return read_text(in_, backend.port_name);
                case 2:
                    return in_.read(backend.port);
                default:
                    return read_text(in_, backend.protocol);
            }
        });
    }

    JsonReader& in_;
    Workload& out_;
    bool versioned_ = false;
};

bool read_revision(JsonReader& in, std::int64_t& revision) {
    std::string_view text;
    if (!in.read_view(text)) return false;
    const char* const end = text.data() + text.size();
    const auto [at, ec] = std::from_chars(text.data(), end, revision);
    return (ec == std::errc{} && at == end && revision > 0) || in.refuse("a revision", text);
}

bool read_status_field(JsonReader& in, int field, WorkloadStatus& status) {
    switch (field) {
        case 0:
            return read_version(in);
        case 1:
            return read_revision(in, status.revision);
        case 2: {
            std::string_view view;
            if (!in.read_view(view)) return false;
            status.accepted = view == "accepted";
            return status.accepted || view == "refused" ||
                   in.refuse("\"accepted\" or \"refused\"", view);
        }
        default:
            return read_text(in, status.reason);
    }
}

}  // namespace

std::string local_workload_key(std::string_view name) {
    return std::string(kLocalWorkloadsPrefix).append(name);
}

std::string local_workload_status_key(std::string_view name) {
    return std::string(kLocalWorkloadStatusPrefix).append(name);
}

Result<void> check_workload(const Workload& workload) {
    MESH_CHECK(check_name("name", workload.name));
    MESH_CHECK(check_name("namespace", workload.namespace_));
    MESH_CHECK(check_ips(workload));
    MESH_CHECK(check_labels(workload.labels));
    MESH_CHECK(check_backends(workload.backends));
    if (!is_label_text(workload.zone)) {
        return wrong("zone", "a label's value, or nothing", workload.zone);
    }
    if (encode(workload).size() > kMaxWorkloadBytes) {
        return wrong("workload", fmt::format("at most {} bytes", kMaxWorkloadBytes), "more");
    }
    return {};
}

void normalise(Workload& workload) {
    std::ranges::sort(workload.ips);
    std::ranges::sort(workload.backends);
}

Result<Workload> parse_workload(std::string_view key, std::string_view value) {
    const ParsedKey parsed = parse_key(key);
    if (parsed.kind != KeyKind::kLocalWorkload) {
        return wrong(printable(key, 256), "a key mesh/local/workloads/v1/<name>", key);
    }
    if (value.size() > kMaxWorkloadBytes) {
        return wrong(printable(key, 256), fmt::format("at most {} bytes", kMaxWorkloadBytes),
                     std::to_string(value.size()));
    }
    Workload workload;
    JsonReader in(key, value);
    if (!WorkloadReader(in, workload).read() || !in.finish()) return in.error();
    workload.name = parsed.name;
    normalise(workload);
    if (auto good = check_workload(workload); !good) {
        return good.error().with_prefix(printable(key, 256));
    }
    return workload;
}

std::string encode(const Workload& workload) {
    std::string text;
    JsonWriter out(text);
    out.raw("{\"version\":");
    out.number(kVersion);
    out.raw(",\"namespace\":");
    out.string(workload.namespace_);
    out.raw(",\"ips\":[");
    for (std::size_t i = 0; i < workload.ips.size(); ++i) {
        if (i > 0) out.raw(",");
        out.string(workload.ips[i].to_string());
    }
    out.raw("],\"labels\":");
    out.map(workload.labels);
    out.raw(",\"backends\":[");
    for (std::size_t i = 0; i < workload.backends.size(); ++i) {
        const WorkloadBackend& backend = workload.backends[i];
        out.raw(i > 0 ? ",{\"service\":" : "{\"service\":");
        out.string(backend.service);
        out.raw(",\"portName\":");
        out.string(backend.port_name);
        out.raw(",\"port\":");
        out.number(backend.port);
        out.raw(",\"protocol\":");
        out.string(backend.protocol);
        out.raw("}");
    }
    out.raw("],\"zone\":");
    out.string(workload.zone);
    out.raw(",\"node\":");
    out.boolean(workload.node);
    out.raw("}");
    return text;
}

Result<WorkloadStatus> parse_workload_status(std::string_view key, std::string_view value) {
    if (value.size() > kMaxWorkloadBytes) {
        return wrong(printable(key, 256), fmt::format("at most {} bytes", kMaxWorkloadBytes),
                     std::to_string(value.size()));
    }
    WorkloadStatus status;
    JsonReader in(key, value);
    const bool ok = strict_fields(in, kStatusFields,
                                  [&](int field) { return read_status_field(in, field, status); });
    if (!ok || !in.finish()) return in.error();
    if (status.revision == 0) {
        in.refuse("an object with field revision", "none");
        return in.error();
    }
    return status;
}

std::string encode(const WorkloadStatus& status) {
    std::string text;
    JsonWriter out(text);
    out.raw("{\"version\":");
    out.number(kVersion);
    out.raw(",\"revision\":\"");
    out.number(status.revision);
    out.raw("\",\"state\":");
    out.string(status.accepted ? "accepted" : "refused");
    out.raw(",\"reason\":");
    out.string(status.reason);
    out.raw("}");
    return text;
}

}  // namespace mesh::model
