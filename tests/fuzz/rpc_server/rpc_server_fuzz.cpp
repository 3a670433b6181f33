// The byte stream that a client sends to a server, in pieces, with time passing in between. The
// first byte of the input chooses the size of the pieces and whether the connection preface is put
// before.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "rpc/server_session.hpp"

using namespace mesh;
using namespace mesh::rpc;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    ManualClock clock;
    auto core = std::make_shared<detail::ServerCore>(
        detail::ServerCore{{}, clock, {}, {}, {}, {}, {}, {}, {}});
    core->options.max_message_bytes = 2000;
    core->options.max_send_queue_bytes = 4000;
    core->options.max_concurrent_streams = 10;
    core->options.max_header_bytes = 1000;
    core->routes["/f/Unary"].unary = [](const ServerCallPtr& call, std::string_view m) {
        call->reply(make_frame(m));
    };
    core->routes["/f/Echo"].stream = [](const ServerCallPtr& call) {
        call->on_message([call](std::string_view m) {
            if (m.size() > 1000) call->pause();
            if (call->write(make_frame(m)) == Write::kFull)
                call->finish({StatusCode::kResourceExhausted, "full"});
        });
        call->on_half_close([call] { call->finish({}, {{"n", "1"}}); });
    };
    {
        detail::ServerSession session(core, std::make_shared<Peer>());
        const std::size_t piece = 1 + (data[0] & 0x3fU) * 8U;
        std::string bytes;
        if ((data[0] & 0x80U) != 0)
            bytes.assign("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").append("\0\0\0\4\0\0\0\0\0", 9);
        bytes.append(reinterpret_cast<const char*>(data) + 1, size - 1);
        std::string out;
        for (std::string_view rest = bytes; !rest.empty() && !session.finished();) {
            const std::string_view now = rest.substr(0, piece);
            rest.remove_prefix(now.size());
            // A copy of exact size, so that a sanitizer sees reads behind its end.
            const std::string exact(now);
            if (!session.receive(exact, clock.now())) break;
            session.turn();
            out.clear();
            session.produce(out, 16384);
            clock.advance(std::chrono::milliseconds(10));
            if (session.next_timeout() <= clock.now()) session.on_timeout(clock.now());
        }
    }
    if (core->stats.calls != 0) std::abort();  // every call must have been told its end
    return 0;
}
