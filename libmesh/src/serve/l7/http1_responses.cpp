// What Http1Filter does with a server's responses, and its own answers in place of them.
#include <fmt/format.h>

#include <iterator>
#include <string>

#include "serve/l7/http1_filter.hpp"

namespace mesh::serve::l7 {

namespace {

void append_reply(unsigned status, std::string_view reason, bool to_head, bool close,
                  std::string& out) {
    std::string text;
    if (status != 403) text = std::string(reason).append("\r\n");
    const std::string_view body = status == 403 ? kDeniedBody : std::string_view(text);
    fmt::format_to(std::back_inserter(out),
                   "HTTP/1.1 {} {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{}: {}\r\n",
                   status, reason_phrase(status), body.size(), kReasonHeader, reason);
    out.append(close ? "connection: close\r\n\r\n" : "\r\n");
    if (!to_head) out.append(body);
}

}  // namespace

void Http1Filter::from_server(std::string_view bytes) {
    if (ending_ != Ending::kNone || server_ended_) return;
    const auto run_server = [this](std::string_view all) {
        std::size_t at = 0;
        while (at < all.size() && ending_ == Ending::kNone && !server_ended_) {
            const std::size_t n = server_step(all.substr(at));
            if (n == 0) break;
            at += n;
        }
        return at;
    };
    if (server_held_.empty()) {
        const std::size_t used = run_server(bytes);
        if (ending_ == Ending::kNone && !server_ended_) server_held_.assign(bytes.substr(used));
    } else {
        server_held_.append(bytes);
        const std::size_t used = run_server(server_held_);
        to_client.keep();
        server_held_.erase(0, used);
    }
    settle();
}

std::size_t Http1Filter::server_step(std::string_view bytes) {
    if (tunnel_) {
        to_client.add_view(bytes);
        return bytes.size();
    }
    if (!in_response_) return server_step_head(bytes);
    const std::size_t n = response_body_.take(bytes);
    front().response_bytes += n;
    if (response_body_.problem() != Problem::kNone) {
        bad_response(response_body_.problem());
        return bytes.size();
    }
    to_client.add_view(bytes.substr(0, n));
    if (response_body_.done()) complete_front(front().status);
    return n;
}

std::size_t Http1Filter::server_step_head(std::string_view bytes) {
    if (count_ == 0 || front().status != 0) {
        // Some servers say why they close an idle connection; to a request that comes at that
        // moment it would look like the answer.
        server_ended_ = true;
        if (count_ == 0) ending_ = Ending::kClose;
        return bytes.size();
    }
    const HeadEnd end = find_head_end(bytes, server_scanned_);
    Problem problem = end.problem;
    if (problem == Problem::kNone && end.size == 0) {
        if (bytes.size() <= limits_.head.max_bytes) return 0;
        problem = Problem::kTooLarge;
    }
    const std::string_view head = bytes.substr(0, end.size);
    if (problem == Problem::kNone)
        problem = parse_response(head, limits_.head, front().to_head, scratch_.response);
    if (problem == Problem::kNone && scratch_.response.status == 101 && !front().websocket)
        problem = Problem::kUnasked;
    if (problem != Problem::kNone) {
        bad_response(problem);
        return bytes.size();
    }
    server_scanned_ = 0;
    take_response(head);
    return head.size();
}

void Http1Filter::take_response(std::string_view head) {
    const ResponseHead& response = scratch_.response;
    Exchange& exchange = front();
    if (exchange.answered == TimePoint{}) exchange.answered = host_.now();
    exchange.response_bytes += head.size();
    to_client.add_view(head);
    response_begun_ = true;
    if (response.status == 101) {
        tunnel_ = true;
        complete_front(101);
        return;
    }
    if (response.status < 200) return;
    if (exchange.websocket) reading_ = Reading::kHead;
    response_body_.begin(response.body, response.length, limits_.head);
    in_response_ = true;
    // Only for the access log: 0 means that the server answers.
    exchange.status = 0;
    if (response_body_.done()) {
        complete_front(response.status);
    } else {
        exchange.status = response.status;
    }
}

void Http1Filter::complete_front(unsigned status) {
    // A server that answers before it has read the body may take what is left of it for the next
    // request, which policy would not have seen.
    const bool early = count_ == 1 && reading_ == Reading::kBody;
    finish(front(), status);
    pop();
    ++responses_;
    in_response_ = response_begun_ = false;
    if (early) {
        server_ended_ = true;
        ending_ = Ending::kClose;
    }
    // Ours have their place before the server's next.
    answer_ours();
}

void Http1Filter::finish(Exchange& exchange, unsigned status) {
    host_.count(exchange.verdict);
    if (!host_.logs(exchange.verdict)) return;
    AccessRecord record;
    const TimePoint now = host_.now();
    record.protocol = exchange.http10 ? "HTTP/1.0" : "HTTP/1.1";
    record.method = exchange.method;
    record.path = exchange.path;
    record.host = exchange.host;
    record.status = status;
    record.verdict = exchange.verdict;
    record.reason = exchange.reason;
    record.rule = exchange.rule;
    record.mismatched = exchange.mismatched;
    if (exchange.began != TimePoint::max()) record.duration = now - exchange.began;
    if (exchange.answered != TimePoint{})
        record.until_response = exchange.answered - exchange.began;
    record.request_bytes = exchange.request_bytes;
    record.response_bytes = exchange.response_bytes;
    host_.log(record);
}

void Http1Filter::bad_response(Problem problem) {
    server_ended_ = true;
    if (response_begun_ && in_response_) {
        front().verdict = Verdict::kError;
        front().reason = text_of(problem);
        finish(front(), front().status);
        ending_ = Ending::kReset;
        return;
    }
    answer_front(502, Verdict::kError, text_of(problem));
}

void Http1Filter::answer_front(unsigned status, Verdict verdict, std::string_view reason) {
    Exchange& exchange = front();
    exchange.status = status;
    exchange.verdict = verdict;
    exchange.reason = reason;
    exchange.close = true;
    reading_ = Reading::kOver;
}

void Http1Filter::answer_ours() {
    while (count_ > 0 && front().status != 0 && !in_response_ && ending_ == Ending::kNone) {
        Exchange& exchange = front();
        scratch_.text.clear();
        append_reply(exchange.status, exchange.reason, exchange.to_head, exchange.close,
                     scratch_.text);
        to_client.add_copy(scratch_.text);
        exchange.response_bytes = scratch_.text.size();
        exchange.answered = host_.now();
        if (exchange.close) ending_ = Ending::kClose;
        finish(exchange, exchange.status);
        pop();
    }
}

void Http1Filter::lose_server(std::string_view why, unsigned status) {
    server_ended_ = true;
    if (count_ == 0) {
        ending_ = Ending::kClose;
        return;
    }
    Exchange& exchange = front();
    if (in_response_) {
        exchange.verdict = Verdict::kError;
        exchange.reason = why;
        finish(exchange, exchange.status);
        ending_ = Ending::kReset;
        return;
    }
    if (exchange.status != 0) return;  // ours, answered in settle()
    if (responses_ > 0 && server_held_.empty() && !response_begun_) {
        // As if there were no proxy: a client repeats what was lost with a kept-alive connection.
        exchange.verdict = Verdict::kError;
        exchange.reason = why;
        finish(exchange, 0);
        ending_ = Ending::kClose;
        return;
    }
    answer_front(status, Verdict::kError, why);
}

void Http1Filter::server_end() {
    if (server_ended_ || ending_ != Ending::kNone) return;
    if (tunnel_) {
        server_ended_ = true;
        if (client_ended_) ending_ = Ending::kClose;
        return;
    }
    if (in_response_ && response_body_.until_close()) {
        server_ended_ = true;
        complete_front(front().status);
        ending_ = Ending::kClose;
        return;
    }
    lose_server(text_of(ServerFailure::kReset), server_held_.empty() ? 503 : 502);
    settle();
}

void Http1Filter::server_failed(ServerFailure failure) {
    if (ending_ != Ending::kNone) return;
    if (tunnel_) {
        ending_ = Ending::kReset;
        return;
    }
    if (server_ended_) return;
    lose_server(text_of(failure), failure == ServerFailure::kConnectTimeout ? 504 : 503);
    to_server.clear();
    settle();
}

}  // namespace mesh::serve::l7
