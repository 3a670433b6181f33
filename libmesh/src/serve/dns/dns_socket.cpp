#include "serve/dns/dns_socket.hpp"

#include <fmt/format.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace mesh::serve::dns {

namespace {

Error socket_error(std::string_view what, int error) {
    const std::string text = fmt::format("{}: {}", what, std::strerror(error));
    if (error == EADDRINUSE) return {Errc::kConflict, text};
    if (error == EPERM || error == EACCES) return {Errc::kPermission, text};
    if (error == EMFILE || error == ENFILE || error == EADDRNOTAVAIL || error == ENOBUFS) {
        return {Errc::kCapacity, text};
    }
    return {Errc::kUnavailable, text};
}

bool set_option(int fd, int level, int name, int value) noexcept {
    return ::setsockopt(fd, level, name, &value, sizeof value) == 0;
}

bool set_transparent(int fd, bool ipv6) noexcept {
    return ipv6 ? set_option(fd, SOL_IPV6, IPV6_TRANSPARENT, 1)
                : set_option(fd, SOL_IP, IP_TRANSPARENT, 1);
}

bool set_mark(int fd, std::uint32_t mark) noexcept {
    return mark == 0 || set_option(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark));
}

int type_of(Transport transport) noexcept {
    return (transport == Transport::kUdp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK;
}

/// Where a datagram was sent to. @source IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR
std::optional<PeerAddress> original_destination(const msghdr& header) noexcept {
    for (auto* one = CMSG_FIRSTHDR(&header); one != nullptr;
         one = CMSG_NXTHDR(const_cast<msghdr*>(&header), one)) {
        const bool v4 = one->cmsg_level == SOL_IP && one->cmsg_type == IP_ORIGDSTADDR;
        const bool v6 = one->cmsg_level == SOL_IPV6 && one->cmsg_type == IPV6_ORIGDSTADDR;
        if (!v4 && !v6) continue;
        RawAddress address;
        std::memcpy(address.get(), CMSG_DATA(one), v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
        return address.peer();
    }
    return std::nullopt;
}

/// The ones' complement sum of RFC 1071.
class Checksum {
  public:
    void add(BytesView bytes) noexcept {
        for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
            sum_ += static_cast<std::uint32_t>(bytes[i] << 8 | bytes[i + 1]);
        }
        if (bytes.size() % 2 != 0) sum_ += static_cast<std::uint32_t>(bytes.back() << 8);
    }
    void add(std::uint32_t word) noexcept { sum_ += word; }
    [[nodiscard]] std::uint16_t get() const noexcept {
        std::uint64_t folded = sum_;
        while (folded > 0xffff) folded = (folded & 0xffff) + (folded >> 16);
        const auto out = static_cast<std::uint16_t>(~folded);
        return out == 0 ? 0xffff : out;
    }

  private:
    std::uint64_t sum_ = 0;
};

BytesView address_bytes(const model::IpAddress& address) noexcept {
    const BytesView all(address.bytes());
    return address.is_v4() ? all.subspan(12) : all;
}

}  // namespace

Socket::~Socket() {
    if (fd_ >= 0) ::close(fd_);
}

RawAddress::RawAddress(const PeerAddress& peer) noexcept {
    if (peer.address.is_v4()) {
        sockaddr_in out{};
        out.sin_family = AF_INET;
        out.sin_port = htons(peer.port);
        out.sin_addr.s_addr = htonl(peer.address.v4_number());
        std::memcpy(&storage_, &out, size_ = sizeof out);
        return;
    }
    sockaddr_in6 out{};
    out.sin6_family = AF_INET6;
    out.sin6_port = htons(peer.port);
    std::ranges::copy(peer.address.bytes(), out.sin6_addr.s6_addr);
    std::memcpy(&storage_, &out, size_ = sizeof out);
}

PeerAddress RawAddress::peer() const noexcept {
    if (storage_.ss_family == AF_INET) {
        sockaddr_in in{};
        std::memcpy(&in, &storage_, sizeof in);
        return {model::IpAddress::v4(ntohl(in.sin_addr.s_addr)), ntohs(in.sin_port)};
    }
    if (storage_.ss_family != AF_INET6) return {};
    sockaddr_in6 in{};
    std::memcpy(&in, &storage_, sizeof in);
    model::IpAddress::Bytes bytes;
    std::ranges::copy(in.sin6_addr.s6_addr, bytes.begin());
    return {model::IpAddress(bytes), ntohs(in.sin6_port)};
}

Result<Socket> open_listener(const ListenSpec& spec) {
    const bool ipv6 = !spec.at.address.is_v4();
    const bool udp = spec.transport == Transport::kUdp;
    const std::string name = fmt::format("{} {}", udp ? "UDP" : "TCP", spec.at.to_string());
    const auto failed = [&](std::string_view step) {
        return socket_error(fmt::format("{}: {}", name, step), errno);
    };
    Socket socket(::socket(ipv6 ? AF_INET6 : AF_INET, type_of(spec.transport), 0));
    if (!socket.open()) return failed("socket");
    const int fd = socket.fd();
    if (ipv6 && !set_option(fd, SOL_IPV6, IPV6_V6ONLY, 1)) return failed("IPV6_V6ONLY");
    if (spec.transparent && !set_transparent(fd, ipv6)) return failed("IP_TRANSPARENT");
    if (spec.transparent && udp) {
        const bool told = ipv6 ? set_option(fd, SOL_IPV6, IPV6_RECVORIGDSTADDR, 1)
                               : set_option(fd, SOL_IP, IP_RECVORIGDSTADDR, 1);
        if (!told) return failed("IP_RECVORIGDSTADDR");
    }
    if (!set_mark(fd, spec.mark)) return failed("SO_MARK");
    // Connections of an earlier process may linger.
    if (!udp && !set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)) return failed("SO_REUSEADDR");
    const RawAddress address(spec.at);
    if (::bind(fd, address.get(), address.size()) != 0) return failed("bind");
    if (!udp && ::listen(fd, SOMAXCONN) != 0) return failed("listen");
    return socket;
}

PeerAddress local_address(int fd) noexcept {
    RawAddress address;
    if (::getsockname(fd, address.get(), address.size_out()) != 0) return {};
    return address.peer();
}

Result<Socket> open_upstream(const UpstreamSpec& spec) {
    const bool ipv6 = !spec.server.address.is_v4();
    const auto failed = [&](std::string_view step) {
        return socket_error(fmt::format("{}: {}", spec.server.to_string(), step), errno);
    };
    Socket socket(::socket(ipv6 ? AF_INET6 : AF_INET, type_of(spec.transport), 0));
    if (!socket.open()) return failed("socket");
    const int fd = socket.fd();
    if (!set_mark(fd, spec.mark)) return failed("SO_MARK");
    if (spec.source) {
        if (!set_transparent(fd, ipv6)) return failed("IP_TRANSPARENT");
        const RawAddress source(PeerAddress{*spec.source, 0});
        if (::bind(fd, source.get(), source.size()) != 0) {
            return failed(fmt::format("bind to {}", spec.source->to_string()));
        }
    }
    if (spec.transport == Transport::kTcp) set_option(fd, SOL_TCP, TCP_NODELAY, 1);
    const RawAddress server(spec.server);
    if (::connect(fd, server.get(), server.size()) != 0 && errno != EINPROGRESS) {
        return failed("connect");
    }
    return socket;
}

DatagramReader::DatagramReader(std::size_t max_bytes)
    : max_bytes_(max_bytes), buffer_(kBatch * max_bytes) {
    datagrams_.reserve(kBatch);
}

std::span<const DatagramReader::Datagram> DatagramReader::read(int fd) {
    for (std::size_t i = 0; i < kBatch; ++i) {
        vectors_[i] = {buffer_.data() + i * max_bytes_, max_bytes_};
        msghdr& header = headers_[i].msg_hdr;
        header = {};
        header.msg_name = names_[i].get();
        header.msg_namelen = RawAddress::capacity();
        header.msg_iov = &vectors_[i];
        header.msg_iovlen = 1;
        header.msg_control = controls_[i].bytes.data();
        header.msg_controllen = controls_[i].bytes.size();
    }
    datagrams_.clear();
    const int got = ::recvmmsg(fd, headers_.data(), kBatch, MSG_DONTWAIT, nullptr);
    for (std::size_t i = 0; got > 0 && i < static_cast<std::size_t>(got); ++i) {
        const msghdr& header = headers_[i].msg_hdr;
        Datagram& out = datagrams_.emplace_back();
        out.bytes = BytesView(buffer_).subspan(i * max_bytes_, headers_[i].msg_len);
        out.cut = (header.msg_flags & MSG_TRUNC) != 0;
        out.client = names_[i].peer();
        out.server = original_destination(header);
    }
    return datagrams_;
}

Result<SpoofingSender> SpoofingSender::open(bool ipv6, std::uint32_t mark) {
    const auto failed = [&](std::string_view step) {
        return socket_error(fmt::format("raw {} socket: {}", ipv6 ? "IPv6" : "IPv4", step), errno);
    };
    Socket socket(
        ::socket(ipv6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP));
    if (!socket.open()) return failed("socket");
    const int fd = socket.fd();
    // It must not receive: a raw socket gets a copy of each datagram that matches its addresses.
    sock_filter none = BPF_STMT(BPF_RET | BPF_K, 0);
    const sock_fprog program{1, &none};
    if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0) {
        return failed("SO_ATTACH_FILTER");
    }
    if (!set_transparent(fd, ipv6)) return failed("IP_TRANSPARENT");
    if (!set_mark(fd, mark)) return failed("SO_MARK");
    const bool fragments = ipv6 ? set_option(fd, SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT)
                                : set_option(fd, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
    if (!fragments) return failed("IP_MTU_DISCOVER");
    // An address that nobody has (RFC 5737, RFC 6666): so that no datagram is even copied for it.
    // What is sent says its own source.
    const auto nobody =
        ipv6 ? *model::IpAddress::parse("100::1") : model::IpAddress::v4(192, 0, 2, 1);
    const RawAddress here(PeerAddress{nobody, 0});
    if (::bind(fd, here.get(), here.size()) != 0) return failed("bind");
    return SpoofingSender(std::move(socket));
}

bool SpoofingSender::send(const PeerAddress& from, const PeerAddress& to, BytesView bytes) {
    if (bytes.size() > 65535 - 8 - 40) return false;
    const bool ipv6 = !to.address.is_v4();
    const auto length = static_cast<std::uint16_t>(bytes.size() + 8);
    packet_.assign(8, 0);
    const auto put = [&](std::size_t at, std::uint16_t value) {
        packet_[at] = static_cast<std::uint8_t>(value >> 8);
        packet_[at + 1] = static_cast<std::uint8_t>(value);
    };
    put(0, from.port);
    put(2, to.port);
    put(4, length);
    packet_.insert(packet_.end(), bytes.begin(), bytes.end());
    Checksum sum;
    sum.add(address_bytes(from.address));
    sum.add(address_bytes(to.address));
    sum.add(std::uint32_t{IPPROTO_UDP} + length);
    sum.add(packet_);
    put(6, sum.get());

    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(in6_pktinfo))> control{};
    iovec vector{packet_.data(), packet_.size()};
    RawAddress name(PeerAddress{to.address, 0});
    msghdr header{};
    header.msg_name = name.get();
    header.msg_namelen = name.size();
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    const std::size_t size = ipv6 ? sizeof(in6_pktinfo) : sizeof(in_pktinfo);
    header.msg_controllen = CMSG_SPACE(size);
    cmsghdr* one = CMSG_FIRSTHDR(&header);
    one->cmsg_level = ipv6 ? SOL_IPV6 : SOL_IP;
    one->cmsg_type = ipv6 ? IPV6_PKTINFO : IP_PKTINFO;
    one->cmsg_len = CMSG_LEN(size);
    const BytesView source = address_bytes(from.address);
    std::memcpy(CMSG_DATA(one) + (ipv6 ? 0 : offsetof(in_pktinfo, ipi_spec_dst)), source.data(),
                source.size());
    return ::sendmsg(socket_.fd(), &header, MSG_NOSIGNAL) >= 0;
}

}  // namespace mesh::serve::dns
