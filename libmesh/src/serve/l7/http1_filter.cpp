#include "serve/l7/http1_filter.hpp"

#include <algorithm>
#include <utility>

namespace mesh::serve::l7 {

namespace {

/// The value of a Connection field without the options of an upgrade.
void append_connection(std::string_view value, std::string& out) {
    bool first = true;
    while (!value.empty()) {
        const auto comma = std::min(value.find(','), value.size());
        std::string_view option = value.substr(0, comma);
        value.remove_prefix(std::min(comma + 1, value.size()));
        while (option.starts_with(' ') || option.starts_with('\t')) option.remove_prefix(1);
        while (option.ends_with(' ') || option.ends_with('\t')) option.remove_suffix(1);
        if (option.empty() || iequals(option, "upgrade") || iequals(option, "http2-settings"))
            continue;
        out.append(std::exchange(first, false) ? "Connection: " : ", ").append(option);
    }
    if (!first) out.append("\r\n");
}

}  // namespace

Http1Filter::Http1Filter(FilterHost& host, Http1Scratch& scratch)
    : host_(host), scratch_(scratch), limits_(host.limits()) {}

// --- exchanges ----------------------------------------------------------------------------------

Http1Filter::Exchange& Http1Filter::push() {
    if (count_ == ring_.size()) {
        // Grown in the order of the ring.
        std::rotate(ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(first_),
                    ring_.end());
        first_ = 0;
        ring_.emplace_back();
    }
    Exchange& exchange = ring_[(first_ + count_) % ring_.size()];
    ++count_;
    exchange.status = 0;
    exchange.to_head = exchange.websocket = exchange.http10 = exchange.close = false;
    exchange.verdict = Verdict::kForwarded;
    exchange.reason = {};
    exchange.began = head_since_;
    exchange.answered = {};
    exchange.request_bytes = exchange.response_bytes = 0;
    exchange.method.clear();
    exchange.path.clear();
    exchange.host.clear();
    exchange.rule.clear();
    exchange.mismatched.clear();
    return exchange;
}

void Http1Filter::pop() noexcept {
    first_ = (first_ + 1) % ring_.size();
    --count_;
    ++first_number_;
}

Http1Filter::Exchange* Http1Filter::open_exchange() noexcept {
    return count_ > 0 ? &ring_[(first_ + count_ - 1) % ring_.size()] : nullptr;
}

// --- requests -----------------------------------------------------------------------------------

bool Http1Filter::blocked() const noexcept {
    if (reading_ == Reading::kUpgrade) return true;
    return reading_ == Reading::kHead && (draining_ || count_ >= limits_.max_pipelined);
}

void Http1Filter::from_client(std::string_view bytes) {
    if (ending_ != Ending::kNone) return;
    if (tunnel_) return to_server.add_view(bytes);
    if (!held_.empty()) {
        held_.append(bytes);
        run_held();
    } else {
        held_.assign(bytes.substr(run(bytes)));
    }
    settle();
}

void Http1Filter::run_held() {
    const std::size_t used = run(held_);
    to_server.keep();
    held_.erase(0, used);
    if (held_.empty()) std::string().swap(held_);
}

std::size_t Http1Filter::run(std::string_view bytes) {
    std::size_t at = 0;
    while (at < bytes.size() && !blocked()) {
        const std::size_t n = step(bytes.substr(at));
        if (n == 0) break;
        at += n;
    }
    return at;
}

std::size_t Http1Filter::step(std::string_view bytes) {
    switch (reading_) {
        case Reading::kHead:
            return step_head(bytes);
        case Reading::kBody:
        case Reading::kDiscard:
            return step_body(bytes);
        case Reading::kUpgrade:
            return 0;
        case Reading::kOver:
            break;
    }
    return bytes.size();
}

std::size_t Http1Filter::step_head(std::string_view bytes) {
    // RFC 9112 §2.2: one empty line before a request is taken for a left-over, and not passed on.
    if (!skipped_line_ && scanned_ == 0 && bytes.front() == '\r') {
        if (bytes.size() == 1) return 0;
        if (bytes[1] == '\n') {
            skipped_line_ = true;
            return 2;
        }
    }
    if (head_since_ == TimePoint::max()) head_since_ = host_.now();
    const HeadEnd end = find_head_end(bytes, scanned_);
    Problem problem = end.problem;
    if (problem == Problem::kNone && end.size == 0) {
        if (bytes.size() <= limits_.head.max_bytes) return 0;
        problem = Problem::kTooLarge;
    }
    const std::string_view head = bytes.substr(0, end.size);
    if (problem == Problem::kNone) problem = parse_request(head, limits_.head, scratch_.request);
    if (problem != Problem::kNone) {
        refuse(problem);
        return bytes.size();
    }
    take_request(head);
    scanned_ = 0;
    skipped_line_ = false;
    head_since_ = TimePoint::max();
    return head.size();
}

void Http1Filter::take_request(std::string_view head) {
    const RequestHead& request = scratch_.request;
    Exchange& exchange = push();
    exchange.to_head = request.method == "HEAD";
    exchange.http10 = request.http10;
    exchange.request_bytes = head.size();
    const RequestView view{request.method, request.path, request.host, request.plain_path,
                           request.fields};
    const std::string_view denied = decide(host_, view, scratch_.decision);
    if (denied.empty()) {
        forward(head, exchange);
    } else {
        deny(denied, exchange);
    }
    note(exchange);
}

void Http1Filter::note(Exchange& exchange) const {
    if (!host_.logs(Verdict::kError)) return;
    const RequestHead& request = scratch_.request;
    exchange.method.assign(request.method);
    exchange.path.assign(request.path);
    exchange.host.assign(request.host);
    exchange.rule.assign(scratch_.decision.origin);
    for (const std::string_view name : scratch_.decision.mismatched)
        exchange.mismatched.append(exchange.mismatched.empty() ? "" : ",").append(name);
}

void Http1Filter::forward(std::string_view head, Exchange& exchange) {
    const RequestHead& request = scratch_.request;
    request_start_ = to_server.position();
    // What is not a websocket, h2c above all, would be a way round policy.
    exchange.websocket = request.asks_websocket && request.body == BodyKind::kNone;
    const bool drop_upgrade = request.has_upgrade && !exchange.websocket;
    if (drop_upgrade || !scratch_.decision.edits.empty()) {
        scratch_.text.clear();
        append_edited(head, drop_upgrade, scratch_.text);
        to_server.add_copy(scratch_.text);
    } else {
        to_server.add_view(head);
    }
    request_body_.begin(request.body, request.length, limits_.head);
    if (exchange.websocket) {
        reading_ = Reading::kUpgrade;
    } else if (!request_body_.done()) {
        reading_ = Reading::kBody;
    }
}

void Http1Filter::append_edited(std::string_view head, bool drop_upgrade, std::string& out) const {
    const auto& edits = scratch_.decision.edits;
    out.append(head.substr(0, head.find('\n') + 1));
    for (const Field& field : scratch_.request.fields) {
        const bool dropped = std::ranges::any_of(edits, [&](const HeaderEdit& edit) {
            return edit.kind == HeaderEdit::Kind::kDelete && iequals(edit.name, field.name);
        });
        if (dropped) continue;
        if (drop_upgrade) {
            if (iequals(field.name, "upgrade") || iequals(field.name, "http2-settings")) continue;
            if (iequals(field.name, "connection")) {
                append_connection(field.value, out);
                continue;
            }
        }
        out.append(field.name).append(": ").append(field.value).append("\r\n");
    }
    for (const HeaderEdit& edit : edits) {
        if (edit.kind == HeaderEdit::Kind::kAdd)
            out.append(edit.name).append(": ").append(edit.value).append("\r\n");
    }
    out.append("\r\n");
}

void Http1Filter::deny(std::string_view reason, Exchange& exchange) {
    const RequestHead& request = scratch_.request;
    exchange.status = 403;
    exchange.verdict = Verdict::kDenied;
    exchange.reason = reason;
    // A client that waits for leave to send may or may not send its body: nobody knows where the
    // next request would begin.
    const bool long_body =
        request.body == BodyKind::kLength && request.length > limits_.max_discarded;
    exchange.close = !request.keep_alive || request.http10 || request.expects_continue || long_body;
    if (exchange.close) {
        reading_ = Reading::kOver;
        return;
    }
    request_body_.begin(request.body, request.length, limits_.head);
    discarded_ = 0;
    reading_ = request_body_.done() ? Reading::kHead : Reading::kDiscard;
}

void Http1Filter::refuse(Problem problem) {
    Exchange* open = nullptr;
    if (reading_ == Reading::kBody || reading_ == Reading::kDiscard) {
        open = open_exchange();
        // Its head may have left already: then the server sees no more than an end.
        if (reading_ == Reading::kBody && !to_server.rewind(request_start_)) server_ended_ = true;
        if (in_response_ && (count_ == 1 || server_ended_)) {
            front().verdict = Verdict::kRefused;
            front().reason = text_of(problem);
            finish(front(), front().status);
            ending_ = Ending::kReset;
            return;
        }
    }
    Exchange& exchange = open != nullptr ? *open : push();
    exchange.status = status_of(problem);
    exchange.verdict = Verdict::kRefused;
    exchange.reason = text_of(problem);
    exchange.close = true;
    reading_ = Reading::kOver;
    // Without the server, those before it get no answer any more.
    while (server_ended_ && count_ > 1) {
        front().reason = text_of(ServerFailure::kReset);
        front().verdict = Verdict::kError;
        finish(front(), 0);
        pop();
    }
}

std::size_t Http1Filter::step_body(std::string_view bytes) {
    const std::size_t n = request_body_.take(bytes);
    if (reading_ == Reading::kBody) {
        to_server.add_view(bytes.substr(0, n));
        if (Exchange* exchange = open_exchange(); exchange != nullptr) exchange->request_bytes += n;
    } else if ((discarded_ += n) > limits_.max_discarded) {
        // Our answer has been given, or is on its way; the rest is not worth to be read.
        if (Exchange* exchange = open_exchange(); exchange != nullptr && exchange->status != 0) {
            exchange->close = true;
        } else {
            ending_ = Ending::kClose;
        }
        reading_ = Reading::kOver;
        return bytes.size();
    }
    if (request_body_.problem() != Problem::kNone) {
        if (reading_ == Reading::kDiscard) {
            ending_ = count_ == 0 ? Ending::kClose : ending_;
            if (Exchange* exchange = open_exchange(); exchange != nullptr) exchange->close = true;
            reading_ = Reading::kOver;
        } else {
            refuse(request_body_.problem());
        }
        return bytes.size();
    }
    if (request_body_.done()) reading_ = Reading::kHead;
    return n;
}

void Http1Filter::client_end() {
    if (client_ended_ || ending_ != Ending::kNone) return;
    client_ended_ = true;
    if (tunnel_) {
        if (server_ended_) ending_ = Ending::kClose;
        return;
    }
    const bool broken_off =
        (reading_ == Reading::kHead && !held_.empty() && !blocked()) || reading_ == Reading::kBody;
    if (broken_off) {
        if (Exchange* exchange = open_exchange();
            exchange != nullptr && reading_ == Reading::kBody) {
            exchange->reason = "the client broke off";
            exchange->verdict = Verdict::kError;
        }
        ending_ = Ending::kReset;
    }
    settle();
}

void Http1Filter::request_timeout() {
    if (ending_ != Ending::kNone) return;
    if (reading_ == Reading::kUpgrade || reading_ == Reading::kOver) {
        ending_ = Ending::kReset;
        return;
    }
    refuse(Problem::kTimeout);
    settle();
}

// --- both ---------------------------------------------------------------------------------------

void Http1Filter::settle() {
    if (settling_) return;
    settling_ = true;
    answer_ours();
    if (tunnel_ && !held_.empty()) {
        to_server.add_copy(held_);
        std::string().swap(held_);
    }
    // What waited for its turn.
    while (ending_ == Ending::kNone && !tunnel_ && !held_.empty() && scanned_ == 0 && !blocked()) {
        const std::size_t before = held_.size();
        run_held();
        answer_ours();
        if (held_.size() == before) break;
    }
    settling_ = false;
    if (ending_ != Ending::kNone || tunnel_ || count_ > 0) return;
    const bool between = reading_ == Reading::kHead || reading_ == Reading::kOver;
    if (server_ended_ || (between && (client_ended_ || draining_))) ending_ = Ending::kClose;
}

void Http1Filter::advance() {
    if (ending_ == Ending::kNone) settle();
}

void Http1Filter::drain() {
    draining_ = true;
    advance();
}

bool Http1Filter::reads_client() const noexcept {
    if (ending_ != Ending::kNone || client_ended_) return false;
    return tunnel_ || !blocked();
}

bool Http1Filter::reads_server() const noexcept {
    return ending_ == Ending::kNone && !server_ended_;
}

Waiting Http1Filter::waiting() const noexcept {
    return {reading_ == Reading::kHead ? head_since_ : TimePoint::max(),
            !tunnel_ && (reading_ == Reading::kBody || reading_ == Reading::kDiscard)};
}

bool Http1Filter::server_told_end() const noexcept {
    return client_ended_ && held_.empty() && ending_ == Ending::kNone;
}

bool Http1Filter::client_told_end() const noexcept {
    return tunnel_ && server_ended_ && ending_ == Ending::kNone;
}

}  // namespace mesh::serve::l7
