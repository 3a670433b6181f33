// PolicyRecord: its key and its value.
#include <array>

#include "model/json_reader.hpp"
#include "model/json_writer.hpp"
#include "model/policy_record.hpp"

namespace mesh::model {
namespace {

constexpr std::array<std::string_view, 4> kFields{"file", "document", "lines", "policy"};
/// A namespace's place in the key of a policy that has none; no namespace has this name.
constexpr std::string_view kNoNamespace = "-";
constexpr std::array kPolicyKinds{policy::PolicyKind::kNetworkPolicy,
                                  policy::PolicyKind::kCiliumNetworkPolicy,
                                  policy::PolicyKind::kCiliumClusterwideNetworkPolicy};

/// Calls f for each line of the policy, in the order of lines_of().
template <class Policy, class F>
void each_line(Policy& policy, F&& f) {
    for (auto& rule : policy.rules) {
        f(rule.line);
        for (const policy::Direction direction : policy::kDirections) {
            for (auto& element : rule.allow[index_of(direction)]) f(element.line);
            for (auto& element : rule.deny[index_of(direction)]) f(element.line);
        }
    }
}

bool read_field(JsonReader& in, int field, PolicyRecord& record) {
    switch (field) {
        case 0:
            return in.read(record.file);
        case 1:
            return in.read(record.document);
        case 2:
            record.lines.clear();
            if (in.take_null()) return true;
            return in.elements([&] { return in.read(record.lines.emplace_back()); });
        default: {
            const char* const begin = in.mark();
            if (!in.skip()) return false;
            record.text = in.since(begin);
            if (record.text.starts_with('{')) return true;
            return in.refuse("an object", "another value");
        }
    }
}

}  // namespace

std::string local_policy_key(const policy::PolicyKey& key) {
    std::string text(kLocalPoliciesPrefix);
    text.append(policy::to_string(key.kind)).append("/");
    text.append(key.namespace_.empty() ? kNoNamespace : std::string_view(key.namespace_));
    return text.append("/").append(key.name);
}

std::optional<policy::PolicyKey> policy_key_of(const ParsedKey& key) {
    if (key.kind != KeyKind::kLocalPolicy) return std::nullopt;
    for (const policy::PolicyKind kind : kPolicyKinds) {
        if (policy::to_string(kind) != key.tail) continue;
        const bool clusterwide = kind == policy::PolicyKind::kCiliumClusterwideNetworkPolicy;
        if (clusterwide != (key.namespace_name == kNoNamespace)) return std::nullopt;
        return policy::PolicyKey{kind,
                                 clusterwide ? std::string() : std::string(key.namespace_name),
                                 std::string(key.name)};
    }
    return std::nullopt;
}

Result<PolicyRecord> parse_policy_record(std::string_view key, std::string_view value) {
    PolicyRecord record;
    JsonReader in(key, value);
    const bool ok =
        in.fields(kFields, [&](int field) { return read_field(in, field, record); }) && in.finish();
    if (!ok) return in.error();
    if (record.text.empty()) {
        in.refuse("an object with field policy", "none");
        return in.error();
    }
    const auto named = policy_key_of(parse_key(key));
    if (!named) {
        in.refuse("a key mesh/local/policies/v1/<kind>/<namespace or ->/<name>", key);
        return in.error();
    }
    record.key = *named;
    return record;
}

std::string encode(const PolicyRecord& record) {
    std::string text;
    JsonWriter out(text);
    out.raw("{\"file\":");
    out.string(record.file);
    out.raw(",\"document\":");
    out.number(record.document);
    out.raw(",\"lines\":[");
    bool first = true;
    for (const std::uint32_t line : record.lines) {
        if (!std::exchange(first, false)) out.raw(",");
        out.number(line);
    }
    out.raw("],\"policy\":");
    out.raw(record.text);
    out.raw("}");
    return text;
}

std::vector<std::uint32_t> lines_of(const policy::Policy& policy) {
    std::vector<std::uint32_t> lines;
    each_line(policy, [&](std::uint32_t line) { lines.push_back(line); });
    return lines;
}

bool set_lines(policy::Policy& policy, const std::vector<std::uint32_t>& lines) {
    std::size_t count = 0;
    each_line(policy, [&](std::uint32_t&) { ++count; });
    if (count != lines.size()) return false;
    auto next = lines.begin();
    each_line(policy, [&](std::uint32_t& line) { line = *next++; });
    return true;
}

}  // namespace mesh::model
