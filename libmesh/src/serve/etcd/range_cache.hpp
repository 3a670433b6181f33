// Encoded answers to ranges that many clients ask for alike: agents that restart together all list
// the same prefixes, page by page. The key-values of such an answer are encoded once and shared by
// the frames of all who ask; each frame has a header of its own. What a key held at a revision
// never changes, so an answer stays good until its revision is compacted or the store's history is
// another one (Store::rewrites).
//
// Bounded: what is kept, by bytes, the least recently used goes first; and nothing is encoded to be
// kept that was asked for once. What was let go of while answers still wait to be sent is found
// again as long as they do. Internal to serve/etcd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "rpc/frame.hpp"
#include "serve/etcd/wire_encode.hpp"
#include "state/store/store.hpp"

namespace mesh::serve {

/// @thread the store's
class RangeCache {
  public:
    /// @param max_bytes of encoded answers; 0 = none are kept
    explicit RangeCache(std::size_t max_bytes) : max_bytes_(max_bytes) {}

    /// The framed answer; empty if it is longer than a message may be.
    /// @errors those of Store::range
    [[nodiscard]] store::Outcome<rpc::Frame> range(const store::Store& store,
                                                   const store::RangeRequest& request,
                                                   const WireHeader& header);

    /// Forgets what was not asked for since the last sweep. @return whether anything is left
    bool sweep();
    /// Bytes kept.
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    /// Answers that needed no encoding.
    [[nodiscard]] std::uint64_t hits() const noexcept { return hits_; }

  private:
    using Body = std::shared_ptr<const std::string>;
    struct Entry {
        std::weak_ptr<const std::string> alive;
        Body kept;                                      // null: asked for once, or let go of
        std::uint64_t age = 0;                          // sweeps_ when it was last asked for
        std::list<const std::string*>::iterator place;  // in by_use_, if kept
    };
    using Entries = std::unordered_map<std::string, Entry>;

    [[nodiscard]] Body find(const std::string& name);
    void keep(const std::string& name, Entry& entry, Body body);
    void let_go(Entry& entry);
    void drop_all();

    std::size_t max_bytes_;
    std::size_t bytes_ = 0;
    std::uint64_t hits_ = 0;
    std::uint64_t sweeps_ = 0;
    std::uint64_t rewrites_ = 0;  // of the store, for which entries_ are good
    Entries entries_;
    std::list<const std::string*> by_use_;  // keys of entries_, the longest unused first
};

}  // namespace mesh::serve
