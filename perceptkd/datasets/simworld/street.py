"""The static street: ground, buildings, trees and furniture, sorted along the road."""

import numpy as np

from . import buildings, furniture
from .ground import build_ground, sort_along
from .mesh import Mesh
from .road import EDGE_M, Road
from .semantics import BUILDING
from .spec import WorldSpec

CHARACTERS = ("downtown", "residential", "suburb", "industrial")
VERGE_M = 0.45
"""Poles and trees stand this far behind the kerb; nothing walks or parks there."""


class StreetBuilder:
    """Places static things by road coordinates and keeps where along the road they are."""

    def __init__(self, spec: WorldSpec, road: Road) -> None:
        self.road = road
        self.rng = spec.stream("street")
        self.character = CHARACTERS[self.rng.choice(4, p=[0.36, 0.28, 0.22, 0.14])]
        self.lamps: list[np.ndarray] = []
        self._style = 0
        ground = build_ground(road)
        self._meshes, self._places = [ground], [ground.texture[:, 0, 0]]

    def place(self, mesh: Mesh, s: float, d: float, *, side: int, level: float | None = None) -> None:
        """Put a thing, its y away from the road, on one ``side``; ``level`` overrides the ground's height."""
        point = self.road.position(s, side * d)
        if level is not None:
            point[2] = level
        yaw = float(self.road.heading(s)) + (0.0 if side > 0 else np.pi)
        self._meshes.append(mesh.moved(offset=point, yaw=yaw))
        self._places.append(np.full(len(mesh), s))

    def finish(self) -> tuple[Mesh, np.ndarray, np.ndarray]:
        """Triangles along the road, their places [T] (s) and the street lamps [L, 3]."""
        mesh, s = sort_along(self.road, self._meshes, self._places)
        return mesh, s, np.array(self.lamps).reshape(-1, 3)

    def is_open(self, s: float, margin: float, side: int) -> bool:
        """Whether a side street passes within ``margin`` of ``s`` on this side."""
        return any(
            (j.left if side > 0 else j.right) and j.start - margin < s < j.end + margin for j in self.road.junctions
        )

    def is_clear(self, s: float, margin: float, side: int) -> bool:
        """Whether there is neither a side street nor a crossing within ``margin``."""
        near_crossing = any(start - margin < s < end + margin for start, end in self.road.crossings)
        return not near_crossing and not self.is_open(s, margin, side)

    def build_lots(self, side: int) -> None:
        """Lot after lot along one side: buildings, gardens, yards."""
        rng, s = self.rng, self.road.s_min + 2.0
        while s < self.road.s_max - 8.0:
            width = float(rng.uniform(9, 22))
            blocked = [j for j in self.road.junctions if (j.left if side > 0 else j.right)
                       and s < j.end + 4.0 and s + width > j.start - 4.0]  # fmt: skip
            if blocked:
                room = blocked[0].start - 4.0 - s
                if room < 8.0:
                    s = blocked[0].end + 4.0
                    continue
                width = room
            self.build_lot(s + width / 2, width, side)
            s += width + (0.0 if self.character == "downtown" else float(rng.uniform(0.5, 3.0)))

    def build_lot(self, s: float, width: float, side: int) -> None:
        """One lot by the character of the street."""
        rng, draw = self.rng, self.rng.random()
        back = self.road.section.walk_end(side)
        city = {"downtown": 0.88, "residential": 0.72, "suburb": 0.15, "industrial": 0.12}[self.character]
        green = {"downtown": 0.94, "residential": 0.84, "suburb": 0.35, "industrial": 0.35}[self.character]
        if draw < city:
            tall = {"downtown": (14, 42), "residential": (9, 19)}.get(self.character, (7, 14))
            setback = 1.0 if self.character == "downtown" else float(rng.uniform(1.0, 4.0))
            shop = self.character == "downtown" or rng.random() < 0.35
            mesh = buildings.build_block(rng, width, float(rng.uniform(11, 17)), float(rng.uniform(*tall)),
                                         style=self._next_style(), shop=shop)  # fmt: skip
            self._stand(mesh, s, back + setback, side)
        elif draw < green:
            self._build_garden(s, width, back, side)
        elif self.character == "industrial":
            mesh = buildings.build_hall(rng, width, float(rng.uniform(14, 22)), style=self._next_style())
            self._stand(mesh, s, back + float(rng.uniform(3, 9)), side)
        else:
            house = min(width - 2.0, float(rng.uniform(8, 13)))
            mesh = buildings.build_house(rng, house, float(rng.uniform(7, 10)), style=self._next_style())
            self._stand(mesh, s, back + float(rng.uniform(4, 8)), side)
            self._build_border(s, width, back, side)
            self._scatter_green(s, width, (back + 1.5, back + 3.6), side, count=2)

    def _next_style(self) -> int:
        self._style += 1
        return self._style

    def _stand(self, mesh: Mesh, s: float, d: float, side: int) -> None:
        """Put up a building at the level of the street before it."""
        level = float(self.road.height(s, side * self.road.section.walk_end(side)))
        self.place(mesh.labelled(semantic=BUILDING), s, d, side=side, level=level)

    def _build_garden(self, s: float, width: float, back: float, side: int) -> None:
        """Park, yard or garden: a border, trees and shrubs, and something built behind them."""
        self._build_border(s, width, back, side)
        self._scatter_green(s, width, (back + 2.5, back + 16.0), side, count=int(self.rng.integers(3, 8)))
        if self.rng.random() < 0.6:
            height = float(self.rng.uniform(8, 26))
            mesh = buildings.build_block(self.rng, width, 10.0, height, style=self._next_style(), shop=False)
            self._stand(mesh, s, 36.0, side)

    def _build_border(self, s: float, width: float, back: float, side: int) -> None:
        build = (furniture.build_hedge, furniture.build_wall, furniture.build_fence)[self.rng.integers(3)]
        count = max(1, round(width / 5.0))  # short pieces follow the curve
        for k in range(count):
            piece = width / count
            self.place(build(self.rng, piece + 0.05), s - width / 2 + (k + 0.5) * piece, back + 0.5, side=side)

    def _scatter_green(self, s: float, width: float, d: tuple[float, float], side: int, *, count: int) -> None:
        rng = self.rng
        for _ in range(count):
            draw = rng.random()
            mesh = furniture.build_tree(rng, street=False) if draw < 0.45 else (
                furniture.build_conifer(rng) if draw < 0.7 else furniture.build_bush(rng))  # fmt: skip
            at = max(d[0] + (2.0 if draw < 0.7 else 0.0), rng.uniform(*d))
            self.place(mesh, float(s + rng.uniform(-0.45, 0.45) * width), float(at), side=side)

    def build_verge(self, side: int) -> None:
        """Lamps, trees, signs and bins behind the kerb."""
        rng, section = self.rng, self.road.section
        d = section.kerb(side) + VERGE_M
        tree_every = {"downtown": 15.0, "residential": 11.0, "suburb": 10.0, "industrial": 30.0}[self.character]
        lamp_every = float(rng.uniform(24, 32))
        next_lamp = self.road.s_min + float(rng.uniform(5, 25))
        next_tree = self.road.s_min + float(rng.uniform(5, 15))
        for s in np.arange(self.road.s_min + 3.0, self.road.s_max - 3.0, 2.5):
            clear = self.is_clear(s, 2.5, side)
            if s >= next_lamp and clear:
                self._put_lamp(s, d, side)
                next_lamp = s + lamp_every
            elif s >= next_tree and clear:
                self.place(furniture.build_tree(rng, street=True), s, d, side=side)
                next_tree = s + tree_every * float(rng.uniform(0.7, 1.4))
            elif clear and rng.random() < 0.06:
                self.place(furniture.build_sign(rng, 1 if rng.random() < 0.5 else -1), s, d, side=side)
            elif clear and rng.random() < 0.05:
                self.place(furniture.build_bin(rng), s, section.walk_end(side) + 0.4, side=side)

    def _put_lamp(self, s: float, d: float, side: int) -> None:
        self.place(furniture.build_lamp(), s, d, side=side)
        head = self.road.position(s, side * (d - furniture.LAMP_ARM_M))
        head[2] = float(self.road.height(s, side * d)) + furniture.LAMP_HEIGHT_M
        self.lamps.append(head)

    def build_junctions(self) -> None:
        """Traffic lights, and buildings that close the view down the side streets."""
        rng = self.rng
        for junction in self.road.junctions:
            green = bool(rng.random() < 0.5)
            for side, at, opens in ((1, junction.end + 1.8, junction.left), (-1, junction.start - 1.8, junction.right)):
                if not opens:
                    continue
                d = self.road.section.kerb(side) + VERGE_M
                self.place(furniture.build_traffic_light(1 if side > 0 else -1, green=green), at, d, side=side)
                if rng.random() < 0.7:
                    mesh = buildings.build_block(rng, 26.0, 8.0, float(rng.uniform(8, 22)), style=self._next_style(),
                                                 shop=False)  # fmt: skip
                    middle = (junction.start + junction.end) / 2
                    level = float(self.road.height(middle, side * (EDGE_M - 8)))
                    self.place(mesh.labelled(semantic=BUILDING), middle, EDGE_M - 8.0, side=side, level=level)

    def build_stops(self) -> None:
        """Bus shelters at the back of the sidewalk."""
        for s, side in self.road.stops:
            self.place(furniture.build_shelter(), s, self.road.section.walk_end(side) - 0.55, side=side)


def build_street(spec: WorldSpec, road: Road) -> tuple[Mesh, np.ndarray, np.ndarray, str]:
    """Static triangles by place along the road, those places [T] (s), the street lamps [L, 3] and its character."""
    builder = StreetBuilder(spec, road)
    for side in (1, -1):
        builder.build_lots(side)
        builder.build_verge(side)
    builder.build_junctions()
    builder.build_stops()
    return (*builder.finish(), builder.character)
