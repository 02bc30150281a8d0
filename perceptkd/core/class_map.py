"""Classes of one model or data set that stand for those of another: subsets, other orders and names, merged classes.

Shapes: B samples, C channels, K classes, T tasks, H rows (y), W columns (x).
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from perceptkd.core.errors import InputError

ClassMap = Mapping[str, str | Sequence[str]]
Tasks = Sequence[Sequence[str]]


def match_classes(
    wanted: Sequence[str], source: Sequence[str], class_map: ClassMap, *, whose: str
) -> list[tuple[int, ...]]:
    """Which of the source's classes make each wanted one.

    Args:
        wanted: Class names, of a student for example.
        source: Class names, of its teacher for example.
        class_map: Wanted class -> class or classes of the source. One that is not in here has the same name there.
        whose: Who has the source's classes, for messages, such as "teacher 'lidar'".

    Returns:
        Indices into ``source`` for every wanted class. Classes of the source that nobody wants are in none of them.

    Raises:
        InputError: A name is unknown, or one of the source's classes is asked for twice.

    >>> match_classes(["car", "bus"], ["bus", "van", "car"], {"car": ["car", "van"]}, whose="the teacher")
    [(2, 1), (0,)]
    """
    unknown = sorted(set(class_map) - set(wanted))
    if unknown:
        raise InputError(f"class_map names {unknown}, which are not among the classes {list(wanted)}")
    matched = []
    for name in wanted:
        sources = class_map.get(name, name)
        sources = [sources] if isinstance(sources, str) else list(sources)
        missing = sorted(set(sources) - set(source))
        if missing or not sources:
            raise InputError(
                f"the class '{name}' comes from {missing or 'no class'}, but {whose} has the classes {list(source)}: "
                f"say which of them it is, class_map=dict({name}=[...])"
            )
        matched.append(tuple(source.index(each) for each in sources))
    used = [source[index] for indices in matched for index in indices]
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise InputError(f"class_map uses the classes {twice} of {whose} more than once")
    return matched


def head_classes(model: nn.Module | None) -> list[list[str]] | None:
    """The class names of a model's ``bbox_head`` or ``pts_bbox_head``, one list per task; None if it does not say."""
    return task_classes(getattr(model, "bbox_head", getattr(model, "pts_bbox_head", None)))


def task_classes(head: nn.Module | None) -> list[list[str]] | None:
    """The class names of a head, one list per task, of which one without a split has one; None if it does not say."""
    names = getattr(head, "class_names", None)
    if names is None:
        return None
    return [list(names)] if all(isinstance(name, str) for name in names) else [list(task) for task in names]


def select_classes(
    teacher: Mapping[str, Sequence[Tensor]],
    student_tasks: Tasks | None,
    teacher_tasks: Tasks | None,
    class_map: ClassMap,
    *,
    scores: str,
) -> dict[str, list[Tensor]]:
    """A teacher's maps in the tasks and classes of a student.

    The logit of a merged class is the largest of its classes'. Where a task of the student takes classes from several
    tasks of the teacher, every cell has the regression of the task whose class is the most probable there.

    Args:
        teacher: Name -> one map [B, C, H, W] per task of the teacher.
        student_tasks: Class names per task of the student.
        teacher_tasks: Those of the teacher.
        class_map: See :func:`match_classes`.
        scores: Name of the class logits; the other names are regression.

    Returns:
        Name -> one map [B, C, H, W] per task of the student.

    Raises:
        InputError: The classes of a side are not known, or do not match.
    """
    if student_tasks is None or teacher_tasks is None:
        unknown = "teacher" if student_tasks else "student"
        raise InputError(f"class_map needs the class_names of both heads, and the {unknown}'s are not known")
    sizes = [len(task) for task in teacher_tasks]
    if sizes != [task.shape[1] for task in teacher[scores]]:
        raise InputError(f"the teacher's head has tasks of {sizes} classes, but its output does not")
    wanted, source = (list(chain.from_iterable(tasks)) for tasks in (student_tasks, teacher_tasks))
    matched = iter(match_classes(wanted, source, class_map, whose="the teacher"))
    logits = torch.cat(list(teacher[scores]), dim=1)
    task_of = [task for task, size in enumerate(sizes) for _ in range(size)]
    selected: dict[str, list[Tensor]] = {name: [] for name in teacher}
    for task in student_tasks:
        channels = [next(matched) for _ in task]
        selected[scores].append(torch.stack([logits[:, list(each)].amax(dim=1) for each in channels], dim=1))
        tasks = sorted({task_of[channel] for each in channels for channel in each})
        of_task = [[c for each in channels for c in each if task_of[c] == number] for number in tasks]
        best = torch.stack([logits[:, own].amax(dim=1) for own in of_task]).argmax(dim=0)  # [B, H, W]
        for name in teacher.keys() - {scores}:
            maps = torch.stack([teacher[name][number] for number in tasks])  # [T, B, C, H, W]
            selected[name].append(maps.take_along_dim(best[None, :, None], dim=0)[0])
    return selected
