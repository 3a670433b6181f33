// A workload kept registered for as long as this process runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "meshctl/commands.hpp"
#include "meshctl/etcd_store.hpp"
#include "model/workload.hpp"

namespace mesh::ctl {

struct RegisterOptions {
    EtcdFlags etcd;
    std::string cluster_name;      ///< that the etcd is to be; empty = not looked at
    std::uint32_t cluster_id = 0;  ///< likewise; 0 = any
    model::Workload workload;
    std::chrono::seconds lease_ttl{15};
    std::chrono::seconds timeout{0};  ///< to be published; 0 = no limit
};

/// "namespace/name:port name:port/protocol"; the port's name and the protocol may be left out.
/// @errors kInvalidArgument
[[nodiscard]] Result<model::WorkloadBackend> parse_backend(const std::string& text);

/// Runs until SIGTERM or SIGINT, then leaves.
/// @return the exit code: kExitNotReady if it was not published in time
[[nodiscard]] int register_workload(Context& context, const RegisterOptions& options);

}  // namespace mesh::ctl
