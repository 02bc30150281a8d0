"""Who is on the street: agents placed by seed such that no two of them ever touch."""

from dataclasses import replace

import numpy as np

from .agents import Agent
from .clearance import Clearance
from .ego import CENTRE_AHEAD_M, EGO_SIZE_WLH, EgoDrive
from .materials import Material
from .mesh import Mesh
from .motion import Track, Travel
from .road import Road
from .semantics import CATEGORIES, CLASS_PRIORS
from .shapes import BUILDERS
from .spec import WorldSpec

RIDER_HEIGHT_M = {"bicycle": (1.68, 1.85), "motorcycle": (1.55, 1.72)}
LANE_SHARES = {"car": 0.70, "truck": 0.12, "bus": 0.08, "motorcycle": 0.10}
PARKED_SHARES = {"car": 0.88, "truck": 0.05, "motorcycle": 0.07}
LONG_SHARES = {"truck": 0.30, "trailer": 0.45, "bus": 0.25}


class Population:
    """Collects agents; every ``add`` either finds room or leaves the street as it was."""

    def __init__(self, spec: WorldSpec, road: Road, drive: EgoDrive) -> None:
        self.road, self.drive = road, drive
        self.rng = spec.stream("traffic")
        self.duration_s = spec.duration_s
        self.clearance = Clearance(road, spec.duration_s)
        self.agents: list[Agent] = []
        times = self.clearance.times
        poses = np.stack([drive.pose(t) for t in times])
        width, length, _ = EGO_SIZE_WLH
        body = poses[:, :2, 3] + CENTRE_AHEAD_M * poses[:, :2, 0]
        self.clearance.reserve(body, np.arctan2(poses[:, 1, 0], poses[:, 0, 0]), length + 3.0, width + 0.3)

    @property
    def flow(self) -> int:
        """Direction along s of the traffic on the right-hand lanes (d < 0)."""
        return -1 if self.road.left_hand_traffic else 1

    def add(
        self, category: str, track: Track, *,
        resting: str = "", rider: bool = False, margin_m: float = 0.0, **options: bool,
    ) -> bool:  # fmt: skip
        """One agent of a drawn size, if there is room."""
        name = CATEGORIES[category]
        size = self._draw_size(name, rider=rider, child=category.endswith("child"))
        if not self.clearance.admit(track, size[1], size[0], margin_m=margin_m):
            return False
        if name in RIDER_HEIGHT_M:
            options["rider"] = rider
        shape = BUILDERS[name](self.rng, size, **options)
        if resting == "vehicle.parked":
            shape = _switch_off(shape)
        self.agents.append(Agent(len(self.agents) + 1, category, size, track, shape, rider=rider, resting=resting))
        return True

    def _draw_size(self, name: str, *, rider: bool, child: bool) -> tuple[float, float, float]:
        prior = CLASS_PRIORS[name]
        size = np.array(prior.size_wlh) + np.array(prior.deviation_wlh) * np.clip(self.rng.standard_normal(3), -2, 2)
        if child:
            size *= 0.72
        if rider:
            size[2] = self.rng.uniform(*RIDER_HEIGHT_M[name])
        return tuple(float(x) for x in np.round(size, 3))

    def spots(self, step: float, margin: float) -> np.ndarray:
        """Places along the whole road about ``step`` apart, jittered."""
        s = np.arange(self.road.s_min + margin, self.road.s_max - margin, step)
        return s + self.rng.uniform(-0.3, 0.3, len(s)) * step

    def at_junction(self, s: float, side: int, margin: float) -> bool:
        """Whether a side street, a crossing or a bus stop is nearer than ``margin``."""
        joins = [(j.start, j.end) for j in self.road.junctions if (j.left if side > 0 else j.right)]
        stops = [(at - 2.2, at + 2.2) for at, where in self.road.stops if where == side]
        return any(a - margin < s < b + margin for a, b in [*joins, *self.road.crossings, *stops])


def _switch_off(shape: Mesh) -> Mesh:
    """A vehicle whose lamps do not shine."""
    lamps = np.isin(shape.material, (Material.LAMP, Material.TAIL))
    return replace(shape, material=np.where(lamps, Material.PAINT, shape.material).astype(np.uint8))


def _category(name: str) -> str:
    return next(category for category, other in CATEGORIES.items() if other == name)


def _choose(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return list(shares)[rng.choice(len(shares), p=list(shares.values()))]


def add_works(people: Population) -> None:
    """Road works: a closed piece of the kerb lane or sidewalk with machine, cones, barriers and workers."""
    rng, road = people.rng, people.road
    for s in people.spots(float(rng.uniform(48, 70)), 30.0):
        side = 1 if rng.random() < 0.5 else -1
        kerb = road.section.kerb(side)
        parking = road.section.parking_left if side > 0 else road.section.parking_right
        d = side * (kerb - parking / 2 if parking else kerb + 2.15)
        turn = float(rng.choice([0.0, np.pi]) + rng.uniform(-0.15, 0.15))
        people.add("vehicle.construction", Track(s=float(s), d=d, turn=turn), resting="vehicle.parked")
        inner = side * (abs(d) - 1.75 if parking else kerb + 0.15)
        for k in np.arange(-6.0, 6.1, 4.0):
            people.add("movable_object.trafficcone", Track(s=float(s + k), d=inner + rng.uniform(-0.08, 0.08)))
        for end in (-1, 1):
            turn = (0.0 if end > 0 else np.pi) + float(rng.uniform(-0.1, 0.1))
            people.add("movable_object.barrier", Track(s=float(s + end * 9.0), d=d, turn=turn))
        for k in rng.uniform(-6, 6, rng.integers(0, 3)):
            track = Track(s=float(s + k), d=side * (kerb + 1.2), turn=float(rng.uniform(0, 2 * np.pi)))
            people.add("human.pedestrian.construction_worker", track, worker=True, walking=False,
                       resting="pedestrian.standing")  # fmt: skip


def add_barrier_rows(people: Population) -> None:
    """Rows of barriers along the kerb, and stray cones."""
    rng, road = people.rng, people.road
    for s in people.spots(70.0, 25.0):
        side = 1 if rng.random() < 0.5 else -1
        if people.at_junction(s, side, 4.0):
            continue
        d = side * (road.section.kerb(side) + 0.95 if rng.random() < 0.6 else road.section.walk_end(side) - 0.5)
        for k in range(int(rng.integers(2, 4))):
            turn = side * np.pi / 2 + float(rng.uniform(-0.05, 0.05))
            people.add("movable_object.barrier", Track(s=float(s + 3.0 * k), d=float(d), turn=turn), margin_m=-0.15)
    for s in people.spots(75.0, 15.0):
        side = 1 if rng.random() < 0.5 else -1
        for k in range(int(rng.integers(1, 4))):
            d = side * (road.section.kerb(side) - 0.35 + rng.uniform(-0.1, 0.1))
            people.add("movable_object.trafficcone", Track(s=float(s + 1.4 * k), d=d, turn=float(rng.uniform(0, 6.2))))


def add_long_vehicles(people: Population) -> None:
    """Buses at their stops, lorries and trailers in the parking strips: they need room before the cars take it."""
    rng, road = people.rng, people.road
    for side in (1, -1):
        if not (road.section.parking_left if side > 0 else road.section.parking_right):
            continue
        d, facing = side * (road.section.kerb(side) - 1.3), 0.0 if side * people.flow < 0 else np.pi
        for s in (s for s, where in road.stops if where == side):
            if rng.random() < 0.6:
                people.add("vehicle.bus.rigid", Track(s=s, d=d, turn=facing), resting="vehicle.stopped")
        for s in people.spots(46.0, 20.0):
            name = _choose(rng, LONG_SHARES)
            if not people.at_junction(s, side, 8.0):
                people.add(_category(name), Track(s=float(s), d=d, turn=facing), resting="vehicle.parked")


def add_parked(people: Population) -> None:
    """Vehicles in the parking strips, in side streets and in yards."""
    rng, road = people.rng, people.road
    for side in (1, -1):
        strip = road.section.parking_left if side > 0 else road.section.parking_right
        facing = 0.0 if side * people.flow < 0 else np.pi
        if strip:
            occupied = rng.uniform(0.2, 0.55)
            for s in people.spots(6.6, 15.0):
                name = _choose(rng, PARKED_SHARES)
                d = side * (road.section.kerb(side) - 1.12)
                turn = facing + float(rng.uniform(-0.03, 0.03)) + (np.pi if rng.random() < 0.06 else 0.0)
                if rng.random() < occupied and not people.at_junction(s, side, 5.0):
                    people.add(_category(name), Track(s=float(s), d=d, turn=turn), resting="vehicle.parked")
        for j in road.junctions:
            if j.left if side > 0 else j.right:
                _fill_side_street(people, j.start, j.end, side)


def _fill_side_street(people: Population, start: float, end: float, side: int) -> None:
    """Vehicles parked along a side street, and one that waits at its mouth."""
    rng, road = people.rng, people.road
    mouth = road.section.walk_end(side)
    for s, turn in ((start + 1.15, np.pi / 2), (end - 1.15, -np.pi / 2)):
        for d in np.arange(mouth + 5.0, 41.0, 7.0):
            if rng.random() < 0.3:
                name = _choose(rng, {"car": 0.60, "truck": 0.15, "motorcycle": 0.08, "bus": 0.07, "trailer": 0.10})
                track = Track(s=float(s), d=side * float(d + rng.uniform(-0.5, 0.5)), turn=float(turn))
                people.add(_category(name), track, resting="vehicle.parked")
    if rng.random() < 0.7:
        name = _choose(rng, LANE_SHARES)
        middle = (start + end) / 2 + side * people.flow * 0.9
        length = CLASS_PRIORS[name].size_wlh[1] / 2
        track = Track(s=middle, d=side * (road.section.kerb(side) + 0.8 + length), turn=-side * np.pi / 2)
        people.add(_category(name), track, resting="vehicle.stopped", rider=name == "motorcycle")


def add_lane_traffic(people: Population) -> None:
    """Moving vehicles: all of one lane share a speed profile, each with a small sway of its own."""
    rng, section = people.rng, people.road.section
    for side in (1, -1):
        direction = -side * people.flow
        for lane in range(section.lanes_per_side):
            d = side * section.lane * (lane + 0.5)
            if abs(d - people.drive.d) < 0.1:
                base = people.drive.travel
            else:
                stops = rng.random() < 0.3
                swing = 1.0 if stops else float(rng.uniform(0, 0.4))
                rate, phase = float(2 * np.pi / rng.uniform(14, 22)), float(rng.uniform(0, 6.28))
                base = Travel(speed=float(rng.uniform(4.0, 10.0)), swing=swing, rate=rate, phase=phase)
            for s in people.spots(70.0, 16.0):
                _add_driver(people, _choose(rng, LONG_SHARES), float(s), float(d), direction, base)
            for s in people.spots(float(rng.uniform(26, 40)), 14.0):
                _add_driver(people, _choose(rng, LANE_SHARES), float(s), float(d), direction, base)


def _add_driver(people: Population, name: str, s: float, d: float, direction: int, base: Travel) -> None:
    rng = people.rng
    turn = 0.0 if direction > 0 else np.pi
    sway = min(2.5, base.speed * (1 - base.swing) * 2.0)
    travel = replace(base, sway=float(rng.uniform(0, sway)), sway_rate=float(rng.uniform(0.2, 0.4)),
                     sway_phase=float(rng.uniform(0, 6.28)))  # fmt: skip
    track = Track(s=s, d=d + float(rng.uniform(-0.2, 0.2)), turn=turn, along=direction, travel=travel)
    if name != "trailer":
        people.add(_category(name), track, rider=name == "motorcycle", margin_m=0.3)
        return
    # a trailer is pulled: tractor and trailer share one motion
    if people.add("vehicle.trailer", track, margin_m=0.3):
        lead = people.agents[-1].size_wlh[1] / 2 + 4.8
        people.add("vehicle.truck", replace(track, s=s + direction * lead), margin_m=-0.29)


def add_cyclists(people: Population) -> None:
    """Cyclists at the edge of the lanes, and parked two-wheelers on the sidewalks."""
    rng, section = people.rng, people.road.section
    for side in (1, -1):
        direction = -side * people.flow
        for s in people.spots(70.0, 14.0):
            travel = Travel(speed=float(rng.uniform(2.5, 5.5)), swing=float(rng.uniform(0, 0.3)), rate=0.5)
            edge = section.lanes - 0.45 if rng.random() < 0.75 else section.kerb(side) + 1.3
            turn = 0.0 if direction > 0 else np.pi
            track = Track(s=float(s), d=side * float(edge), turn=turn, along=direction, travel=travel)
            people.add("vehicle.bicycle" if rng.random() < 0.8 else "vehicle.motorcycle", track, rider=True)
        for s in people.spots(60.0, 14.0):
            if people.at_junction(s, side, 2.0):
                continue
            category = "vehicle.bicycle" if rng.random() < 0.6 else "vehicle.motorcycle"
            for k in range(int(rng.integers(1, 3))):
                turn = side * np.pi / 2 + float(rng.uniform(-0.25, 0.25))
                track = Track(s=float(s + 1.1 * k), d=side * (section.walk_end(side) - 0.75), turn=turn)
                people.add(category, track, margin_m=-0.25)


def add_pedestrians(people: Population) -> None:
    """People who walk along the sidewalks, stand about, wait, or cross."""
    rng, section = people.rng, people.road.section
    for side in (1, -1):
        for s in people.spots(float(rng.uniform(16, 30)), 14.0):
            d = side * (section.kerb(side) + float(rng.uniform(1.05, max(1.3, section.walk - 1.0))))
            category = "human.pedestrian.adult" if rng.random() < 0.92 else "human.pedestrian.child"
            if rng.random() < 0.3:
                track = Track(s=float(s), d=d, turn=float(rng.uniform(0, 2 * np.pi)))
                people.add(category, track, resting="pedestrian.standing", walking=False)
                continue
            direction = 1 if rng.random() < 0.5 else -1
            travel = Travel(speed=float(rng.uniform(0.7, 1.7)), swing=float(rng.uniform(0, 0.25)),
                            rate=float(rng.uniform(0.3, 0.9)), phase=float(rng.uniform(0, 6.28)))  # fmt: skip
            track = Track(s=float(s), d=d, turn=0.0 if direction > 0 else np.pi, along=direction, travel=travel)
            people.add(category, track, walking=True)
    for start, end in people.road.crossings:
        for _ in range(4):
            # waits, crosses in the middle of the scene and stands on the other side at its end
            side = 1 if rng.random() < 0.5 else -1
            width = section.kerb(1) + section.kerb(-1) + 2.4
            travel = Travel(speed=width / people.duration_s, swing=1.0, rate=2 * np.pi / people.duration_s,
                            phase=np.pi + float(rng.uniform(-1.4, 0.4)))  # fmt: skip
            track = Track(s=float(rng.uniform(start + 0.4, end - 0.4)), d=side * (section.kerb(side) + 1.2),
                          turn=-side * np.pi / 2, across=-side, travel=travel)  # fmt: skip
            people.add("human.pedestrian.adult", track, margin_m=0.5, walking=True)


def populate(spec: WorldSpec, road: Road, drive: EgoDrive) -> list[Agent]:
    """All agents of a scene; what is placed first finds most room."""
    people = Population(spec, road, drive)
    for add in (
        add_works, add_long_vehicles, add_lane_traffic, add_cyclists, add_barrier_rows, add_parked, add_pedestrians,
    ):  # fmt: skip
        add(people)
    return people.agents
