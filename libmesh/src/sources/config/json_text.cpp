#include "sources/config/json_text.hpp"

#include <boost/json/error.hpp>
#include <boost/json/parse.hpp>
#include <utility>

#include "model/json_writer.hpp"

namespace mesh::sources::config {
namespace {

using Kind = DocumentValue::Kind;

bool is_json_number(const std::string& text) {
    boost::json::error_code ec;
    const auto value = boost::json::parse(text, ec);
    return !ec && value.is_number();
}

void write(model::JsonWriter& out, const DocumentValue& value) {
    bool first = true;
    switch (value.kind) {
        case Kind::kNull:
            return out.raw("null");
        case Kind::kBool:
            return out.raw(value.text);
        case Kind::kNumber:
            if (is_json_number(value.text)) return out.raw(value.text);
            return out.string(value.text);
        case Kind::kString:
            return out.string(value.text);
        case Kind::kList:
            out.raw("[");
            for (const DocumentValue& item : value.items) {
                if (!std::exchange(first, false)) out.raw(",");
                write(out, item);
            }
            return out.raw("]");
        case Kind::kMap:
            out.raw("{");
            for (const DocumentField& field : value.fields) {
                if (!std::exchange(first, false)) out.raw(",");
                out.string(field.name);
                out.raw(":");
                write(out, field.value);
            }
            return out.raw("}");
    }
}

void write_metadata(model::JsonWriter& out, const DocumentValue& metadata) {
    out.raw("{");
    bool first = true;
    for (const DocumentField& field : metadata.fields) {
        if (field.name == "managedFields") continue;
        if (!std::exchange(first, false)) out.raw(",");
        out.string(field.name);
        out.raw(":");
        write(out, field.value);
    }
    out.raw("}");
}

}  // namespace

std::string kubernetes_json(const DocumentValue& root, std::string_view api_version,
                            std::string_view kind) {
    std::string text;
    model::JsonWriter out(text);
    out.raw("{\"apiVersion\":");
    out.string(api_version);
    out.raw(",\"kind\":");
    out.string(kind);
    for (const DocumentField& field : root.fields) {
        if (field.name == "apiVersion" || field.name == "kind" || field.name == "status") continue;
        out.raw(",");
        out.string(field.name);
        out.raw(":");
        if (field.name == "metadata" && field.value.kind == Kind::kMap) {
            write_metadata(out, field.value);
        } else {
            write(out, field.value);
        }
    }
    out.raw("}");
    return text;
}

}  // namespace mesh::sources::config
