#include "attach/cni_ipam.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <utility>

#include "attach/delegate.hpp"
#include "attach/local_ipam.hpp"

namespace mesh::attach {
namespace {

namespace json = boost::json;

// Each network has its own: the same block in two of them is given twice.
std::string directory_of(const NetworkConfig& config) {
    return config.ipam.data_dir + "/" + config.name;
}

AddressOwner owner_of(const CniCall& call) {
    return {call.container_id, call.ifname};
}

CniResult<std::string> delegate(const NetworkConfig& config, const CniCall& call,
                                std::string_view command, const Clock& clock) {
    return call_plugin({config.ipam.type, command, call.path, config.text}, call.environment,
                       clock);
}

CniResult<CniAddResult> give_own(const NetworkConfig& config, const CniCall& call) {
    auto given = allocate_addresses(directory_of(config), config.ipam.subnets, owner_of(call));
    if (!given) {
        const bool io = given.error().code() == Errc::kUnavailable;
        return CniError(io ? CniCode::kIo : CniCode::kIpam, given.error().with_prefix("ipam"));
    }
    CniAddResult result;
    for (const model::IpAddress& address : *given) {
        result.ips.push_back({address, static_cast<std::uint8_t>(address.is_v4() ? 32 : 128)});
    }
    return result;
}

CniResult<CniAddResult> read_delegated(const NetworkConfig& config, const std::string& output) {
    const auto refuse = [&](std::string_view what) {
        return CniError(CniCode::kDecode,
                        fmt::format("result of plugin {}: {}", config.ipam.type, what));
    };
    boost::system::error_code ec;
    const json::value document = json::parse(output, ec);
    if (ec || !document.is_object()) return refuse("expected a JSON object");
    auto result = parse_result(document.get_object());
    if (!result) return refuse(result.error().detail());
    if (result->ips.empty()) return refuse("ips: expected at least one");
    // clang 14 does not compile the one of std::ranges.
    std::stable_partition(result->ips.begin(), result->ips.end(),
                          [](const CniIp& ip) { return ip.address.is_v4(); });
    return *std::move(result);
}

}  // namespace

CniResult<CniAddResult> give_addresses(const NetworkConfig& config, const CniCall& call,
                                       const Clock& clock) {
    if (config.ipam.type == kLocalIpam) return give_own(config, call);
    MESH_TRY(const std::string output, delegate(config, call, "ADD", clock));
    auto result = read_delegated(config, output);
    if (!result) (void)!delegate(config, call, "DEL", clock);
    return result;
}

CniResult<void> take_addresses_back(const NetworkConfig& config, const CniCall& call,
                                    const Clock& clock) {
    if (config.ipam.type != kLocalIpam) {
        MESH_CHECK(delegate(config, call, "DEL", clock));
        return {};
    }
    auto released = release_addresses(directory_of(config), owner_of(call));
    if (!released) return CniError(CniCode::kIo, released.error().with_prefix("ipam"));
    return {};
}

CniResult<void> check_addresses(const NetworkConfig& config, const CniCall& call,
                                const std::vector<model::IpAddress>& addresses,
                                const Clock& clock) {
    if (config.ipam.type != kLocalIpam) {
        MESH_CHECK(delegate(config, call, "CHECK", clock));
        return {};
    }
    for (const model::IpAddress& address : addresses) {
        auto held = check_address(directory_of(config), address, owner_of(call));
        if (!held) return CniError(CniCode::kCheck, held.error().with_prefix("ipam"));
    }
    return {};
}

}  // namespace mesh::attach
