// Services (wire.md §5).
#include <algorithm>

#include "model/codec.hpp"
#include "model/codec_ports.hpp"

namespace mesh::model {
namespace {

constexpr std::array<std::string_view, 12> kFields{
    "cluster", "namespace", "name",     "frontends",       "backends", "hostnames",
    "zones",   "labels",    "selector", "includeExternal", "shared",   "clusterID"};
constexpr std::array<std::string_view, 2> kPortFields{"Protocol", "Port"};
constexpr std::array<std::string_view, 2> kZoneFields{"zone", "forZones"};
constexpr std::array<std::string_view, 1> kForZoneFields{"name"};

/// Room made at once, so that services of the usual size do not grow into it step by step.
constexpr std::size_t kUsualAddresses = 16;

/// Puts addresses in the bytewise order of their text; of equal texts the one that came last stays.
void sort_addresses(std::vector<ServiceAddress>& addresses) {
    std::vector<std::pair<std::string, ServiceAddress>> keyed;
    keyed.reserve(addresses.size());
    for (ServiceAddress& address : addresses) {
        std::string text = address.text();
        keyed.emplace_back(std::move(text), std::move(address));
    }
    std::ranges::stable_sort(
        keyed, {}, [](const auto& entry) -> const auto& { return entry.first; });
    addresses.clear();
    for (std::size_t i = 0; i < keyed.size(); ++i) {
        if (i + 1 < keyed.size() && keyed[i].first == keyed[i + 1].first) continue;
        addresses.push_back(std::move(keyed[i].second));
    }
}

/// One value of a service in the making.
class ServiceReader {
  public:
    explicit ServiceReader(JsonReader& in) : in_(in) {
        service_.labels.emplace();
        service_.selector.emplace();
    }
    [[nodiscard]] bool read() {
        return in_.fields(kFields, [this](int field) { return read_field(field); });
    }
    [[nodiscard]] Service take() { return std::move(service_); }

  private:
    [[nodiscard]] bool read_field(int field) {
        switch (field) {
            case 0:
                return in_.read(service_.cluster);
            case 1:
                return in_.read(service_.namespace_);
            case 2:
                return in_.read(service_.name);
            case 3:
                return read_addresses(service_.frontends, service_.frontends_null);
            case 4:
                return read_addresses(service_.backends, service_.backends_null);
            case 5:
                return read_hostnames();
            case 6:
                return read_zones();
            case 7:
                return in_.read(service_.labels);
            case 8:
                return in_.read(service_.selector);
            case 9:
                return in_.read(service_.include_external);
            case 10:
                return in_.read(service_.shared);
            default:
                return in_.read(service_.cluster_id);
        }
    }

    [[nodiscard]] bool read_addresses(std::vector<ServiceAddress>& out, bool& is_null) {
        if (in_.take_null()) {
            out.clear();
            is_null = true;
            return true;
        }
        is_null = false;
        // Entries of an earlier duplicate of this field stay, as Go's maps merge.
        if (!out.empty() && !in_.may_merge()) return false;
        addresses_.assign(std::make_move_iterator(out.begin()), std::make_move_iterator(out.end()));
        bool sorted = addresses_.empty();
        addresses_.reserve(kUsualAddresses);
        previous_.clear();
        const bool ok = in_.entries([&](std::string_view text) {
            ServiceAddress& entry = addresses_.emplace_back();
            if (addresses_.size() > 1 && sorted) sorted = std::string_view(previous_) < text;
            previous_.assign(text);
            return read_address(text, entry) && ports_.read(in_, entry.ports);
        });
        if (!ok) return false;
        if (!sorted) sort_addresses(addresses_);
        out.assign(std::make_move_iterator(addresses_.begin()),
                   std::make_move_iterator(addresses_.end()));
        return true;
    }

    /// As Go's netip.ParseAddr: an IPv6 address may carry a zone.
    [[nodiscard]] bool read_address(std::string_view text, ServiceAddress& entry) {
        std::string_view plain = text;
        const auto percent = text.find('%');
        if (percent != std::string_view::npos) plain = text.substr(0, percent);
        const bool zone_ok =
            percent == std::string_view::npos ||
            (percent + 1 < text.size() && plain.find(':') != std::string_view::npos);
        if (!zone_ok || !IpAddress::parse_into(plain, entry.address)) {
            return in_.refuse("an IPv4 or IPv6 address as name", text);
        }
        // Dotted quads have one spelling.
        if (text.find(':') == std::string_view::npos) return true;
        canonical_.clear();
        entry.address.append_to(canonical_);
        if (canonical_ != text) entry.spelling = Text(text);
        return true;
    }

    [[nodiscard]] bool read_hostnames() {
        OptionalStringMap map = std::move(service_.hostnames);
        if (!in_.read(map)) return false;
        service_.hostnames = map ? std::move(*map) : StringMap();
        return true;
    }

    [[nodiscard]] bool read_zones() {
        if (in_.take_null()) {
            service_.zones.clear();
            return true;
        }
        return in_.entries([this](std::string_view address) {
            ServiceZone& zone = service_.zones[Text(address)];
            zone = ServiceZone{.zone = {}, .for_zones = SharedList<Text>::null()};
            return in_.fields(kZoneFields, [&](int field) {
                return field == 0 ? in_.read(zone.zone) : read_for_zones(zone.for_zones);
            });
        });
    }

    [[nodiscard]] bool read_for_zones(SharedList<Text>& out) {
        if (in_.take_null()) {
            out = SharedList<Text>::null();
            return true;
        }
        std::vector<Text> names;
        const bool ok = in_.elements([&] {
            Text& name = names.emplace_back();
            return in_.fields(kForZoneFields, [&](int) { return in_.read(name); });
        });
        out = names;
        return ok;
    }

    JsonReader& in_;
    Service service_;
    PortMapReader ports_;
    std::vector<ServiceAddress> addresses_;
    std::string previous_;
    std::string canonical_;
};

void write_addresses(JsonWriter& out, const std::vector<ServiceAddress>& addresses, bool is_null) {
    if (is_null && addresses.empty()) {
        out.raw("null");
        return;
    }
    out.sorted_entries(
        addresses.size(),
        [&](std::size_t i, std::string& key) {
            const ServiceAddress& address = addresses[i];
            if (address.spelling.empty()) {
                address.address.append_to(key);
            } else {
                key += address.spelling.view();
            }
        },
        [&](std::size_t i) { write_port_map(out, addresses[i].ports); });
}

void write_zones(JsonWriter& out, const std::map<Text, ServiceZone, std::less<>>& zones) {
    bool first = true;
    out.raw("{");
    for (const auto& [address, zone] : zones) {
        if (!first) out.raw(",");
        first = false;
        out.string(address);
        out.raw(":{\"zone\":");
        out.string(zone.zone);
        out.raw(",\"forZones\":");
        if (zone.for_zones.is_null()) {
            out.raw("null}");
            continue;
        }
        out.raw("[");
        for (std::size_t i = 0; i < zone.for_zones.size(); ++i) {
            out.raw(i == 0 ? "{\"name\":" : ",{\"name\":");
            out.string(zone.for_zones[i]);
            out.raw("}");
        }
        out.raw("]}");
    }
    out.raw("}");
}

}  // namespace

void sort_ports(std::vector<ServicePort>& ports) {
    const auto less = [](const ServicePort& a, const ServicePort& b) { return a.name < b.name; };
    if (std::ranges::adjacent_find(ports, std::not_fn(less)) == ports.end()) return;
    std::ranges::stable_sort(ports, less);
    // Keep the last of each run of equal names: what is kept moves to the back.
    const auto kept =
        std::unique(ports.rbegin(), ports.rend(),
                    [](const ServicePort& a, const ServicePort& b) { return a.name == b.name; });
    ports.erase(ports.begin(), kept.base());
}

bool PortMapReader::read(JsonReader& in, SharedList<ServicePort>& out) {
    if (in.take_null()) {
        out = SharedList<ServicePort>::null();
        return true;
    }
    if (!last_text_.empty() && in.take_text(last_text_)) {
        out = last_;
        return true;
    }
    const char* const from = in.mark();
    ports_.clear();
    const bool ok = in.entries([&](std::string_view name) {
        ServicePort& port = ports_.emplace_back();
        port.name = Text(name);
        // Upstream has a pointer here and would follow it: null has no meaning.
        if (in.take_null()) return in.refuse("an object", "null");
        return in.fields(kPortFields, [&](int field) {
            return field == 0 ? in.read(port.protocol) : in.read(port.port);
        });
    });
    if (!ok) return false;
    sort_ports(ports_);
    if (!std::ranges::equal(last_, ports_)) last_ = ports_;
    last_text_ = in.since(from);
    out = last_;
    return true;
}

void write_port_map(JsonWriter& out, const SharedList<ServicePort>& ports) {
    if (ports.is_null()) {
        out.raw("null");
        return;
    }
    out.sorted_entries(
        ports.size(), [&](std::size_t i, std::string& key) { key += ports[i].name.view(); },
        [&](std::size_t i) {
            out.raw("{\"Protocol\":");
            out.string(ports[i].protocol);
            out.raw(",\"Port\":");
            out.number(ports[i].port);
            out.raw("}");
        });
}

Result<Service> parse_service(std::string_view key, std::string_view value) {
    JsonReader in(key, value);
    ServiceReader reader(in);
    if (!reader.read() || !in.finish()) return in.error();
    return reader.take();
}

void encode_to(const Service& service, std::string& text) {
    JsonWriter out(text);
    out.raw("{\"cluster\":");
    out.string(service.cluster);
    out.raw(",\"namespace\":");
    out.string(service.namespace_);
    out.raw(",\"name\":");
    out.string(service.name);
    out.raw(",\"frontends\":");
    write_addresses(out, service.frontends, service.frontends_null);
    out.raw(",\"backends\":");
    write_addresses(out, service.backends, service.backends_null);
    if (!service.hostnames.empty()) {
        out.raw(",\"hostnames\":");
        out.map(service.hostnames);
    }
    if (!service.zones.empty()) {
        out.raw(",\"zones\":");
        write_zones(out, service.zones);
    }
    out.raw(",\"labels\":");
    out.map(service.labels);
    out.raw(",\"selector\":");
    out.map(service.selector);
    out.raw(",\"includeExternal\":");
    out.boolean(service.include_external);
    out.raw(",\"shared\":");
    out.boolean(service.shared);
    out.raw(",\"clusterID\":");
    out.number(number(service.cluster_id));
    out.raw("}");
}

std::string encode(const Service& service) {
    std::string text;
    // About what it takes; a string that grows by doubling is copied several times.
    text.reserve(256 + 64 * (service.frontends.size() + service.backends.size()));
    encode_to(service, text);
    return text;
}

}  // namespace mesh::model
