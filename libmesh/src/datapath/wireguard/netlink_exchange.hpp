// A netlink socket of any protocol, one request and its answer at a time. Internal to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/bpf/fd.hpp"
#include "datapath/netlink/message.hpp"
#include "datapath/netlink/netns.hpp"

namespace mesh::datapath {

/// @errors of exchange(): kNotFound, kConflict, kPermission, kInvalidArgument, else kUnavailable
/// @thread same object not concurrently
class NetlinkExchange {
  public:
    using On = std::function<void(std::uint16_t type, std::span<const std::byte> body)>;

    /// @param protocol e.g. NETLINK_GENERIC
    [[nodiscard]] static Result<NetlinkExchange> open(const Netns& netns, int protocol);

    /// Sends the message and calls for each message of its answer; wipes what was sent and
    /// received, which may hold keys.
    /// @param what for the error: "find family wireguard"
    [[nodiscard]] Result<void> exchange(detail::Message message, std::string_view what,
                                        const On& on = {});

  private:
    NetlinkExchange(Fd fd, std::string netns);
    [[nodiscard]] Result<void> receive(std::uint32_t sequence, bool acknowledged, bool dump,
                                       std::string_view what, const On& on);
    [[nodiscard]] Result<void> outcome(int error, std::string_view what) const;

    Fd fd_;
    std::string netns_;
    std::uint32_t sequence_ = 0;
    std::vector<std::byte> buffer_;
};

}  // namespace mesh::datapath
