// What policies say, by the C ABI.
#include <string>

#include "capi/calls.hpp"

namespace {

using namespace mesh::capi;

/// @return what is wrong, or null
const char* convert(const mesh_policy_query& from, mesh::PolicyTraceQuery& to) {
    if (from.source == nullptr) return "source: expected an end of the packet, got NULL";
    if (from.destination == nullptr) return "destination: expected an end of the packet, got NULL";
    if (from.dport == nullptr) return "dport: expected a port, such as 80/TCP, got NULL";
    to.source = from.source;
    to.destination = from.destination;
    to.dport = from.dport;
    to.http = text_or_empty(from.http);
    to.dns = text_or_empty(from.dns);
    if (from.headers_count > 0 && from.headers == nullptr) {
        return "headers: expected a list, got NULL";
    }
    for (std::size_t i = 0; i < from.headers_count; ++i) {
        if (from.headers[i] == nullptr) return "headers: expected texts, got NULL";
        to.headers.emplace_back(from.headers[i]);
    }
    return nullptr;
}

int give(char** out, const mesh::Result<std::string>& text, mesh_error* error) {
    if (!text) return tell(error, text.error());
    *out = copy_text(*text);
    return MESH_OK;
}

}  // namespace

extern "C" {

int mesh_explain_json(mesh_ctx* mesh, const mesh_policy_query* query, char** out,
                      mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the text, got NULL");
        if (query == nullptr) return wrong(error, "query: expected one, got NULL");
        mesh_policy_query known = MESH_POLICY_QUERY_INIT;
        if (!take_options(query, known, sizeof known)) {
            return wrong(error,
                         "query: struct_size: expected MESH_POLICY_QUERY_INIT of a header no newer "
                         "than the library, or zeros beyond");
        }
        mesh::PolicyTraceQuery to;
        if (const char* const what = convert(known, to)) return wrong(error, what);
        return give(out, object->policy_trace_json(to), error);
    });
}

int mesh_policy_diff_json(mesh_ctx* mesh, const char* policies, uint32_t prune, char** out,
                          mesh_error* error) {
    if (out != nullptr) *out = nullptr;
    return with_mesh(mesh, error, [&](MeshObject& object) {
        if (out == nullptr) return wrong(error, "out: expected a place for the text, got NULL");
        if (policies == nullptr) return wrong(error, "policies: expected their text, got NULL");
        if (prune > 1) return wrong(error, "prune: expected 0 or 1");
        return give(out, object->policy_diff_json(policies, prune == 1), error);
    });
}

}  // extern "C"
