#include "meshctl/request_log.hpp"

#include <fmt/format.h>

#include <utility>

#include "meshctl/agents.hpp"

namespace mesh::ctl {

namespace json = boost::json;

namespace {

std::string end_text(const json::object& side) {
    const std::string ip = text_of(side, "ip");
    const bool v6 = ip.find(':') != std::string::npos;
    std::string text =
        fmt::format("{}{}{}:{}", v6 ? "[" : "", ip, v6 ? "]" : "", integer_of(side, "port"));
    if (side.contains("identity"))
        text += fmt::format(" (identity {})", integer_of(side, "identity"));
    return text;
}

void append(std::string& text, const std::string& more) {
    if (!more.empty()) text += " " + more;
}

}  // namespace

std::vector<json::object> RequestLog::take(const json::value& answer) {
    std::vector<json::object> fresh;
    std::set<std::string, std::less<>> now;
    if (answer.is_object()) {
        for (const json::value& line : list_of(answer.get_object(), "lines")) {
            if (!line.is_string()) continue;
            std::string text(line.get_string());
            boost::system::error_code error;
            json::value request = json::parse(text, error);
            if (error || !request.is_object()) continue;
            if (!first_ && !seen_.contains(text)) fresh.push_back(std::move(request.get_object()));
            now.insert(std::move(text));
        }
    }
    seen_ = std::move(now);
    first_ = false;
    return fresh;
}

bool is_refused(const json::object& request) {
    const std::string verdict = text_of(request, "verdict");
    return verdict != "forwarded" && verdict != "answered";
}

std::string request_text(const std::string& node, const json::object& request) {
    const bool dns = text_of(request, "type") == "dns";
    std::string text = fmt::format("{} {} ", text_of(request, "time"), node);
    if (dns) {
        text += fmt::format("egress dns {}: {} -> {} {}", text_of(request, "verdict"),
                            text_of(request, "client"), text_of(request, "server"),
                            text_of(request, "protocol"));
        append(text, text_of(request, "query_type"));
        append(text, text_of(request, "name"));
        append(text, text_of(request, "rcode"));
        for (const json::value& address : list_of(request, "addresses")) {
            if (address.is_string()) append(text, std::string(address.get_string()));
        }
    } else {
        text +=
            fmt::format("{} http {}: {} -> {} {}", text_of(request, "direction"),
                        text_of(request, "verdict"), end_text(object_of(request, "source")),
                        end_text(object_of(request, "destination")), text_of(request, "protocol"));
        append(text, text_of(request, "method"));
        append(text, text_of(request, "host") + text_of(request, "path"));
        if (request.contains("status")) append(text, std::to_string(integer_of(request, "status")));
    }
    if (const std::string reason = text_of(request, "reason"); !reason.empty()) {
        text += fmt::format(" ({})", reason);
    }
    return text;
}

}  // namespace mesh::ctl
