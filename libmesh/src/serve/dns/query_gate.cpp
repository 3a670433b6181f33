#include "serve/dns/query_gate.hpp"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/steady_timer.hpp>
#include <utility>

#include "runtime/entropy.hpp"

namespace mesh::serve::dns {

namespace asio = boost::asio;

Exchange::Exchange(std::shared_ptr<QueryGate> its_gate, EndpointId its_endpoint)
    : gate(std::move(its_gate)), endpoint(its_endpoint) {
    ++gate->counters.outstanding_now;
    ++gate->outstanding_[endpoint];
}

Exchange::~Exchange() {
    --gate->counters.outstanding_now;
    const auto at = gate->outstanding_.find(endpoint);
    if (--at->second == 0) gate->outstanding_.erase(at);
}

/// An answer that is held until what it teaches is in force.
struct QueryGate::Waiting {
    Waiting(ExchangePtr its_exchange, Answer its_answer, Bytes its_bytes, Deliver its_deliver)
        : exchange(std::move(its_exchange)),
          answer(std::move(its_answer)),
          bytes(std::move(its_bytes)),
          deliver(std::move(its_deliver)),
          held(bytes.size()) {
        exchange->gate->counters.held_bytes_now += held;
    }
    ~Waiting() { exchange->gate->counters.held_bytes_now -= held; }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

    ExchangePtr exchange;
    Answer answer;
    Bytes bytes;
    Deliver deliver;
    std::size_t held;
    bool finished = false;
    std::unique_ptr<asio::steady_timer> timer;
};

QueryGate::QueryGate(asio::any_io_executor executor, const Clock& clock,
                     const DnsProxyOptions& options, DnsProxyCallbacks callbacks)
    : executor_(std::move(executor)),
      clock_(clock),
      options_(options),
      callbacks_(std::move(callbacks)) {}

std::uint16_t QueryGate::fresh_id() {
    if (random_left_ < 2) {
        fill_unpredictable(random_);
        random_left_ = random_.size();
    }
    random_left_ -= 2;
    return id_of(BytesView(random_).subspan(random_left_, 2));
}

void QueryGate::renew_id(Exchange& exchange) {
    exchange.upstream_id = fresh_id();
    set_id(exchange.wire, exchange.upstream_id);
}

bool QueryGate::has_room(EndpointId endpoint) const {
    if (counters.outstanding_now >= options_.max_outstanding) return false;
    const auto at = outstanding_.find(endpoint);
    return at == outstanding_.end() || at->second < options_.max_outstanding_per_endpoint;
}

void QueryGate::tell_malformed(const DnsQuestion& question, std::string reason) {
    ++counters.malformed;
    if (!callbacks_.on_event) return;
    DnsEvent event{.verdict = DnsVerdict::kMalformed, .question = question};
    event.reason = std::move(reason);
    callbacks_.on_event(event);
}

Bytes QueryGate::refuse(BytesView message, const Query& query, const DnsQuestion& question,
                        const Decision& decision, std::string_view why) {
    const bool overload = decision.allow;
    ++(overload ? counters.overload : counters.denied);
    const ResponseCode code = overload ? ResponseCode::kServerFailure : options_.reject_code;
    if (callbacks_.on_event) {
        DnsEvent event{.verdict = overload ? DnsVerdict::kOverload : DnsVerdict::kDenied,
                       .endpoint = decision.endpoint,
                       .question = question,
                       .code = code};
        event.reason = why;
        callbacks_.on_event(event);
    }
    return make_answer(message, query, code, !overload);
}

QueryGate::Admission QueryGate::admit(BytesView message, bool cut, Transport transport,
                                      const PeerAddress& client, const PeerAddress& server) {
    if (closed_) return {};
    ++(transport == Transport::kUdp ? counters.udp_queries : counters.tcp_queries);
    DnsQuestion question{transport, client, server, {}, {}};
    auto query =
        cut ? Result<Query>(invalid_argument("longer than a query may be")) : parse_query(message);
    if (!query) {
        tell_malformed(question, query.error().detail());
        return {make_format_error(message), nullptr};
    }
    question.name = query->name;
    question.type = query->type;
    Decision decision;
    if (callbacks_.decide) decision = callbacks_.decide(question);
    std::string_view why = "by policy";
    if (query->type == RecordType::kAxfr || query->type == RecordType::kIxfr) {
        // Answers of many messages, which nobody here could check.
        decision.allow = false;
        why = "zone transfers do not pass";
    }
    if (!decision.allow) {
        return {refuse(message, *query, question, decision, why), nullptr};
    }
    if (!has_room(decision.endpoint)) {
        return {refuse(message, *query, question, decision, "too many queries without an answer"),
                nullptr};
    }
    auto exchange = std::make_shared<Exchange>(shared_from_this(), decision.endpoint);
    exchange->question = std::move(question);
    exchange->query = *std::move(query);
    exchange->wire.assign(message.begin(), message.end());
    exchange->started = clock_.now();
    renew_id(*exchange);
    return {{}, std::move(exchange)};
}

bool QueryGate::take_answer(const ExchangePtr& exchange, Bytes bytes, Deliver deliver) {
    const bool ours = bytes.size() >= kHeaderBytes && id_of(bytes) == exchange->upstream_id;
    auto answer =
        ours ? parse_answer(bytes, exchange->query) : Result<Answer>(invalid_argument("id"));
    if (!answer) {
        ++counters.wrong_answers;
        ++exchange->wrong_answers;
        return false;
    }
    if (closed_) return true;
    if (counters.held_bytes_now + bytes.size() > options_.max_held_bytes) {
        deliver(fail(*exchange, DnsVerdict::kOverload, "too many answers are held"));
        return true;
    }
    set_id(bytes, exchange->query.id);
    if (answer->addresses.empty() || !callbacks_.on_learnt) {
        tell_answered(*exchange, *std::move(answer));
        deliver(std::move(bytes));
        return true;
    }
    wait_until_learnt(exchange, *std::move(answer), std::move(bytes), std::move(deliver));
    return true;
}

void QueryGate::wait_until_learnt(const ExchangePtr& exchange, Answer answer, Bytes bytes,
                                  Deliver deliver) {
    ++counters.learnt;
    const Learnt learnt{exchange->endpoint, exchange->question.name, answer.addresses,
                        std::chrono::seconds(answer.ttl)};
    auto waiting = std::make_shared<Waiting>(exchange, std::move(answer), std::move(bytes),
                                             std::move(deliver));
    callbacks_.on_learnt(learnt, [self = shared_from_this(), waiting] {
        asio::dispatch(self->executor_, [self, waiting] { self->finish(waiting, false); });
    });
    if (waiting->finished) return;
    waiting->timer = std::make_unique<asio::steady_timer>(executor_, options_.max_answer_delay);
    waiting->timer->async_wait(
        [self = shared_from_this(), waiting](const boost::system::error_code& ec) {
            if (!ec) self->finish(waiting, true);
        });
}

void QueryGate::finish(const std::shared_ptr<Waiting>& waiting, bool late) {
    if (waiting->finished) return;
    waiting->finished = true;
    if (waiting->timer) waiting->timer->cancel();
    if (closed_) return;
    if (late) ++counters.late_learnt;
    tell_answered(*waiting->exchange, std::move(waiting->answer));
    const Deliver deliver = std::move(waiting->deliver);
    deliver(std::move(waiting->bytes));
}

void QueryGate::tell_answered(const Exchange& exchange, Answer answer) {
    ++counters.answered;
    if (!callbacks_.on_event) return;
    callbacks_.on_event({.verdict = DnsVerdict::kAnswered,
                         .endpoint = exchange.endpoint,
                         .question = exchange.question,
                         .code = answer.code,
                         .addresses = std::move(answer.addresses),
                         .ttl = answer.ttl,
                         .took = clock_.now() - exchange.started,
                         .reason = {}});
}

Bytes QueryGate::fail(const Exchange& exchange, DnsVerdict verdict, std::string reason) {
    ++(verdict == DnsVerdict::kTimeout    ? counters.timeouts
       : verdict == DnsVerdict::kOverload ? counters.overload
                                          : counters.failed);
    if (callbacks_.on_event && !closed_) {
        callbacks_.on_event({.verdict = verdict,
                             .endpoint = exchange.endpoint,
                             .question = exchange.question,
                             .code = ResponseCode::kServerFailure,
                             .addresses = {},
                             .ttl = 0,
                             .took = clock_.now() - exchange.started,
                             .reason = std::move(reason)});
    }
    return make_answer(exchange.wire, exchange.query, ResponseCode::kServerFailure);
}

}  // namespace mesh::serve::dns
