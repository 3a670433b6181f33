// One call of the etcd API with requests as they travel, for what etcdctl does not send.
// Usage: etcd_raw_call PORT METHOD ANSWERS < requests, one a line, in hexadecimal
// Prints each answer in hexadecimal, and "status CODE TEXT" if the call ended. A call with ANSWERS
// above 0 is left after so many; one with 0 is half-closed and awaited to its end.
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>

#include "rpc/client.hpp"
#include "rpc/frame.hpp"
#include "runtime/clock.hpp"

namespace {

using namespace mesh;

std::string from_hex(std::string_view text) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < text.size(); i += 2)
        bytes.push_back(
            static_cast<char>(std::strtol(std::string(text.substr(i, 2)).c_str(), nullptr, 16)));
    return bytes;
}

void print_hex(std::string_view bytes) {
    for (const char c : bytes) std::printf("%02x", static_cast<unsigned char>(c));
    std::printf("\n");
}

int run(std::uint16_t port, const std::string& method, int answers) {
    boost::asio::io_context loop(1);
    const SystemClock clock;
    rpc::ChannelOptions options;
    options.host = "127.0.0.1";
    options.port = port;
    rpc::Channel channel(loop.get_executor(), options, clock, Logger());
    std::optional<Result<void>> connected;
    channel.connect([&](const Result<void>& done) { connected = done; });
    while (!connected) loop.run_one();
    if (!*connected) {
        std::fprintf(stderr, "%s\n", connected->error().message().c_str());
        return 1;
    }
    int seen = 0;
    std::optional<rpc::Status> ended;
    auto call = channel.call(
        method, {},
        {.on_headers = {},
         .on_message =
             [&](std::string_view bytes) {
                 ++seen;
                 print_hex(bytes);
             },
         .on_writable = {},
         .on_end = [&](const rpc::Status& status, const rpc::Metadata&) { ended = status; }});
    for (std::string line; std::getline(std::cin, line);)
        if (call->write(rpc::make_frame(from_hex(line))) != rpc::Write::kQueued) return 1;
    if (answers == 0) call->half_close();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!ended && (answers == 0 || seen < answers) &&
           std::chrono::steady_clock::now() < deadline)
        loop.run_one_for(std::chrono::milliseconds(100));
    if (ended) std::printf("status %d %s\n", static_cast<int>(ended->code), ended->message.c_str());
    call->cancel();
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: etcd_raw_call PORT METHOD ANSWERS\n");
        return 2;
    }
    return run(static_cast<std::uint16_t>(std::atoi(argv[1])), argv[2], std::atoi(argv[3]));
}
