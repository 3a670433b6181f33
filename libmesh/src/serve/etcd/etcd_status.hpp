// etcd's status codes and texts, word for word, since clients compare them.
// @source etcd v3.4: etcdserver/api/v3rpc/rpctypes/error.go
#pragma once

#include <cstdint>

#include "rpc/status.hpp"
#include "state/store/outcome.hpp"

namespace mesh::serve {

[[nodiscard]] rpc::Status to_status(const store::StoreError& error);

[[nodiscard]] rpc::Status permission_denied();
[[nodiscard]] rpc::Status auth_not_enabled();
[[nodiscard]] rpc::Status request_too_large();
/// Not one of etcd's: the client does not read the answers that it has.
[[nodiscard]] rpc::Status answers_wait();
/// Nor these: a client's requests wait for their turn, or it has all its streams.
[[nodiscard]] rpc::Status too_many_waiting(std::uint64_t waiting);
[[nodiscard]] rpc::Status too_many_streams();
/// Nor this: a connection's own store of init locks takes no more.
[[nodiscard]] rpc::Status shadow_full();
[[nodiscard]] rpc::Status no_leader();
[[nodiscard]] rpc::Status server_stopped();
[[nodiscard]] rpc::Status invalid_sort_option();
[[nodiscard]] rpc::Status undecodable();

}  // namespace mesh::serve
