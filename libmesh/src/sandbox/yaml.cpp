#include "sandbox/yaml.hpp"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <boost/json.hpp>
#include <charconv>
#include <regex>

namespace mesh::sandbox {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxText = std::size_t{4} << 20;
constexpr int kMaxDepth = 64;
// Aliases can make a small text describe a huge value.
constexpr std::size_t kMaxNodes = 200'000;

json::value scalar(const YAML::Node& node) {
    const std::string& text = node.Scalar();
    // yaml-cpp tags a quoted scalar "!" and a plain one "?".
    if (node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str") return json::string(text);
    if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") {
        return nullptr;
    }
    if (text == "true" || text == "True" || text == "TRUE") return true;
    if (text == "false" || text == "False" || text == "FALSE") return false;
    std::int64_t integer = 0;
    const char* end = text.data() + text.size();
    const char* begin = text.data() + (text.front() == '+' ? 1 : 0);
    if (auto [stop, error] = std::from_chars(begin, end, integer);
        error == std::errc() && stop == end) {
        return integer;
    }
    static const std::regex number(R"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)");
    if (std::regex_match(text, number)) return std::strtod(text.c_str(), nullptr);
    return json::string(text);
}

class Converter {
  public:
    explicit Converter(std::string_view file) : file_(file) {}

    Result<json::value> convert(const YAML::Node& node, int depth) {
        if (depth > kMaxDepth || ++nodes_ > kMaxNodes) {
            return fail(node, fmt::format("expected at most {} levels and {} values", kMaxDepth,
                                          kMaxNodes));
        }
        switch (node.Type()) {
            case YAML::NodeType::Undefined:
            case YAML::NodeType::Null:
                return json::value(nullptr);
            case YAML::NodeType::Scalar:
                return scalar(node);
            case YAML::NodeType::Sequence: {
                json::array out;
                for (const auto& item : node) {
                    MESH_TRY(json::value value, convert(item, depth + 1));
                    out.push_back(std::move(value));
                }
                return json::value(std::move(out));
            }
            case YAML::NodeType::Map:
                return map(node, depth);
        }
        return json::value(nullptr);
    }

  private:
    Result<json::value> map(const YAML::Node& node, int depth) {
        json::object out;
        for (const auto& entry : node) {
            const YAML::Node& key = entry.first;
            if (!key.IsScalar()) return fail(key, "expected text as a key");
            MESH_TRY(json::value value, convert(entry.second, depth + 1));
            if (!out.emplace(key.Scalar(), std::move(value)).second) {
                return fail(key, fmt::format("key \"{}\" comes twice", key.Scalar()));
            }
        }
        return json::value(std::move(out));
    }
    Error fail(const YAML::Node& node, const std::string& what) const {
        return invalid_argument(fmt::format("{}:{}: {}", file_, node.Mark().line + 1, what));
    }

    std::string_view file_;
    std::size_t nodes_ = 0;
};

void emit(YAML::Emitter& out, const json::value& value) {
    switch (value.kind()) {
        case json::kind::null:
            out << YAML::Null;
            break;
        case json::kind::bool_:
            out << value.get_bool();
            break;
        case json::kind::int64:
            out << static_cast<long long>(value.get_int64());
            break;
        case json::kind::uint64:
            out << static_cast<unsigned long long>(value.get_uint64());
            break;
        case json::kind::double_:
            out << value.get_double();
            break;
        case json::kind::string:
            out << YAML::DoubleQuoted << std::string(value.get_string());
            break;
        case json::kind::array:
            if (value.get_array().empty()) out << YAML::Flow;
            out << YAML::BeginSeq;
            for (const auto& item : value.get_array()) emit(out, item);
            out << YAML::EndSeq;
            break;
        case json::kind::object:
            if (value.get_object().empty()) out << YAML::Flow;
            out << YAML::BeginMap;
            for (const auto& [key, item] : value.get_object()) {
                out << YAML::Key << std::string(key) << YAML::Value;
                emit(out, item);
            }
            out << YAML::EndMap;
            break;
    }
}

}  // namespace

Result<std::vector<json::value>> parse_yaml(std::string_view text, std::string_view file) {
    if (text.size() > kMaxText) {
        return invalid_argument(fmt::format("{}: larger than {} bytes", file, kMaxText));
    }
    std::vector<json::value> documents;
    try {
        for (const YAML::Node& node : YAML::LoadAll(std::string(text))) {
            Converter converter(file);
            MESH_TRY(json::value value, converter.convert(node, 0));
            if (!value.is_null()) documents.push_back(std::move(value));
        }
    } catch (const YAML::Exception& error) {
        return invalid_argument(fmt::format("{}:{}: {}", file, error.mark.line + 1, error.msg));
    }
    return documents;
}

std::string to_yaml(const json::value& value) {
    YAML::Emitter out;
    emit(out, value);
    return std::string(out.c_str()) + "\n";
}

}  // namespace mesh::sandbox
