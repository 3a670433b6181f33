// Any text as a file of policies: no crash, no unbounded work, and a policy that is taken keeps the
// promises that the compiler relies on.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "sources/config/policy_documents.hpp"

namespace {

using namespace mesh;
using namespace mesh::model::policy;

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "broken promise: %s\n", what);
    std::abort();
}

void check(const RuleElement& element, bool deny) {
    for (const PortRule& ports : element.ports) {
        require(!deny || !ports.rules, "a deny rule has no L7 rules");
        for (const PortProtocol& port : ports.ports) {
            require(port.end_port == 0 || port.end_port >= port.port,
                    "a range has its ends in order");
            require(port.name.empty() || port.port == 0, "a named port has no number");
        }
    }
    if (!element.peers.cidrs) return;
    for (const CidrRule& rule : *element.peers.cidrs) {
        for (const auto& except : rule.except) {
            require(rule.cidr.contains(except), "an exception lies within its block");
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto parsed =
        sources::config::parse_policies(text, "f", sources::config::PolicyFeatures::all());
    for (const PolicyPtr& policy : parsed.policies) {
        require(!policy->key.name.empty() && !policy->rules.empty(), "a policy has name and rules");
        for (const Rule& rule : policy->rules) {
            for (const Direction direction : kDirections) {
                for (const auto& element : rule.allow[index_of(direction)]) check(element, false);
                for (const auto& element : rule.deny[index_of(direction)]) check(element, true);
            }
        }
    }
    const auto features = sources::config::PolicyFeatures::enforced();
    const auto recorded = sources::config::parse_policy_records(text, "f", features);
    require(recorded.records.size() == recorded.policies.size(), "a policy has a record");
    require(recorded.unread.size() == recorded.errors.size(), "a mistake is of some policy");
    for (std::size_t i = 0; i < recorded.records.size(); ++i) {
        const model::PolicyRecord& record = *recorded.records[i];
        const auto again =
            model::parse_policy_record(model::local_policy_key(record.key), model::encode(record));
        require(again && *again == record, "a record stays what it is in etcd");
        const auto policy = sources::config::read_policy(*again, features);
        require(policy && **policy == *recorded.policies[i], "and is read as the same policy");
    }
    return 0;
}
