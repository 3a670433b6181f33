// One packet through the policies of both its ends: how people name the ends and the packet, and
// what came out. Who the ends are is found elsewhere: in a running agent's tables (engine) or in
// files (meshctl).
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compile/policy/explain.hpp"
#include "compile/policy/policy_compiler.hpp"
#include "model/ip.hpp"

namespace mesh::compile {

/// An end of the packet as it was asked for.
struct TraceTarget {
    enum class Kind : std::uint8_t { kPod, kAddress, kLabels, kIdentity };
    Kind kind = Kind::kPod;
    std::string text;                       ///< as written
    std::string cluster, namespace_, name;  ///< of a pod; cluster may be empty
    model::IpAddress address;
    std::vector<model::Label> labels;  ///< an identity must have all of them; sorted
    std::uint32_t identity = 0;
};
/// "[cluster/][namespace/]pod", an address, "key=value,..." (with sources or without: k8s), an
/// entity ("world", "host", ...), or an identity's number.
/// @errors kInvalidArgument names the text
[[nodiscard]] Result<TraceTarget> parse_trace_target(std::string_view text);

/// "source:key=value"; of source k8s where none is named. @errors kInvalidArgument
[[nodiscard]] Result<model::Label> parse_label(std::string_view text);
/// Several, parted by commas; sorted. @errors kInvalidArgument
[[nodiscard]] Result<std::vector<model::Label>> parse_labels(std::string_view text);

/// The packet, and what is asked in it.
struct TraceQuestion {
    std::uint8_t protocol = 6;
    std::uint16_t port = 0;  ///< of ICMP the type
    std::optional<HttpRequest> http;
    std::optional<std::string> dns;
};
/// @param dport "80/TCP", "80", "8/ICMP"
/// @param http "GET /a", "GET http://host/a"; empty: none
/// @param headers "Name: value" each
/// @param dns a name; empty: none
/// @errors kInvalidArgument names the text
[[nodiscard]] Result<TraceQuestion> parse_trace_question(std::string_view dport,
                                                         std::string_view http,
                                                         const std::vector<std::string>& headers,
                                                         std::string_view dns);

/// "TCP" and so on; a number of one without a name.
[[nodiscard]] std::string protocol_text(std::uint8_t protocol);
/// The protocol of that name, in any case.
[[nodiscard]] std::optional<std::uint8_t> find_protocol(std::string_view name);

/// Something that is known of an end, and by whom.
struct TraceFact {
    std::string what;     ///< "identity 65538", "address 10.10.1.2"
    std::string cluster;  ///< in whose etcd it is; empty: on this node only
    std::string state;    ///< of the session with that cluster; empty: there is none
    std::optional<double> age_seconds{};  ///< since that cluster last proved to be alive
};

/// An end of the packet as it is known.
struct TraceSide {
    std::string asked;
    std::string pod;      ///< "namespace/name"; empty: none, or not known
    std::string address;  ///< empty: not known
    std::string cluster;  ///< empty: of none
    PolicyIdentity identity;
    NamedPorts ports;
    std::vector<TraceFact> facts;
};

struct Trace {
    TraceSide source, destination;
    TraceQuestion question;
    /// Of the source's egress and the destination's ingress; nothing where the policies at hand do
    /// not decide, and why not.
    std::optional<Explanation> egress, ingress;
    std::string no_egress, no_ingress;

    enum class Verdict : std::uint8_t { kAllowed, kDenied, kUnknown };
    /// kUnknown: neither end is under these policies.
    [[nodiscard]] Verdict verdict() const noexcept;
};
[[nodiscard]] std::string_view to_string(Trace::Verdict verdict);

/// Both ends' identities must be known to the compiler.
/// @complexity that of building the policies of two endpoints
[[nodiscard]] Trace trace(PolicyCompiler& compiler, TraceSide source, TraceSide destination,
                          TraceQuestion question);

}  // namespace mesh::compile
