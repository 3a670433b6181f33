// One measurement of `meshctl connectivity test`: requests to an address by a process of a pod or
// node, each over a new socket, and what came back. `meshctl connectivity probe` is that process.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "meshctl/connectivity_cases.hpp"
#include "model/ip.hpp"
#include "sandbox/sandbox.hpp"

namespace mesh::ctl::connectivity {

struct ProbeRequest {
    Protocol protocol = Protocol::kTcp;
    model::IpAddress to;
    std::uint16_t port = 0;  ///< not of ICMP
    /// Bytes: of the body sent over TCP (0 = a plain GET), of the datagram, of the ICMP data.
    std::uint32_t size = 0;
    std::uint32_t count = 1;
    std::chrono::milliseconds timeout{5000};  ///< of each request
};

/// Sends the requests one after the other from the calling process, until one fails.
/// TCP: HTTP to mesh-echo; UDP: datagrams to it, every other one over a connected socket.
/// @return {"answers": [{...what mesh-echo said, "peer": whom the socket says it came from}],
///   "milliseconds": all took, "error": why the next one failed, if it did}
[[nodiscard]] boost::json::object probe(const ProbeRequest& request);

/// The command line of a process that does the probe and prints its result.
[[nodiscard]] std::vector<std::string> probe_command(const ProbeRequest& request);

/// Where a probe is run from.
struct Origin {
    std::string cluster;
    std::string pod;   ///< "<namespace>/<name>", or "" for the node itself
    std::string node;  ///< only without a pod
};

/// Runs a probe in a pod, or on a node, and waits for it.
/// @errors those of sandbox::prepare_exec; kUnavailable: no process; kCorrupt: it printed no
/// result;
///   kTimeout
[[nodiscard]] Result<boost::json::object> run_probe(const sandbox::Environment& environment,
                                                    const Origin& origin,
                                                    const ProbeRequest& request);

}  // namespace mesh::ctl::connectivity
