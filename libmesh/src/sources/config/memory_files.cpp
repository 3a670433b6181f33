#include "sources/config/memory_files.hpp"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <utility>

#include "sources/config/read_file.hpp"

namespace mesh::sources::config {

namespace {

Result<void> check_pem(const std::string& text, const std::string& field) {
    if (text.empty() || text.find("-----BEGIN ") != std::string::npos) return {};
    return invalid_argument(field + ": expected PEM text");
}

Result<void> take_from(const std::map<std::string, std::string>& files, std::string& path) {
    const auto at = files.find(std::filesystem::path(path).filename().string());
    if (path.empty() || at == files.end()) return {};
    if (at->second.empty()) return invalid_argument(at->first + ": expected PEM text");
    MESH_CHECK(check_pem(at->second, at->first));
    path = at->second;
    return {};
}

}  // namespace

Result<EtcdClientConfig> etcd_in_memory(const std::vector<std::string>& endpoints,
                                        const std::string& ca_pem, const std::string& cert_pem,
                                        const std::string& key_pem) {
    MESH_CHECK(check_pem(ca_pem, "etcd.ca_pem"));
    MESH_CHECK(check_pem(cert_pem, "etcd.cert_pem"));
    MESH_CHECK(check_pem(key_pem, "etcd.key_pem"));
    if (cert_pem.empty() != key_pem.empty()) {
        return invalid_argument(fmt::format("etcd.{}: expected together with the other half",
                                            cert_pem.empty() ? "cert_pem" : "key_pem"));
    }
    // By the same checks as a file's.
    YAML::Emitter yaml;
    yaml << YAML::BeginMap << YAML::Key << "endpoints" << YAML::Value << YAML::BeginSeq;
    for (const auto& endpoint : endpoints) yaml << YAML::DoubleQuoted << endpoint;
    yaml << YAML::EndSeq << YAML::EndMap;
    MESH_TRY(auto config, parse_etcd_yaml(yaml.c_str(), "etcd"));
    config.trusted_ca_file = ca_pem;
    config.cert_file = cert_pem;
    config.key_file = key_pem;
    return config;
}

Result<std::vector<RemoteConfig>> remotes_in_memory(const std::map<std::string, std::string>& files,
                                                    std::string_view local_cluster) {
    std::vector<RemoteConfig> remotes;
    for (const auto& [name, text] : files) {
        if (name == local_cluster || text.find("endpoints:") == std::string::npos) continue;
        if (auto ok = check_cluster_name(name); !ok) return ok.error();
        if (text.size() > kMaxConfigBytes) {
            return invalid_argument(fmt::format("{}: expected at most {} bytes, got {}", name,
                                                kMaxConfigBytes, text.size()));
        }
        MESH_TRY(auto remote, parse_remote_yaml(text, name, name));
        MESH_CHECK(take_from(files, remote.etcd.trusted_ca_file));
        MESH_CHECK(take_from(files, remote.etcd.cert_file));
        MESH_CHECK(take_from(files, remote.etcd.key_file));
        remotes.push_back(std::move(remote));
    }
    return remotes;
}

}  // namespace mesh::sources::config
