// Any text as a file of manifests, and what it compiles to: every record that leaves must pass the
// checks of a reader, whatever came in.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/validate.hpp"
#include "publish/object_compiler.hpp"
#include "sources/config/manifests.hpp"

namespace {

using namespace mesh;

Result<void> check(const model::Connection& connection, const std::string& key,
                   const std::string& value) {
    const model::ParsedKey parsed = model::parse_key(key);
    switch (parsed.kind) {
        case model::KeyKind::kNode: {
            MESH_TRY(const auto node, model::parse_node(key, value));
            return model::validate_node(connection, parsed, node);
        }
        case model::KeyKind::kService: {
            MESH_TRY(const auto service, model::parse_service(key, value));
            return model::validate_service(connection, parsed, service);
        }
        case model::KeyKind::kIp: {
            MESH_TRY(auto pair, model::parse_ip(key, value));
            return model::validate_ip(connection, parsed, pair);
        }
        case model::KeyKind::kIdentity: {
            MESH_TRY(const auto identity, model::parse_identity(key, value));
            return model::validate_identity(connection, parsed, identity);
        }
        case model::KeyKind::kLocalService: {
            MESH_CHECK(model::parse_local_service(key, value));
            return {};
        }
        case model::KeyKind::kLocalIp: {
            MESH_CHECK(model::parse_ip(key, value));
            return {};
        }
        default:
            return internal("no key of ours");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    sources::config::ManifestSet set;
    const auto update = set.apply("f", text);
    publish::ObjectCompiler compiler({"c1", model::ClusterId{7}, 255});
    const model::Connection connection{"c1", model::ClusterId{7}, model::ClusterId{8}};
    const publish::Compiled compiled = compiler.apply(update.changes);
    std::map<std::string, std::optional<std::string>> keys;
    const auto take = [&](const publish::Compiled& some) {
        for (const auto& change : some.changes) keys[change.key] = change.value;
    };
    take(compiled);
    std::uint32_t number = 7U << 16U;
    for (const std::string& labels : compiled.identities_wanted) {
        take(compiler.number_identity(labels, model::IdentityId{++number}));
    }
    for (const auto& [key, value] : keys) {
        if (!value) continue;
        if (const auto good = check(connection, key, *value); !good) {
            std::fprintf(stderr, "%s\n%s\n", good.error().message().c_str(), value->c_str());
            std::abort();
        }
    }
    (void)compiler.apply(set.remove("f").changes);
    return 0;
}
