// The programs of pods.bpf.c on devices at tc (clsact), under one priority and handle of their own.
// In the calling thread's network namespace. Internal to this folder.
#pragma once

#include <bpf/libbpf.h>

#include <cstdint>
#include <mesh/error.hpp>

#include "base/log.hpp"

namespace mesh::datapath {

/// Puts a program on a device, or atomically in the place of the one that is there.
/// @errors kNotFound: no such device; kPermission, kInternal
[[nodiscard]] Result<void> set_filter(std::uint32_t ifindex, bpf_tc_attach_point point,
                                      const bpf_program* program);

/// Replaces what is attached on all devices by the programs of that name of `object`. What has no
/// successor stays, and is told.
/// @return how many were replaced
[[nodiscard]] Result<std::uint32_t> replace_filters(const bpf_object* object, const Logger& logger);

}  // namespace mesh::datapath
