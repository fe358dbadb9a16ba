"""Tasks: one module each; all of them return `Prompts`."""

from helpers.tasks.agreement import gender_agreement, number_agreement
from helpers.tasks.colored_objects import Scene, colored_objects, colored_objects_file, render
from helpers.tasks.controls import greater_than, world_capitals
from helpers.tasks.disjoint import Splits, disjoint_sets
from helpers.tasks.induction import induction
from helpers.tasks.ioi import ioi, repeated_name
from helpers.tasks.laundry_list import laundry_list
from helpers.tasks.prompts import Prompts
from helpers.tasks.words import english, halves, single_token, vocabulary

__all__ = [
    "Prompts",
    "Scene",
    "Splits",
    "colored_objects",
    "colored_objects_file",
    "disjoint_sets",
    "english",
    "gender_agreement",
    "greater_than",
    "halves",
    "induction",
    "ioi",
    "laundry_list",
    "number_agreement",
    "render",
    "repeated_name",
    "single_token",
    "vocabulary",
    "world_capitals",
]
