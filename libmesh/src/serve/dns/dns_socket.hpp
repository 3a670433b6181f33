// The sockets of the DNS proxy: plain system calls, all non-blocking. Transparent ones speak in the
// names of others: a listener takes packets for any server, answers leave from the server's
// address, queries from the client's. Internal to this folder.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "serve/dns/dns_event.hpp"
#include "serve/dns/dns_message.hpp"

namespace mesh::serve::dns {

/// Owns a file descriptor.
class Socket {
  public:
    Socket() = default;
    explicit Socket(int fd) noexcept : fd_(fd) {}
    Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Socket& operator=(Socket&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Socket();
    [[nodiscard]] int fd() const noexcept { return fd_; }
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    [[nodiscard]] bool open() const noexcept { return fd_ >= 0; }

  private:
    int fd_ = -1;
};

/// A PeerAddress as the kernel has it.
class RawAddress {
  public:
    RawAddress() = default;
    explicit RawAddress(const PeerAddress& peer) noexcept;
    [[nodiscard]] PeerAddress peer() const noexcept;
    [[nodiscard]] sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage_); }
    [[nodiscard]] const sockaddr* get() const noexcept {
        return reinterpret_cast<const sockaddr*>(&storage_);
    }
    [[nodiscard]] socklen_t size() const noexcept { return size_; }
    socklen_t* size_out() noexcept {
        size_ = sizeof storage_;
        return &size_;
    }
    static constexpr socklen_t capacity() noexcept { return sizeof(sockaddr_storage); }

  private:
    sockaddr_storage storage_{};
    socklen_t size_ = 0;
};

struct ListenSpec {
    PeerAddress at;  ///< "::" of port 0 and the like; an IPv6 listener takes no IPv4
    Transport transport = Transport::kUdp;
    bool transparent = false;
    std::uint32_t mark = 0;
};
/// A bound socket; of TCP it listens.
/// @errors kConflict: somebody has that port; kPermission; kUnavailable: no such family or address
[[nodiscard]] Result<Socket> open_listener(const ListenSpec& spec);
/// Of a socket that is bound. @return port 0 if it cannot tell
[[nodiscard]] PeerAddress local_address(int fd) noexcept;

struct UpstreamSpec {
    Transport transport = Transport::kUdp;
    PeerAddress server;
    /// Sends from this address (and a port of the kernel's choice); the socket is transparent.
    std::optional<model::IpAddress> source;
    std::uint32_t mark = 0;
};
/// A socket connected to the server; of TCP the connecting may be under way.
/// @errors kUnavailable, kPermission, kCapacity: no more descriptors or ports
[[nodiscard]] Result<Socket> open_upstream(const UpstreamSpec& spec);

/// Takes datagrams off a listener, several by one system call.
class DatagramReader {
  public:
    static constexpr std::size_t kBatch = 32;
    struct Datagram {
        BytesView bytes;
        bool cut = false;  ///< longer than the buffer
        PeerAddress client;
        /// Where it was sent to, if the listener is transparent.
        std::optional<PeerAddress> server;
    };
    explicit DatagramReader(std::size_t max_bytes);
    /// @return what is there, empty if nothing is; holds until the next call
    [[nodiscard]] std::span<const Datagram> read(int fd);

  private:
    struct alignas(cmsghdr) Control {
        std::array<char, 128> bytes;
    };
    std::size_t max_bytes_;
    Bytes buffer_;
    std::array<iovec, kBatch> vectors_{};
    std::array<mmsghdr, kBatch> headers_{};
    std::array<RawAddress, kBatch> names_{};
    std::array<Control, kBatch> controls_{};
    std::vector<Datagram> datagrams_;
};

/// Sends datagrams from addresses of others: raw sockets, so that no port of another process is
/// taken, none of its packets are received, and long answers are fragmented.
class SpoofingSender {
  public:
    /// @errors kPermission: needs CAP_NET_RAW and CAP_NET_ADMIN; kUnavailable
    [[nodiscard]] static Result<SpoofingSender> open(bool ipv6, std::uint32_t mark);
    /// @return false if it could not be sent
    bool send(const PeerAddress& from, const PeerAddress& to, BytesView bytes);

  private:
    explicit SpoofingSender(Socket socket) : socket_(std::move(socket)) {}
    Socket socket_;
    Bytes packet_;
};

}  // namespace mesh::serve::dns
