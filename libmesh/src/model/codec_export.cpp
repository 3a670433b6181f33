// Service exports of MCS-API (wire.md §8).
#include <algorithm>
#include <initializer_list>

#include "model/codec.hpp"
#include "model/json_reader.hpp"
#include "model/json_writer.hpp"

namespace mesh::model {
namespace {

enum Field : std::uint8_t {
    kCluster,
    kName,
    kNamespace,
    kAnnotations,
    kLabels,
    kOldAnnotations,
    kOldLabels,
    kCreated,
    kPorts,
    kType,
    kAffinity,
    kAffinityConfig,
    kIpFamilies,
    kInternalPolicy,
    kDistribution
};
// Both spellings of annotations and labels are fields of their own; exact names come first.
constexpr std::array<std::string_view, 15> kFields{"cluster",
                                                   "name",
                                                   "namespace",
                                                   "annotations",
                                                   "labels",
                                                   "Annotations",
                                                   "Labels",
                                                   "exportCreationTimestamp",
                                                   "ports",
                                                   "type",
                                                   "sessionAffinity",
                                                   "sessionAffinityConfig",
                                                   "ipFamilies",
                                                   "internalTrafficPolicy",
                                                   "trafficDistribution"};
constexpr std::array<std::string_view, 4> kPortFields{"name", "protocol", "appProtocol", "port"};
constexpr std::array<std::string_view, 1> kClientIpFields{"clientIP"};
constexpr std::array<std::string_view, 1> kTimeoutFields{"timeoutSeconds"};
/// Go's zero time, which upstream takes for an absent one.
constexpr std::int64_t kZeroTime = -62135596800;

/// One value of a service export in the making.
class ExportReader {
  public:
    ExportReader(JsonReader& in, std::string_view key) : in_(in), key_(key) {}

    [[nodiscard]] bool read() {
        return in_.fields(kFields, [this](int field) { return read_field(field); }) && complete();
    }
    [[nodiscard]] ServiceExport take() { return std::move(export_); }

  private:
    [[nodiscard]] bool read_field(int field) {
        switch (field) {
            case kCluster:
                return in_.read(export_.cluster);
            case kName:
                return in_.read(export_.name);
            case kNamespace:
                return in_.read(export_.namespace_);
            case kAnnotations:
                return in_.read(annotations_);
            case kLabels:
                return in_.read(labels_);
            case kOldAnnotations:
                return in_.read(old_annotations_);
            case kOldLabels:
                return in_.read(old_labels_);
            case kCreated:
                return read_created();
            case kPorts:
                return read_ports();
            case kType:
                return read_one_of(export_.type, {"ClusterSetIP", "Headless"});
            case kAffinity:
                return read_one_of(export_.session_affinity, {"ClientIP", "None"});
            case kAffinityConfig:
                return read_affinity_config();
            case kIpFamilies:
                return read_families();
            case kInternalPolicy:
                return read_optional(export_.internal_traffic_policy, {"Cluster", "Local"});
            default:
                return read_optional(export_.traffic_distribution,
                                     {"PreferClose", "PreferSameZone", "PreferSameNode"});
        }
    }

    [[nodiscard]] bool read_one_of(std::string& out,
                                   std::initializer_list<std::string_view> values) {
        if (in_.take_null()) return true;
        std::string_view view;
        if (!in_.read_view(view)) return false;
        if (std::ranges::find(values, view) == values.end()) {
            std::string expected;
            for (const std::string_view value : values) {
                if (!expected.empty()) expected += " or ";
                expected += value;
            }
            return in_.refuse(expected, view);
        }
        out.assign(view);
        return true;
    }

    [[nodiscard]] bool read_optional(std::string& out,
                                     std::initializer_list<std::string_view> values) {
        if (in_.take_null()) {
            out.clear();
            return true;
        }
        return read_one_of(out, values);
    }

    [[nodiscard]] bool read_created() {
        if (in_.take_null()) {
            export_.creation_timestamp.clear();
            return true;
        }
        std::string_view view;
        if (!in_.read_view(view, "an RFC 3339 time")) return false;
        const auto seconds = parse_timestamp(key_, view);
        if (!seconds) return in_.refuse("an RFC 3339 time", view);
        export_.creation_timestamp =
            *seconds == kZeroTime ? std::string() : encode_timestamp(*seconds);
        return true;
    }

    [[nodiscard]] bool read_ports() {
        export_.ports.clear();
        if (in_.take_null()) return true;
        return in_.elements([this] {
            ServiceExportPort& port = export_.ports.emplace_back();
            return in_.fields(kPortFields, [&](int field) {
                switch (field) {
                    case 0:
                        return in_.read(port.name);
                    case 1:
                        return in_.read(port.protocol);
                    case 2:
                        return in_.read(port.app_protocol);
                    default:
                        return in_.read(port.port);
                }
            });
        });
    }

    [[nodiscard]] bool read_affinity_config() {
        if (in_.take_null()) {
            export_.session_affinity_timeout.reset();
            return true;
        }
        return in_.fields(kClientIpFields, [this](int) {
            return in_.fields(kTimeoutFields, [this](int) {
                if (in_.take_null()) {
                    export_.session_affinity_timeout.reset();
                    return true;
                }
                std::int32_t seconds = 0;
                if (!in_.read(seconds)) return false;
                export_.session_affinity_timeout = seconds;
                return true;
            });
        });
    }

    [[nodiscard]] bool read_families() {
        export_.ip_families.clear();
        if (in_.take_null()) return true;
        return in_.elements([this] { return in_.read(export_.ip_families.emplace_back()); });
    }

    /// The newer names win, and what upstream demands at decoding is there.
    [[nodiscard]] bool complete() {
        const auto chosen = [](OptionalStringMap& newer, OptionalStringMap& older) {
            const bool use_newer = newer && !newer->empty();
            return std::move(use_newer ? newer : older).value_or(StringMap());
        };
        export_.annotations = chosen(annotations_, old_annotations_);
        export_.labels = chosen(labels_, old_labels_);
        const auto demand = [this](const auto& value, std::string_view expected) {
            return !value.empty() || in_.refuse(expected, "none");
        };
        return demand(export_.cluster, "a name in field cluster") &&
               demand(export_.namespace_, "a name in field namespace") &&
               demand(export_.name, "a name in field name") &&
               demand(export_.creation_timestamp, "a time in field exportCreationTimestamp") &&
               demand(export_.type, "ClusterSetIP or Headless in field type") &&
               demand(export_.session_affinity, "ClientIP or None in field sessionAffinity");
    }

    JsonReader& in_;
    std::string_view key_;
    ServiceExport export_;
    OptionalStringMap annotations_, labels_, old_annotations_, old_labels_;
};

void write_optional(JsonWriter& out, std::string_view name, std::string_view value) {
    if (value.empty()) return;
    out.raw(name);
    out.string(value);
}

void write_optional(JsonWriter& out, std::string_view name, const StringMap& map) {
    if (map.empty()) return;
    out.raw(name);
    out.map(map);
}

void write_ports(JsonWriter& out, const std::vector<ServiceExportPort>& ports) {
    out.raw("[");
    bool first_port = true;
    for (const ServiceExportPort& port : ports) {
        out.raw(first_port ? "{" : ",{");
        first_port = false;
        bool first = true;
        const auto field = [&](std::string_view name, std::string_view value) {
            if (value.empty()) return;
            if (!first) out.raw(",");
            first = false;
            out.string(name);
            out.raw(":");
            out.string(value);
        };
        field("name", port.name);
        field("protocol", port.protocol);
        field("appProtocol", port.app_protocol);
        out.raw(first ? "\"port\":" : ",\"port\":");
        out.number(port.port);
        out.raw("}");
    }
    out.raw("]");
}

}  // namespace

Result<ServiceExport> parse_service_export(std::string_view key, std::string_view value) {
    JsonReader in(key, value);
    ExportReader reader(in, key);
    if (!reader.read() || !in.finish()) return in.error();
    return reader.take();
}

std::string encode(const ServiceExport& e) {
    std::string text;
    JsonWriter out(text);
    out.raw("{\"cluster\":");
    out.string(e.cluster);
    out.raw(",\"name\":");
    out.string(e.name);
    out.raw(",\"namespace\":");
    out.string(e.namespace_);
    // Readers of 1.17 and 1.18 know the capitalised names only (wire.md §8).
    write_optional(out, ",\"annotations\":", e.annotations);
    write_optional(out, ",\"labels\":", e.labels);
    write_optional(out, ",\"Annotations\":", e.annotations);
    write_optional(out, ",\"Labels\":", e.labels);
    out.raw(",\"exportCreationTimestamp\":");
    if (e.creation_timestamp.empty()) {
        out.raw("null");
    } else {
        out.string(e.creation_timestamp);
    }
    out.raw(",\"ports\":");
    write_ports(out, e.ports);
    out.raw(",\"type\":");
    out.string(e.type);
    out.raw(",\"sessionAffinity\":");
    out.string(e.session_affinity);
    if (e.session_affinity_timeout) {
        out.raw(",\"sessionAffinityConfig\":{\"clientIP\":{\"timeoutSeconds\":");
        out.number(*e.session_affinity_timeout);
        out.raw("}}");
    }
    if (!e.ip_families.empty()) {
        out.raw(",\"ipFamilies\":[");
        for (std::size_t i = 0; i < e.ip_families.size(); ++i) {
            if (i != 0) out.raw(",");
            out.string(e.ip_families[i]);
        }
        out.raw("]");
    }
    write_optional(out, ",\"internalTrafficPolicy\":", e.internal_traffic_policy);
    write_optional(out, ",\"trafficDistribution\":", e.traffic_distribution);
    out.raw("}");
    return text;
}

}  // namespace mesh::model
