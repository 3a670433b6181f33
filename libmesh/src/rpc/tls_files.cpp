#include "rpc/tls_files.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

namespace mesh::rpc::detail {

bool is_pem(const std::string& text) {
    return text.find("-----BEGIN ") != std::string::npos;
}

std::string shown(const std::string& file) {
    return is_pem(file) ? "(in memory)" : file;
}

FileMark mark_of(const std::string& path) {
    FileMark mark;
    if (path.empty() || is_pem(path)) return mark;
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) {
        mark.failure = errno;
        return mark;
    }
    mark.device = info.st_dev;
    mark.inode = info.st_ino;
    mark.size = info.st_size;
    mark.seconds = info.st_mtim.tv_sec;
    mark.nanoseconds = info.st_mtim.tv_nsec;
    return mark;
}

std::string openssl_reason() {
    const unsigned long code = ERR_peek_last_error();
    ERR_clear_error();
    const char* reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
    return reason != nullptr ? reason : "unknown cause";
}

Error bad_file(const char* field, const std::string& path, const char* expected) {
    const FileMark mark = mark_of(path);
    std::string cause = mark.failure != 0 ? std::strerror(mark.failure) : openssl_reason();
    ERR_clear_error();
    return invalid_argument(std::string(field) + " " + shown(path) + ": expected " + expected +
                            ": " + cause);
}

int no_password(char*, int, int, void*) {
    return -1;
}

Bio open_pem(const std::string& file) {
    if (!is_pem(file)) return {BIO_new_file(file.c_str(), "r"), &BIO_free};
    return {BIO_new_mem_buf(file.data(), static_cast<int>(file.size())), &BIO_free};
}

Certificate next_certificate(BIO* bio) {
    return {PEM_read_bio_X509(bio, nullptr, no_password, nullptr), &X509_free};
}

}  // namespace mesh::rpc::detail
