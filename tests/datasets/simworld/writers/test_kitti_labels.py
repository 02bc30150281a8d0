"""Labels of things whose silhouettes are known: truncation, occlusion, boxes, angles, and what gets no box."""

from types import SimpleNamespace

import numpy as np
import pytest

from perceptkd.datasets.kitti_files import ObjectLabel
from perceptkd.datasets.simworld.agents import Agent
from perceptkd.datasets.simworld.camera import CameraFrame
from perceptkd.datasets.simworld.kitti_rig import EGO_FROM_VELO, kitti_calibration
from perceptkd.datasets.simworld.lidar import LidarSweep
from perceptkd.datasets.simworld.materials import Material
from perceptkd.datasets.simworld.mesh import block
from perceptkd.datasets.simworld.motion import Track
from perceptkd.datasets.simworld.writers.kitti_labels import KittiLabeller, is_labelled, kitti_type, occlusion_level

SIZE = (1242, 375)


class Still:
    """A thing at a place [x, y] of the velodyne frame on level ground, as a scene's fleet and as a scene."""

    def __init__(self, agents: list[Agent]) -> None:
        self.agents = agents

    def agent_poses(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        poses = [agent.pose(t) for agent in self.agents]
        return np.array([pose.center for pose in poses]).reshape(-1, 3), np.array([pose.yaw for pose in poses])

    def ego_pose(self, t: float) -> np.ndarray:
        return np.eye(4)


def plate(place: tuple[float, float], *, yaw: float = 0.0, category: str = "vehicle.car", index: int = 0) -> Agent:
    """A plate of 2 m x 2 m that stands across its heading."""
    width, length, height = 2.0, 0.02, 1.8
    ground = np.array([[*(EGO_FROM_VELO[:2, 3] + place), 0.0]])
    fleet = SimpleNamespace(pose=lambda t: (ground.copy(), np.array([yaw])))
    shape = block((-length / 2, -width / 2, 0.0), (length / 2, width / 2, height), Material.PAINT, (1, 1, 1))
    return Agent(index + 1, category, (width, length, height), Track(0.0, 0.0), shape, fleet=fleet)


def label(agents: list[Agent], instance: np.ndarray | None = None, points: int = 50) -> list[ObjectLabel]:
    """Labels of agents that are seen where ``instance`` says, or wherever they are nearest in their order."""
    labeller = KittiLabeller(Still(agents), kitti_calibration(SIZE), SIZE)
    if instance is None:
        instance = mask(labeller, agents)
    frame = CameraFrame(np.zeros(0), instance, np.zeros(0), np.zeros(0))
    hits = np.repeat([agent.instance_id for agent in agents], points).astype(np.int32)
    return labeller.labels(0.0, frame, LidarSweep(np.zeros(0), hits, np.zeros(0), np.zeros(0)))


def mask(labeller: KittiLabeller, agents: list[Agent]) -> np.ndarray:
    """The instance mask of agents, the first before the others, by the bounds of their silhouettes."""
    bounds = labeller._silhouettes(0.0, np.arange(len(agents)), margin=(0, 0)).bounds
    instance = np.zeros(SIZE[::-1], np.int32)
    for agent, (left, top, right, bottom) in reversed(list(zip(agents, np.round(bounds).astype(int).tolist()))):
        instance[top:bottom, left:right] = agent.instance_id
    return instance


def test_a_thing_in_full_view():
    (found,) = label([plate((20.0, 1.0))])
    assert (found.type, found.truncated, found.occluded) == ("Car", 0.0, 0)
    assert found.size_hwl == pytest.approx((1.8, 2.0, 0.02))
    left, top, right, bottom = found.bbox
    depth = found.location[2]
    assert right - left == pytest.approx(721 * 2.0 / depth, rel=0.02)
    assert bottom - top == pytest.approx(721 * 1.8 / depth, rel=0.02)
    assert found.location == pytest.approx((-1.0, 1.86, 19.7), abs=0.12)  # the camera looks up by half a degree


@pytest.mark.parametrize("yaw", [0.0, 0.4, 1.5, 2.5, -0.4, -3.0])
@pytest.mark.parametrize("place", [(20.0, 0.0), (15.0, -6.0), (10.0, 4.0)])
def test_angles(place, yaw):
    """Heading along the velodyne's x is rotation_y = -90 degrees, and turning left makes it smaller."""
    (found,) = label([plate(place, yaw=yaw)])
    assert np.cos(found.rotation_y - (-np.pi / 2 - yaw)) > np.cos(0.01)
    assert np.cos(found.alpha - (found.rotation_y - np.arctan2(-place[1], place[0]))) == pytest.approx(1.0)
    assert -np.pi <= found.alpha <= np.pi
    assert -np.pi <= found.rotation_y <= np.pi


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_truncation_is_the_part_beyond_the_border(share):
    """The plate's middle is moved from the right border by what makes ``share`` of its width lie beyond."""
    depth = 12.0
    border = (1242 - 610.0) / 721 * depth  # metres to the right at that depth
    (found,) = label([plate((depth + 0.27, -(border + 2.0 * (share - 0.5))))])
    assert found.truncated == pytest.approx(share, abs=0.05)
    assert found.bbox[2] == 1241.0
    assert found.occluded == 0


def test_truncation_below_the_image():
    """At 1.5 m the camera, 1.65 m high, sees what is above 1.23 m of a plate of 1.8 m."""
    (found,) = label([plate((1.77, 0.0))])
    assert found.truncated == pytest.approx((1.65 - (375 - 173.5) / 721 * 1.5) / 1.8, abs=0.03)
    assert found.bbox[3] == 374.0


@pytest.mark.parametrize(("hidden", "level"), [(0.0, 0), (0.1, 0), (0.3, 1), (0.7, 2)])
def test_occlusion_is_the_part_that_others_hide(hidden, level):
    agents = [plate((10.0, 0.0), category="movable_object.barrier"), plate((20.0, 0.0), index=1)]
    labeller = KittiLabeller(Still(agents), kitti_calibration(SIZE), SIZE)
    left, top, right, bottom = labeller._silhouettes(0.0, np.arange(1), margin=(0, 0)).bounds[0].round().astype(int)
    instance = np.zeros(SIZE[::-1], np.int32)
    instance[top:bottom, left:right] = 2
    instance[top:bottom, left : left + round(hidden * (right - left))] = 1
    (found,) = label(agents, instance)  # the barrier has no label
    assert found.occluded == level
    assert found.truncated == 0.0


def test_a_box_is_as_large_as_without_what_hides_it():
    far = plate((20.0, 0.0), index=1)
    (alone,) = label([plate((20.0, 0.0))])
    both = label([plate((10.0, 1.2), category="human.pedestrian.adult"), far])
    assert both[1].bbox == pytest.approx(alone.bbox)
    assert both[1].occluded > alone.occluded


def test_what_can_hardly_be_seen_is_dont_care():
    thing = plate((20.0, 0.0))
    assert label([thing], np.zeros(SIZE[::-1], np.int32)) == []  # no pixel, no line
    sliver = np.zeros(SIZE[::-1], np.int32)
    sliver[170:175, 600:604] = 1
    (found,) = label([thing], sliver)
    assert found.type == "DontCare"
    assert (found.truncated, found.occluded, found.alpha) == (-1, -1, -10)
    (seen,) = label([thing])
    assert found.bbox == pytest.approx(seen.bbox)
    (unmeasured,) = label([thing], points=2)
    assert unmeasured.type == "DontCare"
    assert [entry.type for entry in label([plate((90.0, 9.0)), plate((20.0, 0.0), index=1)], points=3)] == ["Car"] * 2


def test_dont_care_comes_last():
    agents = [plate((20.0, 5.0)), plate((20.0, -5.0), index=1)]
    labeller = KittiLabeller(Still(agents), kitti_calibration(SIZE), SIZE)
    instance = mask(labeller, agents)
    rows, columns = np.nonzero(instance == 1)
    instance[rows[5:], columns[5:]] = 0
    assert [entry.type for entry in label(agents, instance)] == ["Car", "DontCare"]


def test_nothing_behind_or_beside_the_camera_is_labelled():
    assert label([plate((-10.0, 0.0)), plate((5.0, 30.0), index=1)], np.zeros(SIZE[::-1], np.int32)) == []


def test_rules_of_a_box():
    (car,) = label([plate((20.0, 0.0))])
    assert is_labelled(car, 4, 0.1, 3)
    assert not is_labelled(car, 3, 1.0, 99)
    assert not is_labelled(car, 99, 0.09, 99)
    assert not is_labelled(car, 99, 1.0, 2)
    assert not is_labelled(car._replace(truncated=0.95), 99, 1.0, 99)
    assert not is_labelled(car._replace(location=(0.0, 1.6, -0.5)), 99, 1.0, 99)


@pytest.mark.parametrize(
    ("category", "rider", "height", "name"),
    [
        ("vehicle.car", False, 1.6, "Car"),
        ("vehicle.car", False, 1.9, "Van"),
        ("vehicle.truck", False, 3.0, "Truck"),
        ("vehicle.bus.rigid", False, 3.4, "Tram"),
        ("vehicle.trailer", False, 3.9, "Misc"),
        ("vehicle.construction", False, 3.0, "Misc"),
        ("vehicle.bicycle", True, 1.8, "Cyclist"),
        ("vehicle.bicycle", False, 1.2, None),
        ("vehicle.motorcycle", True, 1.6, "Cyclist"),
        ("vehicle.motorcycle", False, 1.4, None),
        ("human.pedestrian.child", False, 1.2, "Pedestrian"),
        ("movable_object.trafficcone", False, 1.0, None),
        ("movable_object.barrier", False, 1.0, None),
    ],
)
def test_classes(category, rider, height, name):
    agent = Agent(1, category, (1.0, 1.0, height), Track(0.0, 0.0), None, rider=rider)
    assert kitti_type(agent) == name


def test_occlusion_levels():
    assert [occlusion_level(share) for share in (1.2, 0.85, 0.84, 0.5, 0.49, 0.0)] == [0, 0, 1, 1, 2, 2]
