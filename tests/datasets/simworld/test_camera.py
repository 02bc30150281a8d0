"""Pictures and their labels agree with the boxes, with each other and with the LiDAR."""

import cv2
import numpy as np
import pytest

from perceptkd.datasets.simworld import CAMERAS, LIDAR, RIG, CameraFrame, LidarSweep, Scene, render_camera
from perceptkd.datasets.simworld.semantics import ROAD, SEMANTICS, SKY
from perceptkd.datasets.simworld.writers.visibility import AgentShapes

INSTANT = 6.0
SMALL = (400, 225)
SOLID = ("vehicle.car", "vehicle.truck", "vehicle.bus.rigid")
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2


def camera_pose(scene: Scene, name: str) -> np.ndarray:
    return scene.ego_pose(INSTANT) @ RIG[name].ego_from_sensor


def unproject(scene: Scene, name: str, frame: CameraFrame, mask: np.ndarray) -> np.ndarray:
    """Global points [N, 3] of the pixels in ``mask``."""
    rows, columns = np.nonzero(mask)
    k = RIG[name].intrinsics_at(SMALL)
    depth = frame.depth[mask].astype(float)
    local = np.stack([(columns + 0.5 - k[0, 2]) / k[0, 0], (rows + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(rows))], -1)
    pose = camera_pose(scene, name)
    return (local * depth[:, None]) @ pose[:3, :3].T + pose[:3, 3]


def visible(scene: Scene, frame: CameraFrame, least: int) -> list:
    return [agent for agent in scene.agents if (frame.instance == agent.instance_id).sum() >= least]


def projected_box(scene: Scene, name: str, agent) -> np.ndarray | None:
    """Outline [N, 1, 2] of an agent's box in pixels; None where a corner is not well before the camera."""
    width, length, height = agent.size_wlh
    box, pose = agent.pose(INSTANT).matrix, camera_pose(scene, name)
    corners = (CORNERS * [length, width, height]) @ box[:3, :3].T + box[:3, 3]
    local = (corners - pose[:3, 3]) @ pose[:3, :3]
    if local[:, 2].min() < 0.5:
        return None
    projected = (local @ RIG[name].intrinsics_at(SMALL).T)[:, :2] / local[:, 2:]
    return cv2.convexHull(projected.astype(np.float32))


def test_frames_have_the_promised_types(frames: dict[str, CameraFrame]) -> None:
    for frame in frames.values():
        assert frame.rgb.shape == (225, 400, 3)
        assert frame.rgb.dtype == np.uint8
        assert frame.instance.dtype == np.int32
        assert frame.semantic.dtype == np.uint8
        assert frame.depth.dtype == np.float32
        assert frame.semantic.max() < len(SEMANTICS)
        np.testing.assert_array_equal(np.isinf(frame.depth), frame.semantic == SKY)
        assert 20 < frame.rgb.mean() < 230


@pytest.mark.parametrize("name", CAMERAS)
def test_masks_unproject_into_their_boxes(scene: Scene, frames: dict[str, CameraFrame], to_box, name: str) -> None:
    frame = frames[name]
    for agent in visible(scene, frame, 1):
        mask = frame.instance == agent.instance_id
        half = np.array(agent.size_wlh)[[1, 0, 2]] / 2
        beyond = (np.abs(to_box(unproject(scene, name, frame, mask), agent, INSTANT)) - 1) * half
        assert beyond.max() < 0.01
        assert (frame.semantic[mask] == agent.semantic).all()


def test_two_cameras_that_see_one_object_agree(scene: Scene, frames: dict[str, CameraFrame], to_box) -> None:
    times_seen = {agent.instance_id: 0 for agent in scene.agents}
    for name, frame in frames.items():
        for agent in visible(scene, frame, 8):
            times_seen[agent.instance_id] += 1
            points = to_box(unproject(scene, name, frame, frame.instance == agent.instance_id), agent, INSTANT)
            assert np.abs(points).max() < 1.05
    assert max(times_seen.values()) >= 2, "no object is seen by two cameras: choose another instant"


@pytest.mark.parametrize("name", ["CAM_FRONT", "CAM_BACK"])
def test_projected_boxes_cover_the_masks(scene: Scene, frames: dict[str, CameraFrame], name: str) -> None:
    checked = 0
    for agent in visible(scene, frames[name], 4):
        hull = projected_box(scene, name, agent)
        if hull is None:
            continue
        rows, columns = np.nonzero(frames[name].instance == agent.instance_id)
        inside = [cv2.pointPolygonTest(hull, (c + 0.5, r + 0.5), True) for r, c in zip(rows.tolist(), columns.tolist())]
        assert min(inside) > -0.51
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", ["CAM_FRONT", "CAM_BACK"])
def test_masks_of_solid_objects_fill_their_projected_boxes(
    scene: Scene, frames: dict[str, CameraFrame], name: str
) -> None:
    """Boxes are no larger than their objects, where all of one is in the picture and nothing stands before it."""
    shapes, camera = AgentShapes(scene.agents), camera_pose(scene, name)
    poses, intrinsics = scene.agent_poses(INSTANT), RIG[name].intrinsics_at(SMALL)
    unoccluded = shapes.silhouettes(poses, camera=camera, intrinsics=intrinsics, size=SMALL).pixels
    checked = 0
    for agent in visible(scene, frames[name], 40):
        seen = (frames[name].instance == agent.instance_id).sum()
        hull = projected_box(scene, name, agent)
        if hull is None or agent.category not in SOLID or seen < 0.98 * unoccluded[agent.instance_id - 1]:
            continue
        if hull.min() >= 0 and (hull.max((0, 1)) <= SMALL).all():
            assert seen > 0.7 * cv2.contourArea(hull)
            checked += 1
    assert checked >= 3


def test_depth_agrees_with_the_lidar(scene: Scene, sweep: LidarSweep, frames: dict[str, CameraFrame]) -> None:
    errors = []
    lidar = scene.ego_pose(INSTANT) @ RIG[LIDAR].ego_from_sensor
    road = sweep.semantic == ROAD
    world = sweep.points[road, :3].astype(float) @ lidar[:3, :3].T + lidar[:3, 3]
    for name, frame in frames.items():
        pose, k = camera_pose(scene, name), RIG[name].intrinsics_at(SMALL)
        local = (world - pose[:3, 3]) @ pose[:3, :3]
        local = local[local[:, 2] > 2.0]
        pixel = np.floor((local @ k.T)[:, :2] / local[:, 2:]).astype(int)
        inside = (pixel >= 0).all(1) & (pixel < SMALL).all(1)
        pixel, local = pixel[inside], local[inside]
        seen = frame.semantic[pixel[:, 1], pixel[:, 0]] == ROAD
        errors.append((frame.depth[pixel[:, 1], pixel[:, 0]] / local[:, 2] - 1)[seen])
    error = np.abs(np.concatenate(errors))
    assert len(error) > 2000
    assert np.median(error) < 0.01
    assert np.quantile(error, 0.95) < 0.06


def test_small_far_and_hidden_objects_occur(scene: Scene, frames: dict[str, CameraFrame]) -> None:
    distance = {
        a.instance_id: np.linalg.norm(a.pose(INSTANT).center - scene.ego_pose(INSTANT)[:3, 3]) for a in scene.agents
    }
    seen = {agent.instance_id for frame in frames.values() for agent in visible(scene, frame, 3)}
    assert any(distance[i] > 45 for i in seen)
    assert any(distance[i] < 12 for i in seen)
    hidden = [i for i, metres in distance.items() if metres < 50 and i not in seen]
    assert hidden, "nothing is occluded"


def test_image_size_scales_the_same_picture(scene: Scene, frames: dict[str, CameraFrame]) -> None:
    large = render_camera(scene, "CAM_FRONT", INSTANT, (800, 450))
    same = large.semantic[::2, ::2] == frames["CAM_FRONT"].semantic
    assert same.mean() > 0.93
    np.testing.assert_allclose(large.rgb.mean(), frames["CAM_FRONT"].rgb.mean(), rtol=0.05)


def test_bare_sky_is_brighter_than_the_road_by_day(frames: dict[str, CameraFrame]) -> None:
    frame = frames["CAM_FRONT"]
    assert frame.rgb[frame.semantic == SKY].mean() > frame.rgb[frame.semantic == ROAD].mean() + 30
