// Any text as a file of manifests, and what it compiles to: every record that leaves must pass the
// checks of a reader, whatever came in.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/validate.hpp"
#include "publish/object_compiler.hpp"
#include "sources/config/manifests.hpp"

namespace {

using namespace mesh;

Result<void> check(const model::Connection& connection, const publish::KeyChange& change) {
    const model::ParsedKey key = model::parse_key(change.key);
    switch (key.kind) {
        case model::KeyKind::kNode: {
            MESH_TRY(const auto node, model::parse_node(change.key, *change.value));
            return model::validate_node(connection, key, node);
        }
        case model::KeyKind::kService: {
            MESH_TRY(const auto service, model::parse_service(change.key, *change.value));
            return model::validate_service(connection, key, service);
        }
        case model::KeyKind::kIp: {
            MESH_TRY(auto pair, model::parse_ip(change.key, *change.value));
            return model::validate_ip(connection, key, pair);
        }
        case model::KeyKind::kIdentity: {
            MESH_TRY(const auto identity, model::parse_identity(change.key, *change.value));
            return model::validate_identity(connection, key, identity);
        }
        case model::KeyKind::kLocalService: {
            MESH_CHECK(model::parse_local_service(change.key, *change.value));
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
    publish::ObjectCompiler compiler({"c1", model::ClusterId{7}, 255}, Rng(1),
                                     std::chrono::minutes(1));
    const model::Connection connection{"c1", model::ClusterId{7}, model::ClusterId{8}};
    for (const auto& change : compiler.apply(update.changes, TimePoint{}).changes) {
        if (!change.value) continue;
        if (const auto good = check(connection, change); !good) {
            std::fprintf(stderr, "%s\n%s\n", good.error().message().c_str(), change.value->c_str());
            std::abort();
        }
    }
    (void)compiler.apply(set.remove("f").changes, TimePoint{});
    return 0;
}
