#include "compile/identities/reserved.hpp"

#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "model/policy.hpp"

namespace mesh::compile {

using model::Label;
using model::policy::kSourceCidr;
using model::policy::kSourceReserved;

std::vector<LocalIdentity> reserved_identities(bool dual_stack) {
    std::vector<LocalIdentity> all;
    const auto add = [&](std::uint32_t id, std::initializer_list<std::string_view> keys) {
        LocalIdentity& one = all.emplace_back();
        one.id = id;
        for (const std::string_view key : keys) one.labels.push_back({kSourceReserved, key, ""});
    };
    add(1, {"host"});
    add(2, {"world"});
    add(3, {"unmanaged"});
    add(4, {"health"});
    add(5, {"init"});
    add(6, {"remote-node"});
    add(7, {"kube-apiserver", "remote-node"});
    add(8, {"ingress"});
    if (dual_stack) {
        add(9, {"world-ipv4"});
        add(10, {"world-ipv6"});
    }
    return all;
}

Label world_label(bool v4, bool dual_stack) {
    const std::string_view key = !dual_stack ? "world" : v4 ? "world-ipv4" : "world-ipv6";
    return {kSourceReserved, key, ""};
}

Label cidr_label(const model::IpPrefix& prefix) {
    const std::string address = prefix.address().to_string();
    std::string key;
    for (std::size_t i = 0; i < address.size(); ++i) {
        if (address[i] != ':') {
            key += address[i];
            continue;
        }
        // A key of a selector neither begins nor ends with a '-'.
        if (i == 0) key += '0';
        key += '-';
        if (i + 1 == address.size()) key += '0';
    }
    return {kSourceCidr, fmt::format("{}/{}", key, prefix.length()), ""};
}

}  // namespace mesh::compile
