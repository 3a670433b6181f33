// What a client and a server send in HTTP/2: a sequence of pieces, each with a byte that says whose
// it is (bit 7) and how long (the rest, times 8). The client's preface is put before, and both
// sides' SETTINGS if the first byte says so.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/l7/http2_filter.hpp"

using namespace mesh;
using namespace mesh::serve::l7;

namespace {

class Host final : public FilterHost {
  public:
    Host() {
        auto rules = std::make_shared<model::policy::L7Rules>();
        using model::policy::HeaderMismatch;
        rules->http = {{"GET|POST", "/.*", "", {}, {{"X-A", "b", HeaderMismatch::kReplace}}}};
        const std::vector<HttpPolicy::Source> sources{{rules, "fuzz"}};
        answer_.policy = *HttpPolicy::compile(sources);
        limits_.head = {2000, 20};
        limits_.max_streams = 5;
        limits_.reset_burst = 10;
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static Host host;
    if (size == 0) return 0;
    constexpr std::string_view kSettings("\0\0\0\4\0\0\0\0\0", 9);
    Http2Filter filter(host);
    std::string out;
    const auto take = [&] {
        out.clear();
        filter.to_client.take_all(out);
        filter.to_server.take_all(out);
        if (filter.wants_advance()) filter.advance();
    };
    std::string_view bytes(reinterpret_cast<const char*>(data), size);
    const bool settings = (bytes.front() & 1) != 0;
    bytes.remove_prefix(1);
    std::string first("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    if (settings) first.append(kSettings);
    filter.from_client(first);
    bool server_began = !settings;
    while (!bytes.empty() && filter.ending() == Ending::kNone) {
        const auto head = static_cast<std::uint8_t>(bytes.front());
        bytes.remove_prefix(1);
        const std::size_t n = std::min<std::size_t>((head & 0x7fU) * 8U + 1, bytes.size());
        std::string part(bytes.substr(0, n));
        bytes.remove_prefix(n);
        if ((head & 0x80U) != 0) {
            if (!server_began) part.insert(0, kSettings);
            server_began = true;
            filter.from_server(part);
        } else {
            filter.from_client(part);
        }
        take();
    }
    if ((size & 1U) != 0) filter.server_end();
    take();
    filter.drain();
    take();
    filter.client_end();
    return 0;
}
