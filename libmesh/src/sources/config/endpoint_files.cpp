#include "sources/config/endpoint_files.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "pki/files.hpp"
#include "runtime/task_group.hpp"

namespace mesh::sources::config {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr std::string_view kSuffix = ".json";
constexpr std::size_t kMaxFileBytes = 16 * 1024;
constexpr std::size_t kMaxIps = 16;
constexpr std::size_t kMaxDevice = 15;  // IFNAMSIZ without the final zero

using Mac = std::array<std::uint8_t, 6>;

std::optional<Mac> parse_mac(std::string_view text) {
    Mac mac{};
    if (text.size() != 17) return std::nullopt;
    for (std::size_t i = 0; i < mac.size(); ++i) {
        const char* at = text.data() + 3 * i;
        const auto [end, ec] = std::from_chars(at, at + 2, mac[i], 16);
        if (ec != std::errc{} || end != at + 2) return std::nullopt;
        if (i + 1 < mac.size() && at[2] != ':') return std::nullopt;
    }
    return mac;
}

std::string mac_text(const Mac& mac) {
    return fmt::format("{:02x}", fmt::join(mac, ":"));
}

bool is_id(std::string_view id) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-';
    };
    return !id.empty() && id.front() != '.' && id.size() <= 240 && std::ranges::all_of(id, allowed);
}

Result<std::string> path_of(const std::string& directory, std::string_view id) {
    if (!is_id(id)) {
        return invalid_argument(fmt::format(
            "endpoint id \"{}\": expected letters, digits, \".\", \"_\" and \"-\"", id));
    }
    return fmt::format("{}/{}{}", directory, id, kSuffix);
}

Error expected(std::string_view field, std::string_view what) {
    return invalid_argument(fmt::format("{}: expected {}", field, what));
}

Result<std::string> text_field(const json::object& object, std::string_view name, bool required) {
    const auto* value = object.if_contains(name);
    if (value == nullptr && !required) return std::string();
    if (value == nullptr || !value->is_string() || (required && value->get_string().empty())) {
        return expected(name, "a text");
    }
    return std::string(value->get_string());
}

Result<Mac> mac_field(const json::object& object, std::string_view name) {
    MESH_TRY(const std::string text, text_field(object, name, true));
    if (const auto mac = parse_mac(text)) return *mac;
    return expected(name, "six bytes in hexadecimal with \":\" between");
}

}  // namespace

Result<EndpointFile> parse_endpoint_file(std::string_view text) {
    boost::system::error_code ec;
    const json::value document = json::parse(text, ec);
    if (ec || !document.is_object()) return invalid_argument("expected a JSON object");
    const json::object& object = document.get_object();
    EndpointFile file;
    MESH_TRY(file.namespace_, text_field(object, "namespace", true));
    MESH_TRY(file.pod, text_field(object, "pod", true));
    MESH_TRY(file.container_id, text_field(object, "containerID", false));
    MESH_TRY(file.netns, text_field(object, "netns", false));
    MESH_TRY(file.device, text_field(object, "device", true));
    if (file.device.size() > kMaxDevice) return expected("device", "1 to 15 bytes");
    if (object.contains("podDevice")) {
        MESH_TRY(file.pod_device, text_field(object, "podDevice", true));
        if (file.pod_device.size() > kMaxDevice) return expected("podDevice", "1 to 15 bytes");
    }
    MESH_TRY(file.pod_mac, mac_field(object, "podMAC"));
    MESH_TRY(file.node_mac, mac_field(object, "nodeMAC"));
    const auto* ips = object.if_contains("ips");
    if (ips == nullptr || !ips->is_array() || ips->get_array().empty() ||
        ips->get_array().size() > kMaxIps) {
        return expected("ips", fmt::format("a list of 1 to {} addresses", kMaxIps));
    }
    for (const json::value& ip : ips->get_array()) {
        if (!ip.is_string()) return expected("ips", "addresses as text");
        auto address = model::IpAddress::parse(std::string_view(ip.get_string()));
        if (!address) return address.error().with_prefix("ips");
        file.ips.push_back(*address);
    }
    return file;
}

std::string encode_endpoint_file(const EndpointFile& endpoint) {
    json::array ips;
    for (const auto& ip : endpoint.ips) ips.emplace_back(ip.to_string());
    const json::object object{{"namespace", endpoint.namespace_},
                              {"pod", endpoint.pod},
                              {"containerID", endpoint.container_id},
                              {"netns", endpoint.netns},
                              {"device", endpoint.device},
                              {"podDevice", endpoint.pod_device},
                              {"podMAC", mac_text(endpoint.pod_mac)},
                              {"nodeMAC", mac_text(endpoint.node_mac)},
                              {"ips", std::move(ips)}};
    return json::serialize(object) + "\n";
}

Result<void> write_endpoint_file(const std::string& directory, std::string_view id,
                                 const EndpointFile& endpoint) {
    MESH_TRY(const std::string path, path_of(directory, id));
    std::error_code ec;
    std::filesystem::create_directories(directory, ec);
    if (ec) return unavailable(fmt::format("{}: {}", directory, ec.message()));
    return pki::write_file(path, encode_endpoint_file(endpoint), pki::FileMode::kPublic);
}

Result<void> remove_endpoint_file(const std::string& directory, std::string_view id) {
    MESH_TRY(const std::string path, path_of(directory, id));
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    return unavailable(fmt::format("{}: {}", path, std::generic_category().message(errno)));
}

EndpointsScan::EndpointsScan(const std::string& directory, const Clock& clock, Logger log)
    : log_(std::move(log)),
      reader_(directory, clock, [](std::string_view name) { return name.ends_with(kSuffix); },
              {.max_files = 20'000, .max_file_bytes = kMaxFileBytes}) {}

bool EndpointsScan::scan() {
    auto changes = reader_.read();
    const auto refuse = [&](const std::string& name, const std::string& text) {
        log_.warn("endpoint {}: {}", name.empty() ? "directory" : name, text);
        errors_.insert_or_assign(name, text);
    };
    if (!changes) {
        // Whoever attaches the first pod makes it.
        const bool absent = changes.error().code() == Errc::kNotFound;
        if (!absent && !errors_.contains("")) refuse("", changes.error().message());
        return false;
    }
    errors_.erase("");
    bool changed = false;
    const auto id_of = [](const std::string& name) {
        return name.substr(0, name.size() - kSuffix.size());
    };
    for (const std::string& name : changes->removed) {
        errors_.erase(name);
        changed |= known_.erase(id_of(name)) != 0;
    }
    for (const auto& failure : changes->failed) refuse(failure.name, failure.error.message());
    for (const auto& file : changes->changed) {
        auto endpoint = parse_endpoint_file(file.content);
        if (!endpoint) {
            refuse(file.name, endpoint.error().message());
            continue;
        }
        errors_.erase(file.name);
        auto& held = known_[id_of(file.name)];
        changed |= held != *endpoint;
        held = *std::move(endpoint);
    }
    return changed;
}

struct EndpointsDirectory::Impl {
    Impl(const asio::any_io_executor& executor, const std::string& directory, const Clock& clock,
         const Logger& log, std::function<void()> on)
        : on_change(std::move(on)),
          scan(directory, clock, log),
          // A pod waits for it: there is nothing to gather first.
          watcher(std::in_place, executor, directory, log,
                  DirectoryWatcherOptions{.quiet = std::chrono::milliseconds(2),
                                          .quiet_limit = std::chrono::milliseconds(20)}),
          tasks(executor) {}

    void look() {
        if (scan.scan() && !stopping) on_change();
    }

    asio::awaitable<void> watch() {
        while (!stopping) {
            // A variable of its own: g++ 12 loses the frame of a loop that awaits in its condition.
            const Result<void> changed = co_await watcher->async_changed();
            if (!changed) co_return;
            if (!stopping) look();
        }
    }

    std::function<void()> on_change;
    EndpointsScan scan;
    std::optional<DirectoryWatcher> watcher;
    bool stopping = false;
    TaskGroup tasks;
};

EndpointsDirectory::EndpointsDirectory(asio::any_io_executor executor, const std::string& directory,
                                       const Clock& clock, Logger log,
                                       std::function<void()> on_change)
    : impl_(std::make_unique<Impl>(executor, directory, clock, log, std::move(on_change))) {}

EndpointsDirectory::~EndpointsDirectory() = default;

void EndpointsDirectory::start() {
    impl_->look();
    impl_->tasks.spawn(impl_->watch());
}

asio::awaitable<void> EndpointsDirectory::stop() {
    impl_->stopping = true;
    impl_->tasks.cancel();
    co_await impl_->tasks.join();
    impl_->watcher.reset();
}

const EndpointsScan& EndpointsDirectory::scan() const {
    return impl_->scan;
}

}  // namespace mesh::sources::config
