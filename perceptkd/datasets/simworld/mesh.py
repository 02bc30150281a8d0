"""Triangle soups and the primitives that everything in the world is composed of.

Legend: T triangles. Local frame of an object: x forward, y left, z up.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .materials import Material


@dataclass(frozen=True)
class Mesh:
    """Triangles with what is needed to shade and label them.

    Args:
        corners: [T, 3, 3] float64, metres.
        texture: [T, 3, 2] float64, metres along the surface unless the material says otherwise.
        colour: [T, 3] float32 linear albedo.
        material: [T] uint8, see ``Material``.
        semantic: [T] uint8, see ``SEMANTICS``.
        owner: [T] int32, index of the agent; -1 for the street.
    """

    corners: np.ndarray
    texture: np.ndarray
    colour: np.ndarray
    material: np.ndarray
    semantic: np.ndarray
    owner: np.ndarray

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: slice | np.ndarray) -> "Mesh":
        return Mesh(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def labelled(self, *, semantic: int, owner: int = -1) -> "Mesh":
        """The same triangles as part of one object."""
        count = len(self)
        return Mesh(self.corners, self.texture, self.colour, self.material,
                    np.full(count, semantic, np.uint8), np.full(count, owner, np.int32))  # fmt: skip

    def moved(self, *, offset: tuple | np.ndarray = (0.0, 0.0, 0.0), yaw: float = 0.0) -> "Mesh":
        """Turned about z by ``yaw`` radians, then shifted."""
        c, s = np.cos(yaw), np.sin(yaw)
        x, y, z = np.moveaxis(self.corners, -1, 0)
        corners = np.stack([c * x - s * y, s * x + c * y, z], -1) + np.asarray(offset, float)
        return Mesh(corners, self.texture, self.colour, self.material, self.semantic, self.owner)


def join_meshes(meshes: Iterable[Mesh]) -> Mesh:
    """All triangles in one mesh."""
    meshes = list(meshes)
    if not meshes:
        return triangles(np.zeros((0, 3, 3)), np.zeros((0, 3, 2)), Material.PLAIN, (0, 0, 0))
    return Mesh(*(np.concatenate([getattr(m, name) for m in meshes]) for name in Mesh.__dataclass_fields__))


def triangles(corners: np.ndarray, texture: np.ndarray, material: int, colour: tuple | np.ndarray) -> Mesh:
    """Mesh of one material and colour, unlabelled."""
    count = len(corners)
    return Mesh(
        np.ascontiguousarray(corners, np.float64),
        np.ascontiguousarray(texture, np.float64),
        np.tile(np.asarray(colour, np.float32), (count, 1)),
        np.full(count, material, np.uint8),
        np.zeros(count, np.uint8),
        np.full(count, -1, np.int32),
    )


def quads(corners: np.ndarray, texture: np.ndarray, material: int, colour: tuple | np.ndarray) -> Mesh:
    """Quadrilaterals [Q, 4, 3], counter-clockwise seen from outside, as two triangles each."""
    split = [0, 1, 2, 0, 2, 3]
    return triangles(
        np.asarray(corners, float)[:, split].reshape(-1, 3, 3),
        np.asarray(texture, float)[:, split].reshape(-1, 3, 2),
        material,
        colour,
    )


_FACES = np.array([[1, 2, 6, 5], [3, 0, 4, 7], [2, 3, 7, 6], [0, 1, 5, 4], [4, 5, 6, 7], [3, 2, 1, 0]])
FRONT, BACK, LEFT, RIGHT, TOP, BOTTOM = range(6)


def hexahedron(corners: np.ndarray, material: int, colour: tuple, *, faces: Iterable[int] = range(6)) -> Mesh:
    """Solid of eight corners: four of the bottom, (back right, front right, front left, back left), then of the top.

    The texture is (metres along the face, metres above the lowest corner).
    """
    corners = np.asarray(corners, float)
    chosen = corners[_FACES[list(faces)]]
    along = np.linalg.norm(chosen[:, 1] - chosen[:, 0], axis=-1)
    up = np.linalg.norm(chosen[:, 3] - chosen[:, 0], axis=-1)
    zero = np.zeros_like(along)
    texture = np.stack([np.stack(pair, -1) for pair in ((zero, zero), (along, zero), (along, up), (zero, up))], 1)
    upright = [i for i, face in enumerate(faces) if face < TOP]
    texture[upright, :, 1] = chosen[upright, :, 2] - corners[:, 2].min()
    return quads(chosen, texture, material, colour)


def block(
    low: tuple, high: tuple, material: int, colour: tuple, *,
    inset_x: tuple[float, float] = (0.0, 0.0), inset_y: float = 0.0, faces: Iterable[int] = range(6),
) -> Mesh:  # fmt: skip
    """Axis-parallel box whose top is drawn in by ``inset_x`` = (back, front) and ``inset_y`` on both sides."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    bottom = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
    xb, xf, ya, yb = x0 + inset_x[0], x1 - inset_x[1], y0 + inset_y, y1 - inset_y
    top = [(xb, ya, z1), (xf, ya, z1), (xf, yb, z1), (xb, yb, z1)]
    return hexahedron(np.array(bottom + top), material, colour, faces=tuple(faces))


def tube(
    start: tuple, end: tuple, radius: float, material: int, colour: tuple, *,
    sides: int = 6, end_radius: float | None = None, capped: bool = False,
) -> Mesh:  # fmt: skip
    """Cylinder or cone frustum around the line from ``start`` to ``end``; texture is (metres around, metres along)."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    end_radius = radius if end_radius is None else end_radius
    axis = end - start
    length = float(np.linalg.norm(axis))
    axis = axis / length
    helper = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    first = np.cross(helper, axis)
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    angle = 2 * np.pi * np.arange(sides + 1) / sides
    ring = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    low, high = start + radius * ring, end + end_radius * ring
    around = angle * max(radius, end_radius)
    corners = np.stack([low[:-1], low[1:], high[1:], high[:-1]], 1)
    texture = np.zeros((sides, 4, 2))
    texture[:, 0, 0] = texture[:, 3, 0] = around[:-1]
    texture[:, 1, 0] = texture[:, 2, 0] = around[1:]
    texture[:, 2:, 1] = length
    body = quads(corners, texture, material, colour)
    if not capped:
        return body
    lids = [_lid(low[:-1][::-1], start, material, colour), _lid(high[:-1], end, material, colour)]
    return join_meshes([body, *lids])


def _lid(ring: np.ndarray, centre: np.ndarray, material: int, colour: tuple) -> Mesh:
    following = np.roll(ring, -1, axis=0)
    corners = np.stack([np.broadcast_to(centre, ring.shape), ring, following], 1)
    return triangles(corners, np.zeros((len(ring), 3, 2)), material, colour)


def _icosphere() -> tuple[np.ndarray, np.ndarray]:
    """Unit vertices [42, 3] and triangles [80, 3] of a once divided icosahedron."""
    g = (1 + 5**0.5) / 2
    base = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g),
            (0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]  # fmt: skip
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2),
             (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5),
             (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)]  # fmt: skip
    vertices = [np.array(v) / np.hypot(1, g) for v in base]
    middles: dict[tuple[int, int], int] = {}

    def middle(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middles:
            point = vertices[a] + vertices[b]
            middles[key] = len(vertices)
            vertices.append(point / np.linalg.norm(point))
        return middles[key]

    divided = []
    for a, b, c in faces:
        ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
        divided += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.array(vertices), np.array(divided)


_SPHERE_VERTICES, _SPHERE_FACES = _icosphere()


def blob(
    centre: tuple, radii: tuple, material: int, colour: tuple, *,
    rng: np.random.Generator | None = None, roughness: float = 0.0,
) -> Mesh:  # fmt: skip
    """Ellipsoid of 80 triangles whose surface is dented inwards at random by up to ``roughness``."""
    scale = np.ones(len(_SPHERE_VERTICES))
    if rng is not None:
        scale = 1.0 - roughness * rng.random(len(scale))
    vertices = np.asarray(centre, float) + _SPHERE_VERTICES * scale[:, None] * np.asarray(radii, float)
    around = np.arctan2(_SPHERE_VERTICES[:, 1], _SPHERE_VERTICES[:, 0])[_SPHERE_FACES]
    around = np.where(around - around[:, :1] > np.pi, around - 2 * np.pi, around)
    around = np.where(around - around[:, :1] < -np.pi, around + 2 * np.pi, around)
    texture = np.stack([around * max(radii[:2]), vertices[_SPHERE_FACES][..., 2]], -1)
    return triangles(vertices[_SPHERE_FACES], texture, material, colour)
