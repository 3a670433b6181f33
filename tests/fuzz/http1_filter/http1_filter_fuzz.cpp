// What a client and a server send, in pieces: bytes behind a 0xff byte are the server's, until the
// next one. The first byte chooses the size of the pieces. What reaches the server must be requests
// that pass again, byte for byte: nothing in it that this parser would refuse.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/l7/http1_filter.hpp"

using namespace mesh;
using namespace mesh::serve::l7;

namespace {

class Host final : public FilterHost {
  public:
    Host() {
        auto rules = std::make_shared<model::policy::L7Rules>();
        using model::policy::HeaderMismatch;
        rules->http = {{"[A-Z]+", "/.*", "", {}, {}},
                       {"OPTIONS", "\\*", "", {}, {{"X-A", "b", HeaderMismatch::kReplace}}}};
        const std::vector<HttpPolicy::Source> sources{{rules, "fuzz"}};
        answer_.policy = *HttpPolicy::compile(sources);
        limits_.head = {2000, 20};
        limits_.max_pipelined = 4;
        limits_.max_discarded = 100;
    }
    const HttpLimits& limits() const noexcept override { return limits_; }
    const Flow& flow() const noexcept override { return flow_; }
    TimePoint now() const noexcept override { return TimePoint(std::chrono::hours(1)); }
    const FlowPolicy& policy() override { return answer_; }
    void count(Verdict) noexcept override {}
    bool logs(Verdict) const noexcept override { return true; }
    void log(AccessRecord& record) override {
        line_.clear();
        append_json(record, line_);
    }

  private:
    HttpLimits limits_;
    Flow flow_;
    FlowPolicy answer_;
    std::string line_;
};

/// Gives all of it to a filter whose server answers nothing but what is needed to go on.
void check_again(Host& host, std::string_view sent) {
    Http1Scratch scratch;
    Http1Filter filter(host, scratch);
    std::string server, client;
    filter.from_client(sent);
    filter.to_server.take_all(server);
    filter.to_client.take_all(client);
    if (client.starts_with("HTTP/1.1 4") || client.starts_with("HTTP/1.1 5")) std::abort();
    if (std::string_view(sent).substr(0, server.size()) != server) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static Host host;
    if (size == 0) return 0;
    const std::size_t piece = 1 + (data[0] & 0x3fU) * 8U;
    std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
    Http1Scratch scratch;
    Http1Filter filter(host, scratch);
    std::string server, client;
    bool of_server = false;
    while (!bytes.empty() && filter.ending() == Ending::kNone) {
        if (bytes.front() == '\xff') {
            of_server = !of_server;
            bytes.remove_prefix(1);
            continue;
        }
        const std::size_t most = std::min(piece, std::min(bytes.find('\xff'), bytes.size()));
        const std::string part(bytes.substr(0, most));
        bytes.remove_prefix(most);
        if (of_server) {
            filter.from_server(part);
        } else if (filter.reads_client()) {
            filter.from_client(part);
        }
        filter.to_client.take_all(client);
        filter.to_server.take_all(server);
    }
    filter.client_end();
    filter.server_end();
    filter.to_client.take_all(client);
    filter.to_server.take_all(server);
    // A tunnel's bytes are no requests.
    if (client.find(" 101 ") == std::string::npos) check_again(host, server);
    return 0;
}
