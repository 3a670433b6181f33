#include "engine/policy_proxies.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace mesh::engine {

namespace asio = boost::asio;
namespace json = boost::json;
using datapath::proxy_socket_mark;
using datapath::ProxySocket;
using model::policy::Direction;

namespace {

constexpr std::chrono::seconds kTick{1};
constexpr std::chrono::seconds kHttpGrace{2};
constexpr std::size_t kQuestionsKept = 1000;
/// Another port for both families when one of them is taken.
constexpr int kPortTries = 20;

std::uint32_t mark_of(std::uint32_t proxy_mark, ProxySocket socket) {
    return proxy_mark != 0 ? proxy_socket_mark(proxy_mark, socket) : 0;
}

}  // namespace

PolicyProxies::PolicyProxies(const asio::any_io_executor& executor, PolicyProxiesOptions options,
                             PolicyEngine& policy, const Clock& clock, Logger log)
    : executor_(executor),
      options_(std::move(options)),
      policy_(policy),
      clock_(clock),
      log_(std::move(log)),
      names_(options_.fqdn_file, policy_.peers().local(), clock, log_.named("names")),
      http_rules_(policy_.l7(), options_.proxy_mark, log_.named("http")),
      timer_(executor) {
    policy_.on_policy(
        [this](const auto* before, const auto* after) { names_.note_policy(before, after); });
    policy_.on_endpoint_gone([this](datapath::EndpointId id) { names_.remove_endpoint(id); });
}

PolicyProxies::~PolicyProxies() {
    policy_.on_policy({});
    policy_.on_endpoint_gone({});
}

void PolicyProxies::start() {
    names_.load();
    tick();
}

asio::awaitable<void> PolicyProxies::async_stop() {
    stopped_ = true;
    timer_.cancel();
    names_.save();
    // Rows stay: what would be led to a proxy waits for the next agent's, or is dropped.
    if (dns_) co_await dns_->async_stop();
    if (http_) http_->stop(kHttpGrace);
    flushed();
}

void PolicyProxies::flushed() {
    for (const auto& done : std::exchange(waiting_, {})) done();
}

// --- HTTP -------------------------------------------------------------------------------------

Result<std::uint16_t> PolicyProxies::listen_http(Direction direction) {
    const auto v4 = model::IpAddress::v4(127, 0, 0, 1);
    const auto v6 = *model::IpAddress::parse("::1");
    Result<serve::l7::HttpListener> first = unavailable("no port");
    for (int tried = 0; tried < kPortTries; ++tried) {
        first = http_->listen({v4, 0}, direction);
        if (!first) return first.error();
        const auto second = http_->listen({v6, first->port}, direction);
        if (second) return first->port;
        // Taken by somebody: a listener more for IPv4 harms nobody.
        log_.debug("HTTP proxy: {}", second.error().message());
    }
    log_.warn("HTTP proxy: there is none for IPv6");
    return first->port;
}

Result<void> PolicyProxies::start_http() {
    serve::l7::HttpProxyOptions options;
    options.loops = options_.http_threads;
    options.mark = mark_of(options_.proxy_mark, ProxySocket::kListener);
    options.access_log.file = options_.access_log;
    http_ =
        std::make_unique<serve::l7::HttpProxy>(std::move(options), http_rules_, log_.named("http"));
    MESH_CHECK(http_->start());
    for (const Direction direction : model::policy::kDirections) {
        MESH_TRY(const std::uint16_t port, listen_http(direction));
        policy_.set_proxy("http", direction, port);
    }
    return {};
}

// --- DNS --------------------------------------------------------------------------------------

Result<void> PolicyProxies::start_dns() {
    serve::dns::DnsProxyOptions options;
    options.listen = {{model::IpAddress::v4(127, 0, 0, 1), 0},
                      {*model::IpAddress::parse("::1"), 0}};
    options.from_client_address = options_.proxy_mark != 0;
    options.listener_mark = mark_of(options_.proxy_mark, ProxySocket::kListener);
    options.upstream_mark = mark_of(options_.proxy_mark, ProxySocket::kToServerOfEgress);
    serve::dns::DnsProxyCallbacks callbacks;
    callbacks.decide = [this](const serve::dns::DnsQuestion& question) { return decide(question); };
    callbacks.on_learnt = [this](const serve::dns::Learnt& learnt, std::function<void()> done) {
        learn(learnt, std::move(done));
    };
    callbacks.on_event = [this](const serve::dns::DnsEvent& event) {
        questions_.push_back(serve::dns::to_json(event, clock_.wall_now()));
        if (questions_.size() > kQuestionsKept) questions_.pop_front();
    };
    dns_ = std::make_unique<serve::dns::DnsProxy>(executor_, clock_, log_.named("dns"),
                                                  std::move(options), std::move(callbacks));
    MESH_CHECK(dns_->start());
    policy_.set_proxy("dns", Direction::kEgress, dns_->port());
    return {};
}

serve::dns::Decision PolicyProxies::decide(const serve::dns::DnsQuestion& question) {
    L7Flow flow;
    flow.direction = Direction::kEgress;
    flow.protocol = question.transport == serve::dns::Transport::kUdp ? 17 : 6;
    flow.client = question.client.address;
    flow.server = question.server.address;
    flow.server_port = question.server.port;
    const L7Answer answer = policy_.l7().find("dns", flow);
    serve::dns::Decision decision;
    decision.endpoint = answer.endpoint;
    decision.allow = dns_rules_.allow(answer.any_of, question.name);
    return decision;
}

void PolicyProxies::learn(const serve::dns::Learnt& learnt, std::function<void()> done) {
    if (!names_.learn(learnt.endpoint, learnt.name, learnt.addresses, learnt.ttl)) return done();
    waiting_.push_back(std::move(done));
    if (options_.on_change) options_.on_change();
}

// --- time -------------------------------------------------------------------------------------

void PolicyProxies::tick() {
    if (stopped_) return;
    const auto note = [this](std::string& told, const Result<void>& outcome, const char* what) {
        const std::string error = outcome ? std::string() : outcome.error().message();
        if (!error.empty() && error != told) log_.error("{} proxy: {}", what, error);
        told = error;
    };
    if (!prepared_) {
        const auto done = options_.prepare ? options_.prepare() : Result<void>();
        note(routes_error_, done, "routes to the");
        prepared_ = done.has_value();
    }
    if (!http_ || !http_error_.empty()) {
        http_.reset();
        note(http_error_, start_http(), "HTTP");
        if (options_.on_change) options_.on_change();
    }
    if (!dns_ || !dns_error_.empty()) {
        dns_.reset();
        note(dns_error_, start_dns(), "DNS");
        if (options_.on_change) options_.on_change();
    }
    const auto due = names_.next_due();
    // Whether connections live is not asked: an address stays for as long as its name's bounds let
    // it.
    const bool changed = due && *due <= clock_.now() &&
                         names_.expire([](serve::dns::EndpointId, const auto&) { return true; });
    if (changed && options_.on_change) options_.on_change();
    names_.save();
    wait();
}

void PolicyProxies::wait() {
    timer_.expires_after(kTick);
    timer_.async_wait([this](boost::system::error_code ec) {
        if (!ec) tick();
    });
}

// --- status -----------------------------------------------------------------------------------

json::object PolicyProxies::status() const {
    json::object http{{"error", http_error_}};
    if (http_) {
        const auto stats = http_->stats();
        http["connections"] = stats.connections;
        http["accepted"] = stats.accepted;
        http["refused_limit"] = stats.refused_limit;
        http["forwarded"] = stats.forwarded;
        http["denied"] = stats.denied;
        http["refused"] = stats.refused;
        http["errors"] = stats.errors;
    }
    json::object dns{{"error", dns_error_}};
    if (dns_) {
        const auto counters = dns_->counters();
        dns["port"] = dns_->port();
        dns["udp_queries"] = counters.udp_queries;
        dns["tcp_queries"] = counters.tcp_queries;
        dns["answered"] = counters.answered;
        dns["denied"] = counters.denied;
        dns["malformed"] = counters.malformed;
        dns["overload"] = counters.overload;
        dns["timeouts"] = counters.timeouts;
        dns["failed"] = counters.failed;
        dns["learnt"] = counters.learnt;
    }
    return {{"routes_error", routes_error_},
            {"http", std::move(http)},
            {"dns", std::move(dns)},
            {"names", json::object{{"addresses", names_.cache().size()},
                                   {"zombies", names_.cache().zombies()},
                                   {"selectors", names_.cache().selectors().size()}}}};
}

std::vector<std::string> PolicyProxies::recent(std::size_t count) const {
    std::vector<std::string> lines = http_ ? http_->recent(count) : std::vector<std::string>();
    const std::size_t skipped = questions_.size() > count ? questions_.size() - count : 0;
    lines.insert(lines.end(), questions_.begin() + static_cast<std::ptrdiff_t>(skipped),
                 questions_.end());
    return lines;
}

}  // namespace mesh::engine
