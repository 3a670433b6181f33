// Any text as an access file: no crash, no unbounded work, a mistake names the file, and a table
// that is made of it denies whoever has no certificate.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "serve/etcd/access_table.hpp"

namespace {

using namespace mesh;

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "broken promise: %s\n", what);
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto file = sources::config::parse_access_file(text, "f");
    if (!file) {
        require(file.error().detail().starts_with("f: "), "a mistake names the file");
        return 0;
    }
    const auto table = serve::AccessTable::make(*file, "one");
    rpc::Peer peer;
    for (const auto& user : file->users) {
        peer.common_name = user.pattern.text + "x";
        peer.dns_names = peer.uris = {peer.common_name};
        peer.verified = false;
        require(table->role_of(peer) == nullptr, "who proves nothing has no role");
        peer.verified = true;
        const serve::AccessRole* role = table->role_of(peer);
        // With {cluster} in it, it is another text.
        const bool same = user.pattern.text.find('{') == std::string::npos;
        require(!user.pattern.prefix || !same || role != nullptr, "a prefix matches");
        if (role == nullptr) continue;
        require(!role->may_call(serve::EtcdAction::kOther), "nobody has unknown methods");
        require(role->limits().request_burst != 0, "a rate lets something pass");
        require(!role->may_read({"k", {}}) || role->may_call(serve::EtcdAction::kRange),
                "who may read keys may ask for them");
    }
    return 0;
}
