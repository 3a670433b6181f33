// The pods of a node, one small JSON file each: who attaches a pod (mesh-cni, the sandbox) writes
// it after the pod's link is made and removes it before the link goes; the node's agent watches the
// directory. So a pod can come and go while no agent runs, and a restarted agent knows its pods.
//
//   <directory>/<id>.json:
//   {"namespace":"shop","pod":"echo-1","containerID":"","netns":"mesh-c1.node1.shop.echo-1",
//    "device":"lxc0a0a0105","podDevice":"eth0","podMAC":"02:70:0a:0a:01:05",
//    "nodeMAC":"02:71:0a:0a:01:05","ips":["10.10.1.5","fd00:10::5"]}
// Our own format.
#pragma once

#include <array>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "model/ip.hpp"
#include "runtime/clock.hpp"
#include "sources/config/directory_watcher.hpp"

namespace mesh::sources::config {

/// How a pod is attached to its node.
struct EndpointFile {
    std::string namespace_, pod;
    std::string container_id;  ///< the runtime's; may be empty
    std::string netns;         ///< the pod's network namespace: a path, or a name of ip-netns
    std::string device;        ///< the node's end of the pod's link, 1..15 bytes
    std::string pod_device = "eth0";         ///< the pod's end; a file may leave it out
    std::array<std::uint8_t, 6> pod_mac{};   ///< of the pod's end
    std::array<std::uint8_t, 6> node_mac{};  ///< of the node's end
    std::vector<model::IpAddress> ips;       ///< at least one
    friend bool operator==(const EndpointFile&, const EndpointFile&) = default;
};

/// @errors kInvalidArgument naming the field and what was expected
[[nodiscard]] Result<EndpointFile> parse_endpoint_file(std::string_view text);
[[nodiscard]] std::string encode_endpoint_file(const EndpointFile& endpoint);

/// Writes <directory>/<id>.json whole or not at all; makes the directory.
/// @param id letters, digits, ".", "_" and "-", not beginning with "."
/// @errors kInvalidArgument, kUnavailable
[[nodiscard]] Result<void> write_endpoint_file(const std::string& directory, std::string_view id,
                                               const EndpointFile& endpoint);
/// Nothing happens when there is none. @errors kInvalidArgument, kUnavailable
[[nodiscard]] Result<void> remove_endpoint_file(const std::string& directory, std::string_view id);

/// One look at the directory after the other. A file that is bad keeps the last good endpoint.
/// @thread one thread
class EndpointsScan {
  public:
    EndpointsScan(const std::string& directory, const Clock& clock, Logger log);
    /// Looks now. @return whether endpoints() is another than before
    bool scan();
    /// By id.
    [[nodiscard]] const std::map<std::string, EndpointFile>& endpoints() const { return known_; }
    /// What is wrong now, by file name; the directory's own under "". For status.
    [[nodiscard]] const std::map<std::string, std::string>& errors() const { return errors_; }

  private:
    Logger log_;
    DirectoryReader reader_;
    std::map<std::string, EndpointFile> known_;
    std::map<std::string, std::string> errors_;
};

/// Watches the directory on an executor.
/// @thread the executor's thread
class EndpointsDirectory {
  public:
    /// @param on_change called when endpoints() became another
    EndpointsDirectory(boost::asio::any_io_executor executor, const std::string& directory,
                       const Clock& clock, Logger log, std::function<void()> on_change);
    /// After stop() completed, or if start() was never called.
    ~EndpointsDirectory();
    EndpointsDirectory(const EndpointsDirectory&) = delete;
    EndpointsDirectory& operator=(const EndpointsDirectory&) = delete;

    /// Looks once before it returns, then whenever something changes.
    void start();
    [[nodiscard]] boost::asio::awaitable<void> stop();
    [[nodiscard]] const EndpointsScan& scan() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::sources::config
