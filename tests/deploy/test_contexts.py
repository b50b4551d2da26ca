"""Contexts that wait for later calls, and those that are released."""

from dataclasses import dataclass

from bnn_lightning.deploy.runtime.contexts import MOST_IDLE, PATIENCE, Contexts


@dataclass(eq=False)
class Room:
    most: int
    plan: object = None
    needed: int = 0


def call(contexts: Contexts[Room], images: int, plan: object = None) -> bool:
    """Take a context, or open one, and give it back; return whether it was opened."""
    context = contexts.take(images, plan)
    contexts.give(context or Room(images, plan), images)
    return context is None


def rooms(contexts: Contexts[Room]) -> list[int]:
    return sorted(context.most for context in contexts.idle)


def test_one_caller_has_one_context() -> None:
    contexts = Contexts[Room]()
    assert [call(contexts, images) for images in (1, 500, 510, 500, 520, 3)] == [True, True, True, False, True, False]
    assert rooms(contexts) == [520]


def test_calls_of_one_size_and_of_sizes_in_turns_open_no_other() -> None:
    contexts = Contexts[Room]()
    for size in (100, 100, 1):
        call(contexts, size)
    assert not any(call(contexts, size) for _ in range(5 * PATIENCE) for size in (100, 1, 7))
    assert not any(call(contexts, 25) for _ in range(5 * PATIENCE))


def test_a_large_call_is_forgotten() -> None:
    contexts = Contexts[Room]()
    call(contexts, 10_000)
    opened = [call(contexts, 100) for _ in range(3 * PATIENCE)]
    assert opened == [number == PATIENCE for number in range(3 * PATIENCE)]
    assert rooms(contexts) == [100]


def test_calls_at_the_same_time_have_contexts_of_their_own_as_long_as_there_are_such() -> None:
    contexts = Contexts[Room]()
    for _ in range(3 * PATIENCE):
        for context in [contexts.take(4) or Room(4) for _ in range(3)]:
            contexts.give(context, 4)
    assert rooms(contexts) == [4, 4, 4]
    for _ in range(PATIENCE):
        call(contexts, 4)
    assert rooms(contexts) == [4]


def test_at_most_some_are_kept_and_those_with_the_most_room() -> None:
    contexts = Contexts[Room]()
    for images in range(1, MOST_IDLE + 4):
        contexts.give(Room(images), images)
    assert rooms(contexts) == [*range(4, MOST_IDLE + 4)]
    contexts.clear()
    assert contexts.take(1) is None


def test_the_plan_of_another_type_of_images_keeps_its_context() -> None:
    contexts, kinds = Contexts[Room](), (object(), object())
    opened = [call(contexts, images, kind) for images in (8, 16, 16) for kind in kinds]
    assert opened == [True, True, True, True, False, False]
    assert rooms(contexts) == [16, 16]
    for _ in range(PATIENCE):
        call(contexts, 16, kinds[0])
    assert [context.plan for context in contexts.idle] == [kinds[0]]
