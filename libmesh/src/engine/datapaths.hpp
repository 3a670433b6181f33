// Where an agent's rows go: opened as its options say. Internal to this folder.
#pragma once

#include <memory>
#include <mesh/error.hpp>
#include <mesh/mesh.hpp>
#include <optional>

#include "base/log.hpp"
#include "datapath/bpf/bpf_datapath.hpp"
#include "datapath/bpf/bpf_pods.hpp"
#include "datapath/datapath.hpp"
#include "datapath/netlink/rtnetlink.hpp"
#include "datapath/pods.hpp"

namespace mesh::engine {

struct Datapaths {
    std::unique_ptr<datapath::Datapath> services;
    datapath::BpfDatapath* bpf = nullptr;  ///< services, if it is one
    std::unique_ptr<datapath::PodDatapath> pods;
    datapath::BpfPods* bpf_pods = nullptr;  ///< pods, if it is one
    std::optional<datapath::Rtnetlink> devices, routes;
};

/// Where one fails, nothing that this call made stays in the kernel.
/// @errors as Mesh::open
[[nodiscard]] Result<Datapaths> open_datapaths(const DatapathOptions& options, const Logger& log);

}  // namespace mesh::engine
