#include "attach/local_ipam.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>

#include "attach/directory_lock.hpp"
#include "pki/files.hpp"

namespace mesh::attach {
namespace {

using model::IpAddress;
using model::IpPrefix;

constexpr std::size_t kMaxFileBytes = 1024;
constexpr std::uint64_t kFirstOffset = 2;

Error failure(std::string_view what, const std::string& path, int error) {
    return unavailable(
        fmt::format("{} {}: {}", what, path, std::generic_category().message(error)));
}

std::string text_of(const AddressOwner& owner) {
    return fmt::format("{}\n{}\n", owner.container_id, owner.device);
}

// The greatest offset in a block that is given.
std::uint64_t last_offset(const IpPrefix& block) {
    if (block.is_v4()) return (std::uint64_t{1} << (32 - block.length())) - 2;
    const int host_bits = std::min(128 - block.length(), 63);
    return (std::uint64_t{1} << host_bits) - 1;
}

IpAddress address_at(const IpPrefix& block, std::uint64_t offset) {
    // An offset has no bit that the block's own address may have.
    IpAddress::Bytes bytes = block.address().bytes();
    for (std::size_t i = 0; i < 8; ++i) {
        bytes[15 - i] = static_cast<std::uint8_t>(bytes[15 - i] | (offset >> (8 * i)));
    }
    return IpAddress(bytes);
}

std::uint64_t offset_of(const IpPrefix& block, const IpAddress& address) {
    std::uint64_t low = 0;
    std::uint64_t base = 0;
    for (std::size_t i = 8; i < 16; ++i) {
        low = (low << 8) | address.bytes()[i];
        base = (base << 8) | block.address().bytes()[i];
    }
    return low - base;
}

// A process that was killed, or a machine that lost power, leaves a file without its whole text.
bool is_whole(std::string_view text) {
    return std::ranges::count(text, '\n') == 2 && text.ends_with('\n');
}

class Store {
  public:
    explicit Store(const std::string& directory) : directory_(directory) {}

    // Under the lock. nullopt = the block is full.
    Result<std::optional<IpAddress>> take_from(const IpPrefix& block, const AddressOwner& owner) {
        const std::uint64_t end = last_offset(block);
        const std::uint64_t before = last_given(block);
        std::uint64_t offset = before;
        do {
            offset = offset >= end ? kFirstOffset : offset + 1;
            const IpAddress address = address_at(block, offset);
            MESH_TRY(const bool taken, take(address, owner));
            if (!taken) continue;
            MESH_CHECK(write(last_path(block), address.to_string() + "\n", O_CREAT | O_TRUNC));
            return std::optional(address);
        } while (offset != before);
        return std::optional<IpAddress>();
    }

    Result<void> release(const AddressOwner& owner) {
        std::error_code ec;
        std::filesystem::directory_iterator at(directory_, ec);
        const std::string wanted = text_of(owner);
        for (const std::filesystem::directory_iterator end; !ec && at != end; at.increment(ec)) {
            const std::string name = at->path().filename().string();
            if (!IpAddress::parse(name)) continue;
            MESH_TRY(const std::string text, pki::read_file(at->path().string(), kMaxFileBytes));
            if (text == wanted || !is_whole(text)) MESH_CHECK(remove(name));
        }
        if (ec) return unavailable(fmt::format("{}: {}", directory_, ec.message()));
        return {};
    }

    Result<void> remove(const std::string& name) {
        const std::string file = path(name);
        if (::unlink(file.c_str()) == 0 || errno == ENOENT) return {};
        return failure("remove", file, errno);
    }

    [[nodiscard]] std::string path(const std::string& name) const {
        return directory_ + "/" + name;
    }

  private:
    // @return false when somebody has it
    Result<bool> take(const IpAddress& address, const AddressOwner& owner) {
        const std::string file = path(address.to_string());
        auto made = write(file, text_of(owner), O_CREAT | O_EXCL);
        if (made) return true;
        if (made.error().code() != Errc::kConflict) return made.error();
        MESH_TRY(const std::string text, pki::read_file(file, kMaxFileBytes));
        if (is_whole(text)) return false;
        MESH_CHECK(write(file, text_of(owner), O_TRUNC));
        return true;
    }

    Result<void> write(const std::string& file, std::string_view text, int flags) {
        const int fd = ::open(file.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644);
        if (fd < 0 && errno == EEXIST) return Error(Errc::kConflict, file + ": exists");
        if (fd < 0) return failure("open", file, errno);
        const ssize_t written = ::write(fd, text.data(), text.size());
        const int error = written < 0 ? errno : ENOSPC;
        ::close(fd);
        if (written == static_cast<ssize_t>(text.size())) return {};
        if ((flags & O_EXCL) != 0) ::unlink(file.c_str());
        return failure("write", file, error);
    }

    [[nodiscard]] std::string last_path(const IpPrefix& block) const {
        return path(fmt::format("last-{}_{}", block.address().to_string(), block.length()));
    }

    // Without one, or with a broken one: the search begins at the first address.
    [[nodiscard]] std::uint64_t last_given(const IpPrefix& block) const {
        const std::uint64_t end = last_offset(block);
        auto text = pki::read_file(last_path(block), kMaxFileBytes);
        if (!text) return end;
        while (!text->empty() && text->back() == '\n') text->pop_back();
        const auto address = IpAddress::parse(*text);
        if (!address || !block.contains(*address)) return end;
        const std::uint64_t offset = offset_of(block, *address);
        return offset >= kFirstOffset && offset <= end ? offset : end;
    }

    const std::string& directory_;
};

Error full(const std::string& directory, std::span<const IpPrefix> blocks, bool v4) {
    std::string names;
    for (const IpPrefix& block : blocks) {
        if (block.is_v4() == v4) names += (names.empty() ? "" : ", ") + block.to_string();
    }
    return {Errc::kCapacity,
            fmt::format("no address of {} is free; who holds them: {}", names, directory)};
}

}  // namespace

Result<std::vector<IpAddress>> allocate_addresses(const std::string& directory,
                                                  std::span<const IpPrefix> blocks,
                                                  const AddressOwner& owner) {
    MESH_TRY(const DirectoryLock lock, DirectoryLock::take(directory));
    Store store(directory);
    std::vector<IpAddress> given;
    const auto give_back = [&](const Error& error) {
        for (const IpAddress& address : given) (void)!store.remove(address.to_string());
        return error;
    };
    for (const bool v4 : {true, false}) {
        std::optional<IpAddress> address;
        bool wanted = false;
        for (const IpPrefix& block : blocks) {
            if (address || block.is_v4() != v4) continue;
            wanted = true;
            auto taken = store.take_from(block, owner);
            if (!taken) return give_back(taken.error());
            address = *taken;
        }
        if (address) given.push_back(*address);
        if (wanted && !address) return give_back(full(directory, blocks, v4));
    }
    return given;
}

Result<void> release_addresses(const std::string& directory, const AddressOwner& owner) {
    // Nothing was ever given: nothing is made now.
    if (::access(directory.c_str(), F_OK) != 0 && errno == ENOENT) return {};
    MESH_TRY(const DirectoryLock lock, DirectoryLock::take(directory));
    return Store(directory).release(owner);
}

Result<void> check_address(const std::string& directory, const IpAddress& address,
                           const AddressOwner& owner) {
    const auto text = pki::read_file(Store(directory).path(address.to_string()), kMaxFileBytes);
    if (!text && text.error().code() != Errc::kNotFound) return text.error();
    if (text && *text == text_of(owner)) return {};
    return not_found(
        fmt::format("{}: {} does not hold {}", directory, owner.container_id, address.to_string()));
}

}  // namespace mesh::attach
