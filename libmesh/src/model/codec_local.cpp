// Local services: what the agents of a cluster read from its operator, in our own format.
#include <algorithm>

#include "model/codec.hpp"
#include "model/codec_ports.hpp"

namespace mesh::model {
namespace {

constexpr std::array<std::string_view, 18> kFields{"namespace",
                                                   "name",
                                                   "type",
                                                   "headless",
                                                   "clusterIPs",
                                                   "externalIPs",
                                                   "loadBalancerIPs",
                                                   "ports",
                                                   "backends",
                                                   "global",
                                                   "shared",
                                                   "affinity",
                                                   "clientIPAffinitySeconds",
                                                   "internalTrafficLocal",
                                                   "externalTrafficLocal",
                                                   "labels",
                                                   "selector",
                                                   "annotations"};
constexpr std::array<std::string_view, 4> kPortFields{"name", "protocol", "port", "nodePort"};
constexpr std::array<std::string_view, 8> kBackendFields{
    "address", "ports", "state", "node", "zone", "hostname", "forZones", "weight"};
constexpr std::array<std::string_view, 4> kStates{"active", "terminating", "quarantined",
                                                  "maintenance"};
constexpr std::array<std::string_view, 3> kAffinities{"none", "local", "remote"};

/// A name out of a list, as the enumerator of its index.
template <class Enum>
bool read_enum(JsonReader& in, std::span<const std::string_view> names, Enum& out) {
    std::string_view view;
    if (!in.read_view(view)) return false;
    const auto found = std::ranges::find(names, view);
    if (found != names.end()) {
        out = static_cast<Enum>(found - names.begin());
        return true;
    }
    std::string expected;
    for (const std::string_view name : names) {
        if (!expected.empty()) expected += ", ";
        expected += name;
    }
    return in.refuse("one of " + expected, view);
}

bool read_address(JsonReader& in, IpAddress& out) {
    std::optional<IpAddress> address;
    if (!in.read(address)) return false;
    if (!address) return in.refuse("an IPv4 or IPv6 address", "none");
    out = *address;
    return true;
}

bool read_ports(JsonReader& in, std::vector<ServicePort>& ports) {
    ports.clear();
    if (in.take_null()) return true;
    const bool ok = in.elements([&] {
        ServicePort& port = ports.emplace_back();
        return in.fields(kPortFields, [&](int field) {
            switch (field) {
                case 0:
                    return in.read(port.name);
                case 1:
                    return in.read(port.protocol);
                case 2:
                    return in.read(port.port);
                default:
                    return in.read(port.node_port);
            }
        });
    });
    if (ok) sort_ports(ports);
    return ok;
}

/// One value of a local service in the making.
class LocalServiceReader {
  public:
    explicit LocalServiceReader(JsonReader& in) : in_(in) {}
    [[nodiscard]] bool read() {
        if (!in_.fields(kFields, [this](int field) { return read_field(field); })) return false;
        std::ranges::stable_sort(service_.backends, {}, &LocalBackend::address);
        if (service_.namespace_.empty()) return in_.refuse("a name in field namespace", "none");
        if (service_.name.empty()) return in_.refuse("a name in field name", "none");
        return true;
    }
    [[nodiscard]] LocalService take() { return std::move(service_); }

  private:
    [[nodiscard]] bool read_field(int field) {
        switch (field) {
            case 0:
                return in_.read(service_.namespace_);
            case 1:
                return in_.read(service_.name);
            case 2:
                return in_.read(service_.type);
            case 3:
                return in_.read(service_.headless);
            case 4:
                return read_addresses(service_.cluster_ips);
            case 5:
                return read_addresses(service_.external_ips);
            case 6:
                return read_addresses(service_.load_balancer_ips);
            case 7:
                return read_ports(in_, service_.ports);
            case 8:
                return read_backends();
            case 9:
                return in_.read(service_.global);
            case 10:
                return in_.read(service_.shared);
            case 11:
                return read_enum(in_, kAffinities, service_.affinity);
            case 12:
                return in_.read(service_.client_ip_affinity_seconds);
            case 13:
                return in_.read(service_.internal_traffic_local);
            case 14:
                return in_.read(service_.external_traffic_local);
            case 15:
                return in_.read(service_.labels);
            case 16:
                return in_.read(service_.selector);
            default:
                return in_.read(service_.annotations);
        }
    }

    [[nodiscard]] bool read_addresses(std::vector<IpAddress>& addresses) {
        addresses.clear();
        if (in_.take_null()) return true;
        return in_.elements([&] { return read_address(in_, addresses.emplace_back()); });
    }

    [[nodiscard]] bool read_backends() {
        service_.backends.clear();
        if (in_.take_null()) return true;
        return in_.elements([this] {
            LocalBackend& backend = service_.backends.emplace_back();
            bool has_address = false;
            const bool ok = in_.fields(kBackendFields, [&](int field) {
                has_address = has_address || field == 0;
                return read_backend_field(field, backend);
            });
            return ok && (has_address || in_.refuse("an object with field address", "none"));
        });
    }

    [[nodiscard]] bool read_backend_field(int field, LocalBackend& backend) {
        switch (field) {
            case 0:
                return read_address(in_, backend.address);
            case 1: {
                if (!read_ports(in_, ports_)) return false;
                // Backends of a service have the same ports, nearly always.
                if (!std::ranges::equal(last_ports_, ports_)) last_ports_ = ports_;
                backend.ports = last_ports_;
                return true;
            }
            case 2:
                return read_enum(in_, kStates, backend.state);
            case 3:
                return in_.read(backend.node);
            case 4:
                return in_.read(backend.zone);
            case 5:
                return in_.read(backend.hostname);
            case 6:
                backend.for_zones.clear();
                if (in_.take_null()) return true;
                return in_.elements([&] { return in_.read(backend.for_zones.emplace_back()); });
            default:
                return in_.read(backend.weight);
        }
    }

    JsonReader& in_;
    LocalService service_;
    std::vector<ServicePort> ports_;
    SharedList<ServicePort> last_ports_;
};

template <class List, class WriteOne>
void write_list(JsonWriter& out, const List& list, WriteOne&& write_one) {
    out.raw("[");
    bool first = true;
    for (const auto& element : list) {
        if (!first) out.raw(",");
        first = false;
        write_one(element);
    }
    out.raw("]");
}

template <class List>
void write_ports(JsonWriter& out, const List& ports) {
    write_list(out, ports, [&](const ServicePort& port) {
        out.raw("{\"name\":");
        out.string(port.name);
        out.raw(",\"protocol\":");
        out.string(port.protocol);
        out.raw(",\"port\":");
        out.number(port.port);
        if (port.node_port != 0) {
            out.raw(",\"nodePort\":");
            out.number(port.node_port);
        }
        out.raw("}");
    });
}

/// Nothing at all if there is none.
void write_addresses(JsonWriter& out, std::string_view name,
                     const std::vector<IpAddress>& addresses) {
    if (addresses.empty()) return;
    out.raw(name);
    write_list(out, addresses, [&](const IpAddress& address) { out.address(address); });
}

void write_backend(JsonWriter& out, const LocalBackend& backend) {
    out.raw("{\"address\":");
    out.address(backend.address);
    out.raw(",\"ports\":");
    write_ports(out, backend.ports);
    out.raw(",\"state\":");
    out.string(kStates[static_cast<std::size_t>(backend.state)]);
    out.raw(",\"node\":");
    out.string(backend.node);
    out.raw(",\"zone\":");
    out.string(backend.zone);
    out.raw(",\"hostname\":");
    out.string(backend.hostname);
    out.raw(",\"forZones\":");
    write_list(out, backend.for_zones, [&](std::string_view zone) { out.string(zone); });
    out.raw(",\"weight\":");
    out.number(backend.weight);
    out.raw("}");
}

}  // namespace

Result<LocalService> parse_local_service(std::string_view key, std::string_view value) {
    JsonReader in(key, value);
    LocalServiceReader reader(in);
    if (!reader.read() || !in.finish()) return in.error();
    return reader.take();
}

std::string encode(const LocalService& service) {
    std::string text;
    JsonWriter out(text);
    out.raw("{\"namespace\":");
    out.string(service.namespace_);
    out.raw(",\"name\":");
    out.string(service.name);
    out.raw(",\"type\":");
    out.string(service.type);
    out.raw(",\"headless\":");
    out.boolean(service.headless);
    out.raw(",\"clusterIPs\":");
    write_list(out, service.cluster_ips, [&](const IpAddress& address) { out.address(address); });
    write_addresses(out, ",\"externalIPs\":", service.external_ips);
    write_addresses(out, ",\"loadBalancerIPs\":", service.load_balancer_ips);
    out.raw(",\"ports\":");
    write_ports(out, service.ports);
    out.raw(",\"backends\":");
    write_list(out, service.backends,
               [&](const LocalBackend& backend) { write_backend(out, backend); });
    out.raw(",\"global\":");
    out.boolean(service.global);
    out.raw(",\"shared\":");
    out.boolean(service.shared);
    out.raw(",\"affinity\":");
    out.string(kAffinities[static_cast<std::size_t>(service.affinity)]);
    out.raw(",\"clientIPAffinitySeconds\":");
    out.number(service.client_ip_affinity_seconds);
    out.raw(",\"internalTrafficLocal\":");
    out.boolean(service.internal_traffic_local);
    if (service.external_traffic_local) {
        out.raw(",\"externalTrafficLocal\":");
        out.boolean(true);
    }
    out.raw(",\"labels\":");
    out.map(service.labels);
    out.raw(",\"selector\":");
    out.map(service.selector);
    out.raw(",\"annotations\":");
    out.map(service.annotations);
    out.raw("}");
    return text;
}

}  // namespace mesh::model
