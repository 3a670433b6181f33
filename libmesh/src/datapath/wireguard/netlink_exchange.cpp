#include "datapath/wireguard/netlink_exchange.hpp"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace mesh::datapath {
namespace {

using detail::aligned;
using detail::read_as;
using Bytes = std::span<const std::byte>;

// The kernel fills at most 32 KiB per datagram of a dump.
constexpr std::size_t kBufferBytes = std::size_t{64} * 1024;
// It answers within the system call, but for the load of a module.
constexpr timeval kDeadline{10, 0};

Errc code_of(int error) {
    switch (error) {
        case EEXIST:
            return Errc::kConflict;
        case ENOENT:
        case ENODEV:
        case EOPNOTSUPP:
            return Errc::kNotFound;
        case EPERM:
        case EACCES:
            return Errc::kPermission;
        case EINVAL:
        case ERANGE:
            return Errc::kInvalidArgument;
        case EAGAIN:
            return Errc::kTimeout;
        default:
            return Errc::kUnavailable;
    }
}

void wipe(Bytes bytes) {
    OPENSSL_cleanse(const_cast<std::byte*>(bytes.data()), bytes.size());
}

}  // namespace

NetlinkExchange::NetlinkExchange(Fd fd, std::string netns)
    : fd_(std::move(fd)), netns_(std::move(netns)), buffer_(kBufferBytes) {}

Result<NetlinkExchange> NetlinkExchange::open(const Netns& netns, int protocol) {
    MESH_TRY(const NetnsScope scope, NetnsScope::enter(netns));
    Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kDeadline, sizeof kDeadline) != 0) {
        return Error(code_of(errno), fmt::format("open netlink in {}: {}", netns.name(),
                                                 std::generic_category().message(errno)));
    }
    return NetlinkExchange(std::move(fd), netns.name());
}

Result<void> NetlinkExchange::exchange(detail::Message message, std::string_view what,
                                       const On& on) {
    const std::uint32_t sequence = ++sequence_;
    const Bytes bytes = message.finish(sequence);
    const auto flags = read_as<nlmsghdr>(bytes).nlmsg_flags;
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    const ssize_t sent = ::sendto(fd_.get(), bytes.data(), bytes.size(), 0,
                                  reinterpret_cast<sockaddr*>(&kernel), sizeof kernel);
    const int error = errno;
    wipe(bytes);
    if (sent < 0) return outcome(error, what);
    auto result =
        receive(sequence, (flags & NLM_F_ACK) != 0, (flags & NLM_F_DUMP) == NLM_F_DUMP, what, on);
    wipe(buffer_);
    return result;
}

Result<void> NetlinkExchange::receive(std::uint32_t sequence, bool acknowledged, bool dump,
                                      std::string_view what, const On& on) {
    bool interrupted = false;
    for (;;) {
        const ssize_t size = ::recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return outcome(errno, what);
        Bytes rest(buffer_.data(), static_cast<std::size_t>(size));
        while (rest.size() >= sizeof(nlmsghdr)) {
            const auto header = read_as<nlmsghdr>(rest);
            if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size()) break;
            const Bytes body = rest.subspan(sizeof header, header.nlmsg_len - sizeof header);
            rest = rest.subspan(std::min(aligned(header.nlmsg_len), rest.size()));
            if (header.nlmsg_seq != sequence) continue;
            interrupted = interrupted || (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            // Both begin with the outcome; that of a dump may fail at its end.
            if (header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR) {
                const int error = -read_as<int>(body);
                if (error != 0 || !interrupted) return outcome(error, what);
                return unavailable(fmt::format("{} in {}: it changed meanwhile", what, netns_));
            }
            if (on) on(header.nlmsg_type, body);
            if (!dump && !acknowledged) return {};
        }
    }
}

Result<void> NetlinkExchange::outcome(int error, std::string_view what) const {
    if (error == 0) return {};
    return Error(code_of(error),
                 fmt::format("{} in {}: {}", what, netns_, std::generic_category().message(error)));
}

}  // namespace mesh::datapath
