"""Tasks: one module each; all of them return `Prompts`."""

from helpers.tasks.colored_objects import (
    Scene,
    colored_objects,
    colored_objects_file,
    render,
    swapped_objects,
)
from helpers.tasks.controls import greater_than, unrelated_tasks, world_capitals
from helpers.tasks.ioi import ioi, repeated_name
from helpers.tasks.laundry_list import laundry_list
from helpers.tasks.prompts import Prompts
from helpers.tasks.words import english, halves, single_token, vocabulary

__all__ = [
    "Prompts",
    "Scene",
    "colored_objects",
    "colored_objects_file",
    "english",
    "greater_than",
    "halves",
    "ioi",
    "laundry_list",
    "render",
    "repeated_name",
    "single_token",
    "swapped_objects",
    "unrelated_tasks",
    "vocabulary",
    "world_capitals",
]
