// Asks an upstream etcd what it has, and brings its mirror there: the ReadBarrier of a Mirror.
// Internal to serve/etcd.
//
// A linearizable read tells the upstream's revision. Where the mirror has events up to it, that is
// all. But changes outside of what is mirrored raise the revision without an event, and etcd before
// 3.4.25 answers progress requests out of order, so that a progress may be ahead of events. What is
// in order is one answer of a watch: one that starts in the past, at the last change that the
// mirror knows, is first answered with all changes from there up to its header's revision, that
// change at least. So a second watch is made from there, and its first answer proves what the
// mirror still has to get, if anything, before it may take the header's revision for its own.
// (etcd cuts such an answer after 1000 revisions: one of so many proves nothing.)
//
// Where that change is compacted already, nothing can be proved before 3.4.25. Then several
// progress answers are taken, one asked for after the other, with no event between: each may
// overtake events, but only those that etcd's stream had in hand when it was asked. Should an event
// come late all the same, the store refuses it, and the mirror lists again with exact differences.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>

#include "runtime/task_group.hpp"
#include "serve/etcd/read_barrier.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::serve {

/// What a question needs of its mirror.
class QuestionHost {
  public:
    virtual ~QuestionHost() = default;
    /// Whose history it has, up to which revision.
    [[nodiscard]] virtual const etcd::Header& position() const = 0;
    /// A revision at which the upstream had a change in the watched span; 0: none is known.
    [[nodiscard]] virtual store::Revision last_change() const = 0;
    /// Whether the watch tells of all changes by now, as far as can be known.
    [[nodiscard]] virtual bool settled() const = 0;
    /// All changes up to revision were told.
    virtual void reach(store::Revision revision) = 0;
};

/// @thread the client's loop; held by a shared_ptr
class UpstreamQuestion : public std::enable_shared_from_this<UpstreamQuestion> {
  public:
    /// @param tasks cancelled and joined before client and host go
    UpstreamQuestion(boost::asio::any_io_executor loop, etcd::Client& client, TaskGroup& tasks,
                     QuestionHost& host, etcd::KeyRange span);

    /// One at a time.
    void ask(OnReadMark then);
    /// The host's position has changed; by_events: the watch told it.
    void moved(bool by_events);
    /// The watch was told, asked by Client::request_progress(), that the upstream is at this.
    void on_in_step(const etcd::Header& header);
    /// The upstream is out of reach, or of another history.
    void lost();
    /// The client goes; nobody is told anything more.
    void stop();

  private:
    static boost::asio::awaitable<void> read(std::shared_ptr<UpstreamQuestion> self,
                                             std::uint64_t question);
    void on_revision(const Result<etcd::RangeResult>& answer);
    void look();
    void prove();
    void on_proof(const etcd::Header& header, std::span<const etcd::WatchEvent> changes);
    void ask_progress();
    void finish(const ReadMark& mark);
    void after(Duration time, void (UpstreamQuestion::*what)());

    etcd::Client& client_;
    TaskGroup& tasks_;
    QuestionHost& host_;
    const etcd::KeyRange span_;
    boost::asio::steady_timer next_step_, limit_;
    OnReadMark then_;                     // set while a question is under way
    std::uint64_t question_ = 0;          // counts them
    store::Revision wanted_ = 0;          // what the upstream has; 0 = it did not say yet
    std::unique_ptr<etcd::Watch> watch_;  // that proves
    store::Revision told_ = 0;            // all up to here was told once told_after_ is reached
    store::Revision told_after_ = 0;
    bool by_progress_ = false;
    int rounds_ = 0;  // of progress answers
};

}  // namespace mesh::serve
