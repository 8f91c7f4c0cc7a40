/* The structures that Python fills in. Each is a list of its fields, from which follow the type and
 * what the library says of it: so the two can't differ. When it loads the library, Python compares
 * its own idea of every structure with that (python_backend/engine/kernels/structures.py). */

#ifndef TRIREME_STRUCTURES_H
#define TRIREME_STRUCTURES_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name, *type;
    int32_t offset, size; /* bytes */
} TriremeField;

typedef struct {
    int32_t size, num_fields;
    const TriremeField *fields;
} TriremeStructure;

/* From `#define FIELDS(FIELD, S) FIELD(S, type, name) …` the structure S, */
#define STRUCTURE(S, FIELDS)                                                                       \
    typedef struct S {                                                                             \
        FIELDS(STRUCTURE_MEMBER, S)                                                                \
    } S

/* and, in one source, `trireme_structure_S`. */
#define EXPORT_STRUCTURE(S, FIELDS)                                                                \
    static const TriremeField S##_fields[] = {FIELDS(STRUCTURE_FIELD, S)};                         \
    const TriremeStructure trireme_structure_##S = {                                               \
        sizeof(S), sizeof S##_fields / sizeof *S##_fields, S##_fields}

/* A number that Python lays memory out by. */
#define EXPORT_CONSTANT(NAME) const int32_t trireme_constant_##NAME = NAME

#define STRUCTURE_MEMBER(S, type, name) type name;
#define STRUCTURE_FIELD(S, type, name)                                                             \
    {#name,                                                                                        \
     _Generic(((S *)0)->name,                                                                      \
         int32_t: "int32",                                                                         \
         int64_t: "int64",                                                                         \
         float: "float",                                                                           \
         double: "double",                                                                         \
         default: "other"),                                                                        \
     offsetof(S, name), sizeof(type)},

#endif
