// A filter's surroundings in a test, and requests as data.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/l7/http1_filter.hpp"

namespace mesh::serve::l7::test {

inline std::shared_ptr<const HttpPolicy> policy_of(std::vector<model::policy::HttpRule> http) {
    auto rules = std::make_shared<model::policy::L7Rules>();
    rules->http = std::move(http);
    const std::vector<HttpPolicy::Source> sources{{rules, "CiliumNetworkPolicy test/http:1"}};
    auto made = HttpPolicy::compile(sources);
    EXPECT_TRUE(made) << (made ? "" : made.error().message());
    return made ? *made : nullptr;
}

inline std::shared_ptr<const HttpPolicy> everything() {
    const std::vector<HttpPolicy::Source> sources{{nullptr, "CiliumNetworkPolicy test/all:1"}};
    return *HttpPolicy::compile(sources);
}

class FakeHost final : public FilterHost {
  public:
    struct Logged {
        std::string line, path, reason;
        Verdict verdict;
        unsigned status;
    };
    HttpLimits bounds;
    Flow of{model::policy::Direction::kIngress,
            {model::IpAddress::v4(10, 0, 0, 1), 4000},
            {model::IpAddress::v4(10, 0, 0, 2), 80}};
    FlowPolicy answer{everything(), 1001, 1002, 0};
    bool throws = false;
    TimePoint time{std::chrono::hours(1)};
    std::vector<Logged> logged;
    int asked = 0;

    const HttpLimits& limits() const noexcept override { return bounds; }
    const Flow& flow() const noexcept override { return of; }
    TimePoint now() const noexcept override { return time; }
    const FlowPolicy& policy() override {
        ++asked;
        if (throws) throw std::runtime_error("no policy today");
        return answer;
    }
    void count(Verdict) noexcept override {}
    bool logs(Verdict) const noexcept override { return true; }
    void log(AccessRecord& record) override {
        record.flow = &of;
        std::string line;
        append_json(record, line);
        logged.push_back({line, std::string(record.path), std::string(record.reason),
                          record.verdict, record.status});
    }
};

/// A connection without sockets: what goes to whom.
struct Http1Fixture {
    FakeHost host;
    Http1Scratch scratch;
    std::unique_ptr<Http1Filter> filter = std::make_unique<Http1Filter>(host, scratch);
    std::string server, client;  // what they got

    void collect() {
        filter->to_server.take_all(server);
        filter->to_client.take_all(client);
    }
    void from_client(std::string_view bytes) {
        filter->from_client(bytes);
        collect();
    }
    void from_server(std::string_view bytes) {
        filter->from_server(bytes);
        collect();
    }
};

struct Request {
    unsigned status;
    std::string name, bytes;
};

inline std::string unescaped(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\') {
            out.push_back(text[i]);
            continue;
        }
        const char c = text[++i];
        if (c == 'x') {
            out.push_back(
                static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16)));
            i += 2;
        } else {
            out.push_back(c == 'r'   ? '\r'
                          : c == 'n' ? '\n'
                          : c == 't' ? '\t'
                          : c == '0' ? '\0'
                                     : c);
        }
    }
    return out;
}

/// @param file of tests/unit/serve/l7/requests
inline std::vector<Request> requests_of(const std::string& file) {
    std::ifstream in(std::string(MESH_SOURCE_DIR "/tests/unit/serve/l7/requests/") + file);
    std::vector<Request> out;
    for (std::string line; std::getline(in, line);) {
        if (line.empty() || line.front() == '#') continue;
        const auto name = line.find(' ');
        const auto bytes = line.find(' ', name + 1);
        out.push_back({static_cast<unsigned>(std::stoul(line.substr(0, name))),
                       line.substr(name + 1, bytes - name - 1), unescaped(line.substr(bytes + 1))});
    }
    EXPECT_GT(out.size(), 20U) << file;
    return out;
}

}  // namespace mesh::serve::l7::test
