#include "datapath/wireguard/uapi_socket.hpp"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "datapath/wireguard/pidfd.hpp"

namespace mesh::datapath::uapi {
namespace {

constexpr timeval kDeadline{5, 0};
constexpr std::size_t kMostBytes = std::size_t{256} << 20;

Error failure(std::string_view what, const std::string& path, int error) {
    Errc code = Errc::kUnavailable;
    if (error == ENOENT || error == ECONNREFUSED) code = Errc::kNotFound;
    if (error == EACCES || error == EPERM) code = Errc::kPermission;
    if (error == EAGAIN || error == EINPROGRESS) code = Errc::kTimeout;
    return {code,
            fmt::format("cannot {} {}: {}", what, path, std::generic_category().message(error))};
}

Result<Fd> connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return invalid_argument(fmt::format("socket path {}: expected at most {} bytes", path,
                                            sizeof address.sun_path - 1));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kDeadline, sizeof kDeadline) != 0 ||
        ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kDeadline, sizeof kDeadline) != 0 ||
        ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return failure("connect to", path, errno);
    }
    return fd;
}

}  // namespace

void wipe(std::string& text) {
    OPENSSL_cleanse(text.data(), text.size());
}

Result<std::string> exchange(const std::string& path, std::string_view request) {
    MESH_TRY(const Fd fd, connect_to(path));
    while (!request.empty()) {
        const ssize_t sent = ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return failure("write to", path, errno);
        request.remove_prefix(static_cast<std::size_t>(sent));
    }
    std::string answer;
    char buffer[16384];
    while (!answer.ends_with("\n\n")) {
        const ssize_t size = ::recv(fd.get(), buffer, sizeof buffer, 0);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return failure("read from", path, errno);
        if (size == 0) return unavailable(fmt::format("{} closed before its answer", path));
        answer.append(buffer, static_cast<std::size_t>(size));
        if (answer.size() > kMostBytes) {
            return Error(Errc::kCapacity,
                         fmt::format("answer of {} is larger than {} bytes", path, kMostBytes));
        }
    }
    OPENSSL_cleanse(buffer, sizeof buffer);
    return answer;
}

Result<Fd> listener(const std::string& path) {
    MESH_TRY(const Fd fd, connect_to(path));
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return failure("ask for the process of", path, errno);
    }
    Fd process(peer.pid > 0 ? open_pidfd(peer.pid) : -1);
    if (!process) {
        return not_found(fmt::format("the process that listens at {} cannot be seen", path));
    }
    return process;
}

}  // namespace mesh::datapath::uapi
