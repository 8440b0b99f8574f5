// safetensors.h - reads and writes tensor files in the safetensors format.
//
// A file is: the header's length (8 bytes, little-endian), the header (JSON), the data:
//
//     {"__metadata__":{"format":"pt"},"wte.weight":{"dtype":"F32","shape":[256,64],"data_offsets":[0,65536]}, ...}
//
// Offsets count from the first byte of the data. Reading accepts what the format's own library
// accepts and no more: every tensor's bytes fit its shape and dtype, and together the tensors cover
// the data exactly, without gap or overlap, so that a file cut off or patched anywhere is noticed
// when it is opened. Numbers are stored little-endian, as all machines that run this have them.
#ifndef PONDER_SAFETENSORS_H
#define PONDER_SAFETENSORS_H

#include "../base.h"
#include "file.h"
#include "json.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors.h copies numbers as they lie in memory, which needs a little-endian machine"
#endif

#define ST_MAX_HEADER ((uint64_t)100000000)  // bytes, the limit of the format's own library
#define ST_MAX_DIMS 8
#define ST_CHUNK ((size_t)1 << 20)  // bytes of a narrow dtype converted at a time

// What can be read as float. All other dtypes of the format are checked, then passed over.
enum { ST_F32, ST_F16, ST_BF16, ST_F64, ST_OTHER };

typedef struct {
    char* name;
    int dtype;  // ST_...
    char dtype_name[16];
    int ndim;
    size_t shape[ST_MAX_DIMS];
    size_t count;         // numbers in it
    uint64_t begin, end;  // bytes, from data_start
} SafeTensor;

typedef struct {
    char* path;
    int fd;
    int count;
    SafeTensor* tensors;  // (count), in the order of their data
    uint64_t data_start;  // byte of the file where the data begins
    Json* header;         // owns the names
    Json* metadata;       // the object "__metadata__", NULL if there is none; part of header
} SafeFile;

typedef struct {
    const char* name;
    int ndim;
    size_t shape[4];
    const float* data;     // written as F32
    const int64_t* whole;  // unless NULL: written instead, as I64
} SafeWrite;

// Bits of one number of a dtype and = *kind (ST_...); 0 if the format has no such dtype.
static inline int safetensors_bits(const char* name, int* kind) {
    static const struct {
        const char* name;
        int bits, kind;
    } dtypes[] = {
        {"F32", 32, ST_F32},      {"F16", 16, ST_F16},      {"BF16", 16, ST_BF16},    {"F64", 64, ST_F64},
        {"BOOL", 8, ST_OTHER},    {"U8", 8, ST_OTHER},      {"I8", 8, ST_OTHER},      {"U16", 16, ST_OTHER},
        {"I16", 16, ST_OTHER},    {"U32", 32, ST_OTHER},    {"I32", 32, ST_OTHER},    {"U64", 64, ST_OTHER},
        {"I64", 64, ST_OTHER},    {"C64", 64, ST_OTHER},    {"F8_E4M3", 8, ST_OTHER}, {"F8_E5M2", 8, ST_OTHER},
        {"F8_E8M0", 8, ST_OTHER}, {"F6_E2M3", 6, ST_OTHER}, {"F6_E3M2", 6, ST_OTHER}, {"F4", 4, ST_OTHER},
    };
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *kind = dtypes[i].kind;
            return dtypes[i].bits;
        }
    }
    return 0;
}

// Shape as "(256,64)", "()" for a single number; in a buffer that the caller gives.
static inline const char* shape_text(char* buffer, size_t room, int ndim, const size_t* shape) {
    size_t n = (size_t)snprintf(buffer, room, "(");
    for (int i = 0; i < ndim && n < room; i++) {
        n += (size_t)snprintf(buffer + n, room - n, i ? ",%zu" : "%zu", shape[i]);
    }
    if (n < room) { snprintf(buffer + n, room - n, ")"); }
    return buffer;
}

// Half precision to single, exactly: 1 sign, 5 exponent (bias 15), 10 fraction bits.
static inline float float_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | fraction << 13;  // infinity, NaN with its payload
    } else if (exponent) {
        bits = sign | (exponent + 127 - 15) << 23 | fraction << 13;
    } else {
        // Subnormal: fraction * 2^-24, a normal number in single precision.
        float value = (float)fraction * 5.9604644775390625e-8f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

// bfloat16 is the upper half of a single.
static inline float float_from_bf16(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

// n bytes at `offset` of a file into memory; dies when they are not all there.
static inline void safetensors_pread(const SafeFile* file, void* out, uint64_t n, uint64_t offset, const char* what) {
    uint64_t done = 0;
    while (done < n) {
        // Linux transfers at most 0x7ffff000 bytes at once.
        size_t part = (size_t)(n - done < ((uint64_t)1 << 30) ? n - done : (uint64_t)1 << 30);
        ssize_t got = pread(file->fd, (char*)out + done, part, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) { continue; }
        if (got < 0) { die("%s: could not read %s: %s", file->path, what, strerror(errno)); }
        if (got == 0) {
            die("%s: ends inside %s: expected %llu bytes at %llu, found %llu (did it change while it was read?)",
                file->path, what, (unsigned long long)n, (unsigned long long)offset, (unsigned long long)done);
        }
        done += (uint64_t)got;
        work_goes_on();
    }
}

// A whole number >= 0 written plainly; dies otherwise.
static inline uint64_t safetensors_whole(const SafeFile* file, const char* tensor, const char* what,
                                         const Json* value) {
    int64_t n = -1;
    if (value->type != JSON_NUMBER || strpbrk(value->literal, ".eE-") || !json_whole(value, &n)) {
        die("%s: tensor %s: expected whole numbers in %s, found %s", file->path, tensor, what, json_describe(value));
    }
    return (uint64_t)n;
}

// One entry of the header; data_size is the size of the data section in bytes.
static inline void safetensors_entry(const SafeFile* file, SafeTensor* t, char* name, const Json* entry,
                                     uint64_t data_size) {
    const char* path = file->path;
    t->name = name;
    if (entry->type != JSON_OBJECT) {
        die("%s: tensor %s: expected an object, found %s", path, name, json_describe(entry));
    }
    const Json* dtype = json_get(entry, "dtype");
    const Json* shape = json_get(entry, "shape");
    const Json* offsets = json_get(entry, "data_offsets");
    if (!dtype || dtype->type != JSON_STRING) {
        die("%s: tensor %s: expected a string \"dtype\", found %s", path, name, dtype ? json_describe(dtype) : "none");
    }
    if (!shape || shape->type != JSON_ARRAY) {
        die("%s: tensor %s: expected an array \"shape\", found %s", path, name, shape ? json_describe(shape) : "none");
    }
    if (!offsets || offsets->type != JSON_ARRAY || offsets->count != 2) {
        die("%s: tensor %s: expected \"data_offsets\" of two numbers, found %s", path, name,
            !offsets ? "none" : json_describe(offsets));
    }
    int bits = safetensors_bits(dtype->string, &t->dtype);
    if (bits == 0 || strlen(dtype->string) != dtype->length) {
        die("%s: tensor %s: \"%.40s\" is not a dtype of the safetensors format", path, name, dtype->string);
    }
    snprintf(t->dtype_name, sizeof t->dtype_name, "%s", dtype->string);
    if (shape->count > ST_MAX_DIMS) {
        die("%s: tensor %s has %d dimensions, at most %d are read", path, name, shape->count, ST_MAX_DIMS);
    }
    t->ndim = shape->count;
    t->count = 1;
    // Checked in bits, so that neither the count nor the bytes can wrap around.
    size_t limit = SIZE_MAX / (size_t)bits;
    for (int i = 0; i < t->ndim; i++) {
        t->shape[i] = (size_t)safetensors_whole(file, name, "its shape", shape->items[i]);
        if (t->shape[i] != 0 && t->count > limit / t->shape[i]) {
            char text[256];
            die("%s: tensor %s: shape %s is larger than any memory", path, name,
                shape_text(text, sizeof text, i + 1, t->shape));
        }
        t->count *= t->shape[i];
    }
    t->begin = safetensors_whole(file, name, "its data_offsets", offsets->items[0]);
    t->end = safetensors_whole(file, name, "its data_offsets", offsets->items[1]);
    if (t->begin > t->end || t->end > data_size) {
        die("%s: tensor %s: data_offsets [%llu,%llu] do not lie within the %llu bytes of data (is the file cut off?)",
            path, name, (unsigned long long)t->begin, (unsigned long long)t->end, (unsigned long long)data_size);
    }
    size_t want = t->count * (size_t)bits;
    if (want % 8 != 0 || want / 8 != t->end - t->begin) {
        char text[256];
        die("%s: tensor %s: shape %s of %s takes %zu bytes, data_offsets [%llu,%llu] hold %llu", path, name,
            shape_text(text, sizeof text, t->ndim, t->shape), t->dtype_name, (want + 7) / 8,
            (unsigned long long)t->begin, (unsigned long long)t->end, (unsigned long long)(t->end - t->begin));
    }
}

static inline int safetensors_compare(const void* a, const void* b) {
    const SafeTensor* x = (const SafeTensor*)a;
    const SafeTensor* y = (const SafeTensor*)b;
    if (x->begin != y->begin) { return x->begin < y->begin ? -1 : 1; }
    if (x->end != y->end) { return x->end < y->end ? -1 : 1; }
    return strcmp(x->name, y->name);
}

static inline void safetensors_close(SafeFile* file) {
    if (file == NULL) { return; }
    if (file->fd >= 0) { close(file->fd); }
    json_free(file->header);
    free(file->tensors);
    free(file->path);
    free(file);
}

// Opens a file and checks all of its header; dies on anything wrong. Data is read later, by tensor.
static inline SafeFile* safetensors_open(const char* path) {
    SafeFile* file = (SafeFile*)xalloc(1, sizeof(SafeFile), "a safetensors file");
    file->path = format_string("%s", path);
    struct stat info;
    const char* why = file_open(path, &file->fd, &info);
    if (why) { die("%s: could not be opened: %s", path, why); }
    uint64_t size = (uint64_t)info.st_size;
    if (size < 8) {
        die("%s: expected a safetensors file of at least 8 bytes, found %llu (is it cut off?)", path,
            (unsigned long long)size);
    }
    uint64_t length = 0;
    safetensors_pread(file, &length, 8, 0, "the header's length");
    if (length > size - 8 || length > ST_MAX_HEADER || length < 2) {
        die("%s: the header's length says %llu bytes, but the file has %llu and a header 2 to %llu (is it a "
            "safetensors file, and whole?)",
            path, (unsigned long long)length, (unsigned long long)size, (unsigned long long)ST_MAX_HEADER);
    }
    char* text = (char*)xalloc(length + 1, 1, "a safetensors header");
    safetensors_pread(file, text, length, 8, "the header");
    if (text[0] != '{') {
        die("%s: expected a header that begins with '{', found the byte 0x%02x (is it a safetensors file?)", path,
            (unsigned char)text[0]);
    }
    char* where = format_string("%s: header", path);
    file->header = json_parse(text, length, where);
    free(where);
    free(text);
    file->data_start = 8 + length;
    uint64_t data_size = size - file->data_start;

    file->tensors = (SafeTensor*)xalloc((size_t)file->header->count, sizeof(SafeTensor), "a safetensors header");
    for (int i = 0; i < file->header->count; i++) {
        Json* entry = file->header->items[i];
        if (strcmp(file->header->keys[i], "__metadata__") != 0) {
            safetensors_entry(file, &file->tensors[file->count++], file->header->keys[i], entry, data_size);
            continue;
        }
        file->metadata = entry;
        if (entry->type != JSON_OBJECT) {
            die("%s: expected an object __metadata__, found %s", path, json_describe(entry));
        }
        for (int j = 0; j < entry->count; j++) {
            if (entry->items[j]->type != JSON_STRING) {
                die("%s: __metadata__: \"%s\": expected a string, found %s", path, entry->keys[j],
                    json_describe(entry->items[j]));
            }
        }
    }
    if (file->count) { qsort(file->tensors, (size_t)file->count, sizeof(SafeTensor), safetensors_compare); }
    uint64_t at = 0;
    for (int i = 0; i < file->count; i++) {
        const SafeTensor* t = &file->tensors[i];
        if (t->begin != at) {
            die("%s: tensor %s: data_offsets begin at %llu, expected %llu: the bytes between %s%s", path, t->name,
                (unsigned long long)t->begin, (unsigned long long)at,
                t->begin < at ? "belong to two tensors, the other is " : "belong to no tensor",
                t->begin < at ? file->tensors[i - 1].name : "");
        }
        at = t->end;
    }
    if (at != data_size) {
        die("%s: the tensors take %llu bytes of data, the file has %llu", path, (unsigned long long)at,
            (unsigned long long)data_size);
    }
    return file;
}

// The tensor of this name, NULL if there is none.
static inline const SafeTensor* safetensors_find(const SafeFile* file, const char* name) {
    for (int i = 0; i < file->count; i++) {
        if (strcmp(file->tensors[i].name, name) == 0) { return &file->tensors[i]; }
    }
    return NULL;
}

// Dies unless the tensor's dtype can be read as float.
static inline void safetensors_check_dtype(const SafeFile* file, const SafeTensor* t) {
    if (t->dtype == ST_OTHER) {
        die("%s: tensor %s has dtype %s where F32, F16 or BF16 is expected (quantised weights must be converted first)",
            file->path, t->name, t->dtype_name);
    }
}

// out (t->count) = the tensor's numbers; F16 and BF16 exactly, F64 rounded to nearest.
static inline void safetensors_read(const SafeFile* file, const SafeTensor* t, float* out) {
    safetensors_check_dtype(file, t);
    char* what = format_string("tensor %s", t->name);
    uint64_t start = file->data_start + t->begin;
    if (t->dtype == ST_F32) {
        safetensors_pread(file, out, t->end - t->begin, start, what);
    } else {
        size_t bytes = t->dtype == ST_F64 ? 8 : 2, room = ST_CHUNK / bytes;
        char* chunk = (char*)xalloc(min_size(room, t->count), bytes, what);
        for (size_t i = 0; i < t->count; i += room) {
            size_t n = min_size(room, t->count - i);
            safetensors_pread(file, chunk, n * bytes, start + i * bytes, what);
            const uint16_t* half = (const uint16_t*)chunk;
            const double* wide = (const double*)chunk;
            for (size_t j = 0; j < n; j++) {
                out[i + j] = t->dtype == ST_F64   ? (float)wide[j]
                             : t->dtype == ST_F16 ? float_from_f16(half[j])
                                                  : float_from_bf16(half[j]);
            }
        }
        free(chunk);
    }
    free(what);
}

// As safetensors_write, but returns what went wrong (the caller frees it), NULL if nothing.
static inline char* safetensors_try_write(const char* path, const SafeWrite* tensors, int count,
                                          const char* metadata_json) {
    StringBuilder header = {0};
    sb_printf(&header, "{");
    if (metadata_json) { sb_printf(&header, "\"__metadata__\":%s", metadata_json); }
    uint64_t at = 0;
    for (int i = 0; i < count; i++) {
        const SafeWrite* t = &tensors[i];
        if (header.size > 1) { sb_append(&header, ",", 1); }
        json_append_string(&header, t->name, strlen(t->name));
        sb_printf(&header, ":{\"dtype\":\"%s\",\"shape\":[", t->whole ? "I64" : "F32");
        size_t numbers = 1;
        for (int d = 0; d < t->ndim; d++) {
            sb_printf(&header, d ? ",%zu" : "%zu", t->shape[d]);
            numbers = mul_size(numbers, t->shape[d], t->name);
        }
        uint64_t end = at + mul_size(numbers, t->whole ? sizeof(int64_t) : sizeof(float), t->name);
        sb_printf(&header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)end);
        at = end;
    }
    sb_append(&header, "}", 1);
    while (header.size % 8) { sb_append(&header, " ", 1); }  // so that the data is aligned
    uint64_t length = header.size;

    int fd = -1;
    char* error = file_create(path, &fd);
    if (error) {
        free(header.data);
        return error;
    }
    int failed = write_all(fd, &length, 8) != 0 || write_all(fd, header.data, header.size) != 0;
    for (int i = 0; i < count && !failed; i++) {
        size_t numbers = 1;
        for (int d = 0; d < tensors[i].ndim; d++) { numbers *= tensors[i].shape[d]; }
        const SafeWrite* t = &tensors[i];
        failed = t->whole ? write_all(fd, t->whole, numbers * sizeof(int64_t)) != 0
                          : write_all(fd, t->data, numbers * sizeof(float)) != 0;
    }
    error = write_finish(fd, failed, path);
    free(header.data);
    return error;
}

// Writes tensors as F32 or I64, in the given order, and syncs them to the disk; dies when any of it fails.
// metadata_json: a JSON object whose values are strings, or NULL.
static inline void safetensors_write(const char* path, const SafeWrite* tensors, int count, const char* metadata_json) {
    char* error = safetensors_try_write(path, tensors, count, metadata_json);
    if (error) { die("%s", error); }
}

#endif
