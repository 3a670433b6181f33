// What the clients of the fan-out, storm and stall benchmarks share: what the measured server costs
// as /proc tells it, channels to it, and a reader of range answers that is cheaper than any server.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/client.hpp"
#include "rpc/tls.hpp"

namespace mesh::bench {

/// User + system CPU seconds of a process.
[[nodiscard]] double cpu_seconds_of(int pid);
/// A line of /proc/PID/status in KiB. @param field e.g. "VmRSS:", "VmHWM:"
[[nodiscard]] double memory_kib_of(int pid, std::string_view field);
/// VmHWM counts from here on.
void reset_peak_of(int pid);
/// Thousands of connections: the soft limit of open files becomes the hard one.
void raise_open_files();

/// A client's certificate.
struct Files {
    std::string ca, cert, key;
};
/// Null without files: plain HTTP/2. Prints and exits when a file is unusable.
[[nodiscard]] std::shared_ptr<rpc::TlsCredentials> credentials(const Files& files);
/// @param address "127.0.0.1:2379"
[[nodiscard]] rpc::ChannelOptions channel_options(const std::string& address,
                                                  std::shared_ptr<rpc::TlsCredentials> tls);

/// What a client must know of a RangeResponse to ask for the next page; nothing is copied.
struct RangePage {
    std::int64_t revision = 0;
    std::uint64_t keys = 0;
    std::string_view last_key;
    bool more = false;
};
/// @return nullopt if it is no such message
[[nodiscard]] std::optional<RangePage> scan_range(std::string_view message);

/// Sorts. 0 without values.
[[nodiscard]] double quantile(std::vector<float>& values, double q);

}  // namespace mesh::bench
