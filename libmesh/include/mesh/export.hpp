// Symbol visibility: everything is hidden but what carries MESH_API.
#pragma once

#ifndef MESH_API
#if defined(__GNUC__)
#define MESH_API __attribute__((visibility("default")))
#else
#define MESH_API
#endif
#endif
