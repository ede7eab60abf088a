// Functions and classes of the module, made of C++ functions by CPython's limited API alone.
#pragma once

#include <Python.h>

#include <new>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "python.h"

namespace learned_resizer {

// Python's error from the exception that is being handled; null, as Python expects with an error.
inline PyObject* raise() noexcept {
    try {
        throw;
    } catch (const PythonError&) {
    } catch (const TypeError& error) {
        PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const std::logic_error& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    } catch (...) {
        PyErr_SetString(PyExc_RuntimeError, "unknown C++ exception");
    }
    return nullptr;
}

// --- Classes --------------------------------------------------------------------------------------------------------

// An object of Python around a T, which Python code can neither make nor derive from. A T that is a class here has
//     template <> struct From<T> : Class<T> { static constexpr const char* kName = "T"; };
template <class T>
struct Class {
    struct Instance {
        PyObject_HEAD T value;
    };
    static const T& of(PyObject* object) { return reinterpret_cast<Instance*>(object)->value; }

    // Only the class of T has this deallocator.
    static bool is_class(PyTypeObject* type) {
        return PyType_GetSlot(type, Py_tp_dealloc) == reinterpret_cast<void*>(&destroy);
    }
    static const T& from(const Value& value) {
        if (!is_class(Py_TYPE(value.object))) value.refuse<TypeError>(value.shown(), From<T>::kName);
        return of(value.object);
    }
    static Object make(PyObject* module, T value) {
        static_assert(std::is_nothrow_move_constructible_v<T>);
        const Object found(PyObject_GetAttrString(module, From<T>::kName));
        auto* type = reinterpret_cast<PyTypeObject*>(found.get());
        if (!PyType_Check(found.get()) || !is_class(type))
            throw TypeError(std::string("_C.") + From<T>::kName + ": expected the module's own class");
        Object object(PyType_GenericAlloc(type, 0));
        new (&reinterpret_cast<Instance*>(object.get())->value) T(std::move(value));
        return object;
    }
    static void destroy(PyObject* self) {
        PyTypeObject* type = Py_TYPE(self);
        reinterpret_cast<Instance*>(self)->value.~T();
        reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
        Py_DecRef(reinterpret_cast<PyObject*>(type));
    }
};

template <class T, class = void>
constexpr bool kIsClass = false;
template <class T>
constexpr bool kIsClass<T, std::enable_if_t<std::is_base_of_v<Class<T>, From<T>>>> = true;

// --- Functions ------------------------------------------------------------------------------------------------------

// The arguments in the order of `names`: where they are, or in `sorted` if some are given by name.
inline PyObject* const* arrange(const char* function, const char* names, size_t expected, PyObject* const* arguments,
                                size_t positional, PyObject* keywords, PyObject** sorted) {
    const auto error = [&](const std::string& what) {
        return TypeError(std::string(function) + ": " + what + "; expected the arguments (" + names + ")");
    };
    const size_t named = keywords == nullptr ? 0 : static_cast<size_t>(PyTuple_Size(keywords));
    if (positional > expected) throw error("got " + std::to_string(positional + named) + " arguments");
    if (named == 0 && positional == expected) return arguments;
    std::fill_n(std::copy_n(arguments, positional, sorted), expected - positional, nullptr);
    for (size_t i = 0; i < named; ++i) {
        const std::string_view keyword = text_of(PyTuple_GetItem(keywords, static_cast<Py_ssize_t>(i)));
        size_t at = 0;
        while (at < expected && name_at(names, at) != keyword) ++at;
        if (at == expected) throw error("got the unknown argument " + std::string(keyword));
        if (sorted[at] != nullptr) throw error("got " + std::string(keyword) + " twice");
        sorted[at] = arguments[positional + i];
    }
    for (size_t i = 0; i < expected; ++i)
        if (sorted[i] == nullptr) throw error("got no " + std::string(name_at(names, i)));
    return sorted;
}

// A C++ function for Python: of the module, or a method, whose first argument is the object and has no name.
template <auto kFunction, bool kMethod = false>
struct Function;
template <class Result, class... Arguments, Result (*kFunction)(Arguments...), bool kMethod>
struct Function<kFunction, kMethod> {
    // names: of the arguments, as "tables, device, stream"
    static PyMethodDef* define(const char* name, const char* names, const char* text) {
        static const std::string doc = std::string(name) + "($" + (kMethod ? "self" : "module") +
                                       (*names == '\0' ? "" : ", ") + names + ")\n--\n\n" + text;
        const auto plain = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call));
        names_ = names;
        methods_[0] = {name, plain, METH_FASTCALL | METH_KEYWORDS, doc.c_str()};
        return methods_;
    }

  private:
    static constexpr size_t kCount = sizeof...(Arguments) - (kMethod ? 1 : 0);
    static inline const char* names_ = "";
    static inline PyMethodDef methods_[2] = {};  // this one, and the end

    static PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t positional,
                          PyObject* keywords) noexcept {
        try {
            PyObject* sorted[kCount + 1];
            arguments = arrange(methods_[0].ml_name, names_, kCount, arguments, static_cast<size_t>(positional),
                                keywords, sorted);
            return run(self, arguments, std::index_sequence_for<Arguments...>{}).release();
        } catch (...) {
            return raise();
        }
    }
    static Value value(PyObject* self, PyObject* const* arguments, size_t index) {
        if constexpr (kMethod) {
            if (index == 0) return {self, "self", 0};
            --index;
        }
        return {arguments[index], names_, index};
    }
    template <size_t... kIndices>
    static Object run(PyObject* self, [[maybe_unused]] PyObject* const* arguments, std::index_sequence<kIndices...>) {
        const std::array<Value, sizeof...(kIndices)> values{value(self, arguments, kIndices)...};
        // In braces: the first bad argument is the one that the error names.
        std::tuple<decltype(From<std::decay_t<Arguments>>::from(values[kIndices]))...> converted{
            From<std::decay_t<Arguments>>::from(values[kIndices])...};
        if constexpr (std::is_void_v<Result>) {
            std::apply(kFunction, std::move(converted));
            return Object::borrowed(Py_None);
        } else if constexpr (kIsClass<Result>) {
            return Class<Result>::make(self, std::apply(kFunction, std::move(converted)));
        } else {
            return to_python(std::apply(kFunction, std::move(converted)));
        }
    }
};

template <auto kFunction>
void add_function(PyObject* module, const char* name, const char* names, const char* text) {
    if (PyModule_AddFunctions(module, Function<kFunction>::define(name, names, text)) != 0) throw PythonError{};
}

// A read-only property, by a function of a const T&.
template <auto kFunction>
struct Property;
template <class Result, class T, Result (*kFunction)(const T&)>
struct Property<kFunction> {
    static PyGetSetDef define(const char* name, const char* text) { return {name, &get, nullptr, text, nullptr}; }

  private:
    static PyObject* get(PyObject* self, void*) noexcept {
        try {
            return to_python(kFunction(Class<T>::of(self))).release();
        } catch (...) {
            return raise();
        }
    }
};

// properties and methods live as long as the module, and end with an empty entry.
template <class T>
void add_class(PyObject* module, const char* text, PyGetSetDef* properties, PyMethodDef* methods) {
    static const std::string name = std::string("learned_resizer_cuda._C.") + From<T>::kName;
    PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(&Class<T>::destroy)},
                           {Py_tp_doc, const_cast<char*>(text)},
                           {Py_tp_getset, properties},
                           {Py_tp_methods, methods},
                           {0, nullptr}};
    PyType_Spec spec{name.c_str(), sizeof(typename Class<T>::Instance), 0,
                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};
    const Object type(PyType_FromSpec(&spec));
    if (PyModule_AddObjectRef(module, From<T>::kName, type.get()) != 0) throw PythonError{};
}

}  // namespace learned_resizer
