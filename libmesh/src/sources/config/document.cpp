#include "sources/config/document.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <array>
#include <boost/json/basic_parser_impl.hpp>
#include <cctype>
#include <istream>
#include <map>
#include <optional>
#include <span>
#include <sstream>
#include <utility>

namespace mesh::sources::config {
namespace {

using Kind = DocumentValue::Kind;

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxValues = 1'000'000;

/// A mistake in the text, thrown through the parsers' call-backs and caught in this file.
struct Mistake {
    std::uint32_t line;
    std::string text;
};

/// Builds trees from the events of either parser.
class TreeBuilder {
  public:
    void add(DocumentValue value) {
        count(1);
        if (stack_.empty()) {
            root_ = std::move(value);
            return;
        }
        Open& open = stack_.back();
        if (open.value.kind == Kind::kList) {
            open.value.items.push_back(std::move(value));
        } else if (!open.key) {
            throw Mistake{value.line, "expected a name before this value"};
        } else {
            open.value.fields.push_back({std::move(*open.key), std::move(value)});
            open.key.reset();
        }
    }
    void begin(Kind kind, std::uint32_t line) {
        if (stack_.size() >= kMaxDepth) {
            throw Mistake{line, fmt::format("nested deeper than {}", kMaxDepth)};
        }
        stack_.push_back({{kind, line, {}, {}, {}}, std::nullopt});
    }
    DocumentValue end() {
        DocumentValue value = std::move(stack_.back().value);
        stack_.pop_back();
        if (value.kind == Kind::kMap) refuse_duplicates(value);
        return value;
    }
    [[nodiscard]] bool expects_key() const {
        return !stack_.empty() && stack_.back().value.kind == Kind::kMap && !stack_.back().key;
    }
    void key(std::string name) { stack_.back().key = std::move(name); }
    void count(std::size_t values) {
        values_ += values;
        if (values_ > kMaxValues) {
            throw Mistake{0, fmt::format("more than {} values", kMaxValues)};
        }
    }
    DocumentValue take_root() {
        stack_.clear();
        return std::exchange(root_, DocumentValue{});
    }

  private:
    struct Open {
        DocumentValue value;
        std::optional<std::string> key;
    };

    static void refuse_duplicates(const DocumentValue& map) {
        if (map.fields.size() < 2) return;
        std::vector<const DocumentField*> sorted;
        for (const auto& field : map.fields) sorted.push_back(&field);
        std::ranges::stable_sort(sorted, {},
                                 [](const auto* f) { return std::string_view(f->name); });
        const auto twice = std::ranges::adjacent_find(
            sorted, [](const auto* a, const auto* b) { return a->name == b->name; });
        if (twice == sorted.end()) return;
        const auto* second = *(twice + 1);
        throw Mistake{second->value.line,
                      fmt::format("\"{}\" stands twice in one map", second->name)};
    }

    std::vector<Open> stack_;
    DocumentValue root_;
    std::size_t values_ = 0;
};

// --- YAML -------------------------------------------------------------------------------------

bool is_one_of(std::string_view text, std::span<const std::string_view> words) {
    // YAML 1.1 knows three spellings of each: true, True, TRUE.
    return std::ranges::any_of(words, [text](std::string_view word) {
        if (text.size() != word.size()) return false;
        std::string lower(text);
        std::string upper(word);
        std::ranges::transform(lower, lower.begin(),
                               [](unsigned char c) { return std::tolower(c); });
        if (lower != word) return false;
        std::ranges::transform(upper, upper.begin(),
                               [](unsigned char c) { return std::toupper(c); });
        std::string title(word);
        title[0] = upper[0];
        return text == word || text == upper || text == title;
    });
}

bool is_number(std::string_view text) {
    if (is_one_of(text, std::array<std::string_view, 1>{".nan"})) return true;
    if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
    if (is_one_of(text, std::array<std::string_view, 1>{".inf"})) return true;
    std::string digits;
    for (const char c : text) {
        if (c != '_') digits += c;
    }
    const auto all = [](std::string_view part, std::string_view allowed) {
        return !part.empty() && part.find_first_not_of(allowed) == std::string_view::npos;
    };
    const std::string_view d = digits;
    if (d.starts_with("0x")) return all(d.substr(2), "0123456789abcdefABCDEF");
    if (d.starts_with("0o")) return all(d.substr(2), "01234567");
    if (d.starts_with("0b")) return all(d.substr(2), "01");
    const auto exponent = d.find_first_of("eE");
    std::string_view mantissa = d.substr(0, exponent);
    if (exponent != std::string_view::npos) {
        std::string_view power = d.substr(exponent + 1);
        if (power.starts_with('+') || power.starts_with('-')) power.remove_prefix(1);
        if (!all(power, "0123456789")) return false;
    }
    if (std::ranges::count(mantissa, '.') > 1 || mantissa == ".") return false;
    return all(mantissa, "0123456789.");
}

DocumentValue plain_scalar(const std::string& text, std::uint32_t line) {
    static constexpr std::array<std::string_view, 3> kTrue{"true", "yes", "on"};
    static constexpr std::array<std::string_view, 3> kFalse{"false", "no", "off"};
    static constexpr std::array<std::string_view, 1> kNull{"null"};
    if (text.empty() || text == "~" || is_one_of(text, kNull))
        return {Kind::kNull, line, {}, {}, {}};
    if (is_one_of(text, kTrue)) return {Kind::kBool, line, "true", {}, {}};
    if (is_one_of(text, kFalse)) return {Kind::kBool, line, "false", {}, {}};
    return {is_number(text) ? Kind::kNumber : Kind::kString, line, text, {}, {}};
}

/// What a copy costs, long texts included.
std::size_t size_of(const DocumentValue& value) {
    std::size_t total = 1 + value.text.size() / 256;
    for (const auto& item : value.items) total += size_of(item);
    for (const auto& [name, field] : value.fields) total += size_of(field);
    return total;
}

class YamlEvents final : public YAML::EventHandler {
  public:
    TreeBuilder tree;
    YAML::Mark start;  ///< of the document

    void OnDocumentStart(const YAML::Mark& mark) override {
        start = mark;
        anchors_.clear();
        open_anchors_.clear();
    }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        add({Kind::kNull, line_of(mark), {}, {}, {}}, anchor);
    }
    void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        const auto found = anchors_.find(anchor);
        if (found == anchors_.end()) throw Mistake{line_of(mark), "alias inside its own anchor"};
        tree.count(size_of(found->second));
        refuse_key(mark);
        DocumentValue copy = found->second;
        tree.add(std::move(copy));
    }
    void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  const std::string& text) override {
        if (tree.expects_key()) {
            if (text == "<<" && tag == "?") {
                throw Mistake{line_of(mark), "merge keys (<<) are not supported"};
            }
            tree.key(text);
            return;
        }
        // yaml-cpp gives "?" for plain scalars, "!" for quoted ones.
        const bool plain = tag == "?" || tag.empty();
        add(plain ? plain_scalar(text, line_of(mark))
                  : DocumentValue{Kind::kString, line_of(mark), text, {}, {}},
            anchor);
    }
    void OnSequenceStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value /*style*/) override {
        begin(Kind::kList, mark, anchor);
    }
    void OnSequenceEnd() override { end(); }
    void OnMapStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                    YAML::EmitterStyle::value /*style*/) override {
        begin(Kind::kMap, mark, anchor);
    }
    void OnMapEnd() override { end(); }

    static std::uint32_t line_of(const YAML::Mark& mark) {
        return static_cast<std::uint32_t>(std::max(mark.line, 0)) + 1;
    }

  private:
    void refuse_key(const YAML::Mark& mark) {
        if (tree.expects_key()) {
            throw Mistake{line_of(mark), "expected a plain name as key of a map"};
        }
    }
    void add(DocumentValue value, YAML::anchor_t anchor) {
        if (tree.expects_key()) throw Mistake{value.line, "expected a name as key of a map"};
        keep(anchor, value);
        tree.add(std::move(value));
    }
    void keep(YAML::anchor_t anchor, const DocumentValue& value) {
        if (anchor == 0) return;
        tree.count(size_of(value));
        anchors_[anchor] = value;
    }
    void begin(Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
        refuse_key(mark);
        tree.begin(kind, line_of(mark));
        open_anchors_.push_back(anchor);
    }
    void end() {
        DocumentValue value = tree.end();
        const YAML::anchor_t anchor = open_anchors_.back();
        open_anchors_.pop_back();
        keep(anchor, value);
        tree.add(std::move(value));
    }

    std::map<YAML::anchor_t, DocumentValue> anchors_;
    std::vector<YAML::anchor_t> open_anchors_;
};

Result<std::vector<Document>> parse_yaml(std::string_view text, std::string_view file) {
    std::vector<Document> documents;
    std::uint32_t number = 1;
    const auto mistake = [&](std::uint32_t line, std::string_view what) {
        return invalid_argument(
            line == 0 ? fmt::format("{}: document {}: {}", file, number, what)
                      : fmt::format("{}: document {}: line {}: {}", file, number, line, what));
    };
    try {
        std::istringstream stream{std::string(text)};
        YAML::Parser parser(stream);
        YamlEvents events;
        std::optional<int> before;
        for (;; ++number) {
            if (!parser.HandleNextDocument(events)) break;
            // At a closing bracket too many yaml-cpp makes empty documents without end.
            if (std::exchange(before, events.start.pos) == events.start.pos) {
                --number;
                return mistake(YamlEvents::line_of(events.start),
                               "expected a document or its end; is there a bracket too many?");
            }
            DocumentValue root = events.tree.take_root();
            if (root.kind != Kind::kNull) documents.push_back({number, std::move(root)});
        }
    } catch (const Mistake& e) {
        return mistake(e.line, e.text);
    } catch (const YAML::ParserException& e) {
        return mistake(YamlEvents::line_of(e.mark), e.msg);
    } catch (const YAML::Exception& e) {
        return mistake(0, e.what());
    }
    return documents;
}

// --- JSON -------------------------------------------------------------------------------------

/// The handler of Boost.JSON's push parser; `line` is set by whoever feeds it line by line.
struct JsonEvents {
    static constexpr std::size_t max_object_size = kMaxValues;
    static constexpr std::size_t max_array_size = kMaxValues;
    static constexpr std::size_t max_key_size = 64U << 10;
    static constexpr std::size_t max_string_size = 16U << 20;

    using Code = boost::system::error_code;
    using View = boost::json::string_view;

    TreeBuilder tree;
    std::uint32_t line = 1;
    std::string partial;

    std::string whole(View last) {
        partial.append(last.data(), last.size());
        return std::exchange(partial, {});
    }
    bool scalar(Kind kind, std::string text) {
        tree.add({kind, line, std::move(text), {}, {}});
        return true;
    }
    bool begin(Kind kind) {
        tree.begin(kind, line);
        return true;
    }
    bool end() {
        tree.add(tree.end());
        return true;
    }
    bool part(View text) {
        partial.append(text.data(), text.size());
        return true;
    }

    bool on_document_begin(Code&) { return true; }
    bool on_document_end(Code&) { return true; }
    bool on_object_begin(Code&) { return begin(Kind::kMap); }
    bool on_object_end(std::size_t, Code&) { return end(); }
    bool on_array_begin(Code&) { return begin(Kind::kList); }
    bool on_array_end(std::size_t, Code&) { return end(); }
    bool on_key_part(View text, std::size_t, Code&) { return part(text); }
    bool on_key(View text, std::size_t, Code&) {
        tree.key(whole(text));
        return true;
    }
    bool on_string_part(View text, std::size_t, Code&) { return part(text); }
    bool on_string(View text, std::size_t, Code&) { return scalar(Kind::kString, whole(text)); }
    bool on_number_part(View text, Code&) { return part(text); }
    bool on_int64(std::int64_t, View text, Code&) { return scalar(Kind::kNumber, whole(text)); }
    bool on_uint64(std::uint64_t, View text, Code&) { return scalar(Kind::kNumber, whole(text)); }
    bool on_double(double, View text, Code&) { return scalar(Kind::kNumber, whole(text)); }
    bool on_bool(bool value, Code&) { return scalar(Kind::kBool, value ? "true" : "false"); }
    bool on_null(Code&) { return scalar(Kind::kNull, {}); }
    bool on_comment_part(View, Code&) { return true; }
    bool on_comment(View, Code&) { return true; }
};

Result<std::vector<Document>> parse_json(std::string_view text, std::string_view file) {
    std::vector<Document> documents;
    std::uint32_t number = 1;
    boost::json::parse_options options;
    options.max_depth = kMaxDepth;
    boost::json::basic_parser<JsonEvents> parser(options);
    std::uint32_t line = 1;
    const auto mistake = [&](std::string_view what) {
        return invalid_argument(
            fmt::format("{}: document {}: line {}: {}", file, number, line, what));
    };
    bool inside = false;
    try {
        while (!text.empty()) {
            // The parser tells no positions: fed line by line, the line is known.
            const auto newline = text.find('\n');
            std::string_view piece =
                text.substr(0, newline == std::string_view::npos ? newline : newline + 1);
            text.remove_prefix(piece.size());
            while (!piece.empty()) {
                if (!inside) {
                    const auto start = piece.find_first_not_of(" \t\r\n");
                    if (start == std::string_view::npos) break;
                    piece.remove_prefix(start);
                    parser.reset();
                    inside = true;
                }
                parser.handler().line = line;
                boost::system::error_code ec;
                const std::size_t used = parser.write_some(true, piece.data(), piece.size(), ec);
                if (ec && !(ec == boost::json::error::extra_data && parser.done())) {
                    return mistake(ec.message());
                }
                piece.remove_prefix(used);
                if (parser.done()) {
                    documents.push_back({number++, parser.handler().tree.take_root()});
                    inside = false;
                }
            }
            ++line;
        }
    } catch (const Mistake& e) {
        if (e.line != 0) line = e.line;
        return mistake(e.text);
    }
    if (inside) return mistake("the text ends inside a JSON value");
    std::erase_if(documents, [](const Document& d) { return d.root.kind == Kind::kNull; });
    return documents;
}

}  // namespace

const DocumentValue* DocumentValue::find(std::string_view name) const noexcept {
    for (const auto& [key, value] : fields) {
        if (key == name) return &value;
    }
    return nullptr;
}

std::string_view describe(Kind kind) noexcept {
    switch (kind) {
        case Kind::kNull:
            return "null";
        case Kind::kBool:
            return "a boolean";
        case Kind::kNumber:
            return "a number";
        case Kind::kString:
            return "a string";
        case Kind::kList:
            return "a list";
        case Kind::kMap:
            return "a map";
    }
    return "?";
}

Result<std::vector<Document>> parse_documents(std::string_view text, std::string_view file) {
    constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
    if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
    const auto start = text.find_first_not_of(" \t\r\n");
    if (start != std::string_view::npos && text[start] == '{') return parse_json(text, file);
    return parse_yaml(text, file);
}

}  // namespace mesh::sources::config
