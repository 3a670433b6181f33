#include "rpc/tls.hpp"

#include <array>
#include <utility>

#include "rpc/tls_context.hpp"
#include "rpc/tls_files.hpp"

namespace mesh::rpc {

using detail::FileMark;
using detail::RevocationLists;
using detail::TlsContext;

namespace {

using FileMarks = std::array<FileMark, 3>;

FileMarks marks_of(const TlsOptions& o) {
    return {detail::mark_of(o.ca_file), detail::mark_of(o.cert_file), detail::mark_of(o.key_file)};
}

}  // namespace

struct TlsCredentials::State {
    TlsRole role;
    TlsOptions options;
    Logger logger;
    std::shared_ptr<TlsContext> context;
    // Of what is in use, or was refused last.
    FileMarks marks;
    FileMark list_mark;
    std::uint64_t reloads = 0;
    bool told_expired = false;  // of the lists in use
};

Result<std::shared_ptr<TlsCredentials>> TlsCredentials::load(TlsRole role, TlsOptions options,
                                                             Logger logger) {
    // Marks before contents: a change in between is then seen as one.
    const FileMarks marks = marks_of(options);
    const FileMark list_mark = detail::mark_of(options.crl_file);
    MESH_TRY(auto context, TlsContext::make(role, options));
    std::shared_ptr<const RevocationLists> lists;
    if (!options.crl_file.empty()) {
        MESH_TRY(lists, RevocationLists::load(options.crl_file, context->trusted()));
    }
    auto state = std::make_unique<State>(State{role, std::move(options), std::move(logger),
                                               std::move(context), marks, list_mark, 0, false});
    std::shared_ptr<TlsCredentials> made(new TlsCredentials(std::move(state)));
    if (lists) made->take_lists(std::move(lists));
    made->warn_of_expired_lists();
    return made;
}

TlsCredentials::TlsCredentials(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsCredentials::~TlsCredentials() = default;
TlsRole TlsCredentials::role() const noexcept {
    return state_->role;
}
const TlsOptions& TlsCredentials::options() const noexcept {
    return state_->options;
}
std::uint64_t TlsCredentials::reloads() const noexcept {
    return state_->reloads;
}
TlsExpiry TlsCredentials::expiry() const {
    return state_->context->expiry();
}

std::shared_ptr<TlsContext> TlsCredentials::context_for_new_connection() {
    refresh();
    return state_->context;
}

const std::shared_ptr<TlsContext>& TlsCredentials::context() const noexcept {
    return state_->context;
}

void TlsCredentials::refresh() {
    State& s = *state_;
    const FileMarks marks = marks_of(s.options);
    const FileMark list_mark = detail::mark_of(s.options.crl_file);
    const bool files = marks != s.marks;
    const bool lists = list_mark != s.list_mark;
    s.marks = marks;
    s.list_mark = list_mark;
    // A new CA may have signed a list that was refused.
    if (files) read_files();
    if (lists || (files && !s.options.crl_file.empty())) read_lists();
    s.context->roll_ticket_key(SystemClock().wall_now());
    warn_of_expired_lists();
}

void TlsCredentials::read_files() {
    State& s = *state_;
    auto fresh = TlsContext::make(s.role, s.options);
    if (!fresh) {
        s.logger.warn("TLS files changed but are unusable, the old ones stay in use: {}",
                      fresh.error().detail());
        return;
    }
    if (s.context->revocation()) (*fresh)->set_revocation(s.context->revocation());
    s.context = *std::move(fresh);
    ++s.reloads;
    s.logger.info("TLS files changed; new connections use them (certificate {})",
                  s.options.cert_file.empty() ? "none" : detail::shown(s.options.cert_file));
}

void TlsCredentials::read_lists() {
    State& s = *state_;
    const WallTime now = SystemClock().wall_now();
    auto fresh = RevocationLists::load(s.options.crl_file, s.context->trusted());
    if (!fresh) {
        s.logger.warn("the list of revoked certificates is unusable, the old one stays in use: {}",
                      fresh.error().detail());
        return;
    }
    const auto& old = s.context->revocation();
    if (old && old->digest() == (*fresh)->digest()) return;
    if (old && (*fresh)->expired(now) && !old->expired(now)) {
        s.logger.warn(
            "crl-file {} is out of date (nextUpdate has passed), the list from before "
            "stays in use",
            detail::shown(s.options.crl_file));
        return;
    }
    take_lists(*std::move(fresh));
    ++s.reloads;
    s.logger.info("crl-file {} changed and is in use", detail::shown(s.options.crl_file));
}

void TlsCredentials::take_lists(std::shared_ptr<const RevocationLists> lists) {
    State& s = *state_;
    for (const std::string& issuer : lists->foreign())
        s.logger.info(
            "crl-file {}: no CA of ca-file is \"{}\", whose list counts for certificates "
            "of a CA that peers send, and for no others",
            detail::shown(s.options.crl_file), issuer);
    s.told_expired = false;
    s.context->set_revocation(std::move(lists));
}

void TlsCredentials::warn_of_expired_lists() {
    State& s = *state_;
    const auto& lists = s.context->revocation();
    if (s.told_expired || !lists || !lists->expired(SystemClock().wall_now())) return;
    s.told_expired = true;
    s.logger.warn(
        "crl-file {} is out of date (nextUpdate has passed): what it revokes stays "
        "revoked, what came after it is not known",
        detail::shown(s.options.crl_file));
}

}  // namespace mesh::rpc
