"""Names of places in a model: ``'neck[0]'`` is element 0 of what the module ``neck`` returns.

``"bbox_head[0][0]['heatmap']"`` goes on into the nested output, and ``'voxel_encoder(coors)'`` is the argument
``coors`` that the module is called with. Only outputs and arguments of modules can be named, because they are what a
hook sees without touching the model's code.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from perceptkd.core.errors import InputError

Extent = tuple[float, float, float, float]

_PATH = re.compile(
    r"(?P<path>[A-Za-z_]\w*(?:\.\w+)*)(?:\((?P<argument>\w+)\))?(?P<index>(?:\[(?:-?\d+|'[^']*'|\"[^\"]*\")\])*)"
)
_INDEX = re.compile(r"\[(?:(-?\d+)|'([^']*)'|\"([^\"]*)\")\]")


class TapError(RuntimeError):
    """A tap that cannot be attached, did not fire, or is read in a way that has no answer."""


@dataclass(frozen=True)
class TapSpec:
    """Where to read, and what the map found there means.

    Attributes:
        path: Name of the module, as in ``model.named_modules()``.
        index: What to take of the module's output (or argument), applied in order.
        argument: Read this argument of the module's call, by name or position, and not its output.
        layout: ``'yx'`` or ``'xy'``: the axes of the last two dimensions of a BEV map. ``'image'`` says that it is
            none, where the model has a ``bev_geometry``, which otherwise fills in what is left out.
        extent: Metric range ``(x0, y0, x1, y1)`` a BEV map covers, in metres.
        stride: Input pixels (or voxels) per cell; a sequence for an output with several levels.
        clone: Copy the output as it is produced, so that an in-place operation behind the tap cannot change it. With
            ``False`` nothing is copied, and such an overwrite raises.
    """

    path: str
    index: tuple[int | str, ...] = ()
    argument: str | None = None
    layout: str | None = None
    extent: Extent | None = None
    stride: float | tuple[float, ...] | None = None
    clone: bool = True

    def __str__(self) -> str:
        argument = "" if self.argument is None else f"({self.argument})"
        return self.path + argument + "".join(f"[{item!r}]" for item in self.index)

    @property
    def place(self) -> str:
        """Where the hook is: the module that returns, or ``module()`` where what it is called with is read."""
        return self.path if self.argument is None else f"{self.path}()"


def parse_tap(spec: str | Mapping[str, Any] | TapSpec) -> TapSpec:
    """Read a tap as configs write it.

    Args:
        spec: ``'module.path[0]["key"]'`` or ``'module.path(argument)'``, or a dict with that as ``path`` and other
            fields of :class:`TapSpec`.

    >>> parse_tap("neck[0]").index
    (0,)
    >>> parse_tap("voxel_encoder(coors)").argument
    'coors'
    >>> str(parse_tap(dict(path='bbox_head[0]["heatmap"]', layout="yx")))
    "bbox_head[0]['heatmap']"
    """
    if isinstance(spec, TapSpec):
        return spec
    options: dict[str, Any] = {"path": spec} if isinstance(spec, str) else dict(spec)
    unknown = set(options) - {item.name for item in fields(TapSpec)} | {"index", "argument"} & set(options)
    if unknown or not isinstance(options.get("path"), str):
        raise InputError(f"A tap is 'module.path[i]' or a dict with path, layout, extent, stride, clone; got {spec!r}")
    match = _PATH.fullmatch(options["path"])
    if match is None:
        raise InputError(
            f"Cannot read the tap {options['path']!r}: write 'module.path', or 'module.path(argument)' for what it is "
            "called with, then [0] or ['key'] on that"
        )
    if options.get("layout") not in (None, "yx", "xy", "image"):
        raise InputError(
            f"The layout of tap {options['path']!r} must be 'yx', 'xy' or 'image', not {options['layout']!r}"
        )
    if options.get("extent") is not None and len(options["extent"]) != 4:
        raise InputError(f"The extent of tap {options['path']!r} must be (x0, y0, x1, y1) in metres")
    index = tuple(int(i) if i else (s or d) for i, s, d in _INDEX.findall(match["index"]))
    for name in ("extent", "stride"):
        if isinstance(options.get(name), Sequence):
            options[name] = tuple(float(value) for value in options[name])
    return TapSpec(**{**options, "path": match["path"], "argument": match["argument"], "index": index})
