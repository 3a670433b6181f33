// The sockets of the proxy: listeners that take connections to any address, and connections to
// servers that come from the client's address. Internal to l7/.
// @source Documentation/networking/tproxy.rst (Linux), ip(7) IP_TRANSPARENT,
// IP_BIND_ADDRESS_NO_PORT
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <utility>

#include "serve/l7/options.hpp"

struct sockaddr_storage;

namespace mesh::serve::l7 {

/// Owns a descriptor.
class Descriptor {
  public:
    Descriptor() = default;
    explicit Descriptor(int fd) noexcept : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor() { close(); }
    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
    void close() noexcept;
    /// The other side sees a reset, not an end.
    void reset_connection() noexcept;

  private:
    int fd_ = -1;
};

[[nodiscard]] Endpoint to_endpoint(const sockaddr_storage& address) noexcept;
[[nodiscard]] std::string to_text(const Endpoint& endpoint);

/// @param endpoint port 0: of the kernel's choice @errors kUnavailable, kPermission (transparent)
[[nodiscard]] Result<Descriptor> open_listener(const Endpoint& endpoint, bool transparent,
                                               std::uint32_t mark);
/// What a connection was accepted for. @errors kUnavailable
[[nodiscard]] Result<Endpoint> local_endpoint(int socket);
void set_no_delay(int socket) noexcept;

/// Begins to connect; the socket becomes writable when that has ended, see connect_error.
/// @param source set: from this address, transparently; its port is not kept
/// @errors kUnavailable, kPermission
[[nodiscard]] Result<Descriptor> begin_connect(const Endpoint& destination,
                                               const std::optional<Endpoint>& source,
                                               std::uint32_t mark);
/// errno of a connect that has ended; 0: connected.
[[nodiscard]] int connect_error(int socket) noexcept;

}  // namespace mesh::serve::l7
