#include "serve/etcd/watch_frames.hpp"

#include <algorithm>
#include <map>
#include <string>

namespace mesh::serve {
namespace {

/// A run of events that leaves as one response.
struct Piece {
    std::size_t begin = 0;  // in Events::bytes
    std::size_t end = 0;
    store::Revision revision = 0;  // of its last event
    bool fragment = false;         // more of the same revision follows
};

/// The selected events, serialised, and where they may be cut.
struct Events {
    std::string bytes;
    std::vector<Piece> pieces;
};

/// All that was derived from one batch; lives in EventBatch::encoded.
struct EncodedBatch {
    struct Selected {
        // Held, so that its address names it for as long as it is a key here.
        std::shared_ptr<const std::vector<std::uint32_t>> selection;
        // By (prev_kv, fragment).
        std::map<std::pair<bool, bool>, std::shared_ptr<const Events>> events;
        std::vector<std::pair<WatchFrameKey, WatchFrames>> frames;
    };
    std::map<const void*, Selected> selections;
};

// Most watches of a client population have the same few ids: their frames are made once, in one
// piece. What is for further ids, or large, is a head of its own before events that all share.
constexpr std::size_t kMostFramesKept = 16;
constexpr std::size_t kMostBytesCopied = 4096;

/// A piece grows until it is full, and then ends where the revision does, or at once with
/// fragments.
void add_event(Events& out, const store::Event& event, bool prev_kv, bool fragment,
               std::size_t max_bytes) {
    const store::Revision revision = event.kv.mod_revision();
    const std::size_t begin = out.bytes.size();
    append_event(out.bytes, event, prev_kv);
    const bool full = !out.pieces.empty() && out.bytes.size() - out.pieces.back().begin > max_bytes;
    const bool may_cut =
        !out.pieces.empty() && (fragment || out.pieces.back().revision != revision);
    if (out.pieces.empty() || (full && may_cut)) {
        if (!out.pieces.empty())
            out.pieces.back().fragment = out.pieces.back().revision == revision;
        out.pieces.push_back(
            {.begin = begin, .end = begin, .revision = revision, .fragment = false});
    }
    out.pieces.back().end = out.bytes.size();
    out.pieces.back().revision = revision;
}

Events encode(const store::Delivery& delivery, bool prev_kv, bool fragment, std::size_t max_bytes) {
    Events out;
    const auto& events = delivery.batch->events;
    if (delivery.selection) {
        for (const std::uint32_t i : *delivery.selection)
            add_event(out, events[i], prev_kv, fragment, max_bytes);
    } else {
        for (const store::Event& event : events)
            add_event(out, event, prev_kv, fragment, max_bytes);
    }
    // All up to here was looked at, also where the last events were of others.
    if (!out.pieces.empty()) out.pieces.back().revision = delivery.batch->revision;
    return out;
}

}  // namespace

WatchFrames watch_frames(const store::Delivery& delivery, const WatchFrameKey& key,
                         WireHeader header, std::size_t max_bytes, EtcdServiceStats& stats) {
    auto& cache = delivery.batch->encoded;
    if (!cache) cache = std::make_shared<EncodedBatch>();
    auto& selected = static_cast<EncodedBatch*>(cache.get())->selections[delivery.selection.get()];
    selected.selection = delivery.selection;
    for (const auto& [known, frames] : selected.frames)
        if (known == key) return frames;

    auto place = selected.events.find({key.prev_kv, key.fragment});
    if (place == selected.events.end())
        place = selected.events
                    .emplace(std::pair(key.prev_kv, key.fragment),
                             std::make_shared<const Events>(
                                 encode(delivery, key.prev_kv, key.fragment, max_bytes)))
                    .first;
    const std::shared_ptr<const Events>& events = place->second;
    const bool keep = selected.frames.size() < kMostFramesKept;
    const bool copy = keep && events->bytes.size() <= kMostBytesCopied;
    auto frames = std::make_shared<std::vector<rpc::Frame>>();
    for (const Piece& piece : events->pieces) {
        header.revision = piece.revision;
        const std::string_view bytes =
            std::string_view(events->bytes).substr(piece.begin, piece.end - piece.begin);
        frames->push_back(
            copy ? encode_watch_events(header, key.watch_id, bytes, piece.fragment)
                 : share_watch_events(header, key.watch_id, events, bytes, piece.fragment));
    }
    stats.frames_built += frames->size();
    if (keep) selected.frames.emplace_back(key, frames);
    return frames;
}

}  // namespace mesh::serve
