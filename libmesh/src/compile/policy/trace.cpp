#include "compile/policy/trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace mesh::compile {

using namespace model::policy;
using model::Label;

namespace {

constexpr std::array<std::pair<std::string_view, std::uint8_t>, 5> kProtocols{
    {{"TCP", 6}, {"UDP", 17}, {"SCTP", 132}, {"ICMP", 1}, {"ICMPv6", 58}}};

bool same_text(std::string_view a, std::string_view b) {
    return std::ranges::equal(a, b, [](char x, char y) {
        const auto lower = [](char c) {
            return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        };
        return lower(x) == lower(y);
    });
}

template <class T>
std::optional<T> to_number(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) return {};
    return value;
}

Result<TraceTarget> parse_pod(TraceTarget target) {
    std::vector<std::string> parts;
    std::string_view rest = target.text;
    for (;;) {
        const std::size_t slash = rest.find('/');
        parts.emplace_back(rest.substr(0, slash));
        if (slash == std::string_view::npos) break;
        rest.remove_prefix(slash + 1);
    }
    const bool good = parts.size() <= 3 &&
                      std::ranges::none_of(parts, [](const auto& part) { return part.empty(); });
    if (!good) {
        return invalid_argument(
            fmt::format("\"{}\": expected [cluster/][namespace/]pod, an address, labels "
                        "(key=value,...), an entity or an identity's number",
                        target.text));
    }
    target.name = parts.back();
    target.namespace_ = parts.size() > 1 ? parts[parts.size() - 2] : "default";
    if (parts.size() == 3) target.cluster = parts.front();
    return target;
}

/// Whether the compiler's policies are about an end.
std::string why_not_ours(const PolicyCompiler& compiler, const TraceSide& side) {
    const auto& labels = side.identity.labels;
    for (const Label& label : labels) {
        if (label.source == kSourceReserved && (label.key == "host" || label.key == "init")) {
            return {};
        }
        if (label.source != kSourceK8s || label.key != kClusterKey) continue;
        if (label.value == compiler.options().cluster) return {};
        return fmt::format("it is up to the policies of cluster {}", label.value.view());
    }
    return "it is no endpoint of the cluster: no policy is enforced there";
}

}  // namespace

std::string protocol_text(std::uint8_t protocol) {
    const auto found =
        std::ranges::find(kProtocols, protocol, &std::pair<std::string_view, std::uint8_t>::second);
    return found == kProtocols.end() ? std::to_string(protocol) : std::string(found->first);
}

std::optional<std::uint8_t> find_protocol(std::string_view name) {
    for (const auto& [known, number] : kProtocols) {
        if (same_text(known, name)) return number;
    }
    return std::nullopt;
}

Result<Label> parse_label(std::string_view text) {
    const std::size_t equals = text.find('=');
    std::string_view key = text.substr(0, equals);
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : text.substr(equals + 1);
    std::string_view source = kSourceK8s;
    if (const std::size_t colon = key.find(':'); colon != std::string_view::npos) {
        source = key.substr(0, colon);
        key.remove_prefix(colon + 1);
    }
    if (key.empty() || source.empty()) {
        return invalid_argument(fmt::format("\"{}\": expected key=value", text));
    }
    return Label{source, key, value};
}

Result<std::vector<Label>> parse_labels(std::string_view text) {
    std::vector<Label> labels;
    while (!text.empty()) {
        const std::size_t comma = text.find(',');
        MESH_TRY(Label label, parse_label(text.substr(0, comma)));
        labels.push_back(std::move(label));
        text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    }
    std::ranges::sort(labels);
    return labels;
}

Result<TraceTarget> parse_trace_target(std::string_view text) {
    TraceTarget target;
    target.text = text;
    if (const auto number = to_number<std::uint32_t>(text); number && *number != 0) {
        target.kind = TraceTarget::Kind::kIdentity;
        target.identity = *number;
        return target;
    }
    if (model::IpAddress::parse_into(text, target.address)) {
        target.kind = TraceTarget::Kind::kAddress;
        return target;
    }
    if (text.find('=') != std::string_view::npos) {
        target.kind = TraceTarget::Kind::kLabels;
        MESH_TRY(target.labels, parse_labels(text));
        return target;
    }
    std::string_view entity = text;
    if (entity.starts_with("reserved:")) entity.remove_prefix(9);
    const auto known = find_entity(entity);
    const bool one =
        known && *known != Entity::kAll && *known != Entity::kNone && *known != Entity::kCluster;
    if (one) {
        target.kind = TraceTarget::Kind::kLabels;
        target.labels = {{kSourceReserved, entity, ""}};
        return target;
    }
    return parse_pod(std::move(target));
}

Result<TraceQuestion> parse_trace_question(std::string_view dport, std::string_view http,
                                           const std::vector<std::string>& headers,
                                           std::string_view dns) {
    TraceQuestion out;
    const std::size_t slash = dport.find('/');
    const auto port = to_number<std::uint16_t>(dport.substr(0, slash));
    const auto protocol =
        slash == std::string_view::npos ? std::uint8_t{6} : find_protocol(dport.substr(slash + 1));
    if (!port || !protocol) {
        return invalid_argument(fmt::format(
            "\"{}\": expected PORT/PROTOCOL, with TCP, UDP, SCTP, ICMP or ICMPv6", dport));
    }
    out.port = *port;
    out.protocol = *protocol;
    if (!dns.empty()) out.dns = dns;
    if (http.empty()) {
        if (!headers.empty()) return invalid_argument("a header is of a request: expected one");
        return out;
    }
    const std::size_t space = http.find(' ');
    HttpRequest request;
    request.method = http.substr(0, space);
    std::string_view path = space == std::string_view::npos ? "" : http.substr(space + 1);
    if (path.starts_with("http://")) {
        path.remove_prefix(7);
        const std::size_t end = std::min(path.find('/'), path.size());
        request.host = path.substr(0, end);
        path.remove_prefix(end);
        if (path.empty()) path = "/";
    }
    request.path = path;
    if (request.method.empty() || !request.path.starts_with('/')) {
        return invalid_argument(
            fmt::format("\"{}\": expected METHOD PATH or METHOD http://HOST/PATH", http));
    }
    for (const std::string& header : headers) {
        const std::size_t colon = header.find(':');
        if (colon == 0 || colon == std::string::npos) {
            return invalid_argument(fmt::format("\"{}\": expected NAME: VALUE", header));
        }
        const std::size_t value = std::min(header.find_first_not_of(' ', colon + 1), header.size());
        request.headers.emplace_back(header.substr(0, colon), header.substr(value));
    }
    out.http = std::move(request);
    return out;
}

Trace::Verdict Trace::verdict() const noexcept {
    if (!egress && !ingress) return Verdict::kUnknown;
    const bool allowed = (!egress || egress->allowed()) && (!ingress || ingress->allowed());
    return allowed ? Verdict::kAllowed : Verdict::kDenied;
}

std::string_view to_string(Trace::Verdict verdict) {
    switch (verdict) {
        case Trace::Verdict::kAllowed:
            return "allowed";
        case Trace::Verdict::kDenied:
            return "denied";
        case Trace::Verdict::kUnknown:
            break;
    }
    return "unknown";
}

Trace trace(PolicyCompiler& compiler, TraceSide source, TraceSide destination,
            TraceQuestion question) {
    Trace out{std::move(source), std::move(destination), std::move(question), {}, {}, {}, {}};
    const auto ask = [&](const TraceSide& subject, const TraceSide& peer, Direction direction) {
        PolicyQuestion packet;
        packet.peer = peer.identity.id;
        packet.direction = direction;
        packet.protocol = out.question.protocol;
        packet.port = out.question.port;
        packet.http = out.question.http;
        packet.dns = out.question.dns;
        return explain(compiler, {subject.identity.labels, subject.ports}, packet);
    };
    out.no_egress = why_not_ours(compiler, out.source);
    if (out.no_egress.empty()) out.egress = ask(out.source, out.destination, Direction::kEgress);
    out.no_ingress = why_not_ours(compiler, out.destination);
    if (out.no_ingress.empty()) out.ingress = ask(out.destination, out.source, Direction::kIngress);
    return out;
}

}  // namespace mesh::compile
