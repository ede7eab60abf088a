// Values of Python for the bindings, by CPython's limited API alone: one build serves every version from 3.10 on.
#pragma once

#include <Python.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace learned_resizer {

// Thrown where Python has set its error. Other exceptions become ValueError from std::logic_error (which
// std::invalid_argument is), MemoryError from std::bad_alloc and RuntimeError from the rest.
struct PythonError {};
struct TypeError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An owned reference. It counts by calls: Python.h's macros would compile in how one version counts.
class Object {
  public:
    explicit Object(PyObject* owned) : object_(owned) {
        if (owned == nullptr) throw PythonError{};
    }
    static Object borrowed(PyObject* object) {
        Py_IncRef(object);
        return Object(object);
    }
    Object(Object&& other) noexcept : object_(other.release()) {}
    ~Object() { Py_DecRef(object_); }

    PyObject* get() const { return object_; }
    PyObject* release() { return std::exchange(object_, nullptr); }

  private:
    PyObject* object_;
};

inline std::string_view text_of(PyObject* text) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text, &size);
    if (data == nullptr) throw PythonError{};
    return {data, static_cast<size_t>(size)};
}

// --- From Python ----------------------------------------------------------------------------------------------------

struct Value;

// From<T>::from(value) makes a T of a Value, or throws an error that names it: by T::from, if there is one.
template <class T, class = void>
struct From {
    static T from(const Value& value) { return T::from(value); }
};

// The name at a place of "a, b, c" or "(a, b, c) or None".
inline std::string_view name_at(std::string_view names, size_t index) {
    if (names.front() == '(') names = names.substr(1, names.find(')') - 1);
    for (; index > 0; --index) names.remove_prefix(names.find(", ") + 2);
    return names.substr(0, names.find(", "));
}

// A borrowed argument, or an item of one that outlives it. Its name is made only for an error.
struct Value {
    PyObject* object;
    const char* names;  // name_at(names, index); null: one of any number of items
    size_t index;
    const Value* parent = nullptr;

    template <class T>
    T as() const {
        return From<T>::from(*this);
    }
    std::string name() const {
        const std::string before = parent == nullptr ? "" : parent->name();
        if (names == nullptr) return before + "[" + std::to_string(index) + "]";
        return before + (parent == nullptr ? "" : ".") + std::string(name_at(names, index));
    }
    std::string shown() const {
        const Object ascii(PyObject_ASCII(object));
        const std::string_view text = text_of(ascii.get());
        return text.size() <= 80 ? std::string(text) : std::string(text.substr(0, 77)) + "...";
    }
    template <class Error = std::invalid_argument>
    [[noreturn]] void refuse(const std::string& got, const std::string& expected) const {
        throw Error(name() + ": got " + got + "; expected " + expected);
    }
};

// The items of a tuple or a list.
class Items {
  public:
    static Items from(const Value& value) { return Items(value); }
    explicit Items(const Value& value, const char* names = nullptr)
        : value_(value), names_(names), items_(tuple_of(value, names)), size_(PyTuple_Size(items_.get())) {}
    size_t size() const { return static_cast<size_t>(size_); }
    Value operator[](size_t index) const {
        PyObject* item = PyTuple_GetItem(items_.get(), static_cast<Py_ssize_t>(index));
        if (item == nullptr) throw PythonError{};
        return {item, names_, index, &value_};
    }
    [[noreturn]] void refuse(const std::string& expected) const {
        value_.refuse(std::to_string(size()) + (size() == 1 ? " value" : " values"), expected);
    }

  private:
    static Object tuple_of(const Value& value, const char* names) {
        if (PyTuple_Check(value.object)) return Object::borrowed(value.object);
        // Copied: what reads the items may run code of Python, which may change the list.
        if (PyList_Check(value.object)) return Object(PyList_AsTuple(value.object));
        value.refuse<TypeError>(value.shown(), names == nullptr ? "a list or tuple" : names);
    }
    Value value_;
    const char* names_;
    Object items_;
    Py_ssize_t size_;
};

template <class... T, size_t... kIndices>
std::tuple<T...> items_as(const Items& items, std::index_sequence<kIndices...>) {
    return {items[kIndices].template as<T>()...};
}
// As many items as names, which stand in errors, as "(address, dtype)".
template <class... T>
std::tuple<T...> unpack(const Value& value, const char* names) {
    static_assert(!std::disjunction_v<std::is_same<T, Value>..., std::is_same<T, Items>...>,
                  "would outlive its parent");
    const Items items(value, names);
    if (items.size() != sizeof...(T)) items.refuse(names);
    return items_as<T...>(items, std::index_sequence_for<T...>{});
}

// A struct of such items.
template <class Struct, class... T>
Struct unpack_as(const Value& value, const char* names) {
    return std::apply([](const T&... items) { return Struct{items...}; }, unpack<T...>(value, names));
}

template <>
struct From<bool> {
    static bool from(const Value& value) {
        if (!PyBool_Check(value.object)) value.refuse<TypeError>(value.shown(), "True or False");
        return value.object == Py_True;
    }
};

// Of Python's int, or of what has __index__.
template <class T>
struct From<T, std::enable_if_t<std::is_integral_v<T>>> {
    static T from(const Value& value) {
        if (PyLong_Check(value.object)) return exact(value, value.object);
        if (!PyIndex_Check(value.object)) value.refuse<TypeError>(value.shown(), "an integer");
        return exact(value, Object(PyNumber_Index(value.object)).get());
    }

  private:
    using Wide = std::conditional_t<std::is_signed_v<T>, long long, unsigned long long>;
    using Limits = std::numeric_limits<T>;
    static T exact(const Value& value, PyObject* integer) {
        Wide wide;
        if constexpr (std::is_signed_v<T>)
            wide = PyLong_AsLongLong(integer);
        else
            wide = PyLong_AsUnsignedLongLong(integer);
        const bool overflow = wide == static_cast<Wide>(-1) && PyErr_Occurred() != nullptr;
        if (overflow) PyErr_Clear();
        if (overflow || wide < Limits::min() || wide > Limits::max())
            value.refuse(value.shown(),
                         "an integer of " + std::to_string(Limits::min()) + " to " + std::to_string(Limits::max()));
        return static_cast<T>(wide);
    }
};

template <class T>
struct From<T, std::enable_if_t<std::is_floating_point_v<T>>> {
    static T from(const Value& value) {
        const double number = PyFloat_AsDouble(value.object);
        const bool failed = number == -1.0 && PyErr_Occurred() != nullptr;
        const bool no_number = failed && PyErr_ExceptionMatches(PyExc_TypeError) != 0;
        if (failed && !no_number && PyErr_ExceptionMatches(PyExc_OverflowError) == 0) throw PythonError{};
        if (failed) PyErr_Clear();
        if (no_number) value.refuse<TypeError>(value.shown(), "a number");
        if (failed || (std::isfinite(number) && std::abs(number) > std::numeric_limits<T>::max()))
            value.refuse(value.shown(), "a number within the range of float" + std::to_string(8 * sizeof(T)));
        return static_cast<T>(number);
    }
};

// As long as the argument is.
template <>
struct From<std::string_view> {
    static std::string_view from(const Value& value) {
        if (!PyUnicode_Check(value.object)) value.refuse<TypeError>(value.shown(), "a string");
        return text_of(value.object);
    }
};

// Python's bytes, as long as the argument is.
struct Bytes {
    std::string_view data;
    static Bytes from(const Value& value) {
        char* data = nullptr;
        Py_ssize_t size = 0;
        if (!PyBytes_Check(value.object)) value.refuse<TypeError>(value.shown(), "bytes");
        if (PyBytes_AsStringAndSize(value.object, &data, &size) != 0) throw PythonError{};
        return {{data, static_cast<size_t>(size)}};
    }
};

template <class T>
struct From<std::vector<T>> {
    static std::vector<T> from(const Value& value) {
        const Items items(value);
        std::vector<T> result;
        result.reserve(items.size());
        for (size_t i = 0; i < items.size(); ++i) result.push_back(items[i].template as<T>());
        return result;
    }
};

template <class T>
struct From<std::optional<T>> {
    static std::optional<T> from(const Value& value) {
        if (value.object == Py_None) return std::nullopt;
        return value.as<T>();
    }
};

// --- To Python ------------------------------------------------------------------------------------------------------

inline Object to_python(Object value) { return value; }
inline Object to_python(std::string_view text) {
    return Object(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}
inline Object to_python(const char* text) { return to_python(std::string_view(text)); }
template <class T>
std::enable_if_t<std::is_integral_v<T>, Object> to_python(T value) {
    if constexpr (std::is_same_v<T, bool>) return Object(PyBool_FromLong(value));
    if constexpr (std::is_unsigned_v<T>) return Object(PyLong_FromUnsignedLongLong(value));
    return Object(PyLong_FromLongLong(value));
}
template <class T>
Object to_python(const std::optional<T>& value) {
    return value ? to_python(*value) : Object::borrowed(Py_None);
}
template <class T>
Object to_python(std::vector<T> values) {
    Object list(PyList_New(0));
    for (T& value : values)
        if (PyList_Append(list.get(), to_python(std::move(value)).get()) != 0) throw PythonError{};
    return list;
}
template <class A, class B>
Object to_python(const std::pair<A, B>& pair) {
    return Object(PyTuple_Pack(2, to_python(pair.first).get(), to_python(pair.second).get()));
}
inline Object bytes(const std::vector<unsigned char>& data) {
    const auto* from = reinterpret_cast<const char*>(data.data());
    return Object(PyBytes_FromStringAndSize(from, static_cast<Py_ssize_t>(data.size())));
}

struct Dict : Object {
    Dict() : Object(PyDict_New()) {}
    template <class T>
    void set(const char* key, T value) {
        if (PyDict_SetItemString(get(), key, to_python(std::move(value)).get()) != 0) throw PythonError{};
    }
};

}  // namespace learned_resizer
