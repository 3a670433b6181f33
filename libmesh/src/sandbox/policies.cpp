#include "sandbox/policies.hpp"

#include "sources/config/policy_documents.hpp"

namespace mesh::sandbox {

std::string_view policy_api_version(std::string_view kind) noexcept {
    if (kind == "CiliumNetworkPolicy" || kind == "CiliumClusterwideNetworkPolicy") {
        return "cilium.io/v2";
    }
    if (kind == "NetworkPolicy") return "networking.k8s.io/v1";
    return "";
}

Result<void> check_policies(std::string_view yaml, std::string_view file) {
    const auto parsed = sources::config::parse_policies(yaml, file);
    if (!parsed.errors.empty()) return invalid_argument(parsed.errors.front());
    return {};
}

}  // namespace mesh::sandbox
