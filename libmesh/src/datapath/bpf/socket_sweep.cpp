#include "datapath/bpf/socket_sweep.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "datapath/bpf/fd.hpp"
#include "datapath/bpf/pin_directory.hpp"

namespace mesh::datapath {
namespace {

// include/net/tcp_states.h; a connected UDP socket is "established".
enum : std::uint32_t { kEstablished = 1U << 1, kSynSent = 1U << 2, kCloseWait = 1U << 8 };

constexpr std::size_t kReceiveBuffer = 64 * 1024;

struct Request {
    nlmsghdr header;
    inet_diag_req_v2 body;
    nlattr storages;
    nlattr map;
    std::uint32_t map_fd;
};

struct Victim {
    std::uint8_t family;
    std::uint8_t protocol;
    inet_diag_sockid id;
};

/// The attribute of that type within [data, data + size), without its header.
std::optional<std::span<const char>> find_attribute(std::span<const char> data, unsigned type) {
    while (data.size() >= sizeof(nlattr)) {
        nlattr header{};
        std::memcpy(&header, data.data(), sizeof header);
        if (header.nla_len < sizeof header || header.nla_len > data.size()) return std::nullopt;
        if ((header.nla_type & NLA_TYPE_MASK) == type) {
            return data.subspan(sizeof header, header.nla_len - sizeof header);
        }
        data = data.subspan(std::min<std::size_t>(NLA_ALIGN(header.nla_len), data.size()));
    }
    return std::nullopt;
}

/// What the load balancer stored with the TCP socket of this answer.
std::optional<mesh_socket> stored_with(std::span<const char> attributes) {
    auto part = find_attribute(attributes, INET_DIAG_SK_BPF_STORAGES);
    if (part) part = find_attribute(*part, SK_DIAG_BPF_STORAGE);
    if (part) part = find_attribute(*part, SK_DIAG_BPF_STORAGE_MAP_VALUE);
    if (!part || part->size() < sizeof(mesh_socket)) return std::nullopt;
    mesh_socket stored{};
    std::memcpy(&stored, part->data(), sizeof stored);
    return stored;
}

/// The socket still talks to the backend that the storage tells of.
bool talks_to_peer(const inet_diag_msg& answer, const mesh_socket& stored) {
    std::array<std::uint32_t, 4> peer{};
    std::memcpy(peer.data(), answer.id.idiag_dst, sizeof peer);
    if (answer.idiag_family == AF_INET) peer = {0, 0, htonl(0xffff), answer.id.idiag_dst[0]};
    return std::memcmp(peer.data(), stored.peer_address, sizeof peer) == 0 &&
           answer.id.idiag_dport == stored.peer_port;
}

model::IpAddress address_of(const __u32 (&words)[4]) {
    model::IpAddress::Bytes bytes{};
    std::memcpy(bytes.data(), words, bytes.size());
    return model::IpAddress(bytes);
}

ServiceSocket to_socket(const inet_diag_msg& answer, std::uint8_t protocol,
                        const mesh_socket& stored) {
    return {.proto = static_cast<Protocol>(protocol),
            .backend = address_of(stored.peer_address),
            .port = ntohs(stored.peer_port),
            .frontend = address_of(stored.vip_address),
            .frontend_port = ntohs(stored.vip_port),
            .established = (1U << answer.idiag_state & kSynSent) == 0,
            .live = false};
}

using Ends = std::function<bool(ServiceSocket&, std::uint64_t choice)>;

class Sweep {
  public:
    Sweep(SocketMapFds maps, const Ends& ends) : maps_(maps), ends_(ends) {}

    /// In the calling thread's network namespace.
    Result<void> run(BpfDatapath::SocketKinds kinds, SweepStats& stats) {
        socket_ = Fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
        if (!socket_) return system_error("cannot open a sock_diag socket", errno);
        for (const std::uint8_t family : {std::uint8_t{AF_INET}, std::uint8_t{AF_INET6}}) {
            if (kinds.udp) MESH_CHECK(collect(family, IPPROTO_UDP, kEstablished, stats));
            if (!kinds.tcp) continue;
            MESH_CHECK(collect(family, IPPROTO_TCP, kEstablished | kSynSent | kCloseWait, stats));
        }
        for (const Victim& victim : victims_) MESH_CHECK(end(victim, stats));
        victims_.clear();
        return {};
    }

  private:
    Result<void> collect(std::uint8_t family, std::uint8_t protocol, std::uint32_t states,
                         SweepStats& stats) {
        Request request{};
        request.header.nlmsg_len = sizeof request;
        request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
        request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.body.sdiag_family = family;
        request.body.sdiag_protocol = protocol;
        request.body.idiag_states = states;
        request.storages = {sizeof(nlattr) * 2 + sizeof(std::uint32_t),
                            INET_DIAG_REQ_SK_BPF_STORAGES | NLA_F_NESTED};
        request.map = {sizeof(nlattr) + sizeof(std::uint32_t), SK_DIAG_BPF_STORAGE_REQ_MAP_FD};
        request.map_fd = static_cast<std::uint32_t>(maps_.sockets);
        if (::send(socket_.get(), &request, sizeof request, 0) < 0) {
            return system_error("cannot ask sock_diag", errno);
        }
        return receive([&](const nlmsghdr& header, std::span<const char> payload) {
            if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
                payload.size() < sizeof(inet_diag_msg)) {
                return;
            }
            inet_diag_msg answer{};
            std::memcpy(&answer, payload.data(), sizeof answer);
            const auto stored = protocol == IPPROTO_UDP
                                    ? stored_by_cookie(answer.id)
                                    : stored_with(payload.subspan(NLA_ALIGN(sizeof answer)));
            if (!stored || (stored->flags & MESH_SOCKET_CONNECTED) == 0) return;
            if (!talks_to_peer(answer, *stored)) return;
            ++stats.sockets_seen;
            ServiceSocket socket = to_socket(answer, protocol, *stored);
            if (ends_(socket, stored->choice)) victims_.push_back({family, protocol, answer.id});
        });
    }

    [[nodiscard]] std::optional<mesh_socket> stored_by_cookie(const inet_diag_sockid& id) const {
        const std::uint64_t cookie = (std::uint64_t{id.idiag_cookie[1]} << 32) | id.idiag_cookie[0];
        mesh_socket stored{};
        if (bpf_map_lookup_elem(maps_.udp_connected, &cookie, &stored) != 0) return std::nullopt;
        return stored;
    }

    Result<void> end(const Victim& victim, SweepStats& stats) {
        struct {
            nlmsghdr header;
            inet_diag_req_v2 body;
        } request{};
        request.header.nlmsg_len = sizeof request;
        request.header.nlmsg_type = SOCK_DESTROY;
        request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
        request.body.sdiag_family = victim.family;
        request.body.sdiag_protocol = victim.protocol;
        request.body.idiag_states = ~0U;
        request.body.id = victim.id;
        if (::send(socket_.get(), &request, sizeof request, 0) < 0) {
            return system_error("cannot ask sock_diag", errno);
        }
        auto ended = receive([](const nlmsghdr&, std::span<const char>) {});
        if (ended) ++stats.sockets_ended;
        // The application closed it meanwhile.
        if (!ended && ended.error().code() == Errc::kNotFound) return {};
        return ended;
    }

    /// Hands out messages until the answer is complete.
    template <class Visit>
    Result<void> receive(const Visit& visit) {
        alignas(nlmsghdr) std::array<char, kReceiveBuffer> buffer{};
        for (;;) {
            const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return system_error("sock_diag", errno);
            std::span<const char> left(buffer.data(), static_cast<std::size_t>(got));
            while (left.size() >= sizeof(nlmsghdr)) {
                nlmsghdr header{};
                std::memcpy(&header, left.data(), sizeof header);
                if (header.nlmsg_len < sizeof header || header.nlmsg_len > left.size()) break;
                const auto payload = left.subspan(sizeof header, header.nlmsg_len - sizeof header);
                if (header.nlmsg_type == NLMSG_DONE) return {};
                if (header.nlmsg_type == NLMSG_ERROR) return acknowledgement(payload);
                visit(header, payload);
                left =
                    left.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), left.size()));
            }
        }
    }

    static Result<void> acknowledgement(std::span<const char> payload) {
        int error = -EPROTO;
        if (payload.size() >= sizeof error) std::memcpy(&error, payload.data(), sizeof error);
        if (error == 0) return {};
        if (error == -ENOENT) return not_found("sock_diag: no such socket");
        return system_error("sock_diag", error);
    }

    SocketMapFds maps_;
    const Ends& ends_;
    Fd socket_;
    std::vector<Victim> victims_;
};

Result<SweepStats> sweep_all(std::span<const std::string> netns_paths, SocketMapFds maps,
                             BpfDatapath::SocketKinds kinds, const Ends& ends) {
    SweepStats stats;
    std::optional<Error> first_error;
    for (const std::string& path : netns_paths) {
        const Fd netns(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        Result<void> swept;
        if (!netns || ::setns(netns.get(), CLONE_NEWNET) != 0) {
            swept = invalid_argument("expected a network namespace: " +
                                     std::generic_category().message(errno));
        } else {
            swept = Sweep(maps, ends).run(kinds, stats);
        }
        if (!swept && !first_error) first_error = swept.error().with_prefix(path);
    }
    if (first_error) return *std::move(first_error);
    return stats;
}

}  // namespace

Result<SweepStats> end_sockets(std::span<const std::string> netns_paths, SocketMapFds maps,
                               BpfDatapath::SocketKinds kinds, const Ends& ends) {
    // A thread of its own: setns changes the namespace of the thread that calls it, for good.
    Result<SweepStats> result = SweepStats{};
    std::thread([&] { result = sweep_all(netns_paths, maps, kinds, ends); }).join();
    return result;
}

}  // namespace mesh::datapath
