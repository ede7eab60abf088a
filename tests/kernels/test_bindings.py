"""Arguments of the native module, by its own binding layer (csrc/bindings/python.h): good, bad and counted."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from learned_resizer_cuda.kernels import native
from tests.helpers.native_host import native_on_host

VECTOR = (16, 2)
NORM = (VECTOR, VECTOR, VECTOR, VECTOR, 1e-5)
WEIGHT = (16, 1, (144, 9, 3, 1))
PROLOGUE = (16, NORM, 16, None, 0.2)
SIZE = (1, 8, 8)
STRIDES = (64, 64, 0, 8, 1)
IMAGE = (16, (64, 64, 8, 1), False)
FORMAT = (4, 3, VECTOR, VECTOR)
CROP = (16, (192, 64, 8, 1), 8, 8)
GRAD = (16, (192, 64, 8, 1))
SIZES = [(1, 8, 8, None, (0.0, 8.0)), (1, 9, 9, None, None)]
AXIS = (8, 4, 0.0, 0.0, 0.0)
# The module's launches on a device that is not there: every argument is read, no memory.
PLACE = (1, 0)
GOOD: dict[str, tuple[Any, ...]] = {
    "conv_needs": (SIZE, True, "tf32", 16, 132),
    "conv": (SIZE, PROLOGUE, WEIGHT, 16, 0, 1, "tf32", 16, *PLACE),
    "conv_backward": (
        *(SIZE, PROLOGUE, (16, 0, 16, 0), WEIGHT, 16, 16, (16, 16, 16, 64), 16, 1, "float16", 16),
        *PLACE,
    ),
    "head_needs": (SIZE, False, "bfloat16", 16, 132),
    "head": (SIZE, PROLOGUE, 3, WEIGHT, VECTOR, IMAGE, 16, (64, 64, 8, 1), 1, "float16", 16, *PLACE),
    "head_backward": (SIZE, PROLOGUE, (16, 0, 16, 0), 3, WEIGHT, IMAGE, 16, 1, "float16", 16, *PLACE),
    "trunk_block": (SIZE, PROLOGUE, WEIGHT, NORM, WEIGHT, 16, False, 16, 132, *PLACE),
    "trunk_tail": (
        *(SIZE, PROLOGUE, WEIGHT, NORM, 3, WEIGHT, VECTOR, IMAGE, 16, (64, 64, 8, 1), True, 16, 132),
        *PLACE,
    ),
    "reduce_statistics": (16, 4, 16, 16, 16, *PLACE),
    "reduce_gradients": (
        *(16, 4, 100, [(16, 1, (2, 3), (3, 1))]),
        (16, 16, NORM, (16, 16, VECTOR, VECTOR), 0, 16, 0),
        *PLACE,
    ),
    "running_statistics": ([VECTOR], [VECTOR], [16], [0.1], [0], 16, 3, 16, 16, *PLACE),
    "resample_fixed": ([16] * 5, (1, 1, 1), (4, 4), 1, 4, 1, STRIDES, 1, STRIDES, *PLACE),
    "plan_resample": (
        *("float32", "float32", True, [(1, 3, False, True, AXIS, AXIS, (8, 8, 0, 0), False)], 2, True, 132, 232448),
        *([(16, STRIDES, 16)], (1.0, 2)),
    ),
    "resample_vectors": ("float32", 16, 8, 1, STRIDES),
    "plan_stem": (SIZES, (4, 4), 2, True, [CROP, CROP], 4, 132, "tf32", 16),
    "stem_needs": (SIZE, True, "tf32", 16, 132),
    "plan_stem_backward": (SIZES, (4, 4), 2, True, [CROP, CROP], [GRAD, None], 1, 3, 132, 232448, "float32", 16),
    "store_tables": (b"1234", 16, *PLACE),
    "allocate_tables": (4096, 1),
    "identify_stream": PLACE,
}


@pytest.fixture
def module() -> Iterator[Any]:
    with native_on_host():
        yield native.load()


def _launches(module: Any) -> dict[str, tuple[Any, ...]]:
    """``GOOD``, and the launches that take a plan."""
    of = {name: getattr(module, name)(*GOOD[name]) for name in ("plan_resample", "plan_stem", "plan_stem_backward")}
    weights = (WEIGHT, VECTOR, WEIGHT, VECTOR)
    rest = (FORMAT, [CROP, CROP], weights, 0.2)
    backward = 16, (16, 16, 16, 64), 16, [GRAD, None], "tf32", 16
    return GOOD | {
        "resample": (of["plan_resample"], 16, [(16, STRIDES, 16)], True, *PLACE),
        "stem": (of["plan_stem"], 16, *rest, "tf32", 16, 16, 0, *PLACE),
        "stem_backward": (of["plan_stem_backward"], 16, *rest, *backward, *PLACE),
    }


def _said(call: Callable[[], Any]) -> str:
    """The launch's error, or nothing; other errors pass through."""
    try:
        call()
    except RuntimeError as error:
        assert "cuda:1 " in str(error)
        return str(error)
    return ""


def _changed(value: Any, change: Any) -> Iterator[tuple[list[int], Any]]:
    """``change`` in the place of each item within a value at any depth, and the indices of that place."""
    for index, item in enumerate(value):
        inside = _changed(item, change) if isinstance(item, tuple | list) else ()
        for place, changed in [([], change), *inside]:
            yield [index, *place], type(value)([*value[:index], changed, *value[index + 1 :]])


def _id(value: object) -> str:
    return "object" if type(value) is object else repr(value)  # without its address, which differs between workers


def test_every_function_is_called_by_position_and_by_name(module: Any) -> None:
    launches = _launches(module)
    functions = {name for name, member in vars(module).items() if inspect.isbuiltin(member)}
    assert functions == {*launches, "build_record", "driver_version"}
    for name, arguments in launches.items():
        function = getattr(module, name)
        named = dict(zip(inspect.signature(function).parameters, arguments, strict=True))
        said = _said(lambda f=function, a=arguments: f(*a))
        assert said == _said(lambda f=function, a=named: f(**a)), name
        first, *others = reversed(named.items())
        assert said == _said(lambda f=function, a=dict([first, *others]): f(**a)), name
        assert function.__doc__ and function.__module__ == module.__name__


@pytest.mark.parametrize("change", [object(), 1.5j, "x", 2**70, -(2**70), b"", (), [None], float("inf")], ids=_id)
def test_no_item_of_an_argument_is_taken_for_another(module: Any, change: Any) -> None:
    """A change of each item at any depth is an error that names the argument, or is what the argument may be."""
    for name, arguments in _launches(module).items():
        function, raised = getattr(module, name), 0
        parameters = list(inspect.signature(function).parameters)
        for place, changed in _changed(arguments, change):
            argument = parameters[place[0]]
            try:
                _said(lambda f=function, a=changed: f(*a))
            except (TypeError, ValueError) as error:
                raised += 1
                said = str(error)
                assert "; expected " in said or said.startswith(("resample plan: ", "stem plan: ", "image: ")), said
                if type(change) in (object, complex):
                    assert isinstance(error, TypeError) and said.startswith(argument), said
            else:
                assert type(change) not in (object, complex), f"{name}: {place} may be {change!r}"
        assert raised >= len(arguments) - 2, name


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"size": (1, 4)}, ValueError, "size: got 2 values; expected (batch, height, width)"),
        ({"size": 3}, TypeError, "size: got 3; expected (batch, height, width)"),
        ({"size": (1, 0, 4)}, ValueError, "size.height: got 0; expected at least 1"),
        (
            {"size": (1, 2**63, 4)},
            ValueError,
            "size.height: got 9223372036854775808; expected an integer of -9223372036854775808 to 9223372036854775807",
        ),
        ({"raw": -16}, ValueError, "raw: got -16; expected an integer of 0 to 18446744073709551615"),
        ({"raw": 8}, ValueError, "raw: got address 8; expected one aligned to 16 bytes"),
        ({"raw": 0}, ValueError, "raw: got address 0; expected one aligned to 16 bytes"),
        ({"raw": 16.0}, TypeError, "raw: got 16.0; expected an integer"),
        (
            {"device": 2**31},
            ValueError,
            "device: got 2147483648; expected an integer of -2147483648 to 2147483647",
        ),
        ({"num_filters": 33}, ValueError, "num_filters: got 33; expected 1 to 32"),
        ({"arithmetic": "tf"}, ValueError, "arithmetic: got 'tf'; expected bfloat16, float16, tf32 or float32"),
        ({"arithmetic": b"tf32"}, TypeError, "arithmetic: got b'tf32'; expected a string"),
        ({"prologue": (*PROLOGUE[:4], "0.2")}, TypeError, "prologue.negative_slope: got '0.2'; expected a number"),
        (
            {"prologue": (*PROLOGUE[:4], 1e39)},
            ValueError,
            "prologue.negative_slope: got 1e+39; expected a number within the range of float32",
        ),
        (
            {"prologue": (16, (*NORM[:3], (16, 4), 1e-5), 16, None, 0.2)},
            ValueError,
            "prologue.norm.beta.dtype: got 4; expected 1, 2 or 3: float32, float16 or bfloat16",
        ),
        (
            {"prologue": (16, NORM[:4], 16, None, 0.2)},
            ValueError,
            "prologue.norm: got 4 values; expected (mean, var, gamma, beta, eps) or None",
        ),
        ({"weight": (6, *WEIGHT[1:])}, ValueError, "weight: got address 6; expected one aligned to 4 bytes"),
        ({"weight": (*WEIGHT[:2], (1, 2, 3))}, ValueError, "expected (image, channel, row, column)"),
        ({"weight": "\u20ac" * 99}, TypeError, "weight: got '" + "\\u20ac" * 12 + "\\u20..."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_argument_value_and_what_was_expected(
    module: Any, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    named = dict(zip(inspect.signature(module.conv).parameters, GOOD["conv"], strict=True)) | change
    with pytest.raises(error) as raised:
        module.conv(**named)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "named", "said"),
    [
        ((1,), {}, "got no stream"),
        ((), {"stream": 0}, "got no device"),
        ((1, 0, 0), {}, "got 3 arguments"),
        ((1, 0), {"device": 1}, "got device twice"),
        ((1,), {"streams": 0}, "got the unknown argument streams"),
        ((1,), {"stre\u00e4m": 0}, "got the unknown argument stre\u00e4m"),
        ((1,), {"": 0}, "got the unknown argument "),
        ((1,), {"device, stream": 0}, "got the unknown argument device, stream"),
    ],
)
def test_a_wrong_call_names_the_arguments(module: Any, arguments: Any, named: Any, said: str) -> None:
    with pytest.raises(TypeError) as raised:
        module.identify_stream(*arguments, **named)
    assert str(raised.value) == f"identify_stream: {said}; expected the arguments (device, stream)"


def test_integers_and_numbers_of_other_types_are_taken(module: Any) -> None:
    class Index:
        def __index__(self) -> int:
            return 16

    class Broken:
        def __index__(self) -> int:
            raise LookupError("of the argument's own")

        def __float__(self) -> float:
            raise LookupError("of the argument's own")

    assert module.conv_needs(SIZE, True, "tf32", Index(), 132) == module.conv_needs(SIZE, True, "tf32", 16, 132)
    with pytest.raises(LookupError, match="of the argument's own"):
        module.conv_needs(SIZE, True, "tf32", Broken(), 132)
    conv = GOOD["conv"]
    assert _said(lambda: module.conv(conv[0], (*PROLOGUE[:4], 1), *conv[2:])).startswith("conv: the launch")
    with pytest.raises(LookupError, match="of the argument's own"):
        module.conv(conv[0], (*PROLOGUE[:4], Broken()), *conv[2:])


def test_a_list_that_changes_while_it_is_read(module: Any) -> None:
    class Emptying:
        def __index__(self) -> int:
            places.clear()
            gc.collect()
            return 16

    places: list[Any] = [Emptying(), 16, 16, 16, 16]
    arguments = GOOD["resample_fixed"][1:]
    assert _said(lambda: module.resample_fixed(places, *arguments)).startswith("resample_fixed: the launch")
    assert places == []


def test_plans_are_made_by_the_module_only(module: Any) -> None:
    launches = _launches(module)
    for name in ("ResamplePlan", "StemPlan", "StemBackwardPlan"):
        plan_class = getattr(module, name)
        assert plan_class.__module__ == "learned_resizer_cuda._C"
        with pytest.raises(TypeError, match="cannot create"):
            plan_class()
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Derived", (plan_class,), {})
        with pytest.raises(TypeError, match="immutable"):
            plan_class.stored = b""
    plan = launches["stem"][0]
    assert hash(plan) == hash(plan) and {plan: 1}[plan] == 1
    with pytest.raises(AttributeError):
        plan.blocks = 3
    with pytest.raises(TypeError, match=r"plan: got <learned_resizer_cuda._C.StemPlan .*; expected StemBackwardPlan"):
        module.stem_backward(plan, *launches["stem_backward"][1:])
    with pytest.raises(TypeError, match="plan: got None; expected StemPlan"):
        module.stem(None, *launches["stem"][1:])
    with pytest.raises(
        TypeError, match=r"make_tables: got no stream; expected the arguments \(tables, device, stream\)"
    ):
        plan.make_tables(16, 1)
    assert str(inspect.signature(plan.make_tables)) == "(tables, device, stream)"


def test_no_reference_is_lost_or_kept(module: Any) -> None:
    """Allocated blocks and counts of references do not grow with calls, good or bad."""
    launches = _launches(module)
    plans = [launches[name][0] for name in ("resample", "stem", "stem_backward")]
    held = [None, *map(type, plans), *plans, NORM, PROLOGUE, WEIGHT, SIZES, CROP, "tf32"]
    calls: list[Callable[[], Any]] = [module.build_record]
    for name, arguments in launches.items():
        function = getattr(module, name)
        named = dict(zip(inspect.signature(function).parameters, arguments, strict=True))
        calls += [partial(function, *arguments), partial(function, **named)]
        calls += [partial(function, *changed) for _, changed in _changed(arguments, 1.5j)]
    calls += [partial(plan.make_tables, 16, *PLACE) for plan in plans]
    calls += [partial(getattr, plan, "stored") for plan in plans]
    calls += [partial(getattr, plans[0], "shape"), partial(getattr, plans[1], "blocks")]

    def counted() -> list[int]:
        gc.collect(0)
        return [sys.getallocatedblocks(), *map(sys.getrefcount, held)]

    repeats = 40

    def growth(call: Callable[[], Any]) -> list[int]:
        before = counted()
        for _ in range(repeats):
            with contextlib.suppress(TypeError, RuntimeError):
                call()
        return [after - first for first, after in zip(before, counted(), strict=True)]

    for call in calls:
        growth(call)  # fills caches
        # One lost at each call would be `repeats`, each time that it is measured; what the interpreter's free lists and
        # the other threads of the process take meanwhile is not.
        grown = min((growth(call) for _ in range(3)), key=lambda found: max(map(abs, found)))
        assert max(map(abs, grown)) < repeats / 2, (call, grown)
