#include "load.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

namespace mesh::bench {

namespace {

std::string path_of(int pid, std::string_view file) {
    return "/proc/" + std::to_string(pid) + "/" + std::string(file);
}

/// One field after another of a Protobuf message.
class Fields {
  public:
    explicit Fields(std::string_view message) : rest_(message) {}

    /// @return whether there was one; broken() tells an end from nonsense
    bool next() {
        if (rest_.empty()) return false;
        const std::uint64_t tag = varint();
        number = tag >> 3;
        bytes = {};
        switch (tag & 7) {
            case 0:
                value = varint();
                break;
            case 2: {
                const std::uint64_t length = varint();
                if (length > rest_.size()) broken_ = true;
                bytes = rest_.substr(0, length);
                rest_.remove_prefix(broken_ ? rest_.size() : length);
                break;
            }
            default:
                broken_ = true;
        }
        return !broken_;
    }
    [[nodiscard]] bool broken() const { return broken_; }

    std::uint64_t number = 0;
    std::uint64_t value = 0;
    std::string_view bytes;

  private:
    std::uint64_t varint() {
        std::uint64_t out = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            if (rest_.empty()) break;
            const auto byte = static_cast<std::uint8_t>(rest_.front());
            rest_.remove_prefix(1);
            out |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
            if (byte < 0x80) return out;
        }
        broken_ = true;
        return 0;
    }

    std::string_view rest_;
    bool broken_ = false;
};

}  // namespace

double cpu_seconds_of(int pid) {
    std::ifstream in(path_of(pid, "stat"));
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    const auto name_end = text.rfind(')');
    if (name_end == std::string::npos) return 0;
    std::istringstream fields(text.substr(name_end + 2));
    std::string skip;
    for (int i = 0; i < 11; ++i) fields >> skip;
    double user = 0;
    double system = 0;
    fields >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double memory_kib_of(int pid, std::string_view field) {
    std::ifstream in(path_of(pid, "status"));
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with(field)) return std::stod(line.substr(field.size()));
    }
    return 0;
}

void reset_peak_of(int pid) {
    std::ofstream(path_of(pid, "clear_refs")) << "5";
}

void raise_open_files() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

std::shared_ptr<rpc::TlsCredentials> credentials(const Files& files) {
    if (files.ca.empty()) return nullptr;
    auto tls = rpc::TlsCredentials::load(
        rpc::TlsRole::kClient,
        {.ca_file = files.ca, .cert_file = files.cert, .key_file = files.key}, {});
    if (!tls) {
        std::cerr << tls.error().message() << "\n";
        std::exit(1);
    }
    return *tls;
}

rpc::ChannelOptions channel_options(const std::string& address,
                                    std::shared_ptr<rpc::TlsCredentials> tls) {
    const auto colon = address.rfind(':');
    rpc::ChannelOptions options;
    options.host = address.substr(0, colon);
    int port = 0;
    std::from_chars(address.data() + colon + 1, address.data() + address.size(), port);
    options.port = static_cast<std::uint16_t>(port);
    options.tls = std::move(tls);
    return options;
}

std::optional<RangePage> scan_range(std::string_view message) {
    RangePage page;
    std::string_view last;
    Fields answer(message);
    while (answer.next()) {
        if (answer.number == 1) {
            Fields header(answer.bytes);
            while (header.next())
                if (header.number == 3) page.revision = static_cast<std::int64_t>(header.value);
        } else if (answer.number == 2) {
            ++page.keys;
            last = answer.bytes;
        } else if (answer.number == 3) {
            page.more = answer.value != 0;
        }
    }
    Fields kv(last);
    while (kv.next())
        if (kv.number == 1) page.last_key = kv.bytes;
    if (answer.broken() || kv.broken()) return std::nullopt;
    return page;
}

double quantile(std::vector<float>& values, double q) {
    if (values.empty()) return 0;
    std::ranges::sort(values);
    const auto at = static_cast<std::size_t>(q * static_cast<double>(values.size()));
    return static_cast<double>(values[std::min(at, values.size() - 1)]);
}

}  // namespace mesh::bench
