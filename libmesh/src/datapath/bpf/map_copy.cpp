#include "datapath/bpf/map_copy.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "datapath/bpf/libbpf_call.hpp"
#include "datapath/bpf/pin_directory.hpp"

namespace mesh::datapath {
namespace {

constexpr std::uint32_t kBatch = 4096;

bool is_per_cpu(const MapShape& shape) {
    return shape.type == BPF_MAP_TYPE_PERCPU_ARRAY || shape.type == BPF_MAP_TYPE_PERCPU_HASH ||
           shape.type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

std::uint32_t rows_of(const MapShape& shape) {
    return is_per_cpu(shape) ? static_cast<std::uint32_t>(std::max(libbpf_num_possible_cpus(), 1))
                             : 1U;
}

/// Bytes of a row: the kernel hands out those of a map per CPU aligned.
std::size_t row_bytes(const MapShape& shape) {
    return is_per_cpu(shape) ? (shape.value_size + std::size_t{7}) / 8 * 8 : shape.value_size;
}

bool all_zero(ConstEntryBytes bytes) {
    return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

/// Entries that wait for their system call.
class Writer {
  public:
    Writer(const OpenMap& map, OnExisting existing) : map_(map), existing_(existing) {}

    Result<void> add(ConstEntryBytes key, ConstEntryBytes value) {
        keys_.insert(keys_.end(), key.begin(), key.end());
        values_.insert(values_.end(), value.begin(), value.end());
        if (++count_ < kBatch) return {};
        return flush();
    }

    Result<void> flush() {
        const auto count = std::exchange(count_, 0);
        const auto written = existing_ == OnExisting::kReplace ? replace(count) : insert(count);
        keys_.clear();
        values_.clear();
        return written;
    }

    [[nodiscard]] std::uint64_t written() const noexcept { return written_; }

  private:
    Result<void> replace(std::uint32_t count) {
        if (count == 0) return {};
        const auto options = sized<bpf_map_batch_opts>();
        std::uint32_t done = count;
        if (bpf_map_update_batch(map_.fd.get(), keys_.data(), values_.data(), &done, &options) !=
            0) {
            return system_error(fmt::format("cannot write {}", map_.name), errno);
        }
        written_ += count;
        return {};
    }

    // One by one: a batch ends at the first key that is there.
    Result<void> insert(std::uint32_t count) {
        const std::size_t key_bytes = map_.shape.key_size;
        const std::size_t value_bytes = row_bytes(map_.shape) * rows_of(map_.shape);
        for (std::size_t i = 0; i < count; ++i) {
            if (bpf_map_update_elem(map_.fd.get(), keys_.data() + i * key_bytes,
                                    values_.data() + i * value_bytes, BPF_NOEXIST) == 0) {
                ++written_;
            } else if (errno != EEXIST) {
                return system_error(fmt::format("cannot write {}", map_.name), errno);
            }
        }
        return {};
    }

    const OpenMap& map_;
    OnExisting existing_;
    std::vector<std::byte> keys_, values_;
    std::uint32_t count_ = 0;
    std::uint64_t written_ = 0;
};

}  // namespace

Result<MapShape> shape_of(int fd, std::string_view name) {
    bpf_map_info info{};
    __u32 length = sizeof info;
    if (bpf_obj_get_info_by_fd(fd, &info, &length) != 0) return system_error(name, errno);
    return MapShape{info.type, info.key_size, info.value_size, info.max_entries, info.map_flags};
}

Result<std::optional<OpenMap>> open_pinned_map(const std::string& path) {
    OpenMap map{path.substr(path.rfind('/') + 1), Fd(bpf_obj_get(path.c_str())), {}};
    if (!map.fd) {
        if (errno == ENOENT) return std::optional<OpenMap>();
        return system_error(path, errno);
    }
    MESH_TRY(map.shape, shape_of(map.fd.get(), path));
    return std::optional<OpenMap>(std::move(map));
}

bool is_array(const MapShape& shape) noexcept {
    return shape.type == BPF_MAP_TYPE_ARRAY || shape.type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

Result<void> for_each_entry(
    const OpenMap& map,
    const std::function<Result<void>(ConstEntryBytes key, ConstEntryBytes value)>& on) {
    const std::size_t key_bytes = map.shape.key_size;
    const std::size_t value_bytes = row_bytes(map.shape) * rows_of(map.shape);
    std::uint32_t batch = kBatch;
    std::vector<std::byte> keys, values;
    // A hash map's position is 4 bytes, others' a key.
    std::vector<std::byte> position(std::max<std::size_t>(key_bytes, 4)), next(position.size());
    const auto options = sized<bpf_map_batch_opts>();
    for (bool first = true, last = false; !last;) {
        keys.resize(batch * key_bytes);
        values.resize(batch * value_bytes);
        std::uint32_t count = batch;
        const int error =
            bpf_map_lookup_batch(map.fd.get(), first ? nullptr : position.data(), next.data(),
                                 keys.data(), values.data(), &count, &options);
        if (error != 0 && errno == ENOSPC) {  // a bucket with more entries than that
            batch *= 2;
            continue;
        }
        last = error != 0;
        if (last && errno != ENOENT) {
            return system_error(fmt::format("cannot read {}", map.name), errno);
        }
        for (std::size_t i = 0; i < count; ++i) {
            const ConstEntryBytes key(keys.data() + i * key_bytes, key_bytes);
            const ConstEntryBytes value(values.data() + i * value_bytes, value_bytes);
            if (is_array(map.shape) && all_zero(value)) continue;
            MESH_CHECK(on(key, value));
        }
        first = false;
        position.swap(next);
    }
    return {};
}

Result<std::uint32_t> entries_to_keep(const OpenMap& map) {
    std::uint32_t kept = 0;
    MESH_CHECK(for_each_entry(map, [&](ConstEntryBytes key, ConstEntryBytes) -> Result<void> {
        if (!is_array(map.shape)) {
            ++kept;
            return {};
        }
        std::uint32_t index = 0;
        std::memcpy(&index, key.data(), sizeof index);
        kept = std::max(kept, index + 1);
        return {};
    }));
    return kept;
}

std::optional<ConvertedEntry> convert_entry(ConstEntryBytes key, ConstEntryBytes value,
                                            const MapChanges& changes, std::uint32_t rows) {
    ConvertedEntry entry{{key.begin(), key.end()}, {value.begin(), value.end()}};
    for (const MapChange* change : changes) {
        const auto aligned = [rows](std::size_t size) {
            return rows == 1 ? size : (size + 7) / 8 * 8;
        };
        ConvertedEntry next{std::vector<std::byte>(change->key_size),
                            std::vector<std::byte>(aligned(change->value_size) * rows)};
        for (std::size_t row = 0; row < rows; ++row) {
            const ConstEntryBytes old =
                ConstEntryBytes(entry.value)
                    .subspan(row * aligned(change->old_value_size), change->old_value_size);
            const EntryBytes made =
                EntryBytes(next.value)
                    .subspan(row * aligned(change->value_size), change->value_size);
            if (!change->convert(entry.key, old, next.key, made)) return std::nullopt;
        }
        entry = std::move(next);
    }
    return entry;
}

Result<std::uint64_t> copy_entries(const OpenMap& from, const OpenMap& to,
                                   const MapChanges& changes, OnExisting existing) {
    Writer writer(to, existing);
    const std::uint32_t rows = rows_of(from.shape);
    MESH_CHECK(for_each_entry(from, [&](ConstEntryBytes key, ConstEntryBytes value) {
        if (changes.empty()) return writer.add(key, value);
        const auto entry = convert_entry(key, value, changes, rows);
        return entry ? writer.add(entry->key, entry->value) : Result<void>{};
    }));
    MESH_CHECK(writer.flush());
    return writer.written();
}

}  // namespace mesh::datapath
