#include "attach/container_endpoint.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "attach/directory_lock.hpp"
#include "pki/files.hpp"

namespace mesh::attach {

namespace config = sources::config;

namespace {

constexpr std::string_view kSuffix = ".json";
constexpr std::size_t kMaxFileBytes = 16 * 1024;

bool is_leftover(std::string_view name) {
    return name.starts_with('.') && name.find(".json.") != std::string_view::npos;
}

// Under the lock, so that no file is being written.
Result<void> remove_by_search(const std::string& directory, std::string_view container_id,
                              std::string_view pod_device) {
    std::error_code ec;
    std::vector<std::string> ids;
    std::filesystem::directory_iterator at(directory, ec);
    for (const std::filesystem::directory_iterator end; !ec && at != end; at.increment(ec)) {
        const std::string name = at->path().filename().string();
        if (is_leftover(name)) {
            (void)::unlink(at->path().c_str());
        } else if (name.ends_with(kSuffix)) {
            ids.push_back(name.substr(0, name.size() - kSuffix.size()));
        }
    }
    if (ec) return unavailable(fmt::format("{}: {}", directory, ec.message()));
    for (const std::string& id : ids) {
        if (!read_container_endpoint(directory, id, container_id, pod_device)) continue;
        MESH_CHECK(config::remove_endpoint_file(directory, id));
    }
    return {};
}

}  // namespace

Result<void> write_container_endpoint(const std::string& directory, std::string_view id,
                                      const config::EndpointFile& endpoint) {
    MESH_TRY(const DirectoryLock lock, DirectoryLock::take(directory));
    return config::write_endpoint_file(directory, id, endpoint);
}

Result<void> remove_container_endpoint(const std::string& directory, std::string_view id,
                                       std::string_view container_id, std::string_view pod_device) {
    if (::access(directory.c_str(), F_OK) != 0 && errno == ENOENT) return {};
    MESH_TRY(const DirectoryLock lock, DirectoryLock::take(directory));
    if (read_container_endpoint(directory, id, container_id, pod_device)) {
        return config::remove_endpoint_file(directory, id);
    }
    return remove_by_search(directory, container_id, pod_device);
}

Result<config::EndpointFile> read_container_endpoint(const std::string& directory,
                                                     std::string_view id,
                                                     std::string_view container_id,
                                                     std::string_view pod_device) {
    const std::string path = fmt::format("{}/{}{}", directory, id, kSuffix);
    MESH_TRY(const std::string text, pki::read_file(path, kMaxFileBytes));
    auto endpoint = config::parse_endpoint_file(text);
    if (!endpoint) return endpoint.error().with_prefix(path);
    if (endpoint->container_id == container_id && endpoint->pod_device == pod_device) {
        return endpoint;
    }
    return not_found(fmt::format("{} is of container {}", path, endpoint->container_id));
}

}  // namespace mesh::attach
